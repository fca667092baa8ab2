"""Return to go: what came after a turn, against what came after the same turn of the other trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, to_go
from agentrl.registry import register


@register("credit", "return_to_go")
@dataclass(frozen=True)
class ReturnToGo(Method):
    """A_it = D_it - b_it, D_it = Σ_{k ≥ t} gamma^(k - t) r_ik - penalty_it: Monte Carlo, with a leave-one-out baseline.

    b_it is the mean of D_jt over the other trajectories j of the group: with ``baseline = "turn"`` over those that reached
    turn t, with "group" over all, one that has ended counting 0, with "none" it is 0. It depends on nothing that
    trajectory i does from turn t on, so the gradient is unbiased, also where the policy decides when to stop. A turn that
    no other trajectory reached has A = 0 under "turn" (``singleton = "raw"``: D_it itself, which is the unbiased choice).
    ``normalize = "mean_std"`` divides by the std + eps over the same trajectories, i among them, and is not unbiased.

    Source: REINFORCE with a time-dependent baseline (Sutton and Barto, section 13.4), leaving out as RLOO (2402.14740) does.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = D_it - mean_{j != i} D_jt"
    source = "REINFORCE with baseline (Sutton and Barto 13.4), leave-one-out"

    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    baseline: Literal["turn", "group", "none"] = "turn"
    normalize: Literal["mean", "mean_std"] = "mean"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        returns = table.returns_to_go(self.gamma) - table["penalty"]
        if self.baseline == "none":
            return returns
        return self._comparison(table, returns).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        own = to_go(table, row, self.gamma, less="penalty")
        if self.baseline == "none":
            return Term("A", "D", parts=(own,))
        returns = table.returns_to_go(self.gamma) - table["penalty"]
        return self._comparison(table, returns).term("A", row, own, about=f"turn {table['turn'][row]}")

    def _comparison(self, table: TurnTable, returns: np.ndarray) -> Comparison:
        cell = table.group_by("group", "turn")
        return Comparison(
            values=returns,
            groups=cell,
            scale="std" if self.normalize == "mean_std" else "none",
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
            leave_one_out=True,
            virtual=(0.0, ended(table, cell) if self.baseline == "group" else 0),
            of="D",
            name="group at this turn",
            short="t",
        )


def ended(table: TurnTable, cell: np.ndarray) -> np.ndarray:
    """How many trajectories of the group have no turn in each cell (group, turn), [cells]; ``cell`` [K] are the codes."""
    group_of_cell = np.zeros(int(cell.max(initial=-1)) + 1, dtype=np.int64)
    group_of_cell[cell] = table["group"]
    n_trajectories = np.bincount(table.group_of_trajectory, minlength=table.n_groups)
    return n_trajectories[group_of_cell] - np.bincount(cell, minlength=group_of_cell.size)
