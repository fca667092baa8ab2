"""A run that looks at its own memory, open files and threads after each iteration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.algorithms.method import Method
from agentrl.config import load
from agentrl.console import Progress
from agentrl.rollouts.worker import children
from agentrl.types import Trajectory

LEAK = 64 * 1024  # bytes an iteration
HELD: list[np.ndarray] = []


@dataclass(frozen=True)
class Leak(Method):
    """Forgets to forget."""

    stage = "score"

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        HELD.append(np.ones(LEAK // 8))
        return [float(len(HELD) % 2)] * len(trajectories)


class Watch(Progress):
    def __init__(self) -> None:
        self.rows: list[dict[str, int]] = []

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        mine = os.getpid()
        others = [child for keeper in children(mine) for child in (keeper, *children(keeper))]
        self.rows.append(
            {
                "bytes": anonymous(mine),
                "bytes of workers": sum(map(anonymous, others)),
                "files": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
                "processes": len(others),
            }
        )


def anonymous(pid: int) -> int:
    """The memory of a process that is no file's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # it has ended and waits to be buried


def main(arguments: Sequence[str]) -> int:
    """Trains by the run file ``run.toml`` with overrides, and writes ``watched.json``."""
    from agentrl.trainer import train

    watch = Watch()
    train(load("run.toml", arguments), "run", progress=watch)
    Path("watched.json").write_text(json.dumps(watch.rows))
    return 0
