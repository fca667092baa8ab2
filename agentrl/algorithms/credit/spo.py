"""SPO: one trajectory a task, compared with what is remembered of the task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.credit._unit_interval import check_range, unit_rewards
from agentrl.algorithms.credit._whiten import whitening
from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term
from agentrl.errors import ConfigError
from agentrl.registry import register

State = dict[str, list[float]]  # task -> [a, b] of its Beta distribution
UNKNOWN = (0.5, 0.5)


@register("credit", "spo")
@dataclass(frozen=True)
class SPO(Method):
    """A_it = (R_i - v_q - penalty_it - mean_B) / (std_B + eps), v_q = a / (a + b) of the tracker of task q, before this batch.

    The tracker is a Beta distribution a task, moved on after the update: a <- ρ a + R, b <- ρ b + (1 - R), with R on the
    scale from 0 (``r_min``) to 1 (``r_max``) and ρ = clip(2^(-D / d_half), rho_min, rho_max). D says how far the policy has
    moved on task q since its last visit: the mean of |log p then - log p now| over the tokens of the task's last
    response; 0 at the first visit. ``observe`` finds it in ``probe["policy_shift"]``, {task: D}.
    ``forgetting = "constant"`` needs no probe and takes ρ = rho_min always. An unknown task has a = b = 1/2; ``tracked``
    starts from earlier scores.

    Mean and std (divisor N - 1) are over the trajectories of the batch; with ``unit = "token"`` over their tokens, which is
    what a token-mean loss consumes.

    Source: SPO (2509.13232), the released code. Where they differ: the paper starts from N0 v0 and N0 (1 - v0), the code
    adds half a success and half a failure, as here; there a task twice in a batch keeps one of its two updates, here
    ρ is applied once and all its rewards count. Not the other methods of the name (segments, spectra, self-play).
    """

    stage = "credit"
    reads = ("task", "trajectory", "turn", "reward", "penalty", "n_tokens")
    writes = ("advantage",)
    formula = "A_it = (R_i - v_q - penalty_it - mean_batch) / (std_batch + eps)"
    source = "SPO (arXiv 2509.13232), released code"
    bounded = True

    r_min: float = 0.0
    r_max: float = 1.0
    forgetting: Literal["kl", "constant"] = "kl"
    rho_min: Annotated[float, Field(ge=0, lt=1)] = 0.875
    rho_max: Annotated[float, Field(ge=0, lt=1)] = 0.96
    d_half: Annotated[float, Field(gt=0)] = 0.06
    unit: Literal["trajectory", "token"] = "trajectory"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    ddof: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        check_range(self.r_min, self.r_max, "SPO")
        if self.rho_min > self.rho_max:
            raise ConfigError(f"SPO wants rho_min at most rho_max; got {self.rho_min:g} and {self.rho_max:g}")

    @property
    def needs_probe(self) -> bool:
        """Whether ``observe`` must be told how far the policy has moved."""
        return self.forgetting == "kl"

    def init(self, seed: int) -> State:
        """An empty tracker: every task unknown."""
        return {}

    def tracked(self, scores: Mapping[str, Sequence[float]]) -> State:
        """A tracker that starts from earlier scores (above 0: solved) of each task."""
        n_init = 1 / (1 - self.rho_min)
        result: State = {}
        for task, each in scores.items():
            solved, n = sum(score > 0 for score in each), len(each)
            known = [n_init * (solved + 0.5) / (n + 1), n_init * (n - solved + 0.5) / (n + 1)]
            result[task] = known if n else list(UNKNOWN)
        return result

    def __call__(self, table: TurnTable, state: State) -> np.ndarray:
        """Advantages [K]. Raises ConfigError for a reward outside [r_min, r_max]."""
        return self._comparison(table, state).normalized()

    def explain(self, table: TurnTable, row: int, state: State) -> Term:
        """The advantage of a row as a formula with its numbers."""
        task = table.labels("task")[table["task"][row]]
        a, b = state.get(task, UNKNOWN)
        note = f"{'expected of' if task in state else 'nothing known yet of'} the task {task}"
        expected = Term("v_q", "a / (a + b)", {"a": a, "b": b}, note=note)
        reward = float(unit_rewards(table, self.r_min, self.r_max, "SPO")[row])
        numbers = {"reward": reward, "penalty": float(table["penalty"][row]), "span": self.r_max - self.r_min}
        surprise = Term(
            "u", "reward - v_q - penalty / span", numbers, (expected,), note="reward on the scale from 0 to 1"
        )
        return self._comparison(table, state).term("A", row, surprise)

    def _comparison(self, table: TurnTable, state: State) -> Comparison:
        reward = unit_rewards(table, self.r_min, self.r_max, "SPO")
        expected = np.array([value(state.get(task, UNKNOWN)) for task in table.labels("task")])
        surprise = reward - expected[table["task"]] - table["penalty"] / (self.r_max - self.r_min)
        return whitening(surprise, table, self.unit, eps=self.eps, ddof=self.ddof, eps_inside=False, of="u")

    def observe(self, state: State, table: TurnTable, probe: Mapping[str, Any] | None) -> State:
        """The tracker after the trajectories of the table. Raises ConfigError without a probe that is needed."""
        distances = (probe or {}).get("policy_shift")
        if self.needs_probe and distances is None:
            raise ConfigError(
                'SPO with forgetting = "kl" wants how far the policy moved on each task, and nobody measured it; set '
                'forgetting = "constant"'
            )
        row = table.is_last()
        task, reward = table["task"][row], unit_rewards(table, self.r_min, self.r_max, "SPO")[row]
        won, n = np.bincount(task, reward), np.bincount(task)
        result = dict(state)
        for code in np.flatnonzero(n):
            name = table.labels("task")[code]
            a, b = state.get(name, UNKNOWN)
            rho = self.rho((distances or {}).get(name, 0.0))
            result[name] = [rho * a + float(won[code]), rho * b + float(n[code] - won[code])]
        return result

    def rho(self, distance: float) -> float:
        """How much of the past is kept after the policy has moved by ``distance`` (D)."""
        if self.forgetting == "constant":
            return self.rho_min
        return min(max(2 ** (-distance / self.d_half), self.rho_min), self.rho_max)

    def metrics(self, table: TurnTable) -> dict[str, float]:
        """How many trajectories a task there are: the method wants one."""
        return {"credit/trajectories_per_task": table.n_trajectories / max(len(table.labels("task")), 1)}


def value(counts: Sequence[float]) -> float:
    """v = a / (a + b)."""
    return counts[0] / (counts[0] + counts[1])


def sampling_weight(counts: Sequence[float], *, exploration: float = 0.05, gamma: float = 0.0) -> float:
    """The weight with which SPO draws a task: sqrt(v (1 - v)) / N^gamma + exploration, N = a + b.

    Source: the paper has the factor in N, the released code has gamma = 0.
    """
    v = value(counts)
    return math.sqrt(v * (1 - v)) / sum(counts) ** gamma + exploration
