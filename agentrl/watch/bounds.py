"""Where the seconds of an iteration go, what bounds each part, and which part binds.

phase          its seconds                                              its bound
generation     the model answers                                        the larger of operations / what a matrix product does here
                                                                        and bytes of weights and cache / what memory gives here
environments   at least one environment is at work and none waits for   their steps' seconds; of processes: divided by how many
               the model                                                are live
credit         scores, the critic's values, advantages                  operations of what the model computed for it
training       updates                                                  operations: 6 a parameter and trained-on token
sync           the sampling policy gets the new weights                 none
storage        what is written                                          none
waiting        the rest: prompts, parsing, resets' bookkeeping,         none
               scores, filters

Operations count no padding and nothing twice, so padding, small batches and computing again to save memory show as distance from
the bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentrl.types import Trajectory
from agentrl.work import Costs, Machine, Work

SECONDS = {  # phase: the metric of its seconds
    "generation": "time/generation",
    "environments": "time/environment_wall",
    "credit": "time/credit",
    "training": "time/training",
    "sync": "time/sync",
    "storage": "time/storage",
    "waiting": "time/waiting",
}
SETTINGS = {  # phase: what to change where it binds
    "generation": "rollout.batch_size and rollout.max_live up, rollout.max_tokens down, or agent.memory that appends, so that "
    "rollout.kv_cache is of use",
    "environments": 'env.isolation = "process", so that environments work side by side, and rollout.max_live up',
    "credit": "what credit asks of the model: optimizer.token_budget up, or methods that read no entropy, kl or value",
    "training": "optimizer.token_budget up, algorithm.epochs down, filters that drop groups without contrast, or model.dtype",
    "sync": "a policy that shares the trainer's weights (rollout.policy)",
    "storage": "a faster disk for --out",
    "waiting": "shorter prompts (agent.memory), or scores that answer sooner (a judge's concurrency)",
}
READS_WEIGHTS = ("reading", "decoding")  # kinds of work with few tokens a pass, which memory may bound


def operations(costs: Costs, work: Work, passes: int = 2) -> float:
    """Floating-point operations: 2 a multiply-add on the way forward, 6 forward and back."""
    return float(passes) * (costs.body * work.tokens + costs.head * work.logits + costs.attention * work.pairs)


def seconds_of(costs: Costs, machine: Machine, kind: str, work: Work) -> float:
    """The least seconds that this work takes here. ``kind``: "reading" and "decoding" of the sampling policy, "scoring" and
    "training" of the learner."""
    computing = operations(costs, work, costs.passes if kind == "training" else 2) / machine.operations
    if kind not in READS_WEIGHTS:
        return computing
    return max(computing, (work.forwards * costs.weights + work.cached * costs.position) / machine.bytes)


def environment_seconds(trajectories: Iterable[Trajectory], processes: Sequence[str]) -> tuple[float, float]:
    """Seconds of the steps of environments in this process, and in processes of their own (those of ``processes``, by the name
    that their tasks have)."""
    inline = away = 0.0
    for trajectory in trajectories:
        seconds = sum(turn.seconds.get("environment", 0.0) for turn in trajectory.turns)
        if trajectory.task.env in processes:
            away += seconds
        else:
            inline += seconds
    return inline, away


def environment_bound(inline: float, away: float, live: int) -> float:
    """The least seconds of stepping: in this process one environment at a time, in others up to ``live`` side by side."""
    return max(inline, away / max(1, live))


def waiting(seconds: Mapping[str, float], iteration: float) -> float:
    """What of an iteration's seconds no other phase accounts for."""
    return max(0.0, iteration - sum(seconds.get(phase, 0.0) for phase in SECONDS if phase != "waiting"))


def binding(seconds: Mapping[str, float]) -> str:
    """The phase that takes the most of these seconds by phase."""
    return max((phase for phase in SECONDS if phase in seconds), key=lambda phase: seconds[phase])


def sentence(seconds: Mapping[str, float], bounds: Mapping[str, float], total: float) -> str:
    """What binds, in words.

    >>> sentence({"training": 1.9, "generation": 0.9}, {"training": 0.61}, 2.8)
    'training: 1.9 s of 2.8 s, 3.1 × its bound'
    """
    phase = binding(seconds)
    head = f"{phase}: {_shown(seconds[phase])} s of {_shown(total)} s"
    bound = bounds.get(phase, 0.0)
    return f"{head}, {_shown(seconds[phase] / bound)} × its bound" if bound > 0 else head


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


class Account:
    """Of all iterations that were added together: where their seconds went, and what bound them. It holds sums
    alone, whatever their number."""

    def __init__(self) -> None:
        self.total = 0.0
        self.seconds = dict.fromkeys(SECONDS, 0.0)
        self.bounds: dict[str, float] = {}
        self.empty = True

    def add(self, line: Mapping[str, Any]) -> None:
        """One more iteration's metrics; those without ``binds`` are passed over."""
        if "binds" not in line:
            return
        self.empty = False
        self.total += line.get("time/iteration", 0.0)
        for phase, key in SECONDS.items():
            self.seconds[phase] += line.get(key, 0.0)
            if f"bound/{phase}" in line:
                self.bounds[phase] = self.bounds.get(phase, 0.0) + line[f"bound/{phase}"]

    def to_dict(self) -> dict[str, Any]:
        """By phase its ``seconds``, ``share`` and ``bound`` (None where there is none), what ``binds``, and the ``setting`` to
        change. Empty without iterations."""
        if self.empty:
            return {}
        total = max(self.total, 1e-9)
        phases = {
            phase: {
                "seconds": round(spent, 3),
                "share": round(spent / total, 4),
                "bound": round(self.bounds[phase], 4) if self.bounds.get(phase) else None,
            }
            for phase, spent in self.seconds.items()
        }
        found = binding(self.seconds)
        return {"binds": sentence(self.seconds, self.bounds, total), "setting": SETTINGS[found], "phases": phases}


def account(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """``Account.to_dict`` of these lines."""
    found = Account()
    for line in history:
        found.add(line)
    return found.to_dict()
