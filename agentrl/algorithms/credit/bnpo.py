"""BNPO: a normaliser chosen by the distribution of success rates in the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.credit._unit_interval import check_range, unit_rewards
from agentrl.algorithms.method import Method
from agentrl.algorithms.normalize import group_means
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term
from agentrl.registry import register


@register("credit", "bnpo")
@dataclass(frozen=True)
class BNPO(Method):
    """A_it = w_g (s_it - mean_g s), w_g = min(1 / BetaPDF(p_g; α, β), max_weight).

    s is the row's score R_i - penalty_it on the scale on which the reward runs from 0 to 1, p_g the mean reward of group g
    on that scale. With p̄ the mean and v the sample variance of p over the groups of the batch,

        a = (p̄ (1 - p̄) / v - 1) p̄      b = (p̄ (1 - p̄) / v - 1) (1 - p̄)      α = max(1, 1 + a/3)      β = max(1, 1 + b/3)

    α = β = 1 is REINFORCE with the group's mean as baseline; α = β = 3/2 is GRPO up to the factor 8/π. One group alone,
    or groups of equal p, give α = β = 1 (the released code does so for one group, and has NaN for equal p).

    Source: BNPO (2506.02864), the released code. Where it differs from this: it sets p_g = 0 for a group of one, which
    ``singleton = "raw"`` does too; by default such a group has its reward as p_g and advantage 0. Left out: the advantage
    as a mean over separate reward components, which the turn table does not keep apart.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = (s_it - mean_g s) / BetaPDF(p_g; alpha, beta)"
    source = "BNPO (arXiv 2506.02864), released code"
    bounded = True

    r_min: float = 0.0
    r_max: float = 1.0
    max_weight: Annotated[float, Field(gt=0)] = 1e6
    singleton: Literal["zero", "raw"] = "zero"

    def __post_init__(self) -> None:
        check_range(self.r_min, self.r_max, "BNPO")

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]. Raises ConfigError for a reward outside [r_min, r_max]."""
        return self.weights(self._rates(table))[table["group"]] * self._comparison(table).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        rates = self._rates(table)
        alpha, beta = beta_parameters(rates)
        rate, weight = (float(each[table["group"][row]]) for each in (rates, self.weights(rates)))
        capped = weight >= self.max_weight
        density = f"BetaPDF({rate:.4g}; {alpha:.4g}, {beta:.4g}) of the group's mean reward"
        part = Term(
            "w_g",
            "max_weight" if capped else "1 / density",
            {"max_weight": weight} if capped else {"density": 1 / weight},
            note=f"1 / density is larger; density = {density}" if capped else f"density = {density}",
        )
        reward = float(unit_rewards(table, self.r_min, self.r_max, "BNPO")[row])
        numbers = {"reward": reward, "penalty": float(table["penalty"][row]), "span": self.r_max - self.r_min}
        score = Term("s", "reward - penalty / span", numbers, note="reward on the scale from 0 to 1")
        return Term("A", "w_g * C", parts=(part, self._comparison(table).term("C", row, score)))

    def _rates(self, table: TurnTable) -> np.ndarray:
        """p of each group, [G]."""
        reward = unit_rewards(table, self.r_min, self.r_max, "BNPO")
        rate = group_means(reward, table["group"], table["trajectory"])
        if self.singleton == "raw":
            rate[np.bincount(table.group_of_trajectory, minlength=rate.size) <= 1] = 0.0
        return rate

    def _comparison(self, table: TurnTable) -> Comparison:
        reward = unit_rewards(table, self.r_min, self.r_max, "BNPO")
        return Comparison(
            values=reward - table["penalty"] / (self.r_max - self.r_min),
            groups=table["group"],
            trajectory=table["trajectory"],
            scale="none",
            singleton=self.singleton,
            of="s",
        )

    def weights(self, rate: np.ndarray) -> np.ndarray:
        """w of each group [G] from their success rates."""
        alpha, beta = beta_parameters(rate)
        return np.minimum(np.exp(-log_beta_density(rate.clip(0, 1), alpha, beta)), self.max_weight)


def beta_parameters(rate: np.ndarray) -> tuple[float, float]:
    """α and β of the normaliser from the success rates of the groups, by the method of moments."""
    if rate.size < 2:
        return 1.0, 1.0
    mean, variance = float(rate.mean()), float(rate.var(ddof=1))
    if variance <= 1e-12:
        return 1.0, 1.0
    common = mean * (1 - mean) / variance - 1
    return max(1.0, 1 + common * mean / 3), max(1.0, 1 + common * (1 - mean) / 3)


def log_beta_density(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """log of the density of Beta(alpha, beta), alpha and beta ≥ 1, at x in [0, 1]."""
    with np.errstate(divide="ignore"):
        left = (alpha - 1) * np.log(x) if alpha > 1 else np.zeros_like(x)
        right = (beta - 1) * np.log(1 - x) if beta > 1 else np.zeros_like(x)
    return math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta) + left + right
