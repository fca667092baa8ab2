"""A decision tree with a fixed stochastic policy, and the truth about it by dynamic programming.

>>> tree = TreeMDP({"door": {"push": win(0.8), "pull": win(0.2)}}, start={"door": 1.0})
>>> tree.exact().value, tree.exact().advantage
(array([0.5]), array([[ 0.3, -0.3]]))

A node is one decision of an episode and is met at most once in it, so histories that meet again make it a graph without
cycles rather than a strict tree. What an agent sees there (``state``, ``observation``) may be the same at several nodes.

Shapes: S nodes, A the largest number of actions of a node, K the largest number of branches of an action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
Branch = tuple[float, float, str | None]  # probability, reward, the node it leads to (None: the episode ends)
Branches = Sequence[Branch]


def win(probability: float) -> Branches:
    """The last action of an episode: reward 1 with this probability, else 0."""
    return ((probability, 1.0, None), (1 - probability, 0.0, None))


def to(node: str | None, reward: float = 0.0) -> Branches:
    """An action that surely leads to a node (None: the end)."""
    return ((1.0, reward, node),)


@dataclass(frozen=True)
class Exact:
    """What dynamic programming gives; rewards are not discounted."""

    value: Array  # [S] V: expected reward from the node on
    q: Array  # [S, A] Q; 0 where there is no such action
    advantage: Array  # [S, A] Q - V; 0 where there is no such action
    visits: Array  # [S] the probability that an episode meets the node
    objective: float  # J, the expected reward of an episode
    gradient: Array  # [S, A] of J by the logits: visits · π · advantage


@dataclass(frozen=True)
class TreeMDP:
    """Nodes, their actions and where those lead; start nodes with their probabilities; a softmax policy.

    ``nodes`` maps node -> action -> branches, every node before those that its actions lead to. ``logits`` maps (node, action)
    to the policy's logit, 0 where it is not named. ``state`` and ``observation`` map a node to what is seen there, by default
    its own name. Raises ValueError for what is not such a tree.
    """

    nodes: Mapping[str, Mapping[str, Branches]]
    start: Mapping[str, float]
    logits: Mapping[tuple[str, str], float] | None = None
    state: Mapping[str, str] | None = None
    observation: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        place = {name: index for index, name in enumerate(self.nodes)}
        for node, actions in self.nodes.items():
            for action, branches in actions.items():
                if abs(sum(probability for probability, _, _ in branches) - 1) > 1e-9:
                    raise ValueError(f"the branches of '{action}' at '{node}' must have probabilities that add up to 1")
                for _, _, successor in branches:
                    if successor is not None and place.get(successor, -1) <= place[node]:
                        raise ValueError(f"'{action}' at '{node}' leads to '{successor}', which is no later node")
        if abs(sum(self.start.values()) - 1) > 1e-9 or not set(self.start) <= set(place):
            raise ValueError("start must give nodes of the tree probabilities that add up to 1")
        for node, action in self.logits or {}:
            if action not in self.nodes.get(node, {}):
                raise ValueError(f"logits name the action '{action}' at '{node}', which there is not")

    @cached_property
    def names(self) -> list[str]:
        """The nodes, in their order."""
        return list(self.nodes)

    @cached_property
    def actions(self) -> list[list[str]]:
        """The actions of each node."""
        return [list(actions) for actions in self.nodes.values()]

    @cached_property
    def available(self) -> Array:
        """[S, A] bool, which actions there are."""
        n_actions = np.array([len(actions) for actions in self.actions])
        return np.arange(n_actions.max()) < n_actions[:, None]

    @cached_property
    def policy(self) -> Array:
        """[S, A] π, 0 where there is no such action."""
        logits = np.full(self.available.shape, -np.inf)
        for s, actions in enumerate(self.actions):
            logits[s, : len(actions)] = [(self.logits or {}).get((self.names[s], action), 0.0) for action in actions]
        return softmax(logits)

    @cached_property
    def branches(self) -> tuple[Array, Array, Array]:
        """Probability, reward and next node (-1: the end), each [S, A, K]; branches that there are not have probability 0."""
        every = [branches for actions in self.nodes.values() for branches in actions.values()]
        shape = (*self.available.shape, max(len(branches) for branches in every))
        probability, reward, successor = np.zeros(shape), np.zeros(shape), np.full(shape, -1)
        place = {name: index for index, name in enumerate(self.nodes)}
        for s, actions in enumerate(self.nodes.values()):
            for a, branches in enumerate(actions.values()):
                for k, (p, r, name) in enumerate(branches):
                    probability[s, a, k], reward[s, a, k] = p, r
                    successor[s, a, k] = -1 if name is None else place[name]
        return probability, reward, successor

    @cached_property
    def start_probability(self) -> Array:
        """[S]."""
        return np.array([self.start.get(name, 0.0) for name in self.names])

    def exact(self, policy: Array | None = None) -> Exact:
        """The truth under ``policy`` [S, A], by default the tree's own."""
        policy = self.policy if policy is None else policy
        probability, reward, successor = self.branches
        n_nodes = len(self.names)
        value, q = np.zeros(n_nodes + 1), np.zeros(self.available.shape)  # the last place: after the end
        for s in reversed(range(n_nodes)):
            q[s] = (probability[s] * (reward[s] + value[successor[s]])).sum(axis=1)
            value[s] = policy[s] @ q[s]
        visits = np.append(self.start_probability, 0.0)
        for s in range(n_nodes):
            np.add.at(visits, successor[s], visits[s] * policy[s][:, None] * probability[s])
        value, visits = value[:-1], visits[:-1]
        advantage = np.where(self.available, q - value[:, None], 0.0)
        gradient = visits[:, None] * policy * advantage
        return Exact(value, q, advantage, visits, float(self.start_probability @ value), gradient)

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the largest reward that an episode can have."""
        probability, reward, successor = self.branches
        bounds = []
        for best, empty in ((np.min, np.inf), (np.max, -np.inf)):
            value = np.zeros(len(self.names) + 1)
            for s in reversed(range(len(self.names))):
                value[s] = best(np.where(probability[s] > 0, reward[s] + value[successor[s]], empty))
            bounds.append(float(best(value[:-1][self.start_probability > 0])))
        return bounds[0], bounds[1]


def softmax(logits: Array) -> Array:
    """Over the last axis; -inf gives 0."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
