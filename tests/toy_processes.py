"""Environments that misbehave when they are told to, for worker processes: importable by name, unlike those of a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
from toys import Corridor

FOREVER = 3600.0


class Odd(Exception):
    """Cannot be made from its arguments alone, so pickle cannot carry it."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Unruly(Corridor):
    """A corridor whose ``trouble`` comes at step number ``at`` (0: at the reset), the first time in any process only: it
    leaves the file ``once`` behind. Without ``once`` it comes every time; ``only`` keeps it to one task."""

    def __init__(self, trouble: str = "", at: int = 2, once: str = "", only: str = "") -> None:
        super().__init__()
        self.trouble, self.at, self.once, self.only = trouble, at, once, only

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        found = super().reset(seed=seed, options=options)
        if self.at == 0:
            self._misbehave()
        return found

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        found = super().step(action)
        if self.n_steps == self.at:
            self._misbehave()
        return found

    def _misbehave(self) -> None:
        if not self.trouble or self.only not in ("", self.task.id):
            return
        if self.once:
            if os.path.exists(self.once):
                return
            Path(self.once).touch()
        trouble(self.trouble)


def trouble(what: str) -> None:
    """Real trouble, all of it."""
    if what == "hang":
        time.sleep(FOREVER)
    elif what == "spin":
        while True:
            pass
    elif what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(7)
    elif what == "sys.exit":
        sys.exit(8)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raise":
        raise ValueError("a hole")
    elif what == "raise odd":
        raise Odd("one", "two")
    else:
        raise AssertionError(what)


class Parent(Corridor):
    """Starts processes of its own: a child, and one that has left its session and whose parent is dead. Their numbers stand
    in ``info`` and, with its own, in the file ``log``."""

    def __init__(self, log: str, trouble: str = "") -> None:
        super().__init__()
        self.log, self.trouble = log, trouble

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        text, info = super().reset(seed=seed, options=options)
        child = subprocess.Popen(["sleep", str(FOREVER)])
        command = "import subprocess; quiet = subprocess.DEVNULL; "
        command += "print(subprocess.Popen(['sleep', '3600'], start_new_session=True, stdout=quiet, stderr=quiet).pid)"
        orphan = int(subprocess.run([sys.executable, "-c", command], capture_output=True, check=True).stdout)
        pids = [os.getpid(), child.pid, orphan]
        with open(self.log, "a") as file:
            file.write(" ".join(map(str, pids)) + "\n")
        return text, info | {"pids": pids}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.trouble:
            trouble(self.trouble)
        return super().step(action)


class Slow(Corridor):
    """Takes its time for everything, and says in ``info`` when it worked."""

    def __init__(self, seconds: float = 0.3) -> None:
        super().__init__()
        self.seconds = seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        time.sleep(self.seconds)
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        return super().step(action)


class Closing(Corridor):
    """Writes down that it was closed."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.log = log

    def close(self) -> None:
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()}\n")


class Hooked(Corridor):
    """Hooks of every kind."""

    size = 3

    @property
    def admissible_actions(self) -> list[str]:
        return ["go left", "go right"]

    def vocabulary(self) -> Iterator[str]:
        yield from ("one", "two")

    def lock(self) -> Any:
        return threading.Lock()

    def draw(self) -> float:
        import numpy as np

        return float(np.random.random())


class Printing(Corridor):
    """Prints, as engines do."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        print("loading the engine ...", flush=True)
        return super().reset(seed=seed, options=options)


class Unmade(Corridor):
    def __init__(self) -> None:
        raise Odd("no server", "no data")


gymnasium.register(id="toy/Unruly-v0", entry_point="toy_processes:Unruly")
gymnasium.register(id="toy/Printing-v0", entry_point="toy_processes:Printing")
