"""The record of an evaluation: a run folder that is written while episodes end, and that ``--resume`` continues.

found/
  config.toml                    how the agent is seated: environment, prompt, sampling, seed
  request.json                   what is asked beside that: policy, model, samples, the tasks
  journal.jsonl                  while it runs: a line for each episode that has ended, with the seconds and the account until then
  trajectories/eval.jsonl.zst    at the end: one trajectory a line, in order
  eval.json, eval.md, eval.html  at the end: all results; the tables for people
  summary.json                   at the end: eval.json without its row for each episode
  report.html, report/           at the end: every episode, for `agentrl view`

Each line of the journal is handed to the system as its episode ends, so a process that is killed loses only the episodes that
were under way. While episodes end, the journal is flushed to the disk every ``FLUSH_S`` seconds, for machines that fail.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from agentrl.config import RunConfig, config_difference, load
from agentrl.errors import CheckpointError, UserError
from agentrl.evaluation.evaluate import Evaluation
from agentrl.evaluation.page import html
from agentrl.evaluation.tables import markdown
from agentrl.store import RunFolder, lock, read_trajectories, unlock, write_atomic
from agentrl.types import Trajectory

FLUSH_S = 1.0
ROWS = "episodes"  # of eval.json, not of summary.json

Account = Mapping[str, Any]


class Record:
    """One evaluation on disk. ``create`` makes it, ``reopen`` continues it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.known: dict[str, Trajectory] = {}  # by id: episodes that ended earlier
        self.seconds = 0.0  # that earlier processes took
        self.account: Account | None = None  # of earlier processes
        self.started = self.flushed = time.perf_counter()
        self._journal: BinaryIO | None = None

    @classmethod
    def create(cls, path: Path, settings: RunConfig, request: Mapping[str, Any]) -> Record:
        """A new folder. Raises ConfigError where it is taken or cannot be written."""
        record = cls(RunFolder.create(path, settings.model_dump(mode="python")))
        write_atomic(path / "request.json", (json.dumps(request, indent=2) + "\n").encode())
        return record

    @classmethod
    def reopen(cls, path: Path, settings: RunConfig, request: Mapping[str, Any]) -> Record:
        """The folder of an evaluation that was stopped, or that is complete: then only faults are tried again.

        Raises CheckpointError for a folder without an evaluation, and for one of other settings; ConfigError where another
        process writes into it."""
        if not (path / "config.toml").is_file() or not (path / "request.json").is_file():
            raise CheckpointError(f"there is no evaluation to continue in {path}; start it without --resume")
        lock(path)
        asked = _read_json(path / "request.json")
        changed = [f"{key} = {_short(asked.get(key))}, now {_short(request[key])}" for key in request
                   if asked.get(key) != request[key]]  # fmt: skip
        changed += [found] if (found := config_difference(load(path / "config.toml"), settings)) else []
        if changed:
            raise CheckpointError(
                f"{path} was started with other settings: {'; '.join(changed)}; start anew without --resume"
            )
        record = cls(RunFolder(path))
        record._recall()
        return record

    def _recall(self) -> None:
        """What earlier processes wrote."""
        path = self.folder.path
        finished = self.folder.trajectories / "eval.jsonl.zst"
        self.folder.trajectories.mkdir(exist_ok=True)
        if (path / "summary.json").is_file():
            summary = _read_json(path / "summary.json")
            self.seconds = summary["seconds"]
            self.account = summary if "tokens" in summary else None
        if finished.is_file():
            self.known = {trajectory.id: trajectory for trajectory in read_trajectories(finished)}
        for trajectory, self.seconds, self.account in _ended(path / "journal.jsonl"):
            self.known[trajectory.id] = trajectory

    @property
    def n_done(self) -> int:
        """How many known episodes need not be played again."""
        return sum(not trajectory.outcome.is_fault for trajectory in self.known.values())

    @contextmanager
    def writing(self, account: Callable[[], Account | None]) -> Iterator[Callable[[Trajectory], None]]:
        """Gives what takes each episode that ends. ``account`` tells what a model behind an API has cost this process. A folder in
        which no episode has ended is removed again where the block finds that what the user gave cannot be used."""
        self.started = self.flushed = time.perf_counter()
        path = self.folder.path / "journal.jsonl"

        def write(trajectory: Trajectory) -> None:
            assert self._journal is not None
            seconds = self.seconds + time.perf_counter() - self.started
            line = {
                "seconds": seconds,
                "account": added(self.account, account()),
                "trajectory": trajectory.to_dict(),
            }
            self._journal.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self._journal.flush()
            if time.perf_counter() - self.flushed >= FLUSH_S:
                os.fsync(self._journal.fileno())
                self.flushed = time.perf_counter()

        try:
            with open(path, "ab") as self._journal:
                yield write
        except UserError:
            if not self.known and not path.stat().st_size:
                shutil.rmtree(self.folder.path, ignore_errors=True)
                unlock(self.folder.path)
            raise

    def finish(self, evaluation: Evaluation, result: Mapping[str, Any]) -> None:
        """Writes everything that stands in the folder at the end; the journal goes last."""
        path = self.folder.path
        self.folder.add_trajectories("eval", evaluation.trajectories)
        write_atomic(path / "eval.json", (json.dumps(result, indent=2) + "\n").encode())
        write_atomic(path / "eval.md", markdown(result).encode())
        write_atomic(path / "eval.html", html(result).encode())
        self.folder.write_summary({key: value for key, value in result.items() if key != ROWS})
        (path / "journal.jsonl").unlink()


def added(before: Account | None, now: Account | None) -> Account | None:
    """The account of two processes together: sums; the cost is None where one of them does not know it."""
    if before is None or now is None:
        return now if before is None else before
    total: dict[str, Any] = {}
    for key, value in now.items():
        earlier = before[key]
        if isinstance(value, Mapping):
            total[key] = added(earlier, value)
        else:
            total[key] = None if value is None or earlier is None else value + earlier
    return total


def _ended(path: Path) -> Iterator[tuple[Trajectory, float, Account | None]]:
    """What the lines of a journal say; the last one is cut off the file where a kill has cut it short. Raises CheckpointError for
    any other line that cannot be read."""
    data = path.read_bytes() if path.exists() else b""
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    for number, line in enumerate(data[:end].splitlines(), start=1):
        try:
            found = json.loads(line)
            yield Trajectory.from_dict(found["trajectory"]), found["seconds"], found["account"]
        except (ValueError, KeyError, TypeError) as error:
            remedy = "take it out of the file, and its episode is played again"
            raise CheckpointError(f"{path}, line {number} cannot be read: {error!r}; {remedy}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _short(value: Any) -> str:
    return f"{len(value)} tasks" if isinstance(value, Sequence) and not isinstance(value, str) else repr(value)
