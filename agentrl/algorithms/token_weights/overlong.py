"""Leaves out the tokens of trajectories that were cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Cut = Literal["max_tokens", "max_turns", "time_limit", "truncated"]


@register("token_weight", "overlong")
@dataclass(frozen=True, kw_only=True)
class OverlongMask(Method):
    """mask = 1[the trajectory's outcome is none of ``outcomes``].

    A cut trajectory is not trained on and still counts in the baseline of its group; the filter ``overlong`` takes it out of
    both.

    Source: overlong filtering, DAPO (2503.14476) section 3.4.
    """

    stage = "token_weight"
    reads = ("outcome",)
    formula = "mask = 1[outcome not in outcomes]"
    source = "DAPO (arXiv 2503.14476) section 3.4"

    outcomes: tuple[Cut, ...] = ("max_tokens",)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Weights [N] of 1 and a mask [N]."""
        labels = inputs.labels("outcome")
        cut = [code for code, outcome in enumerate(labels) if outcome in self.outcomes]
        outcome = inputs.column("outcome")
        mask = outcome == outcome
        for code in cut:
            mask &= outcome != code
        return inputs.logp.detach().new_ones(mask.shape), mask
