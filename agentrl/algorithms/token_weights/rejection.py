"""Leaves out what the trainer's policy would hardly, or far more often, have sampled."""

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


@register("token_weight", "rejection")
@dataclass(frozen=True, kw_only=True)
class Rejection(Method):
    """mask = 1[low ≤ w ≤ high], w = exp(logp_old - logp_sampler), over the token's unit its product or, with ``geometric``, its
    geometric mean, which does not grow with the length.

    What is masked leaves the mean. It may stand beside ``tis``; the bounds have no default that fits every model.

    Source: rejection sampling in verl's rollout correction; NeMo-RL's seq-mask-tis keeps geometric means in [0.999, 1.002].
    Where codes differ: verl's thresholds of its k1 statistic bound 1/w, so its "0.6_1.4" is low = 1/1.4, high = 1/0.6 here.
    """

    stage = "token_weight"
    reads = ("{numerator}", "logp_sampler")
    formula = "mask = 1[low <= w <= high], w = exp(mean or sum over the unit of (logp_old - logp_sampler))"
    source = "verl rollout correction; NeMo-RL"

    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(gt=0)]
    level: ratios.Level = "sequence"
    geometric: bool = True
    numerator: Literal["logp_old", "logp"] = "logp_old"

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ConfigError(f"rejection keeps ratios from low to high; got {self.low} and {self.high}")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Weights [N] of 1 and a mask [N]."""
        ratio = ratios.importance(inputs, self.numerator, self.level, geometric=self.geometric)
        return ratio.new_ones(ratio.shape), (ratio >= self.low) & (ratio <= self.high)

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """The share of these tokens that is left out."""
        return {"importance/rejected": 1 - float(self(inputs)[1].double().mean())} if len(inputs) else {}
