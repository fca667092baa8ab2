"""REINFORCE++: returns, normalised over the whole batch; with or without the mean of the group as a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.credit._whiten import Unit, whitening
from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, score, to_go
from agentrl.registry import register


@register("credit", "reinforce_plus_plus")
@dataclass(frozen=True)
class ReinforcePlusPlus(Method):
    """A_it = (D_it - mean_B) / sqrt(var_B + eps), D_it = Σ_{k ≥ t} gamma^(k - t) r_ik - penalty_it.

    Mean and variance (divisor N - 1) are those of all N sampled tokens of the batch, each carrying its turn's D, so a
    long answer weighs more; ``unit`` counts turns or trajectories instead. No group is needed: one trajectory a task will do.

    Source: REINFORCE++ (2501.03262); verl's released code. Where they differ from this: there gamma discounts token by
    token and the KL penalty is in the reward of each token; here gamma discounts turn by turn and KL is a regularizer.
    verl's code resets the return at a tool's observation, so that earlier turns lose all later reward; here it does not.
    """

    stage = "credit"
    reads = ("trajectory", "turn", "reward", "penalty", "n_tokens")
    writes = ("advantage",)
    formula = "A_it = (D_it - mean_batch) / sqrt(var_batch + eps)"
    source = "REINFORCE++ (arXiv 2501.03262)"

    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    unit: Unit = "token"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        return self._comparison(table).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        return self._comparison(table).term("A", row, to_go(table, row, self.gamma, less="penalty"))

    def _comparison(self, table: TurnTable) -> Comparison:
        returns = table.returns_to_go(self.gamma) - table["penalty"]
        return whitening(returns, table, self.unit, eps=self.eps, of="D")


@register("credit", "reinforce_plus_plus_baseline")
@dataclass(frozen=True)
class ReinforcePlusPlusBaseline(Method):
    """A_it = (C_it - mean_B C) / sqrt(var_B C + eps), C_it = S_it - mean_g S, S_it = R_i - penalty_it.

    First each trajectory against the mean of its group, then normalised over all tokens of the batch (see
    ``ReinforcePlusPlus``).

    Source: REINFORCE++ (2501.03262), the baseline variant; verl's released code. Where they differ from this: verl
    lets a group of one keep its reward (``singleton = "raw"``), and takes the group's mean over rows.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty", "n_tokens")
    writes = ("advantage",)
    formula = "A_it = (C_it - mean_batch C) / sqrt(var_batch C + eps), C_it = R_i - penalty_it - mean_g"
    source = "REINFORCE++ (arXiv 2501.03262), baseline variant"

    unit: Unit = "token"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        return self._whitening(table).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        centred = self._centring(table).term("C", row, score(table, row))
        return self._whitening(table).term("A", row, centred)

    def _centring(self, table: TurnTable) -> Comparison:
        return Comparison(
            values=table.scores(),
            groups=table["group"],
            trajectory=table["trajectory"],
            scale="none",
            singleton=self.singleton,
        )

    def _whitening(self, table: TurnTable) -> Comparison:
        return whitening(self._centring(table).normalized(), table, self.unit, eps=self.eps, of="C")
