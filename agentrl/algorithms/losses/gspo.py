"""GSPO: the ratio of a whole sequence, or turn, is clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from agentrl.algorithms import ratios
from agentrl.algorithms.aggregate import Aggregate
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses.ppo_clip import PPOClip
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "gspo")
@dataclass(frozen=True, kw_only=True)
class GSPO(PPOClip):
    """l = max(-A s, -A clip(s, 1 - low, 1 + high)), s the geometric mean of the token ratios of the token's unit.

    ``level``: the unit is the sample ("sequence", GSPO), the turn within its sample ("turn") or the token itself ("token":
    ``ppo_clip``). Each token's gradient is that of GSPO-token: s = sg(s) · exp(logp - sg(logp)). Where all tokens of a unit
    share an advantage and the aggregation is the mean over units, value and gradient are those of GSPO; and tokens of one
    sample may have advantages of their own, as credit of turns gives them.

    Average over the units themselves: ``sequence_mean``, or ``turn_mean`` with level = "turn"; ``token_mean`` reweights by
    length. The bounds are far tighter than PPO's, for s is a mean.

    Source: GSPO (2507.18071), its GSPO-token variant and the bounds of its experiments. Where paper and code differ: verl bounds
    log s from above by 10; here it is within ±20, as everywhere.
    """

    scope = "sequence"
    formula = "l = max(-A s, -A clip(s, 1 - low, 1 + high)), s = exp(mean over the unit of (logp - logp_old))"
    source = "GSPO (arXiv 2507.18071), GSPO-token"

    level: ratios.Level = "sequence"
    low: Annotated[float, Field(ge=0, le=1)] = 3e-4
    high: Annotated[float, Field(ge=0)] = 4e-4
    aggregate: Aggregate = "sequence_mean"

    def ratio(self, inputs: LossInputs) -> Tensor:
        """s [N] of each token's unit; the gradient with respect to a token's log-prob is s."""
        log_ratio = (inputs.logp - inputs.require("logp_old")).detach()
        unit = ratios.units(inputs, self.level)
        return ratios.ratio(ratios.mean(log_ratio, unit))[unit] * (inputs.logp - inputs.logp.detach()).exp()
