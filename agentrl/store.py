"""The run folder. Files are written whole: to a temporary name beside them, flushed to disk, then renamed. metrics.jsonl alone
grows, a line at a time, each flushed to disk. One process at a time writes into a run folder: it holds a lock for its life.

runs/quickstart/
  config.toml            the resolved run file
  metrics.jsonl          one line an iteration
  summary.json           status and results
  alarms.jsonl           one line an alarm that was raised (agentrl.watch), where there was any
  report.html, report/   what `agentrl view` shows, made of the others
  trajectories/          iteration_000012.jsonl.zst, eval_before.jsonl.zst …: one trajectory a line
  states/                iteration_000012.json.zst: what reward and credit methods that remember knew then, where there are any
  .lock                  held by the process that writes
  checkpoints/step_12/   Hugging Face layout and the training state; ``latest`` points to the newest, ``best`` to the best
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w
import zstandard

from agentrl.errors import CheckpointError, ConfigError, TooManyFaults, UserError
from agentrl.types import Trajectory

try:
    import fcntl
except ImportError:  # Windows: run folders have no locks there
    fcntl = None

_LOCKS: dict[Path, int] = {}  # file handles of this process


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, also when the process is killed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems flush no folders
                os.fsync(handle)
        finally:
            os.close(handle)


def lock(folder: Path) -> None:
    """Holds ``folder/.lock`` until this process ends. Raises ConfigError where another process holds it; does nothing where
    the system or its file system knows no locks."""
    if fcntl is None:
        return
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    held = _LOCKS.get(folder.resolve())
    if held is not None and os.path.sameopenfile(held, handle):
        os.close(handle)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(
            f"{folder} is in use by another process; wait for it to end or choose another folder with --out"
        ) from error
    except OSError:
        os.close(handle)
        return
    unlock(folder)  # of a folder of this name that was removed
    _LOCKS[folder.resolve()] = handle


def in_use(folder: Path) -> bool:
    """Whether a process writes into a run folder. True, too, where that cannot be found out."""
    if fcntl is None or folder.resolve() in _LOCKS:
        return True
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def unlock(folder: Path) -> None:
    """Gives the lock of a folder back, where this process holds it."""
    handle = _LOCKS.pop(folder.resolve(), None)
    if handle is not None:
        os.close(handle)


def write_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Trajectories as compressed JSON lines."""
    lines = [json.dumps(trajectory.to_dict(), separators=(",", ":")) for trajectory in trajectories]
    write_atomic(path, _compressed("\n".join(lines) + "\n"))


def _compressed(text: str) -> bytes:
    """With a checksum: without one, half of all changed bits go unnoticed."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(text.encode())


def _decompressed(data: bytes) -> str:
    # A cut file is an error, not a short one; so is one that goes on.
    return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False).decode()


def numbered(run: Path, kind: str) -> dict[int, Path]:
    """The files of trajectories in a run folder by number, in order: of ``kind`` "iteration", "demos" or "play". Files of other
    names are no part of the record."""
    named = ((re.fullmatch(rf"{kind}_(\d+)\.jsonl\.zst", path.name), path) for path in (run / "trajectories").glob("*"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))


def read_trajectories(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file that ``write_trajectories`` made. Raises CheckpointError for any other file."""
    with _trajectories_of(path):
        for line in _lines(path):
            yield Trajectory.from_dict(json.loads(line))


def read_ids(path: Path) -> list[str]:
    """The ids of the trajectories of a file, in order, without making the trajectories. Raises CheckpointError as
    ``read_trajectories`` does."""
    with _trajectories_of(path):
        return [_id(line) for line in _lines(path)]


@contextmanager
def _trajectories_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no trajectories that can be read: {error}") from error


def _lines(path: Path) -> list[str]:
    return [line for line in _decompressed(path.read_bytes()).splitlines() if line]


def _id(line: str) -> str:
    """Of a trajectory's line. It stands first, and the rest may be long."""
    start = '{"id":'
    return json.JSONDecoder().raw_decode(line, len(start))[0] if line.startswith(start) else json.loads(line)["id"]


