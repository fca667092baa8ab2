"""A policy on a fixed panel of tasks: success with its interval, by task type, turns, valid actions, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.evaluation.statistics import clustered_wilson, wilson
from agentrl.types import Trajectory


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of a panel, [n] trajectories in the panel's order, ``samples`` of each task after each other. Faults of the machinery
    are counted, and are no part of any rate."""

    trajectories: Sequence[Trajectory]
    seconds: float
    samples: int = 1

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
        """``success_rate, n, ci95`` (Wilson's; of several samples a task ``clustered_wilson``'s), ``score`` (mean total reward),
        ``mean_turns``, ``valid_action_ratio``, ``faults``, ``outcomes`` (how many episodes, faults included, ended in which way),
        ``seconds``, ``by_type``, and ``by_env`` where the panel has tasks of several environments."""
        several = self.samples > 1
        envs = rates_by([trajectory.task.env for trajectory in self.scored], self.scored, clustered=several)
        types = [trajectory.task.type or "all" for trajectory in self.scored]
        return {
            **_rates(self.scored, several),
            "faults": len(self.trajectories) - len(self.scored),
            "outcomes": dict(sorted(Counter(str(trajectory.outcome) for trajectory in self.trajectories).items())),
            "seconds": round(self.seconds, 3),
            "by_type": rates_by(types, self.scored, clustered=several),
            **({"by_env": envs} if any(envs) else {}),
        }


def rates_by(keys: Sequence[str], trajectories: Sequence[Trajectory], *, clustered: bool) -> dict[str, Any]:
    """The rates of each key's trajectories; ``clustered`` where tasks have several, so that intervals are by task."""
    return {
        key: _rates([t for found, t in zip(keys, trajectories, strict=True) if found == key], clustered)
        for key in sorted(set(keys))
    }


def _interval(trajectories: Sequence[Trajectory]) -> tuple[float, float]:
    """Of the success rate, clustered by task."""
    n: Counter[tuple[str, str]] = Counter()
    successes: Counter[tuple[str, str]] = Counter()
    for trajectory in trajectories:
        task = (trajectory.task.env, trajectory.task.id)
        n[task] += 1
        successes[task] += trajectory.success
    return clustered_wilson([successes[task] for task in n], list(n.values()))


def _rates(trajectories: Sequence[Trajectory], clustered: bool) -> dict[str, Any]:
    n = len(trajectories)
    successes = sum(trajectory.success for trajectory in trajectories)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    return {
        "success_rate": successes / n if n else 0.0,
        "n": n,
        "ci95": list(_interval(trajectories) if clustered else wilson(successes, n)),
        "score": sum(trajectory.reward for trajectory in trajectories) / n if n else 0.0,
        "mean_turns": len(turns) / n if n else 0.0,
        "valid_action_ratio": sum(turn.valid for turn in turns) / len(turns) if turns else 0.0,
    }
