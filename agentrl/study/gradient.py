"""The policy gradient that advantages induce, update by update, and how its mean is known more sharply than by averaging.

ĝ of an update = the mean over its trajectories of Σ_t w_t Â_t ∇ log π(a_t | s_t), by the logits of the policy.

Control variates: of some estimates the expectation is known without a simulation, from the policy-gradient theorem and the
independence of trajectories. Where the estimate under study goes along with them, what they are off by tells what it
is off by. They use no credit method; see ``controls``.

Shapes: K turns, U updates, S nodes, A actions.
"""

from __future__ import annotations

import numpy as np

from agentrl.study.estimators import GROUPS_PER_UPDATE, Batch
from agentrl.study.tree import Exact

Array = np.ndarray


def by_update(batch: Batch, weighted: Array) -> Array:
    """ĝ of each update [U, S · A] from the weighted advantages [K]; the weight is that of a turn in a mean over trajectories."""
    policy, n_updates = batch.scenario.tree.policy, batch.n_updates
    cells = np.bincount(batch.cell, weighted, n_updates * policy.size).reshape(n_updates, *policy.shape)
    gradient = cells - policy * cells.sum(axis=2, keepdims=True)
    return gradient.reshape(n_updates, -1) / (GROUPS_PER_UPDATE * batch.rollouts.group_size)


def controls(batch: Batch, exact: Exact) -> tuple[Array, Array]:
    """Estimates [4, U, S · A] and their expectations [4, S · A], g being the true gradient and V0 the value of the start node:

    A(s_t, a_t)        g       the advantage itself
    R_i - V0           g       a baseline that depends on the start only
    D_it - V(s_t)      g       return to go, a baseline that depends on the node only
    mean_j R_j - V0    g / G   over the members j of the group; of the others the expectation is 0
    """
    rollouts = batch.rollouts
    n_trajectories = rollouts.start.size * rollouts.group_size
    total = np.bincount(rollouts.trajectory, rollouts.reward, n_trajectories)
    surprise = total.reshape(-1, rollouts.group_size) - exact.value[rollouts.start][:, None]
    before = np.cumsum(rollouts.reward) - rollouts.reward
    first = np.flatnonzero(rollouts.turn == 0)
    earned = before - before[first][rollouts.trajectory]  # before the turn, in its own trajectory
    estimates = (
        exact.advantage[rollouts.node, rollouts.action],
        surprise.ravel()[rollouts.trajectory],
        total[rollouts.trajectory] - earned - exact.value[rollouts.node],
        surprise.mean(axis=1)[rollouts.group],
    )
    true = exact.gradient.ravel()
    means = np.stack([true, true, true, true / rollouts.group_size])
    return np.stack([by_update(batch, estimate) for estimate in estimates]), means


def sharpened(gradient: Array, controls: tuple[Array, Array]) -> Array:
    """ĝ of each update [U, S · A] less what the controls were off by, component by component, with the same expectation.

    How far a component goes along with the controls is regressed on the updates of even number for those of odd number,
    and the other way round: a slope that was fitted to the very same updates would bias the result.
    """
    estimates, means = controls
    off = estimates - means[:, None]  # [4, U, S · A]
    result = gradient.copy()
    odd = np.arange(len(gradient)) % 2 == 1
    for place in range(gradient.shape[1]):
        for here in (odd, ~odd):
            x, y = off[:, ~here, place].T, gradient[~here, place]
            slope = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=1e-9)[0]
            result[here, place] -= off[:, here, place].T @ slope
    return result
