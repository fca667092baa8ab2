"""Stratified GRPO: trajectories against those of the same structure, blended with the whole group."""

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
from agentrl.algorithms.terms import Comparison, Term, label, score
from agentrl.errors import ConfigError
from agentrl.registry import register


@register("credit", "stratified_grpo")
@dataclass(frozen=True)
class StratifiedGRPO(Method):
    """A = alpha · A_SAN + (1 - alpha) · A_GN.

    A_SAN = (S_it - mean_b) / (std_b + eps) within the stratum b: the trajectories of a group with one value of the column
    ``stratum``. A_GN = (S_it - mean_g) / (std_g + eps) over the whole group. S_it = R_i - penalty_it. A trajectory alone in
    its stratum, or without a stratum (-1), has A_SAN = 0, as has a stratum of equal scores.

    The column may be any that is constant within a trajectory; the reward method ``stratum`` writes one from the number
    of turns, calls or matching actions.

    Source: Stratified GRPO (2510.06214), stratified advantage normalisation; the strata there are numbers of search
    calls. The paper's alpha is not known, so it has no default; its theorems need the population std (``ddof = 0``). Its
    eps is not known either (a port uses 1e-8, alpha 1 and the sample std, which is NaN for a stratum of one).
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty", "{stratum}")
    writes = ("advantage",)
    formula = "A = alpha (S - mean_stratum) / (std_stratum + eps) + (1 - alpha) (S - mean_g) / (std_g + eps)"
    source = "Stratified GRPO (arXiv 2510.06214)"
    remedies: ClassVar[Mapping[str, str]] = {
        "stratum": 'Put rewards = [{ name = "stratum", by = "turns" }] into the algorithm, or name another column.'
    }

    alpha: Annotated[float, Field(ge=0, le=1)]
    ddof: Literal[0, 1] = 0
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    stratum: str = "stratum"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]. Raises ConfigError where a trajectory lies in two strata."""
        in_stratum, in_group = self._comparisons(table)
        return self.alpha * in_stratum.normalized() + (1 - self.alpha) * in_group.normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        in_stratum, in_group = self._comparisons(table)
        own = score(table, row)
        about = f"{self.stratum} {label(table, self.stratum, row)}"
        parts = (in_stratum.term("A_SAN", row, own, about=about), in_group.term("A_GN", row, own))
        return Term("A", "alpha * A_SAN + (1 - alpha) * A_GN", {"alpha": self.alpha}, parts)

    def _comparisons(self, table: TurnTable) -> tuple[Comparison, Comparison]:
        """Within the stratum, and within the group."""
        within = partial(
            Comparison, values=table.scores(), trajectory=table["trajectory"], ddof=self.ddof, eps=self.eps
        )
        return within(groups=self._strata(table), name="stratum", short="s"), within(groups=table["group"])

    def _strata(self, table: TurnTable) -> np.ndarray:
        """The stratum of each row within its group, [K], -1 for none."""
        strata, trajectory = table.group_by("group", self.stratum), table["trajectory"]
        one = np.full(table.n_trajectories, -1, dtype=np.int64)
        one[trajectory] = strata
        if (one[trajectory] != strata).any():
            row = int(np.argmax(one[trajectory] != strata))
            which = table.labels("trajectory")[trajectory[row]]
            raise ConfigError(
                f"StratifiedGRPO wants the column '{self.stratum}' constant within a trajectory, and {which!r} has more than "
                'one value; use a column of trajectories, such as what the reward method "stratum" writes'
            )
        return strata

    def metrics(self, table: TurnTable) -> dict[str, float]:
        """How many trajectories there are to compare within a stratum."""
        strata = np.full(table.n_trajectories, -1, dtype=np.int64)
        strata[table["trajectory"]] = self._strata(table)
        return group_sizes(strata, "credit/stratum")
