"""Real training processes, killed for real.

    with Nursery() as nursery:
        driver = nursery.train(folder, "--out", "run", FAULTS=...)
        driver.kill()
        assert driver.nothing_left()

Importing torch and transformers takes most of a short run's time, so one process imports them and forks each driver: it has one
thread and has computed nothing, so a fork of it is a fresh interpreter with its imports done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
GONE = ("Z", "X", "")  # states of a process that has ended
PATIENCE_S = 300.0  # for what takes seconds on an idle machine

SERVER = """
import importlib, json, os, sys
import agentrl.trainer, agentrl.cli, agentrl.rollouts.process, torch, transformers
from agentrl import registry
from agentrl.learning import checkpoint, critic, learner, responses
import faulty, toy_runs
registry.load_plugins()
assert len(os.listdir("/proc/self/task")) == 1
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.setsid()
    os.chdir(order["cwd"])
    os.environ.update(order["environ"])
    for number, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    if "run" in json.loads(order["environ"].get("FAULTS", "{}")):
        faulty.watch_files()
    sys.exit(getattr(importlib.import_module(order["module"]), order["function"])(order["arguments"]))
"""


class Nursery:
    """Forks drivers; ends them all at its end."""

    def __enter__(self) -> Nursery:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.drivers: list[Driver] = []
        assert self._answer() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for driver in self.drivers:
            driver.kill()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, **order: Any) -> str:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def train(self, folder: Path, *arguments: str, **faults: Any) -> Driver:
        """``agentrl train`` of the run file in ``folder``, in that folder."""
        return self.call(folder, "agentrl.cli:main", ["train", "run.toml", *arguments], **faults)

    def call(self, folder: Path, function: str, arguments: list[str], **faults: Any) -> Driver:
        mark = uuid.uuid4().hex
        err = folder / f"{mark}.err"
        environ = {"FAULTS": json.dumps(faults), "FAULTS_MARK": mark}
        module, _, name = function.partition(":")
        pid = self.ask(
            cwd=str(folder), environ=environ, out=str(folder / f"{mark}.out"), err=str(err),
            module=module, function=name, arguments=arguments,
        )  # fmt: skip
        self.drivers.append(Driver(self, int(pid), mark, err))
        return self.drivers[-1]


@dataclass
class Driver:
    """A training process. ``mark`` stands in the environment of everything that it has started."""

    nursery: Nursery
    pid: int
    mark: str
    err: Path
    status: int | None = field(default=None)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit status; negative for a signal."""
        if self.status is None:
            until(lambda: self.gone(), "a driver that does not end", patience_s)
            self.status = int(self.nursery.ask(wait=self.pid))
        return self.status

    def gone(self) -> bool:
        return state(self.pid) in GONE

    def kill(self) -> int:
        if self.status is None and not self.gone():
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def started(self) -> dict[int, str]:
        """What it has started and what lives still, also in other sessions and under other parents: pid and command."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != self.pid:
                try:
                    marked = self.mark.encode() in (entry / "environ").read_bytes()
                    if marked and state(int(entry.name)) not in GONE:
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
                except OSError:  # gone meanwhile, or somebody else's
                    continue
        return found

    def nothing_left(self) -> bool:
        """Whether everything that it has started ends soon after it."""
        until(lambda: not self.started(), f"processes that outlive their driver: {self.started()}")
        return True

    def said(self) -> str:
        return self.err.read_text()


def state(pid: int) -> str:
    """The letter of a process's state; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Waits for what is bound to come."""
    ends = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.005)