def find_trajectory(folder: Path, wanted: str) -> Trajectory:
    """The trajectory of a run folder whose id is ``wanted``, or is the only one that contains it. Where ``wanted`` begins with the
    iteration (``iteration=12/``), only that iteration's file is read.

    Raises CheckpointError where there is none, with the nearest ids, and where there are several, with the first of them.
    """
    files = sorted((folder / "trajectories").glob("*.jsonl.zst"))
    if not files:
        raise CheckpointError(f"{folder} holds no trajectories; give a run, an evaluation or recorded games")
    ids = {file: read_ids(file) for file in _holding(files, wanted)}
    name = match_id([name for names in ids.values() for name in names], wanted)
    file = next(file for file, names in ids.items() if name in names)
    return next(trajectory for trajectory in read_trajectories(file) if trajectory.id == name)


def match_id(ids: Sequence[str], wanted: str) -> str:
    """The one of ``ids`` that is ``wanted``, or is the only one that contains it. Raises CheckpointError as
    ``find_trajectory`` does."""
    found = [name for name in ids if wanted in name]
    found = [name for name in found if name == wanted] or found
    if not found:
        near = difflib.get_close_matches(wanted, ids[:2000], n=2, cutoff=0.6) or ids[:2]
        raise CheckpointError(f"no trajectory's id contains '{wanted}'; ids here are like {', '.join(near) or 'none'}")
    if len(found) > 1:
        more = " …" if len(found) > 6 else ""
        raise CheckpointError(
            f"{len(found)} ids contain '{wanted}'; write more of one of them: {', '.join(found[:6])}{more}"
        )
    return found[0]


def read_states(folder: Path, iteration: int) -> dict[str, Any]:
    """What ``RunFolder.add_states`` wrote for an iteration; empty where it wrote nothing. Raises CheckpointError for a file
    that cannot be read."""
    path = folder / "states" / f"iteration_{iteration:06d}.json.zst"
    try:
        return json.loads(_decompressed(path.read_bytes())) if path.exists() else {}
    except (OSError, zstandard.ZstdError, ValueError) as error:
        raise CheckpointError(f"{path} holds no states that can be read: {error}") from error


def _holding(files: Sequence[Path], wanted: str) -> Sequence[Path]:
    """The files in which an id may stand, by how it begins. Raises CheckpointError where that file is not there."""
    kind, _, rest = wanted.partition("=")
    kinds = [file for file in files if file.name.startswith((f"{kind}_", f"{kind}."))] if rest else []
    number = rest.partition("/")[0]
    if not number.isdecimal():
        return kinds or files
    if not kinds:
        return files
    name = f"{kind}_{int(number):06d}.jsonl.zst"
    found = [file for file in kinds if file.name == name]
    if not found:
        between = f"{kinds[0].name} to {kinds[-1].name}"
        raise CheckpointError(f"{kinds[0].parent} has no {name}, where '{wanted}' would be; it has {between}")
    return found


