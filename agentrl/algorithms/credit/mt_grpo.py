"""MT-GRPO: the rewards of turns and the outcome compared apart, turn index by turn index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.credit.return_to_go import ended
from agentrl.algorithms.method import Method
from agentrl.algorithms.normalize import normalize
from agentrl.algorithms.table import TurnTable
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
    eps: Annotated[float, Field(ge=0)] = 1e-4
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        outcome, rewards = split_rewards(table)
        cell, scale = table.group_by("group", "turn"), "std" if self.normalize == "mean_std" else "none"
        score, returns = outcome - table["penalty"], table.returns_to_go(self.gamma, rewards)
        by_group = normalize(
            score,
            table["group"],
            trajectory=table["trajectory"],
            scale=scale,
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
            leave_one_out=True,
        )
        by_turn = normalize(
            returns,
            cell,
            scale=scale,
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
            leave_one_out=True,
            virtual=(0.0, ended(table, cell)),
        )
        return by_group + self.turn_weight * by_turn


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
    eps: Annotated[float, Field(ge=0)] = 1e-4
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        outcome, rewards = split_rewards(table)
        scale, last = "std" if self.normalize == "mean_std" else "none", table.is_last()
        by_group = normalize(
            outcome - table["penalty"],
            table["group"],
            trajectory=table["trajectory"],
            scale=scale,
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
        )
        cell = np.where(last, -1, table.group_by("group", "turn"))
        compared = normalize(rewards, cell, scale=scale, ddof=self.ddof, eps=self.eps, singleton=self.singleton)
        return by_group + self.turn_weight * table.returns_to_go(self.gamma, compared)


def split_rewards(table: TurnTable) -> tuple[np.ndarray, np.ndarray]:
    """The outcome of each row's trajectory (its last turn's reward) and the rewards of the turns before the last, both [K]."""
    last, reward = table.is_last(), table["reward"]
    outcome = table.sum_by_trajectory(np.where(last, reward, 0.0))[table["trajectory"]]
    return outcome, np.where(last, 0.0, reward)
