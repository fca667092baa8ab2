"""Groups of episodes in a tree, all at once, and the turn table that a credit method reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agentrl.algorithms.table import TurnTable
from agentrl.study.scenarios import Scenario
from agentrl.study.tree import TreeMDP

Array = np.ndarray


@dataclass(frozen=True)
class Rollouts:
    """K turns of n_groups · group_size episodes, in the order of (trajectory, turn). All [K] but ``start``."""

    trajectory: Array  # trajectory // group_size is its group
    turn: Array
    node: Array
    action: Array
    reward: Array
    start: Array  # [groups] the node at which the episodes of a group begin
    group_size: int

    @property
    def group(self) -> Array:
        """[K]."""
        return self.trajectory // self.group_size

    def groups(self, first: int, n: int) -> Rollouts:
        """The turns of n groups from ``first`` on, those counted from 0 again."""
        low, high = np.searchsorted(self.trajectory, np.array([first, first + n]) * self.group_size)
        rows = slice(low, high)
        return Rollouts(
            trajectory=self.trajectory[rows] - first * self.group_size,
            turn=self.turn[rows],
            node=self.node[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            start=self.start[first : first + n],
            group_size=self.group_size,
        )


def simulate(tree: TreeMDP, n_groups: int, group_size: int, random: np.random.Generator) -> Rollouts:
    """Episodes of the tree's policy. The members of a group begin at one node, drawn for the group."""
    probability, rewards, successor = tree.branches
    start = _draw(np.broadcast_to(tree.start_probability, (n_groups, len(tree.names))), random)
    trajectory = np.arange(n_groups * group_size)
    node, turn, parts = np.repeat(start, group_size), 0, []
    while trajectory.size:
        action = _draw(tree.policy[node], random)
        branch = _draw(probability[node, action], random)
        reward = rewards[node, action, branch]
        parts.append((trajectory, np.full(trajectory.size, turn), node, action, reward))
        node = successor[node, action, branch]
        trajectory, node, turn = trajectory[node >= 0], node[node >= 0], turn + 1
    row, place, nodes, actions, earned = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((place, row))
    return Rollouts(row[order], place[order], nodes[order], actions[order], earned[order], start, group_size)


def _draw(probability: Array, random: np.random.Generator) -> Array:
    """One index for each row of probabilities [n, m], [n]; never one of probability 0."""
    cumulative = probability.cumsum(axis=1)
    return (random.random(len(cumulative))[:, None] < cumulative / cumulative[:, -1:]).argmax(axis=1)


def table_of(rollouts: Rollouts, scenario: Scenario) -> TurnTable:
    """The turn table, with what environment and learner would have written: ``state``, ``observation``, ``action``, ``task``,
    one token and one call a turn; the exact ``value`` and ``entropy`` of the policy at each turn; the scenario's ``stratum``."""
    tree, node = scenario.tree, rollouts.node
    ones = np.ones(node.size, dtype=np.int64)
    names = np.array(tree.names, dtype=object)
    actions = np.array([[*each, *[""] * (tree.policy.shape[1] - len(each))] for each in tree.actions], dtype=object)
    surprise = -np.log(np.where(tree.policy > 0, tree.policy, 1.0))
    table = TurnTable(
        group=rollouts.group,
        trajectory=rollouts.trajectory,
        turn=rollouts.turn,
        reward=rollouts.reward,
        state=_seen(tree, tree.state)[node],
        observation=_seen(tree, tree.observation)[node],
        action=actions[node, rollouts.action],
        task=names[rollouts.start[rollouts.group]],
        n_tokens=ones,
        n_calls=ones,
        valid=ones.astype(bool),
        value=tree.exact().value[node],
        entropy=(tree.policy * surprise).sum(axis=1)[node],
    )
    return table.with_columns(**scenario.stratum(table))


def _seen(tree: TreeMDP, seen: Mapping[str, str] | None) -> Array:
    """What is seen at each node, [S]."""
    return np.array([(seen or {}).get(name, name) for name in tree.names], dtype=object)