class RunFolder:
    """One run on disk. ``create`` makes it, ``reopen`` continues it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trajectories = path / "trajectories"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """A new folder. Raises ConfigError where something is in it already, where another process is about to write into
        it, and where it cannot be written."""
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._must_be_empty()
            lock(path)
            folder._must_be_empty()  # nor did another process fill it meanwhile
            write_atomic(path / "config.toml", tomli_w.dumps(without_none(config)).encode())  # first: it makes a run
            folder.trajectories.mkdir()
            folder.checkpoints.mkdir()
        except FileExistsError as error:
            problem = "exists already; continue it with --resume or choose another folder with --out"
            raise ConfigError(f"{path} {problem}") from error
        except OSError as error:
            raise ConfigError(
                f"the run folder {path} cannot be written: {error.strerror}; choose another with --out"
            ) from error
        return folder

    def _must_be_empty(self) -> None:
        if any(entry.name != ".lock" and not entry.name.endswith(".tmp") for entry in self.path.iterdir()):
            raise FileExistsError

    @classmethod
    def reopen(cls, path: Path, iteration: int) -> RunFolder:
        """An existing folder, with the metrics and records of later iterations than the checkpoint's taken out: they come again.
        Raises ConfigError where another process writes into it, CheckpointError where metrics of earlier ones are missing."""
        folder = cls(path)
        lock(path)
        folder.trajectories.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) for line in folder._metrics_before(iteration)]
        folder._remove_from(iteration)
        write_atomic(path / "metrics.jsonl", "".join(line + "\n" for line in kept).encode())
        for leftover in list(path.rglob(".*.tmp")):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        return folder

    def _metrics_before(self, iteration: int) -> list[dict[str, Any]]:
        """The lines of the first iterations. Raises CheckpointError where one is missing or stands there twice."""
        kept = [line for line in self.metrics() if line["iteration"] < iteration]
        numbers = [line["iteration"] for line in kept]
        if wrong := sorted(number for number in {*range(iteration), *numbers} if numbers.count(number) != 1):
            raise CheckpointError(
                f"{self.path / 'metrics.jsonl'} must hold one line of each iteration before the checkpoint's, {iteration}, and "
                f"does not of {', '.join(map(str, wrong[:6]))}; " + _without_lines(wrong[0])
            )
        return kept

    def _remove_from(self, iteration: int) -> None:
        """Removes what an iteration and those after it have written, evaluations after them included."""
        for folder in (self.trajectories, self.path / "states"):
            for file in folder.glob("*iteration_*"):
                match = re.match(r"(eval_)?iteration_(\d+)[_.]", file.name)
                if match and int(match[2]) >= iteration + bool(match[1]):  # that of a number comes before its iteration
                    file.unlink()

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Removes the folder again where the block finds that what the user gave cannot be used."""
        try:
            yield
        except UserError:
            shutil.rmtree(self.path, ignore_errors=True)
            unlock(self.path)
            raise

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``; a last line that a kill cut short is left out. Raises CheckpointError for a file that
        cannot be read, and for any other line that is no table with an iteration."""
        path = self.path / "metrics.jsonl"
        found: list[dict[str, Any]] = []
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                found.append(json.loads(line))
                int(found[-1]["iteration"])
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{path}, line {number} cannot be read: {error!r}"
                raise CheckpointError(f"{problem}; {_without_lines(number - 1)}") from error
        return found

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Appends one line."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomic(self.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())

    def write_alarms(self, alarms: Sequence[Mapping[str, Any]]) -> None:
        """Writes all alarms anew, one line each; without any there is no file."""
        path = self.path / "alarms.jsonl"
        if alarms or path.exists():
            write_atomic(path, "".join(json.dumps(alarm) + "\n" for alarm in alarms).encode())

    def add_states(self, iteration: int, states: Mapping[str, Any]) -> None:
        """Keeps what methods remembered in an iteration, which is JSON."""
        folder = self.path / "states"
        folder.mkdir(exist_ok=True)
        text = json.dumps(states, separators=(",", ":"))
        write_atomic(folder / f"iteration_{iteration:06d}.json.zst", _compressed(text))

    def add_trajectories(self, name: str, trajectories: Sequence[Trajectory]) -> None:
        write_trajectories(self.trajectories / f"{name}.jsonl.zst", trajectories)

    @contextmanager
    def keeping(self, name: str) -> Iterator[None]:
        """Where the block is stopped by faults, the episodes that ended in it are written down, and the error says how to play the
        last fault again."""
        try:
            yield
        except TooManyFaults as error:
            self.add_trajectories(name, error.episodes)
            last = [trajectory.id for trajectory in error.episodes if trajectory.outcome.is_fault][-1]
            again = f"agentrl replay {shlex.quote(str(self.path))} {shlex.quote(last)}"
            raise TooManyFaults(f"{error}; to play the last one again: {again}", error.episodes) from error


def _without_lines(iteration: int) -> str:
    return (
        f"point checkpoints/latest to a step_N of at most {iteration}, from where the lines come again, or go on without them: "
        f'write {{"iteration": {iteration}}} in place of the line'
    )


def free_folder(name: str, root: Path = Path("runs")) -> Path:
    """Makes ``runs/NAME``, or ``runs/NAME-2`` and so on where that is taken: of two runs that ask at once each gets its own.
    Raises ConfigError where it cannot be made."""
    path, number = root / name, 2
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            path, number = root / f"{name}-{number}", number + 1
        except OSError as error:
            raise ConfigError(f"the run folder {path} cannot be made: {error.strerror}") from error


def without_none(value: Any) -> Any:
    """TOML has no null: keys without a value are left out."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_none(item) for item in value]
    return value
