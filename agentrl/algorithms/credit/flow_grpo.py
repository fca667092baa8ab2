"""Flow-GRPO: one verifiable outcome for every turn of a multi-agent flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison, Term, score
from agentrl.registry import register


@register("credit", "flow_grpo")
@dataclass(frozen=True)
class FlowGRPO(Method):
    """A_it = (O_i - penalty_it - mean_g) / (std_g + eps) for every turn t, mean and std over the rollouts of the group.

    O_i is the one outcome of rollout i: with ``outcome = "success"`` 1 or 0, with "reward" the sum of its rewards (the
    same where the environment pays 1 at the end and nothing before).

    Source: AgentFlow (2510.05592) eqs. 4 to 7, without the penalty. Where paper and released code differ: the code takes
    mean and std over the rows of the group, one a turn of the planner, so that a long rollout counts more (``unit =
    "turn"``, with ``singleton = "raw"``; turns in which nothing trainable was sampled are no rows there and get 0); the
    paper names no eps (0), the code adds 1e-6. The paper's 1/T_i and 1/|a| are weights of the loss, not of the advantage
    (``loss.aggregate = "trajectory_turn_mean"``); the released run uses verl's token mean. Not the method of the same name
    for images.
    """

    stage = "credit"
    reads = ("group", "trajectory", "turn", "{outcome}", "penalty")
    writes = ("advantage",)
    formula = "A_it = (O_i - penalty_it - mean_g) / (std_g + eps)"
    source = "AgentFlow (arXiv 2510.05592) eqs. 4-7"

    outcome: Literal["reward", "success"] = "reward"
    unit: Literal["trajectory", "turn"] = "trajectory"
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    ddof: Literal[0, 1] = 1
    singleton: Literal["zero", "raw"] = "zero"

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K]."""
        return self._comparison(table).normalized()

    def explain(self, table: TurnTable, row: int) -> Term:
        """The advantage of a row as a formula with its numbers."""
        return self._comparison(table).term("A", row, self._score(table, row))

    def _score(self, table: TurnTable, row: int) -> Term:
        if self.outcome == "reward":
            return score(table, row)
        return Term("S", "O - penalty", {"O": float(table["success"][row]), "penalty": float(table["penalty"][row])})

    def _comparison(self, table: TurnTable) -> Comparison:
        by_reward = self.outcome == "reward"
        groups = table["group"]
        if self.unit == "turn" and "n_tokens" in table and table["n_tokens"].any():
            groups = np.where(table["n_tokens"] > 0, groups, -1)
        return Comparison(
            values=table.scores() if by_reward else table["success"].astype(float) - table["penalty"],
            groups=groups,
            trajectory=table["trajectory"] if self.unit == "trajectory" else None,
            ddof=self.ddof,
            eps=self.eps,
            singleton=self.singleton,
        )
