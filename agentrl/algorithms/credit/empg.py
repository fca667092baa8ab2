"""EMPG: advantages modulated by how sure the policy was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Among, Term, own_rows
from agentrl.registry import register


@register("credit", "empg")
@dataclass(frozen=True)
class EMPG(Method):
    """A_it = M_it - mean_B M, M_it = A'_it g(H_it) + zeta f(H_i,t+1), with A' the advantages of the methods before it.

        h = (H - min_B H) / (max_B H - min_B H + eps)      g = exp(-k h) / (mean_B exp(-k h) + eps)      f = exp(-k_prime h)

    H is a turn's mean token entropy (column ``entropy``). The batch B is every turn of the table; the last turn of a
    trajectory gets no bonus f. Put it after any other method: ``credit = [{ name = "grpo" }, { name = "empg" }]``.

    Source: EMPG (2509.09265), the authors' pseudocode, k = k' = 1 and zeta = 0.1; a port uses 0.05. That centring counts
    each turn once, not each token, is from the port. Entropies there are those of the policy that sampled.
    """

    stage = "credit"
    reads = ("trajectory", "turn", "advantage", "entropy")
    writes = ("advantage",)
    formula = "A_t = M_t - mean M, M_t = A'_t exp(-k h_t) / mean exp(-k h) + zeta exp(-k_prime h_{t+1})"
    source = "EMPG (arXiv 2509.09265)"

    k: Annotated[float, Field(ge=0)] = 1.0
    k_prime: Annotated[float, Field(ge=0)] = 1.0
    zeta: Annotated[float, Field(ge=0)] = 0.1
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-8

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]; they take the place of the ones before."""
        if not len(table):
            return np.zeros(0)
        modulated = self.modulated(table)
        return modulated - modulated.mean()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        h, modulated = self.relative_entropy(table), self.modulated(table)
        mean = float(np.exp(-self.k * h).mean())
        own = self._relative_entropy(table, row, "h")
        g = Term("g", "exp(-k * h) / (mean_exp + eps)", {"k": self.k, "mean_exp": mean, "eps": self.eps}, (own,))
        rows = own_rows(table, row).tolist()
        f = Term("f", "0", note="no turn follows")
        if rows[-1] != row:
            following = self._relative_entropy(table, rows[rows.index(row) + 1], "h_next")
            f = Term("f", "exp(-k_prime * h_next)", {"k_prime": self.k_prime}, (following,))
        numbers = {"A_before": float(table["advantage"][row]), "zeta": self.zeta}
        part = Term("M", "A_before * g + zeta * f", numbers, (g, f))
        everyone = np.arange(len(table))
        among = Among("batch", "M", everyone, modulated, np.ones(len(table)), float(len(table)), listed=False)
        return Term("A", "M - mean_B", {"mean_B": float(modulated.mean())}, (part,), among=among)

    def _relative_entropy(self, table: TurnTable, row: int, symbol: str) -> Term:
        entropy = table["entropy"]
        numbers = {"H": entropy[row], "H_min": entropy.min(), "H_max": entropy.max(), "eps": self.eps}
        numbers = {name: float(number) for name, number in numbers.items()}
        note = f"H: mean token entropy of turn {table['turn'][row]}"
        return Term(symbol, "(H - H_min) / (H_max - H_min + eps)", numbers, note=note)

    def modulated(self, table: TurnTable) -> np.ndarray:
        """M [K]."""
        return table["advantage"] * self.scale(table) + self.zeta * self.bonus(table)

    def relative_entropy(self, table: TurnTable) -> np.ndarray:
        """h [K], from 0 for the surest turn of the batch to 1."""
        entropy = table["entropy"]
        return (entropy - entropy.min()) / (entropy.max() - entropy.min() + self.eps)

    def scale(self, table: TurnTable) -> np.ndarray:
        """g [K], with mean 1."""
        sureness = np.exp(-self.k * self.relative_entropy(table))
        return sureness / (sureness.mean() + self.eps)

    def bonus(self, table: TurnTable) -> np.ndarray:
        """f of the turn after each, [K], 0 for the last."""
        return table.shifted(np.exp(-self.k_prime * self.relative_entropy(table)), 1, 0.0)
