"""Dr. GRPO: each trajectory against the mean of its group, without a division."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, score
from agentrl.registry import register


@register("credit", "dr_grpo")
@dataclass(frozen=True)
class DrGRPO(Method):
    """A_it = S_it - mean_g S, with the row score S_it = R_i - penalty_it.

    The other half of Dr. GRPO is in the loss: ``aggregate = "constant"``, which weighs every token alike.

    Source: Dr. GRPO (2503.20783). Where paper and code differ: multiplying by G / (G - 1) makes the baseline
    independent of the trajectory itself; that is ``rloo``.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = R_i - penalty_it - mean_g"
    source = "Dr. GRPO (arXiv 2503.20783)"

    unit: Literal["trajectory", "turn"] = "trajectory"
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        return self._comparison(table).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        return self._comparison(table).term("A", row, score(table, row))

    def _comparison(self, table: TurnTable) -> Comparison:
        unit = table["trajectory"] if self.unit == "trajectory" else None
        return Comparison(
            values=table.scores(), groups=table["group"], trajectory=unit, scale="none", singleton=self.singleton
        )
