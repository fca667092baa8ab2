"""Generalised advantage estimation over turns, and from turns to tokens (bi-level)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.credit._whiten import Unit, whitening
from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable, discounted_sums
from agentrl.algorithms.terms import Comparison, Term, discount, own_rows, to_go
from agentrl.registry import register


@register("credit", "turn_gae")
@dataclass(frozen=True)
class TurnGAE(Method):
    """A_t = Σ_{k ≥ t} (gamma · lam)^(k - t) δ_k - penalty_t, δ_t = r_t + gamma V_{t+1} - V_t, along each trajectory.

    V_t is the column ``value``: what a critic expects of the rewards from turn t on, before the agent acts. After the last
    turn V = 0, also where an episode was cut at its limit, which is the agent's own doing. ``normalize = "mean_std"`` then
    takes (A - mean_B) / sqrt(var_B + eps) over the batch, each sampled token (``unit``) counting once.

    It also writes ``returns``, A_t + V_t before penalty and normalisation: what a critic should learn.

    The second level, within a turn, is ``token_advantages``.

    Source: GAE (1506.02438) over turns; bi-level GAE of VAGEN (2510.16907) and its released code, whose turn-level gamma is
    0.95; lam 1 and normalising over tokens are verl's. Where they differ: the released code takes V of a turn at its
    last token, after the action; here it is whatever the column holds.
    """

    stage = "credit"
    reads = ("trajectory", "turn", "reward", "penalty", "n_tokens", "value")
    writes = ("advantage", "returns")
    formula = "A_t = sum_{k >= t} (gamma lam)^(k - t) (r_k + gamma V_{k+1} - V_k) - penalty_t"
    source = "GAE (arXiv 1506.02438) over turns; VAGEN's bi-level GAE"
    remedies: ClassVar[Mapping[str, str]] = {
        "value": "It needs a critic: add a table [critic] to the run file, or a method that writes the column."
    }

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95
    lam: Annotated[float, Field(ge=0, le=1)] = 1.0
    normalize: Literal["mean_std", "none"] = "mean_std"
    unit: Unit = "token"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        """The columns ``advantage`` [K] and ``returns`` [K]."""
        found = self.unnormalized(table)
        whitened = self.normalize == "mean_std"
        advantage = self._whitening(table).normalized() if whitened else found - table["penalty"]
        return {"advantage": advantage, "returns": found + table["value"]}

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        whitened = self.normalize == "mean_std"
        deltas, decay = self._deltas(table), self.gamma * self.lam
        own = to_go(table, row, decay, deltas, symbol="U" if whitened else "A", of="delta", less="penalty")
        later = [each for each in own_rows(table, row).tolist() if f"delta_{table['turn'][each]}" in own.numbers]
        formula = own.formula.replace("gamma", "decay")
        numbers = {name.replace("gamma", "decay"): number for name, number in own.numbers.items()}
        note = f"decay = gamma * lam = {self.gamma:g} * {self.lam:g}. {own.note}".rstrip(". ")
        parts = tuple(self._delta(table, each) for each in later)
        own = Term(own.symbol, formula, numbers, parts, note)
        return self._whitening(table).term("A", row, own) if whitened else own

    def _delta(self, table: TurnTable, row: int) -> Term:
        """What a turn brought, and what is expected from the next one on, less what was expected before it."""
        turn, value = int(table["turn"][row]), float(table["value"][row])
        numbers = {"r": float(table["reward"][row]), "V": value}
        rows = own_rows(table, row).tolist()
        if rows[-1] == row:
            return Term(f"delta_{turn}", "r - V", numbers, note="the last turn")
        following = rows[rows.index(row) + 1]
        factor = discount(int(table["turn"][following]) - turn, self.gamma)
        numbers |= {"V_next": float(table["value"][following]), "gamma": self.gamma}
        return Term(f"delta_{turn}", f"r + {factor}V_next - V", numbers)

    def _whitening(self, table: TurnTable) -> Comparison:
        return whitening(self.unnormalized(table) - table["penalty"], table, self.unit, eps=self.eps, of="U")

    def unnormalized(self, table: TurnTable) -> np.ndarray:
        """A [K] without penalty and normalisation; A + V is what a critic should learn."""
        return table.returns_to_go(self.gamma * self.lam, self._deltas(table))

    def _deltas(self, table: TurnTable) -> np.ndarray:
        """δ [K]."""
        value, turn = table["value"].astype(np.float64), table["turn"]
        gap = table.shifted(turn, 1, -1) - turn  # 1, unless turns were left out; the last turn's successor is worth 0
        ahead = np.power(self.gamma, gap.clip(min=0)) * table.shifted(value, 1, 0.0)
        return table["reward"] + ahead - value


def token_advantages(
    advantages: np.ndarray, values: np.ndarray, row: np.ndarray, *, gamma: float = 1.0, lam: float = 1.0
) -> np.ndarray:
    """The second level of bi-level GAE: from the advantages of turns to those of their tokens, [N].

        A of a turn's last token = A_turn        A_j = (γ V_{j+1} - V_j) + γ λ A_{j+1} for the tokens before it

    advantages: [K] of turns. values: [N] a critic's values of the N sampled tokens. row: [N] the turn of each token, its
    tokens in order and side by side. Source: VAGEN's released code, before its normalisation over tokens.
    """
    row, values = np.asarray(row), np.asarray(values, dtype=np.float64)
    last = np.diff(row, append=-1) != 0
    delta = np.where(last, np.asarray(advantages)[row], gamma * np.append(values[1:], 0.0) - values)
    return discounted_sums(delta, row, np.arange(row.size), gamma * lam)
