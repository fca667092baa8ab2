"""Truncated importance sampling between the sampler's policy and the trainer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agentrl.algorithms import ratios
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("token_weight", "tis")
@dataclass(frozen=True, kw_only=True)
class TIS(Method):
    """weight = min(w, cap), w = exp(logp_old - logp_sampler) of the token, or the product over its turn or sample.

    ``logp_old`` is the sampling policy by the trainer's arithmetic: w corrects for an engine that computes otherwise. With
    ``numerator = "logp"`` w also corrects for the updates since: for losses without a ratio of their own (``reinforce``), not for
    ppo_clip, gspo or cispo, whose ratio would then count twice. With ``old_logprobs = "sampler"`` the ratio of those losses
    holds the whole correction already, and w = 1.

    Source: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training" (2025), cap 2; sequence level as
    in verl. Log-ratios are summed over the unit and clamped to ±20 before exp.
    """

    stage = "token_weight"
    reads = ("{numerator}", "logp_sampler")
    formula = "weight = min(w, cap), w = exp(sum over the unit of (logp_old - logp_sampler))"
    source = "Yao et al. 2025, truncated importance sampling; verl rollout correction"

    cap: Annotated[float, Field(gt=0)] = 2.0
    level: ratios.Level = "token"
    numerator: Literal["logp_old", "logp"] = "logp_old"

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Weights [N] and a mask [N] that keeps every token."""
        weight = ratios.importance(inputs, self.numerator, self.level).clamp(max=self.cap)
        return weight, weight >= 0

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """The mean of w over these tokens, its maximum, and the share that is truncated."""
        if not len(inputs):
            return {}
        weight = ratios.importance(inputs, self.numerator, self.level).double()
        cut = (weight > self.cap).double().mean()
        return {
            "importance/mean": float(weight.mean()),
            "importance/max": float(weight.max()),
            "importance/cut": float(cut),
        }
