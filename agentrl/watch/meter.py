"""Measures an iteration: seconds by phase, what the model had to do in each, and what binds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agentrl.config import RunConfig
from agentrl.types import Trajectory
from agentrl.watch import bounds
from agentrl.work import Costs, Machine, Work

Works = dict[str, Work]  # by kind: reading, decoding, scoring, training


class Meter:
    """``parts``: what computes with a model of the policy's size and counts it in ``work``: policy, learner, critic. A part that
    does not count has no bound."""

    def __init__(self, config: RunConfig, model: Any, parts: Sequence[Any]) -> None:
        several = len(config.env) > 1
        self.processes = [t.title if several else "" for t in config.env if t.isolation == "process"]
        self.live = config.rollout.live(config.env)
        self.parts = [part for part in parts if hasattr(part, "work")]
        self.model = model
        self.seconds: dict[str, float] = {}  # of this iteration, by what was timed
        self.works: dict[str, Works] = {}
        self._limits: tuple[Costs, Machine] | None = None

    @property
    def limits(self) -> tuple[Costs, Machine]:
        """The model's costs and the machine's speed, measured on first use (a third of a second)."""
        from agentrl.learning.machine import costs_of, machine

        self._limits = self._limits or (costs_of(self.model), machine(self.model))
        return self._limits

    def begin(self) -> None:
        """An iteration begins."""
        self.seconds, self.works = {}, {}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds of a block, and what models did in it."""
        before, started = self._counted(), time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started
        done = self.works.setdefault(what, {})
        for (kind, work), (_, earlier) in zip(self._counted(), before, strict=True):
            done[kind] = done.get(kind, Work()) + (work - earlier)

    def _counted(self) -> list[tuple[str, Work]]:
        return [(kind, work.copy()) for part in self.parts for kind, work in part.work.items()]

    def measure(self, total: float, played: Sequence[Trajectory]) -> dict[str, Any]:
        """The metrics of an iteration of ``total`` seconds in which these trajectories were played: ``time/…``, ``bound/…`` and
        ``binds``."""
        seconds = dict(self.seconds)
        by_phase = {
            phase: seconds.get(key.removeprefix("time/"), 0.0)
            for phase, key in bounds.SECONDS.items()
            if phase != "waiting"
        }
        by_phase["waiting"] = seconds["waiting"] = bounds.waiting(by_phase, total)
        found = self._bounds(played)
        return {
            **{f"time/{name}": round(value, 4) for name, value in seconds.items()},
            "time/iteration": round(total, 4),
            **{f"bound/{phase}": round(value, 6) for phase, value in found.items()},
            "binds": bounds.sentence(by_phase, found, total),
        }

    def _bounds(self, played: Sequence[Trajectory]) -> dict[str, float]:
        """By phase; only what has one."""
        found = {
            phase: self._computing(self.works.get(what, {}))
            for phase, what in (("generation", "rollout"), ("credit", "credit"), ("training", "training"))
        }
        inline, away = bounds.environment_seconds(played, self.processes)
        found["environments"] = bounds.environment_bound(inline, away, self.live)
        return {phase: value for phase, value in found.items() if value > 0}

    def _computing(self, works: Mapping[str, Work]) -> float:
        costs, machine = self.limits
        return sum(bounds.seconds_of(costs, machine, kind, work) for kind, work in works.items())
