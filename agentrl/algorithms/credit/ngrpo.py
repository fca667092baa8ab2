"""NGRPO: GRPO with virtual perfect members, so that a group of failures still teaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, score
from agentrl.registry import register


@register("credit", "ngrpo")
@dataclass(frozen=True)
class NGRPO(Method):
    """A_it = (S_it - mean') / (std' + eps), mean' and std' over the group and ``n_virtual`` members of reward ``r_max``.

    The virtual members only enter the statistics. A group in which all fail gets a negative advantage; one in which all
    reach ``r_max`` gets 0. S_it = R_i - penalty_it.

    ``r_max`` is the largest total reward that the environment and the score methods can give: it must be changed
    with them. A filter that drops groups of equal rewards would take away what this method is for, and is refused.

    Source: NGRPO (2509.18851), the released code; its clipping (0.16 down, 0.24 up) is the loss's. The code returns the raw
    score of a group of one, without virtual members (``singleton = "raw"``).
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = (S_it - mean') / (std' + eps), mean' and std' with n_virtual members of r_max"
    source = "NGRPO (arXiv 2509.18851), released code"
    teaches_equal = True

    r_max: float = 1.0
    n_virtual: Annotated[int, Field(ge=0)] = 1
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
            trajectory=table["trajectory"],
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
            virtual=(self.r_max, self.n_virtual),
        )
