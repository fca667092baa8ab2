"""Supervised learning: the negative log-likelihood of demonstrated tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl.algorithms.aggregate import Aggregated
from agentrl.algorithms.inputs import LossInputs
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "nll")
@dataclass(frozen=True, kw_only=True)
class NLL(Aggregated):
    """l = -A logp; demonstrations have A = 1."""

    stage = "loss"
    scope = "token"
    reads = ("logp", "advantage")
    formula = "l = -A logp"
    source = "maximum likelihood"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of each token, [N]."""
        return -inputs.advantage * inputs.logp
