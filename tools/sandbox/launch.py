"""Runs Python code that nobody has read, in processes that are confined, limited and gone when ``run`` returns.

    ended = run("print(1 + 1)", Limits(), Setting())
    ended.output, ended.exit_code           # b"2\\n", 0

How the processes stand to each other: ``supervisor``. Each run is independent and any number may run at the same time.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentrl.errors import ToolFault
from agentrl.tools.sandbox.files import WORK

# The supervisor's modules under their names, without what stands above them: that would load half of agentrl.
START = """
import sys
for name in ("agentrl", "agentrl.tools", "agentrl.tools.sandbox"):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [sys.argv[1]]
from agentrl.tools.sandbox.supervisor import main
main()
"""
HERE = str(Path(__file__).parent)
GRACE_S = 10.0  # for the supervisor to end what it started; it needs milliseconds
CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What one run may use."""

    wall_s: float = 10.0
    cpu_s: int = 10  # of one process
    memory_mb: int = 512  # address space of one process; and resident memory of all together where that can be watched
    file_mb: int = 16  # one file
    disk_mb: int = 64  # all files together, where the working folder lies in memory
    n_files: int = 2000  # likewise
    open_files: int = 64
    processes: int = 16  # and threads
    output_bytes: int = 1_000_000  # killed above


@dataclass(frozen=True)
class Setting:
    """Where the code runs. ``readable``: files and folders that it may read, besides the system's programs and libraries
    and the interpreter's own. ``needed``: groups of layers; nothing is run where a group has none in force. ``left_out``:
    layers that are not even tried (for tests of the others): "namespaces", "files", "landlock", "seccomp", "user"."""

    interpreter: str = sys.executable
    readable: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    needed: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a run ended. ``exit_code`` is negative for a signal; ``why`` says who ended it: "" itself, or "wall", "output",
    "memory", "stopped". ``head`` and ``tail`` hold the first and the last bytes of standard output and error together;
    ``n_bytes`` counts all of them."""

    head: bytes
    tail: bytes
    n_bytes: int
    exit_code: int
    why: str
    cpu_s: float
    wall_s: float
    layers: tuple[str, ...]

    @property
    def output(self) -> bytes:
        """What was written, as far as it was kept."""
        return self.head + self.tail


class LayersMissing(Exception):
    """The system does not give the layers that were needed; nothing has run."""


class Stop:
    """Ends a run from another thread."""

    def __init__(self) -> None:
        self.asked, self._end = os.pipe()

    def set(self) -> None:
        """The run ends now; again: no more happens."""
        os.write(self._end, b".")

    def close(self) -> None:
        """When the run has returned."""
        os.close(self.asked)
        os.close(self._end)


class Collector:
    """Keeps the first and the last ``keep`` bytes."""

    def __init__(self, keep: int) -> None:
        self.keep, self.n_bytes = keep, 0
        self.head, self.tail = b"", b""

    def add(self, data: bytes) -> None:
        """Appends."""
        self.n_bytes += len(data)
        room = self.keep - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-self.keep :] if len(data) > room else self.tail


def run(code: str, limits: Limits, setting: Setting, keep_bytes: int = 1 << 20, stop: Stop | None = None) -> Ended:
    """Runs ``code`` as a program of its own and returns when nothing of it is left. Raises LayersMissing before it runs, and
    ToolFault where the machinery fails."""
    started = time.monotonic()
    folder = tempfile.mkdtemp(prefix="agentrl-python-")
    with Pipe() as report, Pipe() as output:
        try:
            request = _request(code, limits, setting, folder) | {"report": report.write, "output": output.write}
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", START, HERE],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(report.write, output.write),
                cwd="/",
                env={},
                start_new_session=True,
                bufsize=0,
            )
            report.close_write()
            output.close_write()
            assert process.stdin is not None
            watch = Watch(output.read, report.read, limits, Collector(keep_bytes), process.stdin.close)
            try:
                send(process, json.dumps(request).encode() + b"\n")
                watch.to_the_end(stop)
            finally:
                close(process)
        finally:
            _remove(folder)
    return _ended(watch, folder, time.monotonic() - started)


class Pipe:
    """Both ends of a pipe, closed at the end of the block."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = [self.read, self.write]

    def close_write(self) -> None:
        """When its other holder has it."""
        self._open.remove(self.write)
        os.close(self.write)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._open:
            os.close(end)


def _request(code: str, limits: Limits, setting: Setting, folder: str) -> dict[str, object]:
    values = asdict(limits)
    return {
        "code": code,
        "folder": folder,
        "cpu_s": limits.cpu_s,
        **{f"{name}_bytes": values[f"{name}_mb"] << 20 for name in ("memory", "file", "disk")},
        **{name: values[name] for name in ("n_files", "open_files", "processes")},
        "interpreter": setting.interpreter,
        "readable": [*python_folders(setting.interpreter), *setting.readable],
        "environment": dict(setting.environment),
        "needed": setting.needed,
        "left_out": setting.left_out,
    }


