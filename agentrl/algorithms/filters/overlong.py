"""Drops the trajectories that were cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.token_weights.overlong import Cut
from agentrl.registry import register
from agentrl.types import Group, RolloutRequest, Trajectory


@register("filter", "overlong")
@dataclass(frozen=True)
class OverlongFilter(Method):
    """Drops a trajectory whose outcome is one of ``outcomes`` or, with ``completions``, one of whose completions was cut at
    its longest; and a group with fewer than ``min_members`` left.

    What is dropped is neither trained on nor part of the baseline of its group. The token weight ``overlong`` keeps it in the
    baseline, the reward ``overlong`` punishes length softly. Nothing is asked for again.

    Source: overlong filtering, DAPO (2503.14476) section 3.4. Where paper and code differ: there the loss of a cut answer is
    masked and its reward stays in the statistics, as the token weight does.
    """

    stage = "filter"
    formula = "keep a trajectory that was not cut off"
    source = "DAPO (arXiv 2503.14476) section 3.4"

    outcomes: tuple[Cut, ...] = ("max_tokens",)
    completions: bool = True
    min_members: Annotated[int, Field(ge=1)] = 2

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        """The groups with the members that are kept, in order, and no requests."""
        kept = [Group(group.id, [member for member in group.members if not self._cut(member)]) for group in groups]
        return [group for group in kept if len(group.members) >= self.min_members], []

    def _cut(self, trajectory: Trajectory) -> bool:
        if str(trajectory.outcome) in self.outcomes:
            return True
        return self.completions and any(call.finish == "length" and call.trainable for call in trajectory.calls())
