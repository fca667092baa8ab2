"""A policy on a fixed panel of tasks: success with its interval, by task type, turns, valid actions, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.evaluation.statistics import wilson
from agentrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of a panel, [n] trajectories in the panel's order. Faults of the machinery are counted, and are no part of
    any rate."""

    trajectories: Sequence[Trajectory]
    seconds: float

    @property
    def scored(self) -> list[Trajectory]:
        """The episodes that ended by the policy's doing."""
        return [trajectory for trajectory in self.trajectories if not trajectory.outcome.is_fault]

    @property
    def success_rate(self) -> float:
        """Share of scored episodes that succeeded; 0 where there is none."""
        scored = self.scored
        return sum(trajectory.success for trajectory in scored) / len(scored) if scored else 0.0

    def to_dict(self) -> dict[str, Any]:
        """``success_rate, n, ci95`` (Wilson), ``score`` (mean total reward), ``mean_turns``, ``valid_action_ratio``, ``faults``,
        ``outcomes`` (how many episodes, faults included, ended in which way), ``seconds``, ``by_type``, and ``by_env`` where the
        panel has tasks of several environments."""
        envs = _rates_by([trajectory.task.env for trajectory in self.scored], self.scored)
        return {
            **_rates(self.scored),
            "faults": len(self.trajectories) - len(self.scored),
            "outcomes": dict(sorted(Counter(str(trajectory.outcome) for trajectory in self.trajectories).items())),
            "seconds": round(self.seconds, 3),
            "by_type": _rates_by([trajectory.task.type or "all" for trajectory in self.scored], self.scored),
            **({"by_env": envs} if any(envs) else {}),
        }


def _rates_by(keys: Sequence[str], trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """The rates of each key's trajectories."""
    return {
        key: _rates([t for found, t in zip(keys, trajectories, strict=True) if found == key])
        for key in sorted(set(keys))
    }


def _rates(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    n = len(trajectories)
    successes = sum(trajectory.success for trajectory in trajectories)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    return {
        "success_rate": successes / n if n else 0.0,
        "n": n,
        "ci95": list(wilson(successes, n)),
        "score": sum(trajectory.reward for trajectory in trajectories) / n if n else 0.0,
        "mean_turns": len(turns) / n if n else 0.0,
        "valid_action_ratio": sum(turn.valid for turn in turns) / len(turns) if turns else 0.0,
    }
