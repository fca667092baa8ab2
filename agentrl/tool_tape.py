"""A tape of tool calls: what was recorded once is replayed without the tools.

    [env.options]
    tools = [{ name = "mcp", url = "http://127.0.0.1:8000/mcp" }]
    tape = "calls.jsonl"
    tape_mode = "replay"

==========  ==============================================================================================================
mode        what happens
==========  ==============================================================================================================
record      every call is made and written down; of two answers to one call the later one is replayed
auto        a call that is on the tape is answered from it; any other is made and written down
replay      every call is answered from the tape; no toolset is made or opened, so no server needs to be there. A call that
            is not on the tape is a fault (ToolFault), never a call
==========  ==============================================================================================================

A call is known by its tool, its arguments and how often the episode has made it before. A tool of a toolset that lives for an
episode or a task has a state: there it is known by the task and by all calls of such tools before it, and "auto"
makes it always, since an answer from the tape would leave the state behind. Errors are answers and are recorded; faults
are not. A score that looks into a toolset finds none in a replay: it should go by the answer and the calls.

The file holds JSON lines: the tools that the model was told of, and the calls. Any number of processes may write to it at the
same time; a line that a process could not finish because it was killed is dropped by the next that writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from agentrl.errors import ConfigError, ToolFault, did_you_mean
from agentrl.tool import BadArguments, Tool, ToolResult
from agentrl.types import Json

try:
    import fcntl
except ImportError:  # Windows: there one process writes
    fcntl = None

__all__ = ["MODES", "Player", "Tape"]

Mode = Literal["record", "replay", "auto"]
MODES = ("record", "replay", "auto")
STATEFUL = ("episode", "task")


class Tape:
    """A file of calls, shared by all environments of a process. Its answers are those of the file, whoever wrote them."""

    _known: dict[Path, Tape] = {}  # noqa: RUF012  # of all tapes of this process
    _opening = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._calls: dict[str, ToolResult] = {}
        # By task and how often the episode was told before; ("", 0): before any episode.
        self._tools: dict[tuple[str, int], list[dict[str, Json]]] = {}
        self._read = 0  # bytes
        self._lines = 0
        self._file: tuple[int, int] | None = None  # what tells this file from another of its name
        self._lock = threading.Lock()

    @classmethod
    def at(cls, path: str, *, must_exist: bool) -> Tape:
        """The tape of a file. Raises ConfigError where it is not there and must be, where its folder is not there, and for
        a file that is no tape."""
        place = Path(path).resolve()
        if must_exist and not place.is_file():
            raise ConfigError(f"ToolEnv: there is no tape {path}; record it first (tape_mode = 'record')")
        if not place.parent.is_dir():
            raise ConfigError(f"ToolEnv: the folder of the tape {path} is not there; make it")
        with cls._opening:
            tape = cls._known.setdefault(place, cls(place))
        tape.refresh()
        return tape

    def find(self, key: str) -> ToolResult | None:
        """The answer to a call, also one that another process has written meanwhile."""
        if key not in self._calls:
            self.refresh()
        return self._calls.get(key)

    def tools(self, task: str, n: int) -> list[dict[str, Json]] | None:
        """What an episode of the task is told of the tools, having been told so ``n`` times before; only changes are on the
        tape. None: nothing is."""
        if (task, n) not in self._tools:
            self.refresh()
        places = [*((task, earlier) for earlier in range(n, -1, -1)), ("", 0)]
        return next((self._tools[place] for place in places if place in self._tools), None)

    def add_tools(self, task: str, n: int, tools: list[dict[str, Json]]) -> None:
        """Writes down what was told of the tools, where that is new."""
        if self.tools(task, n) != tools:
            self._append({"task": task, "n": n, "tools": tools})

    def add_call(self, key: str, about: Mapping[str, Json], result: ToolResult) -> None:
        """Writes down the answer to a call, where it is new."""
        known = self._calls.get(key)
        if known is None or (known.text, known.error) != (result.text, result.error):
            answer = {"text": result.text, "error": result.error, "seconds": result.seconds}
            self._append({"key": key, **about, **answer})

    def refresh(self) -> None:
        """Reads what has been written since the last look. Raises ConfigError for a line that is none of a tape."""
        with self._lock:
            try:
                new = self._unread()
            except FileNotFoundError:
                self._forget()
                return
            whole = new[: new.rfind(b"\n") + 1]
            for line in whole.splitlines():
                self._lines += 1
                self._take(line)
            self._read += len(whole)

    def _unread(self) -> bytes:
        with open(self.path, "rb") as file:
            about = os.fstat(file.fileno())
            if (about.st_dev, about.st_ino) != self._file or about.st_size < self._read:  # somebody began it anew
                self._forget()
                self._file = about.st_dev, about.st_ino
            file.seek(self._read)
            return file.read()

    def _forget(self) -> None:
        self._calls.clear()
        self._tools.clear()
        self._read = self._lines = 0
        self._file = None

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if "tools" in row:
                self._tools[row["task"], row["n"]] = row["tools"]
                self._tools.setdefault(("", 0), row["tools"])
            else:
                self._calls[row["key"]] = ToolResult(row["text"], row["error"], row["seconds"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{self.path}, line {self._lines}: it is no line of a tape of tools: {error!r}"
            ) from error

    def _append(self, row: Mapping[str, Json]) -> None:
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with self._lock, open(self.path, "ab+") as file, _alone(file.fileno()):
            _drop_unfinished(file)
            file.write(line)
            file.flush()
        self.refresh()


@contextmanager
def _alone(handle: int) -> Iterator[None]:
    """Until then other processes wait; closing the file gives the lock back."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX)
    yield


