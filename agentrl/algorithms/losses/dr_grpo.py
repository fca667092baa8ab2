"""Dr. GRPO's loss: the clipped surrogate, its sums divided by a constant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from agentrl.algorithms.aggregate import Aggregate
from agentrl.algorithms.losses.ppo_clip import PPOClip
from agentrl.errors import ConfigError
from agentrl.registry import register


@register("loss", "dr_grpo")
@dataclass(frozen=True, kw_only=True)
class DrGRPO(PPOClip):
    """``ppo_clip`` over a constant: loss = 1/M Σ_i Σ_t l_it / constant, M trajectories, so that no token's share depends on
    the length of its answer.

    ``constant`` is the longest answer allowed, in tokens; keep it for the whole run, it scales the learning rate. The
    method's other half is the advantage without the standard deviation: ``credit = { name = "grpo", normalize = "mean" }``.

    Source: Liu et al. (2503.20783) section 3.2. Where codes differ: TRL divides by samples times the longest length
    (here "sequence_sum"; equal to "trajectory_sum" where every trajectory is one sample), verl by the longest length alone
    ("constant"), which is larger by the number of samples.
    """

    formula = "loss = 1/M sum_it max(-A r, -A clip(r, 1 - low, 1 + high)) / constant"
    source = "Dr. GRPO (arXiv 2503.20783) section 3.2"

    aggregate: Aggregate = "trajectory_sum"
    constant: Annotated[float, Field(gt=0)] = field()  # required here

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constant is None:
            raise ConfigError("loss.constant is missing: Dr. GRPO divides by it; give the longest answer in tokens")
