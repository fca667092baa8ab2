"""GiGPO: trajectories against their group, and turns against the turns taken from the same state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.audit import group_sizes
from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, label, score, to_go
from agentrl.registry import register


@register("credit", "gigpo")
@dataclass(frozen=True)
class GiGPO(Method):
    """A = A_E + step_weight · A_S.

    A_E = (S_it - mean_g) / (std_g + eps), S_it = R_i - penalty_it: trajectories within their group, as GRPO.
    A_S = (D_it - mean_a) / (std_a + eps), D_it = Σ_{k ≥ t} gamma^(k - t) r_ik - penalty_it: turns within their anchor
    group a, all visits of one state (``key``) by the trajectories of one group. A state visited once, or a turn without
    a key, has A_S = 0. The penalty is subtracted after discounting and never reaches earlier turns.

    Source: GiGPO (2505.10978) eqs. 3 to 8. Where paper and released code differ: the code takes the statistics of A_E
    over all turns of the group (``unit = "turn"``, with ``singleton = "raw"`` for a group of one), the paper over
    trajectories; the code's default is ``normalize = "mean"``, its ALFWorld script uses "mean_std"; the penalty is
    taken from the code. Anchors there are raw observations (``key = "observation"``), which merges different states
    that look alike. Anchors by text similarity: the reward method ``similar_anchor`` and ``key = "anchor"``.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty", "{key}")
    writes = ("advantage",)
    formula = "A = (R - penalty - mean_g) / (std_g + eps) + step_weight (D - penalty - mean_a) / (std_a + eps)"
    source = "GiGPO (arXiv 2505.10978) eqs. 3-8"
    remedies: ClassVar[Mapping[str, str]] = {
        "state": 'The environment has no state_key(): give it one, or use key = "observation".',
        "anchor": 'Put rewards = [{ name = "similar_anchor" }] into the algorithm.',
    }

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95
    step_weight: Annotated[float, Field(ge=0)] = 1.0
    normalize: Literal["mean_std", "mean"] = "mean_std"
    key: Literal["state", "observation", "anchor"] = "state"
    unit: Literal["trajectory", "turn"] = "trajectory"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        of_episode, of_turn = self._comparisons(table)
        return of_episode.normalized() + self.step_weight * of_turn.normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        of_episode, of_turn = self._comparisons(table)
        returns = to_go(table, row, self.gamma, less="penalty")
        parts = (
            of_episode.term("A_E", row, score(table, row)),
            of_turn.term("A_S", row, returns, about=label(table, self.key, row)),
        )
        return Term("A", "A_E + step_weight * A_S", {"step_weight": self.step_weight}, parts)

    def _comparisons(self, table: TurnTable) -> tuple[Comparison, Comparison]:
        """Trajectories within their group, and turns within their anchor group."""
        scale = "std" if self.normalize == "mean_std" else "none"
        statistics = partial(Comparison, scale=scale, ddof=self.ddof, eps=self.eps)
        unit = table["trajectory"] if self.unit == "trajectory" else None
        returns = table.returns_to_go(self.gamma) - table["penalty"]  # [K]
        return (
            statistics(values=table.scores(), groups=table["group"], trajectory=unit, singleton=self.singleton),
            statistics(
                values=returns, groups=table.group_by("group", self.key), of="D", name="anchor group", short="a"
            ),
        )

    def metrics(self, table: TurnTable) -> dict[str, float]:
        """How much there is to compare: sizes of the anchor groups, and the share of turns alone in theirs."""
        return group_sizes(table.group_by("group", self.key), "credit/anchor")
