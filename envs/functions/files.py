"""The back end ``files``: small texts in folders."""

from __future__ import annotations

from random import Random

from agentrl.envs.functions.service import Draw, Said, Service, among, request, wanted
from agentrl.errors import ToolError
from agentrl.tool import tool
from agentrl.types import Json

FOLDERS = ("notes", "work", "home", "archive")
NAMES = ("plan", "list", "draft", "report", "letter", "recipe", "budget", "diary", "guide", "menu")
WORDS = ("garden", "winter", "paint", "train", "music", "river", "bread", "lamp", "forest", "coffee", "museum", "piano")


class Files(Service):
    """Paths like notes/plan.txt, each with its text."""

    name = "files"

    @classmethod
    def start(cls, random: Random, size: int) -> dict[str, Json]:
        """``size`` files; no word is in two of them."""
        paths = random.sample([_path(folder, name) for folder in FOLDERS for name in NAMES], size)
        words = random.sample(WORDS, len(WORDS))
        return {"files": {path: words[number % len(words)] for number, path in enumerate(sorted(paths))}}

    @tool
    def list_folder(self, folder: str) -> dict[str, Json]:
        """Lists the files of a folder.

        Args:
            folder: The folder's name.
        """
        among(folder, FOLDERS, "folder")
        return {
            "folder": folder,
            "files": sorted(path for path in self.state["files"] if path.startswith(f"{folder}/")),
        }

    @tool
    def read_file(self, path: str) -> dict[str, Json]:
        """Gives the text of a file.

        Args:
            path: The folder, a slash and the file's name.
        """
        return {"path": path, "text": wanted(self.state["files"], path, "file")}

    @tool
    def find_files(self, word: str) -> dict[str, Json]:
        """Finds the files whose text has a word in it.

        Args:
            word: The word.
        """
        return {"word": word, "files": sorted(p for p, text in self.state["files"].items() if word in text.split())}

    @tool
    def write_file(self, path: str, text: str) -> dict[str, Json]:
        """Makes a new file.

        Args:
            path: The folder, a slash and the file's name.
            text: What stands in it.
        """
        return {"written": self._new(path, text), "text": text}

    @tool
    def append_text(self, path: str, text: str) -> dict[str, Json]:
        """Adds a text to the end of a file.

        Args:
            path: The folder, a slash and the file's name.
            text: What is added.
        """
        self.state["files"][path] = f"{wanted(self.state['files'], path, 'file')} {text}"
        return {"path": path, "added": text}

    @tool
    def move_file(self, path: str, folder: str) -> dict[str, Json]:
        """Moves a file to another folder.

        Args:
            path: The folder, a slash and the file's name.
            folder: Where it goes.
        """
        text = wanted(self.state["files"], path, "file")
        new = self._new(f"{folder}/{path.split('/')[1]}", text)
        del self.state["files"][path]
        return {"moved": path, "to": new}

    @tool
    def copy_file(self, path: str, folder: str) -> dict[str, Json]:
        """Copies a file to another folder; the old one stays.

        Args:
            path: The folder, a slash and the file's name.
            folder: Where the copy goes.
        """
        text = wanted(self.state["files"], path, "file")
        return {"copied": path, "to": self._new(f"{folder}/{path.split('/')[1]}", text)}

    @tool
    def delete_file(self, path: str) -> dict[str, Json]:
        """Deletes a file.

        Args:
            path: The folder, a slash and the file's name.
        """
        wanted(self.state["files"], path, "file")
        del self.state["files"][path]
        return {"deleted": path}

    def _new(self, path: str, text: str) -> str:
        folder, _, name = path.partition("/")
        among(folder, FOLDERS, "folder")
        if not name or "/" in name:
            raise ToolError("a path is a folder, a slash and a name")
        if path in self.state["files"]:
            raise ToolError(f"there is already a file {path[:40]}")
        self.state["files"][path] = text
        return path


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}.txt"


def _elsewhere(draw: Draw, path: str) -> str:
    """A folder without a file of that name."""
    name = path.split("/")[1]
    return draw.one(folder for folder in FOLDERS if f"{folder}/{name}" not in draw.state["files"])


def _word(draw: Draw) -> tuple[str, str]:
    """A word that stands in one file only, and that file's path."""
    texts = {path: text.split() for path, text in draw.state["files"].items()}
    path = draw.one(texts)
    return draw.one(w for w in texts[path] if sum(w in words for words in texts.values()) == 1), path


