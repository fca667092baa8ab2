"""What an iteration's episodes say, as named numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from agentrl.algorithms.normalize import ZERO_RANGE
from agentrl.types import Outcome, Trajectory, Turn


def episode_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Names as TRL's, verl's and verl-agent's users know them. Over all trajectories that were scored, filtered or not."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    calls = [call for turn in turns for call in turn.calls if call.source != "rule"]
    lengths = [len(call.completion_ids) for call in calls]
    n = max(1, len(trajectories))
    by_env = {
        name: [t.success for t in trajectories if t.task.env == name] for name in {t.task.env for t in trajectories}
    }
    flat = zero_variance_share(trajectories)
    return {
        **{f"episode/success_rate/{name}": float(np.mean(won)) for name, won in sorted(by_env.items()) if name},
        "episode/success_rate": sum(t.success for t in trajectories) / n,
        "reward/mean": sum(t.reward for t in trajectories) / n,
        "reward/std": float(np.std([t.reward for t in trajectories])) if trajectories else 0.0,
        **({} if flat is None else {"frac_reward_zero_std": flat}),
        "episode/turns": len(turns) / n,
        "episode/valid_action_ratio": sum(turn.valid for turn in turns) / max(1, len(turns)),
        "episode/repeated_action_ratio": sum(map(repeats, trajectories)) / max(1, len(turns)),
        "episode/max_turns_ratio": sum(t.outcome is Outcome.MAX_TURNS for t in trajectories) / n,
        "completions/mean_length": float(np.mean(lengths)) if lengths else 0.0,
        "completions/clipped_ratio": sum(call.finish == "length" for call in calls) / max(1, len(calls)),
        "n_trajectories": len(trajectories),
        "n_turns": len(turns),
        "n_sampled_tokens": int(sum(lengths)),
    }


def repeats(trajectory: Trajectory) -> int:
    """How many turns took the action of the turn before, on the same state (the state key, else the observation): an action that
    changed nothing and was tried again."""
    seen = [(_state(turn), turn.action) for turn in trajectory.turns]
    return sum(before == after for before, after in pairwise(seen))


def _state(turn: Turn) -> str:
    return turn.observation if turn.state_key is None else turn.state_key


def zero_variance_share(trajectories: Sequence[Trajectory]) -> float | None:
    """Share of the groups of two or more whose members all earned the same, before any filter; None without such groups."""
    rewards: dict[str, list[float]] = {}
    for trajectory in trajectories:
        rewards.setdefault(trajectory.group, []).append(trajectory.reward)
    groups = [found for found in rewards.values() if len(found) > 1]
    if not groups:
        return None
    return sum(max(g) - min(g) <= ZERO_RANGE * max(map(abs, g)) for g in groups) / len(groups)
