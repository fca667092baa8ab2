"""What the tests of whole runs share: a run file of a tiny model, and methods that misbehave on purpose.

A subprocess loads the methods as ``toy_runs:Name``, with ``tests`` on its path.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.algorithms import TurnTable
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.method import Method
from agentrl.config import RunConfig, load
from agentrl.env import TextEnv
from agentrl.errors import EnvFault
from agentrl.store import read_trajectories
from agentrl.types import Group, RolloutRequest, Task, Trajectory

TINY = """
[env]
id = "agentrl/Household-v0"
options = { difficulty = "tiny" }
max_turns = 4

[model.config]
model_type = "qwen2"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 512
tie_word_embeddings = true

[agent]
memory = { name = "window", turns = 2, item = "{action}; " }
prompt = "{places}\\n{history}You hold {held}\\n{observation}\\n{goal}"

[rollout]
max_tokens = 8

[algorithm]
sampler = { name = "uniform", tasks = 2, group_size = 4 }
scores = [{ name = "toy_runs:Parity" }]
filters = []
credit = { name = "gigpo" }
updates_per_iteration = 2

[optimizer]
lr = 1e-2

[evaluation]
episodes = 4

[checkpoint]
every = 1

[resources]
device = "cpu"
threads = 1

[run]
name = "tiny"
iterations = 3
"""


def tiny(folder: Path, *overrides: str) -> RunConfig:
    return load(run_file(folder), overrides)


def run_file(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return path


# ── what a run left ──────────────────────────────────────────────────────────────────────────────────────────────────


def without_clocks(value: Any) -> Any:
    """Everything but what depends on the machine's speed."""
    if isinstance(value, dict):
        return {
            key: without_clocks(item)
            for key, item in value.items()
            if key not in ("seconds", "time", "binds") and not key.startswith(("time/", "perf/", "bound/"))
        }
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def trajectories(run: Path) -> dict[str, list[dict[str, Any]]]:
    """By file."""
    files = sorted((run / "trajectories").glob("*.jsonl.zst"))
    return {file.name: [without_clocks(t.to_dict()) for t in read_trajectories(file)] for file in files}


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "latest" / "model.safetensors").read_bytes()


def assert_same_run(one: Path, other: Path) -> None:
    """Metrics, trajectories, results and weights, to the last bit."""
    assert without_clocks(metrics(one)) == without_clocks(metrics(other))
    assert trajectories(one) == trajectories(other)
    assert without_clocks(summary(one)) == without_clocks(summary(other))
    assert weights(one) == weights(other)