@request(Files, "list_folder")
def list_folder(draw: Draw) -> Said:
    """One call."""
    folder = draw.one(FOLDERS)
    draw.call("list_folder", folder=folder)
    text = draw.one((f"Which files are in the folder {folder}?", f"List the folder {folder}."))
    return Said(text, "List one of my folders.", f"The folder {folder}.")


@request(Files, "read_file")
def read_file(draw: Draw) -> Said:
    """One call."""
    path = draw.one(draw.state["files"])
    draw.call("read_file", path=path)
    return Said(draw.one((f"What does the file {path} say?", f"Read {path}.")), "Read a file.", f"The file {path}.")


@request(Files, "find_files")
def find_files(draw: Draw) -> Said:
    """One call."""
    word = draw.one(WORDS)
    draw.call("find_files", word=word)
    return Said(f"Which files have the word {word} in them?", "Find files with a word in them.", f"The word is {word}.")


@request(Files, "write_file")
def write_file(draw: Draw) -> Said:
    """One call."""
    path = draw.one(p for f in FOLDERS for n in NAMES if (p := _path(f, n)) not in draw.state["files"])
    text = " ".join(draw.some(WORDS, 2))
    draw.call("write_file", path=path, text=text)
    return Said(f"Make a file {path} with the text: {text}", f"Make a file {path}.", f"With the text: {text}")


@request(Files, "append_text")
def append_text(draw: Draw) -> Said:
    """One call."""
    path, word = draw.one(draw.state["files"]), draw.one(WORDS)
    draw.call("append_text", path=path, text=word)
    return Said(f"Add {word} to the end of {path}.", f"Add a word to the end of {path}.", f"The word is {word}.")


@request(Files, "move_file")
def move_file(draw: Draw) -> Said:
    """One call."""
    path = draw.one(draw.state["files"])
    folder = _elsewhere(draw, path)
    draw.call("move_file", path=path, folder=folder)
    return Said(f"Move {path} to the folder {folder}.", f"Move {path} to another folder.", f"To the folder {folder}.")


@request(Files, "copy_file")
def copy_file(draw: Draw) -> Said:
    """One call."""
    path = draw.one(draw.state["files"])
    folder = _elsewhere(draw, path)
    draw.call("copy_file", path=path, folder=folder)
    return Said(f"Copy {path} to the folder {folder}.", f"Copy {path} to another folder.", f"To the folder {folder}.")


@request(Files, "delete_file")
def delete_file(draw: Draw) -> Said:
    """One call."""
    path = draw.one(draw.state["files"])
    draw.call("delete_file", path=path)
    return Said(draw.one((f"Delete {path}.", f"Delete the file {path}.")), "Delete a file.", f"The file {path}.")


@request(Files, "find_files", "delete_file")
def delete_found(draw: Draw) -> Said:
    """The first call's result says which file."""
    word, _ = _word(draw)
    draw.call("delete_file", path=draw.call("find_files", word=word)["files"][0])
    return Said(f"Delete the file with the word {word} in it.")


@request(Files, "find_files", "move_file")
def move_found(draw: Draw) -> Said:
    """The first call's result says which file."""
    word, path = _word(draw)
    folder = _elsewhere(draw, path)
    draw.call("move_file", path=draw.call("find_files", word=word)["files"][0], folder=folder)
    return Said(f"Find the file with the word {word} in it and move it to the folder {folder}.")


@request(Files, "find_files", "copy_file")
def copy_found(draw: Draw) -> Said:
    """The first call's result says which file."""
    word, path = _word(draw)
    folder = _elsewhere(draw, path)
    draw.call("copy_file", path=draw.call("find_files", word=word)["files"][0], folder=folder)
    return Said(f"Find the file with the word {word} in it and copy it to the folder {folder}.")


@request(Files, "find_files", "read_file", "append_text")
def extend_found(draw: Draw) -> Said:
    """Three calls; the first one's result says which file."""
    (word, _), more = _word(draw), draw.one(WORDS)
    path = draw.call("find_files", word=word)["files"][0]
    draw.call("read_file", path=path)
    draw.call("append_text", path=path, text=more)
    return Said(f"Find the file with the word {word} in it, read it, and add {more} to its end.")
