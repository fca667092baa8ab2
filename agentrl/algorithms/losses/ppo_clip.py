"""The clipped surrogate of PPO, with separate bounds and an optional dual clip."""

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


@register("loss", "ppo_clip")
@dataclass(frozen=True, kw_only=True)
class PPOClip(Aggregated):
    """l = max(-A ρ, -A clip(ρ, 1 - low, 1 + high)), ρ = exp(logp - logp_old).

    With dual_clip c, where A < 0: l = min(l, -A c), so that a huge ratio cannot make a bad token's loss huge.

    Source: PPO (1707.06347) eq. 7; high > low is the clip-higher of DAPO (2503.14476) section 3.1; the dual clip is
    1912.09729 (c = 3 in verl, 10 in DAPO's recipe; off here, as in PPO and GRPO). Where paper and code differ: the
    log-ratio is clamped to ±20 before exp, as in verl. GRPO's paper averages by ``sequence_mean``, DAPO's by
    ``token_mean``; for Dr. GRPO's constant see ``dr_grpo``.
    """

    stage = "loss"
    scope = "token"
    reads = ("logp", "logp_old", "advantage")
    formula = "l = max(-A r, -A clip(r, 1 - low, 1 + high)), r = exp(logp - logp_old); A < 0: l = min(l, -A dual_clip)"
    source = "PPO (arXiv 1707.06347) eq. 7; DAPO (2503.14476) section 3.1; dual clip 1912.09729"

    low: Annotated[float, Field(ge=0, le=1)] = 0.2
    high: Annotated[float, Field(ge=0)] = 0.2
    dual_clip: Annotated[float, Field(gt=1)] | None = None

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of each token, [N]."""
        advantage, ratio = inputs.advantage, self.ratio(inputs)
        clipped = ratio.clamp(1 - self.low, 1 + self.high)
        loss = (-advantage * ratio).maximum(-advantage * clipped)
        if self.dual_clip is not None:
            loss = loss.minimum(-advantage * self.dual_clip).where(advantage < 0, loss)
        return loss

    def ratio(self, inputs: LossInputs) -> Tensor:
        """ρ [N]."""
        return ratios.ratio(inputs.logp - inputs.require("logp_old"))

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """Shares of these tokens that the bounds hold back, and the ratio. Means over the N tokens, but for the max."""
        advantage, ratio = inputs.advantage, self.ratio(inputs).detach()
        found = ratios.clip_metrics(advantage, ratio, self.low, self.high)
        if found and self.dual_clip is not None:
            found["clip_ratio/dual"] = float(((advantage < 0) & (ratio > self.dual_clip)).double().mean())
        return found
