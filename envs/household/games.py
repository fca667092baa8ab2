"""Real ALFWorld games as houses: reads ``game.tw-pddl`` files and rows of JSON; needs no alfworld package.

    house = load("json_2.1.1/valid_seen/pick_cool_.../trial_T2019.../game.tw-pddl")
    for game in find("json_2.1.1"):
        print(game.id, game.type, game.split)
        house = load(game.source)

Things get the names that ALFWorld's ``Demangler`` gives them: of n things of a class, the smallest id is number n and
the largest number 1; a class is what stands before ``_bar_``, with "basin" added where the id contains it. Receptacles
and items come out in the order of their ids, locations as the numbers of their names ("loc 12" is 12).

Everything that cannot be read raises one ``GameError`` that says what was wanted, what came and what to do.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from agentrl.envs.household import problem
from agentrl.envs.household.house import TASK_TYPES, Dialect, House
from agentrl.envs.household.problem import Unreadable, shown
from agentrl.errors import GameError

Source = str | os.PathLike[str] | Mapping[str, Any]
GAME_FILE, TRAJECTORY_FILE = "game.tw-pddl", "traj_data.json"
ROW_FILES = (".jsonl", ".jsonl.gz")
# ALFWorld's folders; "valid_train" holds training games that its authors set aside for quick checks.
SPLIT_NAMES = {"train": "train", "valid_train": "train", "valid_seen": "valid_seen", "valid_unseen": "valid_unseen"}
ROOMS = {0: "Kitchen", 2: "LivingRoom", 3: "Bedroom", 4: "Bathroom"}  # hundreds of a FloorPlan number
_SENTENCE = re.compile(r'"rhs"\s*:\s*("Your task is to: (?:[^"\\]|\\.)*")')
_READ_ERRORS = (OSError, EOFError, zlib.error, ValueError, RecursionError)  # ValueError: JSON, Unicode, a NUL in a path


@dataclass(frozen=True, slots=True)
class GameFile:
    """A game that ``find`` saw. ``source`` is JSON and is what ``load`` takes; ``split`` is "" where unknown."""

    id: str
    type: str
    split: str
    source: str | dict[str, Any]


def load(source: Source, *, dialect: Dialect | None = None) -> House:
    """The house of a game.

    ``source`` is the path of a ``game.tw-pddl``, a row with ``pddl_problem`` (and ``task``, the goal sentence), the
    text of either as JSON, or ``{"file": path, "row": number}`` as in ``GameFile.source``. The dialect is that of the
    game's grammar, "move" where it has none. Raises GameError.
    """
    if dialect is not None and dialect not in get_args(Dialect):
        raise GameError(f"a dialect is one of {', '.join(get_args(Dialect))}; got '{dialect}'")
    row, origin = _read(source)
    text, grammar = row.get("pddl_problem"), row.get("grammar", "")
    if not isinstance(text, str) or not isinstance(grammar, str):
        raise GameError(
            f"{origin}: wanted a game with a text 'pddl_problem'; got keys {shown(sorted(map(str, row)))}; "
            f"give a {GAME_FILE} or a row of an ALFWorld games.jsonl"
        )
    try:
        task_dir = str(row.get("task_dir") or "")
        return problem.house(
            text,
            sentence=_sentence(row, grammar),
            room=_room(task_dir or _task_folder(origin)),
            dialect=dialect or _dialect(grammar),
            meta={"source": origin, "task_dir": task_dir, "trial": str(row.get("trial") or "")},
        )
    except Unreadable as error:
        raise GameError(
            f"{origin}: wanted an ALFWorld problem; got {error}; get the games again with alfworld-download"
        ) from None


def read(source: Source) -> Mapping[str, Any]:
    """The game as a dictionary: a row, or the content of a ``game.tw-pddl``. Raises GameError for what is no JSON object."""
    return _read(source)[0]


def human_goals(source: Source) -> list[str]:
    """The goal sentences that people wrote for a game, in the order of the data, each with one final full stop.

    ``source`` is what ``load`` takes. They stand in the row itself (``human_goals``, or ALFRED's ``turk_annotations``), or
    in the ``traj_data.json`` beside a game's file. [] where there is none. Raises GameError for what cannot be read.
    """
    row, origin = _read(source)
    if "human_goals" not in row and "turk_annotations" not in row and os.path.basename(origin) == GAME_FILE:
        beside = os.path.join(os.path.dirname(origin), TRAJECTORY_FILE)
        row = _read(beside)[0] if os.path.exists(beside) else {}
    found = row.get("human_goals")
    if found is None:
        annotations = row.get("turk_annotations")
        notes = annotations.get("anns") if isinstance(annotations, Mapping) else None
        found = [note.get("task_desc") for note in _listed(notes) if isinstance(note, Mapping)]
    texts = [" ".join(text.split()).rstrip(" .") for text in _listed(found) if isinstance(text, str)]
    return [f"{text}." for text in texts if text]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def find(folder: str | os.PathLike[str]) -> list[GameFile]:
    """The games below a folder, or in one file, sorted by id, each id once.

    A folder as ``alfworld-download`` leaves it (``.../TASK/TRIAL/game.tw-pddl`` beside ``traj_data.json``) gives the
    games that ALFWorld itself plays: not those marked unsolvable, nor those with sliced items or movable receptacles.
    Files ``*.jsonl`` and ``*.jsonl.gz`` give a game a row. Raises GameError for a folder that has neither, and for a
    row that is no game. What was found is kept, because each environment of a run asks for it, and is looked for again where
    a folder or a file of rows has changed.
    """
    root, now = os.path.abspath(_path(folder)), time.time_ns()
    known = _known.get(root)
    if known is None or any(_stamp(path) != stamp for path, stamp in known.stamps.items()):
        games, looked_at = _looked_for(root, folder)
        known = _Found(games, {path: _stamp(path) for path in looked_at})
        # What changed a moment ago may change again within one tick of the file system's clock.
        if all(time_ns < now - _TICK_NS for time_ns, _ in known.stamps.values()):
            while len(_known) >= _MOST_KNOWN:
                _known.pop(next(iter(_known)))
            _known[root] = known
    return list(known.games)


@dataclass(frozen=True, slots=True)
class _Found:
    """Games, and path -> stamp of the folders and files of rows that say so."""

    games: list[GameFile]
    stamps: dict[str, tuple[int, int]]


_known: dict[str, _Found] = {}
_MOST_KNOWN = 8
_TICK_NS = 50_000_000


def _stamp(path: str) -> tuple[int, int]:
    """When something changed (ns), and its size; (0, 0) for what is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _looked_for(root: str, folder: object) -> tuple[list[GameFile], list[str]]:
    """The games below a folder or in a file, and the folders and files of rows that were looked at."""
    looked_at = [root]
    games: dict[str, GameFile] = {}
    if os.path.isfile(root) and root.endswith(ROW_FILES):
        found: Iterator[GameFile] = _row_games(root)
    elif os.path.isdir(root):
        found = _folder_games(root, looked_at)
    else:
        raise GameError(f"wanted a folder of ALFWorld games; '{folder}' does not exist; get one with alfworld-download")
    for game in found:
        games.setdefault(game.id, game)
    if not games:
        raise GameError(
            f"wanted a folder with {GAME_FILE} files beside traj_data.json, or *.jsonl[.gz] rows; '{folder}' has none; "
            "get games with alfworld-download"
        )
    return [games[key] for key in sorted(games)], looked_at


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _path(path: object) -> str:
    try:
        return os.fsdecode(path)  # type: ignore[arg-type]
    except (TypeError, UnicodeError):
        raise GameError(f"wanted the path of a game or a row; got {type(path).__name__}; see games.load") from None


def _read(source: Source) -> tuple[Mapping[str, Any], str]:
    """The game as a dictionary, and what to call it in messages."""
    if isinstance(source, Mapping):
        if "file" not in source:
            return source, " ".join(str(source.get("trial") or "game").split())[:80]
        return _row(_path(source["file"]), source.get("row"))
    if isinstance(source, str) and source.lstrip()[:1] in ("{", "["):
        return _parsed(source, "game")
    path = _path(source)
    try:
        with open(path, encoding="utf-8") as file:
            return _parsed(file.read(), path)
    except _READ_ERRORS as error:
        raise _cannot_read(path, error) from error


def _parsed(text: str | bytes, origin: str) -> tuple[Mapping[str, Any], str]:
    try:
        row = json.loads(text)
    except _READ_ERRORS as error:
        raise _cannot_read(origin, error) from error
    if not isinstance(row, dict):
        raise GameError(f"{origin}: wanted a JSON object; got {type(row).__name__}; give one game, not a list of games")
    return row, origin


def _cannot_read(path: str, error: BaseException) -> GameError:
    reason = " ".join(str(error).split()) or type(error).__name__
    wanted = "wanted the JSON of an ALFWorld game"
    return GameError(f"{shown(path, 200)}: {wanted}; got: {reason[:200]}; get the file again")


def _row(path: str, number: object) -> tuple[Mapping[str, Any], str]:
    rows = _rows(path)
    if not isinstance(number, int) or not 0 <= number < len(rows):
        raise GameError(f"{path}: wanted a row from 0 to {len(rows) - 1}; got {shown(number)}; see games.find")
    return _parsed(rows[number], f"{path} row {number}")


def _rows(path: str) -> Sequence[bytes]:
    """The lines of a JSONL file that hold something."""
    try:
        status = os.stat(path)
        return _rows_of(path, status.st_mtime_ns, status.st_size)
    except _READ_ERRORS as error:
        raise _cannot_read(path, error) from error


@functools.lru_cache(maxsize=4)
def _rows_of(path: str, _changed: int, _size: int) -> Sequence[bytes]:
    # Kept in memory because a row of a compressed file cannot be reached without reading all before it.
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        return [line for line in file.read().split(b"\n") if line.strip()]


def _row_games(path: str) -> Iterator[GameFile]:
    for number, line in enumerate(_rows(path)):
        row, origin = _parsed(line, f"{path} row {number}")
        task_dir, trial = row.get("task_dir"), row.get("trial")
        if not isinstance(row.get("pddl_problem"), str):
            keys = shown(sorted(row))
            raise GameError(f"{origin}: wanted a row with a text 'pddl_problem'; got keys {keys}; remove the row")
        name = f"{task_dir}/{trial}" if task_dir and trial else f"{os.path.basename(path)}:{number}"
        split = SPLIT_NAMES.get(str(row.get("split")), "")
        yield GameFile(name, str(row.get("task_type") or ""), split, {"file": path, "row": number})


def _folder_games(root: str, looked_at: list[str]) -> Iterator[GameFile]:
    """The games below a folder; adds the folders and files of rows that say so to ``looked_at``."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        looked_at.append(folder)
        for name in sorted(files):
            if name.endswith(ROW_FILES):
                looked_at.append(os.path.join(folder, name))
                yield from _row_games(os.path.join(folder, name))
        if GAME_FILE not in files or TRAJECTORY_FILE not in files:
            continue
        path = os.path.join(folder, GAME_FILE)
        task_dir, trial = folder.split(os.sep)[-2:]
        if "movable" in task_dir or "Sliced" in task_dir or _unsolvable(path):
            continue
        splits = [SPLIT_NAMES[part] for part in folder.split(os.sep) if part in SPLIT_NAMES]
        yield GameFile(f"{task_dir}/{trial}", _folder_type(folder, task_dir), splits[-1] if splits else "", path)


def _unsolvable(path: str) -> bool:
    """Whether ALFWorld's own check marked a game so. The mark stands at the end, so the file is not read whole."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            return re.search(rb'"solvable"\s*:\s*false', file.read()) is not None
    except OSError as error:
        raise _cannot_read(path, error) from error


def _folder_type(folder: str, task_dir: str) -> str:
    """The folder's name begins with the task type; ``traj_data.json`` says it too where somebody renamed the folder."""
    prefix = task_dir.split("-")[0]
    if prefix in TASK_TYPES:
        return prefix
    path = os.path.join(folder, TRAJECTORY_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return str(_parsed(file.read(), path)[0].get("task_type") or "")
    except _READ_ERRORS as error:
        raise _cannot_read(path, error) from error


# ── what stands beside the problem ───────────────────────────────────────────────────────────────────────────────────


def _dialect(grammar: str) -> Dialect:
    return "put" if '"put {o} in/on {r}"' in grammar else "move"


def _sentence(row: Mapping[str, Any], grammar: str) -> str:
    """The goal sentence of a row or of a game's grammar; "" where there is none."""
    if isinstance(row.get("task"), str):
        return row["task"]
    match = _SENTENCE.search(grammar)
    if match is None or "UNKNOWN GOAL" in match[1]:
        return ""
    try:
        return json.loads(match[1]).removeprefix("Your task is to: ")
    except ValueError:
        raise Unreadable(f"a goal sentence that is no JSON string: {shown(match[1])}") from None


def _task_folder(path: str) -> str:
    """The TASK of .../TASK/TRIAL/game.tw-pddl, "" for any other path."""
    parts = os.path.normpath(path).split(os.sep)
    return parts[-3] if parts[-1] == GAME_FILE and len(parts) >= 3 else ""


def _room(task_dir: str) -> str:
    """The kind of room from the number of its FloorPlan, which ends a task folder's name."""
    match = re.search(r"-(\d{1,3})$", task_dir)
    return ROOMS.get(int(match[1]) // 100, "") if match else ""
