"""What goes wrong on purpose in the runs of these tests: a household, an engine and a disk that fail when ``$FAULTS`` says so.

FAULTS = {"dir": folder, "seed": 3, "raise": 0.05, "hang": 0.02, "kill": 0.02, "engine": 0.1, "always": 0,
          "run": folder, "files": 17, "log": file}

Whether a step fails is drawn anew each time that it is taken, replays included, from the seed, the state and how often the state
was met before, by any process: files in ``dir`` count. A batch of the engine fails once. With ``files`` the process kills itself
right before its file operation of that number in the run folder, ``run``; ``log`` counts them at its end.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium

from agentrl import env as envs
from agentrl import seeding
from agentrl.errors import PolicyFault
from agentrl.policies.base import Request
from agentrl.policies.transformers import TransformersPolicy
from agentrl.types import Completion

FOREVER = 3600.0


@functools.cache
def plan() -> dict[str, Any]:
    return json.loads(os.environ.get("FAULTS", "{}"))


def drawn(*key: str | int) -> float:
    """The number in [0, 1) that belongs to a place where something may fail."""
    return float(seeding.stream(plan().get("seed", 0), *key).random())


def first_time(*key: str | int) -> bool:
    """Whether nothing has failed at this place yet, in any process."""
    with suppress(FileExistsError):
        os.close(os.open(Path(plan()["dir"]) / f"{seeding.stable_hash(*key):032x}", os.O_CREAT | os.O_EXCL))
        return True
    return False


class Household(gymnasium.Wrapper[str, str, str, str]):
    """The tiny household."""

    def __init__(self) -> None:
        super().__init__(envs.make("agentrl/Household-v0", difficulty="tiny"))
        self.taken: list[str] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        found = super().reset(seed=seed, options=options)
        self.taken = []
        return found

    def step(self, action: str) -> Any:
        found = super().step(action)
        self.taken.append(action)
        self._fail(self.get_wrapper_attr("state_key")(), *self.taken)
        return found

    def _fail(self, *place: str) -> None:
        rates = plan()
        if rates.get("always"):
            raise OSError(f"the kitchen burns after {len(self.taken)} turns")
        if not rates.get("dir"):
            return
        visit = next(number for number in itertools.count() if first_time("env", *place, number))
        left = drawn("env", *place, visit)
        for what in ("raise", "hang", "kill"):
            left -= rates.get(what, 0.0)
            if left < 0:
                (Path(rates["dir"]) / f"{what} {visit} {seeding.stable_hash(*place):032x}").touch()
                fail(what)


def fail(what: str) -> None:
    if what == "raise":
        raise OSError("the kitchen is out of order")
    if what == "hang":
        time.sleep(FOREVER)
    os.kill(os.getpid(), signal.SIGKILL)


gymnasium.register(
    id="faults/Household-v0", entry_point="faulty:Household", disable_env_checker=True, order_enforce=False
)


class Engine(TransformersPolicy):
    """Some batches fail, once each, half of them after the work was done: no answer arrives, but what is kept has changed."""

    def generate_batch(self, requests: Sequence[Request]) -> list[Completion]:
        name = " ".join(sorted(request.id for request in requests))
        number = drawn("engine", name)
        fails = number < plan().get("engine", 0.0) and first_time("engine", name)
        late = fails and drawn("late", name) < 0.5
        if fails and not late:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        answers = super().generate_batch(requests)
        if late:
            raise PolicyFault("the engine was restarted")
        return answers


# ── the driver ───────────────────────────────────────────────────────────────────────────────────────────────────────

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate"}


def watch_files() -> None:
    """Counts this process's file operations in the folder ``run``, and kills it before the one that the plan names."""
    run, fatal, log = plan()["run"], plan().get("files"), plan().get("log")
    count = 0

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        # A folder that is being removed names its files by themselves.
        within = event in ("os.remove", "os.rmdir") and arguments[-1] not in (None, -1)
        named = any(isinstance(a, (str, os.PathLike)) and str(a).startswith(run) for a in arguments)
        if event not in OPERATIONS or not (named or within):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(seen)
    if log:
        atexit.register(lambda: Path(log).write_text(str(count)))
