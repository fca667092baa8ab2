"""Every credit method as the study runs it.

Where a method discounts, gamma is 1: the truth it is compared with is the undiscounted return. Everything else is the
method's own default unless the label says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from agentrl import registry
from agentrl.algorithms.aggregate import Aggregate, coefficients
from agentrl.algorithms.credit.bnpo import BNPO
from agentrl.algorithms.credit.dr_grpo import DrGRPO
from agentrl.algorithms.credit.empg import EMPG
from agentrl.algorithms.credit.flow_grpo import FlowGRPO
from agentrl.algorithms.credit.gigpo import GiGPO
from agentrl.algorithms.credit.grpo import GRPO
from agentrl.algorithms.credit.hgpo import HGPO
from agentrl.algorithms.credit.mt_grpo import MTGRPO, BiasedMTGRPO
from agentrl.algorithms.credit.ngrpo import NGRPO
from agentrl.algorithms.credit.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from agentrl.algorithms.credit.return_to_go import ReturnToGo
from agentrl.algorithms.credit.rloo import RLOO
from agentrl.algorithms.credit.spo import SPO
from agentrl.algorithms.credit.stratified_grpo import StratifiedGRPO
from agentrl.algorithms.credit.turn_gae import TurnGAE
from agentrl.algorithms.table import TurnTable
from agentrl.study.rollouts import Rollouts, table_of
from agentrl.study.scenarios import Scenario

Array = np.ndarray
GROUPS_PER_UPDATE = 8  # what a method that normalises over the batch sees at once, and the unit of all intervals
TRUTH = "exact advantages"  # the label of the estimator that is handed the truth


@dataclass(frozen=True)
class Estimator:
    """A credit method, or several in a row, with the weights of the loss it is used with.

    ``make`` maps (least, largest reward of an episode) to the methods. ``by_update``: what it gives depends on the other groups
    of the update, or on those before. ``aggregate`` is that of the loss.
    """

    label: str
    make: Callable[[float, float], Sequence[Any]]
    by_update: bool = False
    value: Literal["exact", "zero"] = "exact"  # what the column ``value`` holds
    aggregate: Aggregate = "trajectory_sum"


def fixed(label: str, *methods: Any, **more: Any) -> Estimator:
    """An estimator whose methods do not depend on the range of the reward."""
    return Estimator(label, lambda low, high: methods, **more)


ESTIMATORS: tuple[Estimator, ...] = (
    Estimator(TRUTH, lambda low, high: ()),
    fixed("grpo, mean only", GRPO(normalize="mean")),
    fixed("grpo", GRPO()),
    fixed("grpo, mean only, over turns", GRPO(normalize="mean", unit="turn")),
    fixed("grpo, over turns", GRPO(unit="turn")),
    fixed("dr_grpo", DrGRPO()),
    fixed("rloo", RLOO()),
    fixed("rloo, over turns", RLOO(unit="turn")),
    fixed("rloo, loss / length", RLOO(), aggregate="trajectory_mean"),
    fixed("flow_grpo", FlowGRPO()),
    Estimator("ngrpo", lambda low, high: (NGRPO(r_max=high),)),
    Estimator("bnpo", lambda low, high: (BNPO(r_min=low, r_max=high),), by_update=True),
    Estimator("spo", lambda low, high: (SPO(r_min=low, r_max=high, forgetting="constant"),), by_update=True),
    fixed("stratified_grpo, alpha 1", StratifiedGRPO(alpha=1.0)),
    fixed("stratified_grpo, alpha 0.5", StratifiedGRPO(alpha=0.5)),
    fixed("reinforce_plus_plus", ReinforcePlusPlus(), by_update=True),
    fixed("reinforce_plus_plus_baseline", ReinforcePlusPlusBaseline(), by_update=True),
    fixed("grpo + empg", GRPO(), EMPG(), by_update=True),
    fixed("gigpo, mean only", GiGPO(gamma=1.0, normalize="mean")),
    fixed("gigpo", GiGPO(gamma=1.0)),
    fixed("gigpo, mean only, by observation", GiGPO(gamma=1.0, normalize="mean", key="observation")),
    fixed("hgpo, mean only", HGPO(gamma=1.0, normalize="mean")),
    fixed("hgpo", HGPO(gamma=1.0)),
    fixed("mt_grpo", MTGRPO()),
    fixed("mt_grpo_biased, mean only", BiasedMTGRPO(normalize="mean")),
    fixed("mt_grpo_biased", BiasedMTGRPO()),
    fixed("return_to_go, no baseline", ReturnToGo(baseline="none")),
    fixed("return_to_go, group", ReturnToGo(baseline="group")),
    fixed("return_to_go", ReturnToGo()),
    fixed("return_to_go, raw", ReturnToGo(singleton="raw")),
    fixed("turn_gae, values 0", TurnGAE(gamma=1.0, normalize="none"), value="zero"),
    fixed("turn_gae, exact values", TurnGAE(gamma=1.0, normalize="none")),
    fixed("turn_gae, exact, lam 0", TurnGAE(gamma=1.0, lam=0.0, normalize="none")),
    fixed("turn_gae, exact, whitened", TurnGAE(gamma=1.0), by_update=True),
)


def studied() -> set[str]:
    """The names under which the studied methods are registered."""
    classes = {type(method) for each in ESTIMATORS for method in each.make(0.0, 1.0)}
    return {name for name in registry.names("credit") if registry.get("credit", name) in classes}


@dataclass(frozen=True)
class Credited:
    """What an estimator made of the rollouts, one value a turn, [K] each."""

    advantage: Array
    weight: (
        Array  # of the turn in the loss, times the number of trajectories of its update; 1 where a loss sums over turns
    )


class Batch:
    """Rollouts with their tables: one of all groups, and one for each update of GROUPS_PER_UPDATE groups."""

    def __init__(self, rollouts: Rollouts, scenario: Scenario) -> None:
        self.rollouts, self.scenario = rollouts, scenario
        self.n_updates = rollouts.start.size // GROUPS_PER_UPDATE
        self.update = rollouts.group // GROUPS_PER_UPDATE  # [K]
        n_nodes, n_actions = scenario.tree.policy.shape
        self.cell = (self.update * n_nodes + rollouts.node) * n_actions + rollouts.action  # [K] into [U, S, A]

    @cached_property
    def table(self) -> TurnTable:
        """All groups."""
        return table_of(self.rollouts, self.scenario)

    @cached_property
    def updates(self) -> list[TurnTable]:
        """One table an update, in order: together the rows of ``table``."""
        parts = [self.rollouts.groups(u * GROUPS_PER_UPDATE, GROUPS_PER_UPDATE) for u in range(self.n_updates)]
        return [table_of(part, self.scenario) for part in parts]

    def credit(self, estimator: Estimator) -> Credited:
        """Advantages and weights by the estimator's methods themselves."""
        rollouts = self.rollouts
        if estimator.label == TRUTH:
            advantage = self.scenario.tree.exact().advantage[rollouts.node, rollouts.action]
            return Credited(advantage, np.ones(advantage.size))
        methods = estimator.make(*self.scenario.tree.reward_range)
        if estimator.by_update:
            advantage = np.concatenate(_in_order(methods, self.updates))
        else:
            table = self.table
            if estimator.value == "zero":
                table = table.with_columns(value=np.zeros(len(table)))
            advantage = _in_order(methods, [table])[0]
        row, trajectory = np.arange(rollouts.node.size), rollouts.trajectory
        weight = coefficients(estimator.aggregate, trajectory, row, trajectory)
        return Credited(advantage, weight * rollouts.start.size * rollouts.group_size)


def _in_order(methods: Sequence[Any], tables: Sequence[TurnTable]) -> list[Array]:
    """The advantages of each table, a method's state moving on from one to the next."""
    states = {place: method.init(0) for place, method in enumerate(methods) if hasattr(method, "init")}
    result = []
    for table in tables:
        for place, method in enumerate(methods):
            found = method(table, states[place]) if place in states else method(table)
            columns = found if isinstance(found, Mapping) else {"advantage": found}
            if place in states:
                states[place] = method.observe(states[place], table, None)
            table = table.with_columns(**columns)
        result.append(table["advantage"])
    return result
