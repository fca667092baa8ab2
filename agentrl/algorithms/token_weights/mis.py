"""Masked importance sampling between the sampler's policy and the trainer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agentrl.algorithms import ratios
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.errors import ConfigError
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("token_weight", "mis")
@dataclass(frozen=True, kw_only=True)
class MIS(Method):
    """weight = w · 1[low ≤ w ≤ high], w = exp(logp_old - logp_sampler) of the token, or the product over its turn or sample.

    A weight of 0 silences a token and leaves it in the mean; to take it out of the mean use ``rejection``. ``numerator`` as in
    ``tis``.

    Source: verl's rollout correction and TRL, whose default is the sequence level with high = 3 (TRL's name: sequence_mask).
    Log-ratios are summed over the unit and clamped to ±20 before exp.
    """

    stage = "token_weight"
    reads = ("{numerator}", "logp_sampler")
    formula = "weight = w 1[low <= w <= high], w = exp(sum over the unit of (logp_old - logp_sampler))"
    source = "TRL, importance sampling correction (sequence_mask); verl rollout correction"

    low: Annotated[float, Field(ge=0)] = 0.0
    high: Annotated[float, Field(gt=0)] = 3.0
    level: ratios.Level = "sequence"
    numerator: Literal["logp_old", "logp"] = "logp_old"

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ConfigError(f"{type(self).__name__} keeps weights from low to high; got {self.low} and {self.high}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Weights [N] and a mask [N] that keeps every token."""
        weight = ratios.importance(inputs, self.numerator, self.level)
        return weight.masked_fill((weight < self.low) | (weight > self.high), 0.0), weight >= 0

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """The mean of w over these tokens, its maximum, and the share that is silenced."""
        if not len(inputs):
            return {}
        weight = ratios.importance(inputs, self.numerator, self.level).double()
        cut = ((weight < self.low) | (weight > self.high)).double().mean()
        return {
            "importance/mean": float(weight.mean()),
            "importance/max": float(weight.max()),
            "importance/cut": float(cut),
        }
