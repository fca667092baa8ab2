"""REINFORCE: the score-function gradient, nothing clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl.algorithms.aggregate import Aggregate, Aggregated
from agentrl.algorithms.inputs import LossInputs
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "reinforce")
@dataclass(frozen=True, kw_only=True)
class Reinforce(Aggregated):
    """l = -A logp.

    Made for one update on what the policy itself has sampled. On other data add a token weight: ``tis`` with
    ``numerator = "logp"`` is REINFORCE with truncated importance sampling. The baseline belongs to credit. The value of the
    loss means nothing, only its gradient does.

    Source: Williams (1992). The theory sums over an answer and averages over answers: ``trajectory_sum``, or ``sequence_sum``
    where a sample is an answer; most code averages over tokens (``token_mean``).
    """

    stage = "loss"
    scope = "token"
    reads = ("logp", "advantage")
    formula = "l = -A logp"
    source = "Williams 1992"

    aggregate: Aggregate = "trajectory_sum"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of each token, [N]."""
        return -inputs.advantage * inputs.logp