def python_folders(interpreter: str) -> list[str]:
    """The folders that an interpreter needs: those of its virtual environment and of what that stands on."""
    own = [sys.prefix, sys.base_prefix, sys.base_exec_prefix] if interpreter == sys.executable else []
    folders = {str(Path(path).parent.parent) for path in _links(interpreter)}
    return sorted({*own, *folders} - {"/"})


def _links(path: str) -> list[str]:
    """``path`` and what it points to, link by link."""
    steps = [path]
    while os.path.islink(steps[-1]) and len(steps) < 40:
        steps.append(os.path.join(os.path.dirname(steps[-1]), os.readlink(steps[-1])))
    return [os.path.normpath(step) for step in steps]


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Writes all of it to the process's standard input. One that has died does not read it: its end is seen elsewhere."""
    assert process.stdin is not None
    left = memoryview(data)
    with suppress(BrokenPipeError):
        while left:
            left = left[process.stdin.write(left) :]


def close(process: subprocess.Popen[bytes]) -> None:
    """Waits for the process, whose standard input ends now; kills it where it does not follow."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the kernel then kills the keeper, and with it its namespace
        process.wait()


class Watch:
    """One run, seen from the caller: its output and report (pipes) up to their ends, and ``end``, the order to stop, where it
    goes too far."""

    def __init__(
        self, output: int, report: int | None, limits: Limits, collector: Collector, end: Callable[[], object]
    ) -> None:
        self.output, self.report, self.limits, self.collector, self.end = output, report, limits, collector, end
        self.reports = b""
        self.why = ""
        self.deadline = time.monotonic() + limits.wall_s

    def to_the_end(self, stop: Stop | None) -> None:
        """Returns when report and output have ended, or the output is too long and the report has ended."""
        with selectors.DefaultSelector() as selector:
            pipes = [pipe for pipe in (self.report, self.output) if pipe is not None]
            for pipe in [*pipes, *([] if stop is None else [stop.asked])]:
                selector.register(pipe, selectors.EVENT_READ)
            open_pipes = len(pipes)
            while open_pipes:
                left_s = self.deadline - time.monotonic()
                if left_s <= 0:
                    self.stop("wall")
                for key, _ in selector.select(max(left_s, 0)):
                    if stop is not None and key.fd == stop.asked:
                        selector.unregister(key.fd)
                        self.stop("stopped")
                    elif not self.read(key.fd):
                        selector.unregister(key.fd)
                        open_pipes -= 1

    def read(self, pipe: int) -> bool:
        """Takes what has come; whether to read on."""
        data = os.read(pipe, CHUNK)
        if pipe == self.report:
            self.reports += data
        else:
            self.collector.add(data)
            if self.collector.n_bytes > self.limits.output_bytes:
                self.stop("output")
                return False  # what it still writes until its end is of no interest
        return bool(data)

    def stop(self, why: str) -> None:
        """Orders the end of all processes. Raises ToolFault where an earlier order has not been followed in time."""
        if self.why and self.deadline < time.monotonic():
            raise ToolFault(f"a sandbox did not end its processes within {GRACE_S:g} s")
        if not self.why:
            self.why, self.deadline = why, time.monotonic() + GRACE_S
            self.end()


def _ended(watch: Watch, folder: str, wall_s: float) -> Ended:
    said: dict[str, Any] = {}
    for line in watch.reports.splitlines():
        said |= json.loads(line)
    if said.get("missing"):
        raise LayersMissing(", ".join(said["missing"]))
    if "error" in said or "status" not in said:
        raise ToolFault(f"a sandbox failed: {said.get('error', 'its processes were killed from outside')}")
    kept = watch.collector
    why = watch.why or ("memory" if said["why"] == "memory" else "")
    layers = tuple(said["layers"])
    # The folder's name is another one each time, and the same episode must read the same when it is played again.
    head, tail = (text.replace(folder.encode(), WORK.encode()) for text in (kept.head, kept.tail))
    n_bytes = kept.n_bytes + len(head) + len(tail) - len(kept.head) - len(kept.tail)
    return Ended(head, tail, n_bytes, said["status"], why, said["cpu_s"], wall_s, layers)


def _remove(folder: str) -> None:
    """Removes what a run left: folders that forbid even their owner to look inside, or that are nested too deep for any
    path. Each folder below is moved to the top and emptied there. Links are not followed; nobody is left to make new ones."""
    os.chmod(folder, 0o700)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    numbers = itertools.count()
    waiting = [_emptied(top, top, numbers)]
    try:
        while waiting:
            for name in waiting.pop():
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    waiting.append(_emptied(inner, top, numbers))
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)


def _emptied(place: int, top: int, numbers: Iterator[int]) -> list[str]:
    """Removes the files of a folder and moves its folders to ``top``, under new names, which it gives."""
    moved = []
    with os.scandir(place) as entries:
        for entry in list(entries):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=place)
                continue
            os.chmod(entry.name, 0o700, dir_fd=place)
            moved.append(f"{uuid.uuid4().hex}-{next(numbers)}")  # a name that no program can have taken
            os.rename(entry.name, moved[-1], src_dir_fd=place, dst_dir_fd=top)
    return moved
