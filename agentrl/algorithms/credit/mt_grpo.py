"""MT-GRPO: the rewards of turns and the outcome compared apart, turn index by turn index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.credit.return_to_go import ended
from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, own_rows, to_go
from agentrl.registry import register


@register("credit", "mt_grpo")
@dataclass(frozen=True)
class MTGRPO(Method):
    """A_it = N_g(F_i - penalty_it) + turn_weight · N_{g,t}(D_it), the unbiased form.

    F_i, the outcome, is the reward of the last turn; D_it = Σ_{k ≥ t} gamma^(k - t) r_ik sums the rewards of the turns before
    the last. N_g compares with the other trajectories of the group, N_{g,t} with the others at the same turn index, where
    one that has ended counts 0: x_i - mean_{j ≠ i} x_j, and with ``normalize = "mean_std"`` divided by std + eps over all.

    Every trajectory's baseline has the same terms, whenever it stopped, and none of its own rewards: so with "mean" the
    gradient is unbiased where the policy decides when to stop. Comparing each reward with those at its own index and
    adding up over the trajectory's own turns is not: see ``BiasedMTGRPO``.

    Source: MT-GRPO (2505.11821) for splitting turn rewards from the outcome, with turn_weight 1 as in its released code;
    the bias of the usual form is shown in verl's issue 7244. Where paper and released code differ from this: they
    have two turns, divide by the std (TRL's eps 1e-4) and keep a trajectory in its own baseline.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = N_g(F_i - penalty_it) + turn_weight N_gt(D_it), N(x)_i = x_i - mean_{j != i} x_j"
    source = "MT-GRPO (arXiv 2505.11821), unbiased as in verl issue 7244"

    turn_weight: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    normalize: Literal["mean", "mean_std"] = "mean"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        by_group, by_turn = self._comparisons(table)
        return by_group.normalized() + self.turn_weight * by_turn.normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        by_group, by_turn = self._comparisons(table)
        returns = to_go(table, row, self.gamma, split_rewards(table)[1])
        parts = (
            by_group.term("A_F", row, _outcome(table, row)),
            by_turn.term("A_T", row, returns, about=f"turn {table['turn'][row]}"),
        )
        return Term("A", "A_F + turn_weight * A_T", {"turn_weight": self.turn_weight}, parts)

    def _comparisons(self, table: TurnTable) -> tuple[Comparison, Comparison]:
        """Outcomes within the group, and turn rewards within the group's turns of the same index."""
        outcome, rewards = split_rewards(table)
        statistics = partial(
            Comparison,
            scale="std" if self.normalize == "mean_std" else "none",
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
            leave_one_out=True,
        )
        score, cell = outcome - table["penalty"], table.group_by("group", "turn")
        return (
            statistics(values=score, groups=table["group"], trajectory=table["trajectory"]),
            statistics(
                values=table.returns_to_go(self.gamma, rewards),
                groups=cell,
                virtual=(0.0, ended(table, cell)),
                of="D",
                name="group at this turn",
                short="t",
            ),
        )


@register("credit", "mt_grpo_biased")
@dataclass(frozen=True)
class BiasedMTGRPO(Method):
    """A_it = N_g(F_i - penalty_it) + turn_weight · Σ_{k ≥ t, k before the last} gamma^(k - t) N_{g,k}(r_ik), the usual form.

    N is (x - mean) / (std + eps), or x - mean; N_{g,k} over the trajectories of the group for which turn k is not the last. How
    many baseline terms a trajectory loses depends on its own last turn: each further turn costs the mean reward of
    that turn, a hidden bonus for stopping where turn rewards are positive. For comparison with other code only.

    Source: MT-GRPO (2505.11821) carried over to any number of turns; the bias: verl's issue 7244.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "reward", "penalty")
    writes = ("advantage",)
    formula = "A_it = N_g(F_i - penalty_it) + turn_weight sum_{k >= t} gamma^(k - t) N_gk(r_ik)"
    source = "MT-GRPO (arXiv 2505.11821)"

    turn_weight: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    normalize: Literal["mean", "mean_std"] = "mean_std"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        by_group, by_turn = self._comparisons(table)
        compared = by_turn.normalized()
        return by_group.normalized() + self.turn_weight * table.returns_to_go(self.gamma, compared)

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        by_group, by_turn = self._comparisons(table)
        compared = by_turn.normalized()
        total = to_go(table, row, self.gamma, compared, symbol="A_T", of="N")
        later = [each for each in own_rows(table, row).tolist() if f"N_{table['turn'][each]}" in total.numbers]
        turns = [(int(table["turn"][each]), each) for each in later]
        parts = tuple(by_turn.term(f"N_{turn}", each, about=f"turn {turn}") for turn, each in turns)
        total = replace(total, parts=parts)
        outcome = by_group.term("A_F", row, _outcome(table, row))
        return Term("A", "A_F + turn_weight * A_T", {"turn_weight": self.turn_weight}, (outcome, total))

    def _comparisons(self, table: TurnTable) -> tuple[Comparison, Comparison]:
        """Outcomes within the group, and the reward of each turn before the last with those of the same index."""
        outcome, rewards = split_rewards(table)
        statistics = partial(
            Comparison,
            scale="std" if self.normalize == "mean_std" else "none",
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
        )
        cell = np.where(table.is_last(), -1, table.group_by("group", "turn"))
        score = outcome - table["penalty"]
        return (
            statistics(values=score, groups=table["group"], trajectory=table["trajectory"]),
            statistics(values=rewards, groups=cell, of="r", name="group at this turn", short="t"),
        )


def _outcome(table: TurnTable, row: int) -> Term:
    """S = F - penalty."""
    outcome = float(split_rewards(table)[0][row])
    return Term("S", "F - penalty", {"F": outcome, "penalty": float(table["penalty"][row])})


def split_rewards(table: TurnTable) -> tuple[np.ndarray, np.ndarray]:
    """The outcome of each row's trajectory (its last turn's reward) and the rewards of the turns before the last, both [K]."""
    last, reward = table.is_last(), table["reward"]
    outcome = table.sum_by_trajectory(np.where(last, reward, 0.0))[table["trajectory"]]
    return outcome, np.where(last, 0.0, reward)
