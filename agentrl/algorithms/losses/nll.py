"""Supervised learning: the negative log-likelihood of demonstrated tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl.algorithms.aggregate import Aggregate
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "nll")
@dataclass(frozen=True)
class NLL(Method):
    """l = -A logp; demonstrations have A = 1."""

    stage = "loss"
    scope = "token"
    reads = ("logp", "advantage")
    formula = "l = -A logp"
    source = "maximum likelihood"

    aggregate: Aggregate = "token_mean"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of each token, [N]."""
        return -inputs.advantage * inputs.logp
