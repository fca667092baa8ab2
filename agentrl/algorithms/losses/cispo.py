"""CISPO: the importance weight is clipped, no token loses its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from agentrl.algorithms import ratios
from agentrl.algorithms.aggregate import Aggregated
from agentrl.algorithms.inputs import LossInputs
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "cispo")
@dataclass(frozen=True, kw_only=True)
class CISPO(Aggregated):
    """l = -sg(clip(ρ, 1 - low, 1 + high)) A logp, ρ = exp(logp - logp_old).

    ``low = None``: no bound from below. With ``mask_clipped`` the tokens that PPO's bounds would hold back (A > 0 and
    ρ > 1 + high, A < 0 and ρ < 1 - low) lose their loss and stay in the mean. The value of the loss holds logp and
    means nothing, only its gradient does.

    Source: MiniMax-M1 (2506.13585) section 3.1, where only the upper bound acts; the mask is in its unified form.
    ``high = 4`` is the cap of 5 of ScaleRL (2510.13786). Where codes differ: in verl, as here, the cap is 1 + high; TRL's
    epsilon_high is the cap itself.
    """

    stage = "loss"
    scope = "token"
    reads = ("logp", "logp_old", "advantage")
    formula = "l = -sg(clip(r, 1 - low, 1 + high)) A logp, r = exp(logp - logp_old)"
    source = "MiniMax-M1 (arXiv 2506.13585) section 3.1"

    low: Annotated[float, Field(ge=0, le=1)] | None = None
    high: Annotated[float, Field(ge=0)] = 4.0
    mask_clipped: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of each token, [N]."""
        loss = -self.weight(inputs) * inputs.advantage * inputs.logp
        if self.mask_clipped:
            ratio, advantage = self._ratio(inputs), inputs.advantage
            held = ((advantage > 0) & (ratio > 1 + self.high)) | ((advantage < 0) & (ratio < self._lowest))
            loss = loss.masked_fill(held, 0.0)
        return loss

    def weight(self, inputs: LossInputs) -> Tensor:
        """The clipped ratio [N], without gradient."""
        return self._ratio(inputs).clamp(self._lowest, 1 + self.high)

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """Shares of these tokens outside of the bounds, by the sign of their advantage, and the ratio."""
        return ratios.clip_metrics(inputs.advantage, self._ratio(inputs), 1 - self._lowest, self.high)

    @property
    def _lowest(self) -> float:
        return 0.0 if self.low is None else 1 - self.low

    def _ratio(self, inputs: LossInputs) -> Tensor:
        return ratios.ratio(inputs.logp - inputs.require("logp_old")).detach()
