"""RLOO: each trajectory against the mean of the others of its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, score
from agentrl.registry import register


@register("credit", "rloo")
@dataclass(frozen=True)
class RLOO(Method):
    """A_it = S_it - (1 / (G - 1)) Σ_{j ≠ i} mean_t S_jt, with the row score S_it = R_i - penalty_it.

    The baseline does not depend on trajectory i, so the gradient is unbiased. Without penalties this is
    G / (G - 1) · (R_i - mean_g R).

    Source: 2402.14740; TRL's and verl's released code. Where they differ: a group of one gives 0 in TRL and the
    reward itself in verl (``singleton = "raw"``); verl-agent leaves out one row, so that the baseline still holds the
    other turns of the same trajectory (``unit = "turn"``). A KL penalty in the reward belongs into the reward column.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = R_i - penalty_it - mean_{j != i} (R_j - penalty_j)"
    source = "RLOO (arXiv 2402.14740) eq. 8"

    unit: Literal["trajectory", "turn"] = "trajectory"
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        return self._comparison(table).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        return self._comparison(table).term("A", row, score(table, row))

    def _comparison(self, table: TurnTable) -> Comparison:
        return Comparison(
            values=table.scores(),
            groups=table["group"],
            trajectory=table["trajectory"] if self.unit == "trajectory" else None,
            scale="none",
            singleton=self.singleton,
            leave_one_out=True,
        )
