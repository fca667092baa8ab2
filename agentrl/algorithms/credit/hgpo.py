"""HGPO: turns against turns with the same recent history, for several lengths of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.audit import group_sizes
from agentrl.algorithms.method import Method
from agentrl.algorithms.normalize import dense
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, label, score, to_go
from agentrl.registry import register

ZERO = 1e-9  # an advantage of at most this counts as none


@register("credit", "hgpo")
@dataclass(frozen=True)
class HGPO(Method):
    """A_it = Σ_k w_k A_k,it / Σ_k w_k, w_k = (k + 1)^alpha, over the levels k = 1 … history + 1 with A_k,it ≠ 0.

    A_k,it = (D_it - mean) / (std + eps) within the turns of the group whose last k states (``key``), the present one
    among them, are the same; D_it = Σ_{l ≥ t} gamma^(l - t) r_il - penalty_it. So k = 1 is GiGPO's anchor group, and larger k
    compare fewer turns in more similar contexts. A turn has no level k where it is alone in its group, where fewer than
    k turns lie behind, or where one of the k has no key. With ``base_group`` the trajectory's advantage within its group
    joins as level k = 0.

    Source: HGPO (2602.22817); the weights and the rule for A_k = 0 as in the released code, which takes the population std
    (``ddof = 0``) and adds 1e-6 to Σ w (left out here). ``history`` is the paper's K, 2 or 4 there. The code's base level
    takes its statistics over all turns of the group, with the sample std; here over trajectories, with ``ddof``. "A_k ≠ 0"
    is |A_k| > 1e-9, so that it does not hang on rounding.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty", "{key}")
    writes = ("advantage",)
    formula = "A = sum_k w_k (D - mean_k) / (std_k + eps) / sum_k w_k, w_k = (k + 1)^alpha"
    source = "HGPO (arXiv 2602.22817), released code"
    remedies: ClassVar[Mapping[str, str]] = {
        "state": 'The environment has no state_key(): give it one, or use key = "observation".',
        "anchor": 'Put rewards = [{ name = "similar_anchor" }] into the algorithm.',
    }

    history: Annotated[int, Field(ge=0)] = 2
    alpha: float = 1.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95
    normalize: Literal["mean_std", "mean"] = "mean_std"
    key: Literal["state", "observation", "anchor"] = "state"
    base_group: bool = False
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    ddof: Literal[0, 1] = 0

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        total, weights = np.zeros(len(table)), np.zeros(len(table))
        for k, comparison in self._comparisons(table):
            advantage = comparison.normalized()
            weight = self._weight(k) * (np.abs(advantage) > ZERO)
            total += weight * advantage
            weights += weight
        return np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        numbers, parts, counted = {}, [], []
        for k, comparison in self._comparisons(table):
            own = to_go(table, row, self.gamma, less="penalty") if k else score(table, row)
            parts.append(comparison.term(f"A_{k}", row, own, about=label(table, self.key, row) if k else ""))
            if abs(parts[-1].value) > ZERO:
                numbers[f"w_{k}"] = self._weight(k)
                counted.append(k)
        if not counted:
            return Term("A", "0", parts=tuple(parts), note="no level of history has an advantage")
        total, weights = (" + ".join(form.format(k=k) for k in counted) for form in ("w_{k} * A_{k}", "w_{k}"))
        return Term("A", f"({total}) / ({weights})", numbers, tuple(parts))

    def _weight(self, k: int) -> float:
        return (k + 1.0) ** self.alpha

    def _comparisons(self, table: TurnTable) -> Iterator[tuple[int, Comparison]]:
        """k and what level k compares; k = 0 is the group."""
        scale = "std" if self.normalize == "mean_std" else "none"
        statistics = partial(Comparison, scale=scale, ddof=self.ddof, eps=self.eps)
        if self.base_group:
            yield 0, statistics(values=table.scores(), groups=table["group"], trajectory=table["trajectory"])
        returns = table.returns_to_go(self.gamma) - table["penalty"]
        for k, level in enumerate(self.levels(table), start=1):
            name = "anchor group" if k == 1 else f"anchor group of {k} turns"
            yield k, statistics(values=returns, groups=level, of="D", name=name, short=str(k))

    def levels(self, table: TurnTable) -> Iterator[np.ndarray]:
        """For k = 1 … history + 1 the group of each turn by its last k states, [K], -1 for none."""
        level, state = table.group_by("group", self.key), table[self.key]
        n_states = int(state.max(initial=0)) + 1
        for k in range(self.history + 1):
            if k:
                before = table.shifted(level, -1, -1)
                level = np.full(len(table), -1, dtype=np.int64)
                known = (before >= 0) & (state >= 0)
                level[known] = dense(before[known] * n_states + state[known])
            yield level

    def metrics(self, table: TurnTable) -> dict[str, float]:
        """How much there is to compare at each level."""
        found: dict[str, float] = {}
        for k, level in enumerate(self.levels(table), start=1):
            found |= group_sizes(level, f"credit/level_{k}")
        return found
