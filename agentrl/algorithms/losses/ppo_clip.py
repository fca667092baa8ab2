"""The clipped surrogate of PPO, with separate bounds and an optional dual clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from agentrl.algorithms.aggregate import Aggregate
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.errors import ConfigError
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_RATIO = 20.0


@register("loss", "ppo_clip")
@dataclass(frozen=True)
class PPOClip(Method):
    """l = max(-A ρ, -A clip(ρ, 1 - low, 1 + high)), ρ = exp(logp - logp_old).

    With dual_clip c, where A < 0: l = min(l, -A c), so that a huge ratio cannot make a bad token's loss huge.

    Source: PPO (1707.06347) eq. 7; high > low is the clip-higher of DAPO (2503.14476) section 3.1; the dual clip is
    1912.09729 (c = 3 in verl, 10 in DAPO's recipe; off here, as in PPO and GRPO). Where paper and code differ: the
    log-ratio is clamped to ±20 before exp, as in verl. GRPO's paper averages by ``sequence_mean``, DAPO's by
    ``token_mean``; Dr. GRPO divides by a constant, which is B·L_max in TRL and L_max in verl.
    """

    stage = "loss"
    scope = "token"
    reads = ("logp", "logp_old", "advantage")
    formula = "l = max(-A r, -A clip(r, 1 - low, 1 + high)), r = exp(logp - logp_old)"
    source = "PPO (arXiv 1707.06347) eq. 7; DAPO (2503.14476) section 3.1; dual clip 1912.09729"

    low: Annotated[float, Field(ge=0, le=1)] = 0.2
    high: Annotated[float, Field(ge=0)] = 0.2
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    aggregate: Aggregate = "token_mean"
    constant: Annotated[float, Field(gt=0)] | None = None  # the divisor of aggregate = "constant"

    def __post_init__(self) -> None:
        if (self.aggregate == "constant") != (self.constant is not None):
            raise ConfigError(
                'loss.constant belongs to loss.aggregate = "constant": give both or neither; '
                f"got aggregate = {self.aggregate!r}, constant = {self.constant}"
            )

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
        log_ratio = inputs.logp - inputs.require("logp_old")
        return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """Shares of these tokens that the bounds hold back, and the ratio. Means over the N tokens, but for the max."""
        if len(inputs) == 0:
            return {}
        advantage, ratio = inputs.advantage, self.ratio(inputs).detach()
        low = (advantage < 0) & (ratio < 1 - self.low)
        high = (advantage > 0) & (ratio > 1 + self.high)
        found = {"clip_ratio/low": low.double().mean(), "clip_ratio/high": high.double().mean()}
        if self.dual_clip is not None:
            found["clip_ratio/dual"] = ((advantage < 0) & (ratio > self.dual_clip)).double().mean()
        found |= {"ratio/mean": ratio.double().mean(), "ratio/max": ratio.max()}
        return {name: float(value) for name, value in found.items()}
