"""Drops the trajectories that act out of bounds too often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.registry import register
from agentrl.types import Group, RolloutRequest, Trajectory


@register("filter", "invalid")
@dataclass(frozen=True)
class Invalid(Method):
    """Keeps a trajectory where (invalid turns) / (turns) ≤ max_share, and a group where ``min_members`` are left.

    What is dropped is neither trained on nor part of the baseline of its group. A trajectory without turns has a share of 0.
    Nothing is asked for again.

    Source: SimpleTIR (2509.02479) drops every trajectory with a void turn: max_share = 0.
    """

    stage = "filter"
    formula = "keep a trajectory where invalid turns / turns <= max_share"
    source = "SimpleTIR (arXiv 2509.02479) for max_share = 0"

    max_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_members: Annotated[int, Field(ge=1)] = 2

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        """The groups with the members that are kept, in order, and no requests."""
        kept = [Group(group.id, [member for member in group.members if self._keeps(member)]) for group in groups]
        return [group for group in kept if len(group.members) >= self.min_members], []

    def _keeps(self, trajectory: Trajectory) -> bool:
        invalid = sum(not turn.valid for turn in trajectory.turns)
        return invalid <= self.max_share * trajectory.n_turns
