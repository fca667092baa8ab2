"""IcePop: masked importance sampling of tokens, bounded on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agentrl.algorithms.ratios import Level
from agentrl.algorithms.token_weights.mis import MIS
from agentrl.registry import register


@register("token_weight", "icepop")
@dataclass(frozen=True, kw_only=True)
class IcePop(MIS):
    """weight = w · 1[low ≤ w ≤ high], w = exp(logp_old - logp_sampler) of each token: ``mis`` with IcePop's level and bounds.

    Source: IcePop (Ring-1T, 2510.18855), bounds 0.5 and 5; INTELLECT-3 eq. 1. Tokens outside stay in the mean, with weight 0.
    """

    formula = "weight = w 1[low <= w <= high], w = exp(logp_old - logp_sampler)"
    source = "IcePop (Ring-1T, arXiv 2510.18855)"

    low: Annotated[float, Field(ge=0)] = 0.5
    high: Annotated[float, Field(gt=0)] = 5.0
    level: Level = "token"
