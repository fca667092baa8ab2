"""Drops the groups that cannot teach: all members earned the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.normalize import ZERO_RANGE
from agentrl.registry import register
from agentrl.types import Group, RolloutRequest


@register("filter", "degenerate")
@dataclass(frozen=True)
class Degenerate(Method):
    """Keeps a group where max_i R_i - min_i R_i > min_range.

    R_i is the raw reward of the task, before penalties and shaping, so that a length penalty cannot make a hopeless
    group look alive; faults do not count as members, and a group of one is dropped. Nothing is asked for again; where
    every group is degenerate the result is empty and the trainer decides what then happens.

    Source: the filter of DAPO (2503.14476) section 3.2, without its refill. There it is the accuracy that must lie
    strictly between 0 and 1, the same thing for rewards of 0 and 1.
    """

    stage = "filter"
    formula = "keep a group where max_i R_i - min_i R_i > min_range"
    source = "DAPO (arXiv 2503.14476) section 3.2"
    drops_equal = True

    min_range: Annotated[float, Field(ge=0)] = 0.0

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        """The groups that are kept, in order, and no requests."""
        return [group for group in groups if self._differs(group)], []

    def _differs(self, group: Group) -> bool:
        rewards = [member.reward for member in group.members if not member.outcome.is_fault]
        if len(rewards) < 2:
            return False
        noise = ZERO_RANGE * max(abs(reward) for reward in rewards)
        return max(rewards) - min(rewards) > max(self.min_range, noise)