def _drop_unfinished(file: Any) -> None:
    """Cuts what stands behind the last whole line."""
    end = file.seek(0, os.SEEK_END)
    place = end
    while place:
        start = max(0, place - 4096)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            place = start + found + 1
            break
        place = start
    if place < end:
        file.truncate(place)
    file.seek(0, os.SEEK_END)


def canonical(arguments: Json) -> str:
    """The same text for equal arguments. Raises BadArguments for what is no JSON, or nested too deep to be written."""
    try:
        return json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArguments(f"the arguments cannot be written as JSON: {error}") from error


@dataclass(frozen=True)
class Asked:
    """A call as a tape knows it."""

    key: str
    about: dict[str, Json]


class Player:
    """One environment's place at a tape: it counts the calls of the episode. Raises ConfigError for a mode that is none."""

    def __init__(self, path: str, mode: str) -> None:
        if mode not in MODES:
            raise ConfigError(f"ToolEnv: tape_mode = {mode!r}.{did_you_mean(mode, MODES)}")
        self.mode = mode
        self.tape = Tape.at(path, must_exist=mode == "replay")
        self._task = ""
        self._counts: Counter[str] = Counter()
        self._before: dict[str, str] = {}  # by lifetime: a digest of the calls that made the state
        self._lifetimes: dict[str, str] = {}
        self._n_told = 0

    @property
    def replays(self) -> bool:
        """Whether nothing is ever called."""
        return self.mode == "replay"

    def start(self, task: str) -> None:
        """An episode of the task begins."""
        if task != self._task:
            self._before.pop("task", None)
        self._before.pop("episode", None)
        self._task = task
        self._counts.clear()
        self._n_told = 0

    def told(self, tools: Sequence[Tool], lifetimes: Mapping[str, str]) -> list[Tool]:
        """The tools of which the model is told now, again wherever they may have changed: those given, with how long the
        state behind each lives, which are written down; or the tape's. Raises ConfigError for a tape without any."""
        n, self._n_told = self._n_told, self._n_told + 1
        if self.replays:
            return self._from_tape(self._task, n)
        self._lifetimes = {tool.name: lifetimes.get(tool.name, "run") for tool in tools}
        rows = [{**tool.schema()["function"], "lifetime": self._lifetimes[tool.name]} for tool in tools]
        self.tape.add_tools(self._task, n, rows)
        return list(tools)

    def first_tools(self) -> list[Tool]:
        """The tape's, before any episode."""
        return self._from_tape("", 0)

    def _from_tape(self, task: str, n: int) -> list[Tool]:
        rows = self.tape.tools(task, n)
        if rows is None:
            raise ConfigError(f"the tape {self.tape.path} holds no tools; record it again")
        self._lifetimes = {row["name"]: row["lifetime"] for row in rows}
        return [
            Tool(_never, name=row["name"], description=row["description"], parameters=row["parameters"]) for row in rows
        ]

    async def call(self, tool: Tool, arguments: Json) -> ToolResult:
        """The answer, from the tape or from the tool. Raises ToolFault where it would have to be made and must not, and
        what the tool raises."""
        try:
            asked = self._asked(tool.name, arguments)
        except BadArguments as error:
            return ToolResult(f"Error: {error}", error.kind)
        stateful = self._lifetimes.get(tool.name) in STATEFUL
        if self.mode == "replay" or (self.mode == "auto" and not stateful):
            found = self.tape.find(asked.key)
            if found is not None:
                return found
        if self.mode == "replay":
            shown = canonical(arguments)
            raise ToolFault(
                f"the tape {self.tape.path} holds no answer to {tool.name}({shown[:200]}) as asked here; record it "
                "(tape_mode = 'record' or 'auto'), or replay the episodes that were recorded"
            )
        result = await tool.call(arguments)
        self.tape.add_call(asked.key, asked.about, result)
        return result

    def _asked(self, name: str, arguments: Json) -> Asked:
        what = f"{name} {canonical(arguments)}"
        lifetime = self._lifetimes.get(name, "run")
        about: dict[str, Json] = {"tool": name, "arguments": arguments}
        if lifetime in STATEFUL:
            before = self._before.get(lifetime, "")
            about |= {"task": self._task, "after": before}
            self._before[lifetime] = _digest(f"{before} {what}")
            return Asked(_digest(f"{self._task}\n{before}\n{what}"), about)
        about["n"] = self._counts[what]
        self._counts[what] += 1
        return Asked(_digest(f"{about['n']}\n{what}"), about)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _never(**arguments: Json) -> NoReturn:
    raise ToolFault("a tool of a tape was called")
