"""GRPO: each trajectory against the mean of its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, score
from agentrl.registry import register


@register("credit", "grpo")
@dataclass(frozen=True)
class GRPO(Method):
    """A_it = (S_it - mean_g S) / (std_g S + eps), with the row score S_it = R_i - penalty_it.

    R_i is the undiscounted reward of trajectory i, g its group. Without penalties all turns of a trajectory get the
    same advantage.

    Source: DeepSeekMath (2402.03300) section 4.1, outcome supervision; ``normalize = "mean"`` is Dr. GRPO (2503.20783).
    Where paper and code differ: papers often use the population std (``ddof = 0``), verl and TRL the sample std; eps is
    1e-6 in verl, 1e-4 in TRL. verl-agent takes mean and std over all turns of the group, so that a long failure counts
    more than a short success: ``unit = "turn"``. verl returns the raw score of a group of one: ``singleton = "raw"``.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = (R_i - penalty_it - mean_g) / (std_g + eps)"
    source = "DeepSeekMath (arXiv 2402.03300) section 4.1"

    normalize: Literal["mean_std", "mean"] = "mean_std"
    unit: Literal["trajectory", "turn"] = "trajectory"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    ddof: Literal[0, 1] = 1
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
            scale="std" if self.normalize == "mean_std" else "none",
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
        )