def cut(run: Path, at: int) -> None:
    """What a kill after checkpoint ``at`` leaves: later metrics, a torn line, half a checkpoint, half a file."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines.append(lines[-1].replace('"iteration": 2', '"iteration": 3'))
    keep = max(at, 2)  # whole lines
    (run / "metrics.jsonl").write_text("".join(lines[:keep]) + lines[keep][: len(lines[keep]) // 2])
    for step in range(at + 1, 9):
        target = run / "checkpoints" / f"step_{step}"
        if target.exists():
            target.rename(run / "checkpoints" / f".step_{step}.77.tmp")
    (run / "checkpoints" / "latest").unlink()
    (run / "checkpoints" / "latest").symlink_to(f"step_{at}")
    (run / "trajectories" / ".iteration_000001.jsonl.zst.77.tmp").write_bytes(b"half")
    (run / "summary.json").unlink()


# ── methods ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Parity(Method):
    """Rewards a random policy now and then, as a function of its ids only. With $TOY_STALL=FILE:N the N-th call writes
    FILE and never returns: the process is in the middle of an iteration and waits to be killed."""

    stage = "score"

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        file, _, number = os.environ.get("TOY_STALL", "").rpartition(":")
        if file:
            log = Path(file + ".calls")
            log.write_text(log.read_text() + "." if log.exists() else ".")
            if len(log.read_text()) == int(number):
                Path(file).touch()
                while True:
                    time.sleep(0.01)
        return [float(sum(sum(call.completion_ids) for call in t.calls()) % 2) for t in trajectories]


@dataclass(frozen=True)
class Zero(Method):
    """Every trajectory is as good as every other."""

    stage = "score"

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        return [0.0] * len(trajectories)


CALLS: list[str] = []  # of Faulting


@dataclass(frozen=True)
class Faulting(Method):
    """A judge that is down for ``failures`` calls."""

    stage = "score"

    failures: int = 1

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        CALLS.append("call")
        if len(CALLS) <= self.failures:
            raise EnvFault("the judge is down")
        return [float(index % 2) for index in range(len(trajectories))]


@dataclass(frozen=True)
class AskAgain(Method):
    """Keeps the first group and always asks for the others again."""

    stage = "filter"

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        CALLS.append("filter")
        again = [RolloutRequest(group.members[0].task, len(group.members), source="filter") for group in groups[1:]]
        return groups[:1], again


@dataclass(frozen=True)
class Halve(Method):
    """Modulates what the credit methods before it gave."""

    stage = "credit"
    reads = ("advantage",)
    writes = ("advantage",)

    def __call__(self, table: TurnTable) -> np.ndarray:
        return table["advantage"] / 2


@dataclass(frozen=True)
class Ones(Method):
    """Adds itself to the others."""

    stage = "credit"
    reads = ("group",)
    writes = ("advantage",)

    def __call__(self, table: TurnTable) -> np.ndarray:
        return np.ones(table.n_rows)


@dataclass(frozen=True)
class Exploding(PPOClip):
    """A loss that is not a number."""

    def __call__(self, inputs: LossInputs) -> Any:
        return super().__call__(inputs) * float("nan")


@dataclass(frozen=True)
class Grouped(Method):
    """A loss that notes how many members of each group an update holds."""

    stage = "loss"
    scope = "group"
    reads = ("logp", "group", "advantage")

    def __call__(self, inputs: LossInputs) -> Any:
        members = {
            group: {t for t, g in zip(inputs.trajectory.tolist(), inputs.group.tolist(), strict=True) if g == group}
            for group in inputs.group.tolist()
        }
        CALLS.append(" ".join(f"{group}:{len(found)}" for group, found in members.items()))
        return -(inputs.advantage * inputs.logp).mean()


@dataclass(frozen=True)
class Won(Method):
    """Which trajectories a random policy is said to have solved: those with a reward."""

    stage = "reward"
    writes = ("won",)

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        return {"won": (table.sum_by_trajectory(table["reward"])[table["trajectory"]] > 0).astype(float)}


@dataclass(frozen=True)
class Interrupting(Method):
    """Presses Ctrl-C in the middle of the second iteration."""

    stage = "filter"

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        CALLS.append("filter")
        if len(CALLS) == 2:
            raise KeyboardInterrupt
        return groups, []


@dataclass(frozen=True)
class Broken(Method):
    """A bug in a third party's method."""

    stage = "filter"

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        raise ZeroDivisionError("a bug")


@dataclass(frozen=True)
class ReadsNothingKnown(Method):
    """A credit method whose column nobody writes."""

    stage = "credit"
    reads = ("stratum",)
    writes = ("advantage",)

    def __call__(self, table: TurnTable) -> np.ndarray:
        return table["stratum"]


@dataclass(frozen=True)
class Valued(Method):
    """A credit method that reads a critic's values and does not say what they should have been."""

    stage = "credit"
    reads = ("value",)
    writes = ("advantage",)

    def __call__(self, table: TurnTable) -> np.ndarray:
        return -table["value"]


# ── environments ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Stateless(TextEnv):
    """An environment with a vocabulary and without state keys."""

    def tasks(self, split: str) -> list[Task]:
        return [Task(id=f"{split}-{n}", seed=n, split=split) for n in range(8)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = self.choose_task(options)
        return "a door", {"goal": "open it"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "it opens", 1.0, True, False, {"success": True}

    def vocabulary(self) -> list[str]:
        return ["a door", "it opens", "open it"]


class Moody(Stateless):
    """Answers the same seed differently each time."""

    n_resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        Moody.n_resets += 1
        _, info = super().reset(seed=seed, options=options)
        return f"door number {Moody.n_resets}", info


class NoInfo(Stateless):
    """Forgets ``info``."""

    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]


class Crashing(Stateless):
    """Cannot start a task."""

    def reset(self, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a bug\nof mine")


class NumberedStates(Stateless):
    """Its keys are no texts."""

    def state_key(self) -> Any:
        return 3


class Unmade(Stateless):
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("no server")


class Riddles(Stateless):
    """One question, one answer, which is compared with ``Task.reference``: words that a random policy says now and then. The
    environment itself rewards nothing."""

    def tasks(self, split: str) -> list[Task]:
        return [Task(id=f"{split}-{n}", seed=n, split=split, reference=["opens", "it", "the door"]) for n in range(8)]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "it opens", 0.0, True, False, {}
