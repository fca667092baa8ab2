"""The environments of a run: one scene an ``[[env]]``, each with its tasks and the agent that plays it.

scenes = Scenes.of(config)
scenes.tasks               what samplers draw from: a split, or a mixture of splits by weight
scenes.seats(...)          where a task is played: ``Task.env`` names the scene, "" where a run has one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentrl import build, seating
from agentrl.agents import Agent, View
from agentrl.chat import Renderer
from agentrl.config import EnvTable, RunConfig
from agentrl.env import LazyTasks
from agentrl.rollouts import EnvPool, Limits, Seat
from agentrl.types import Task


class Mixture(LazyTasks):
    """Tasks of several environments, interleaved so that any stretch holds each environment's share of it.

    Shares are the weights in thousandths. A split that is shorter than its share wants is gone through again, so a task may
    stand here more than once; every task of every split stands here at least once. Lazy: no task is made before it is asked for.
    """

    def __init__(self, splits: Sequence[tuple[str, Sequence[Task]]], weights: Sequence[float]) -> None:
        """``splits``: the name of each environment and its tasks."""
        self.splits = list(splits)
        counts = [max(1, round(1000 * weight / sum(weights))) for weight in weights]
        divisor = math.gcd(*counts)
        self.counts = [count // divisor for count in counts]
        self.pattern = _interleaved(self.counts)  # (environment, how many of its places came before) in one period
        rounds = max(
            -(-len(tasks) // count) for (_, tasks), count in zip(self.splits, self.counts, strict=True)
        )  # rounded up
        self.length = rounds * len(self.pattern)

    def __len__(self) -> int:
        return self.length

    def make(self, place: int) -> Task:
        period, place = divmod(place, len(self.pattern))
        which, before = self.pattern[place]
        name, tasks = self.splits[which]
        return replace(tasks[(period * self.counts[which] + before) % len(tasks)], env=name)

    def __repr__(self) -> str:
        return f"a mixture of {', '.join(name for name, _ in self.splits)}"


def _interleaved(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Each environment ``count`` times, as evenly spread as can be: always the one that is furthest behind its share."""
    total, given, pattern = sum(counts), [0] * len(counts), []
    for place in range(total):
        behind = [count * (place + 1) / total - n for count, n in zip(counts, given, strict=True)]
        which = behind.index(max(behind))
        pattern.append((which, given[which]))
        given[which] += 1
    return pattern


@dataclass(frozen=True, slots=True)
class Scene:
    """One environment of a run. ``name`` is "" where the run has no other; ``view`` is what an agent sees first."""

    name: str
    table: EnvTable
    pool: EnvPool
    tasks: Sequence[Task]
    view: View
    state_keys: bool

    @classmethod
    def of(cls, table: EnvTable, name: str) -> Scene:
        """Raises ConfigError for an environment that cannot be made or has no tasks."""
        pool = build.env_pool(table)
        tasks = build.tasks_of(pool, table.split)
        return cls(name, table, pool, tasks, *build.first_view(pool, tasks[0]))

    def first_tasks(self, split: str, n: int, where: str) -> list[Task]:
        """The first ``n`` tasks of a split (0: all) under this scene's name."""
        return [replace(task, env=self.name) for task in build.first_tasks(self.pool, split, n, where)]


@dataclass(frozen=True, slots=True)
class Scenes:
    """All environments of a run, in the run file's order."""

    all: tuple[Scene, ...]
    tasks: Sequence[Task]

    @classmethod
    def of(cls, config: RunConfig) -> Scenes:
        several = len(config.env) > 1
        found = tuple(Scene.of(table, table.title if several else "") for table in config.env)
        if not several:
            return cls(found, found[0].tasks)
        weights = [scene.table.weight for scene in found]
        return cls(found, Mixture([(scene.name, scene.tasks) for scene in found], weights))

    @property
    def pools(self) -> list[EnvPool]:
        return [scene.pool for scene in self.all]

    @property
    def state_keys(self) -> bool:
        """Whether every environment has state keys."""
        return all(scene.state_keys for scene in self.all)

    def seats(
        self,
        config: RunConfig,
        renderer: Renderer,
        limit: int | None,
        wrap: Callable[[Any], Agent] = lambda agent: agent,
    ) -> dict[str, Seat]:
        """Where each scene's tasks are played, by name: with the agent of the run file, checked against what the environment
        shows. ``limit`` is the model's context; ``wrap`` makes another agent of it."""
        return {
            scene.name: Seat(
                scene.pool,
                wrap(seating.agent(config, config.agent_of(scene.table), renderer, scene.view, limit)),
                Limits(max_turns=scene.table.max_turns),
            )
            for scene in self.all
        }

    def close(self) -> None:
        for scene in self.all:
            scene.pool.close()
