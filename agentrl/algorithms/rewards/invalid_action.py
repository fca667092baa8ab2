"""What an action that could not be parsed or is not allowed costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.registry import register


@register("reward", "invalid_action")
@dataclass(frozen=True)
class InvalidAction(Method):
    """penalty_t += coef · 1[turn t is invalid].

    Credit subtracts the penalty from the score and from the return of that turn alone, after discounting: it never
    reaches earlier turns. It adds to a penalty that the environment gave.

    Source: released code of GiGPO (2505.10978), 0.1 there and 0.01 for its search tasks; not in the paper's formulas.
    """

    stage = "reward"
    reads = ("valid", "penalty")
    writes = ("penalty",)
    formula = "penalty_t += coef * 1[turn t is invalid]"
    source = "released code of GiGPO (arXiv 2505.10978)"

    coef: Annotated[float, Field(ge=0)] = 0.1

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        """The column ``penalty`` [K]."""
        invalid = ~table["valid"].astype(bool)
        return {"penalty": table["penalty"] + self.coef * invalid}
