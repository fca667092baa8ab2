"""The trees of the studies: dynamic programming against all trajectories one by one, and episodes against both."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.seeding import stream
from agentrl.study.rollouts import simulate, table_of
from agentrl.study.scenarios import scenarios
from agentrl.study.tree import TreeMDP, softmax, to, win

SCENARIOS = {each.name: each for each in scenarios()}


def trajectories(tree: TreeMDP, node: str | None = None) -> Iterator[tuple[float, list[tuple[int, int]], float]]:
    """(probability, the nodes and actions, reward) of every trajectory, in plain loops."""
    if node is None:
        for name, probability in tree.start.items():
            for p, steps, reward in trajectories(tree, name):
                yield probability * p, steps, reward
        return
    s = tree.names.index(node)
    for a, branches in enumerate(tree.nodes[node].values()):
        for probability, reward, successor in branches:
            here = tree.policy[s, a] * probability
            if successor is None:
                yield here, [(s, a)], reward
                continue
            for p, steps, later in trajectories(tree, successor):
                yield here * p, [(s, a), *steps], reward + later


def score(tree: TreeMDP, steps: list[tuple[int, int]]) -> np.ndarray:
    """Σ_t ∇ log π(a_t | s_t), [S, A]."""
    result = np.zeros(tree.policy.shape)
    for s, a in steps:
        result[s] -= tree.policy[s]
        result[s, a] += 1
    return result


@st.composite
def trees(draw: st.DrawFn) -> TreeMDP:
    names = [f"n{i}" for i in range(draw(st.integers(1, 4)))]
    nodes = {}
    for place, name in enumerate(names):
        after = st.sampled_from([None, *names[place + 1 :]])
        actions = {}
        for action in range(draw(st.integers(1, 3))):
            p = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
            reward = st.sampled_from([0.0, 1.0, -0.5])
            actions[f"a{action}"] = ((p, draw(reward), draw(after)), (1 - p, draw(reward), draw(after)))
        nodes[name] = actions
    logits = {(name, "a0"): draw(st.sampled_from([-1.0, 0.0, 0.7])) for name in names}
    start = {names[0]: 1.0} if len(names) == 1 else {names[0]: 0.25, names[1]: 0.75}
    return TreeMDP(nodes, start=start, logits=logits)


def agrees_with_all_trajectories(tree: TreeMDP) -> None:
    exact, every = tree.exact(), list(trajectories(tree))
    assert sum(p for p, _, _ in every) == pytest.approx(1)
    assert exact.objective == pytest.approx(sum(p * reward for p, _, reward in every))
    gradient = sum((p * reward * score(tree, steps) for p, steps, reward in every), np.zeros(tree.policy.shape))
    np.testing.assert_allclose(exact.gradient, gradient, atol=1e-12)
    visits = np.zeros(len(tree.names))
    for p, steps, _ in every:
        np.add.at(visits, [s for s, _ in steps], p)
    np.testing.assert_allclose(exact.visits, visits, atol=1e-12)
    rewards = [reward for p, _, reward in every if p > 0]
    assert tree.reward_range == pytest.approx((min(rewards), max(rewards)))


@given(trees())
def test_values_visits_and_gradient_are_those_of_all_trajectories(tree: TreeMDP):
    agrees_with_all_trajectories(tree)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenarios_too(name: str):
    agrees_with_all_trajectories(SCENARIOS[name].tree)


@pytest.mark.parametrize("name", SCENARIOS)
def test_advantages_by_brute_force(name: str):
    """Q(s, a) is the mean reward from s on of the trajectories that take a there."""
    tree = SCENARIOS[name].tree
    exact = tree.exact()
    for s, node in enumerate(tree.names):
        for a in range(len(tree.actions[s])):
            there = [(p, reward) for p, steps, reward in trajectories(tree, node) if steps[0] == (s, a)]
            q = sum(p * reward for p, reward in there) / tree.policy[s, a]
            assert exact.q[s, a] == pytest.approx(q)
    np.testing.assert_allclose((tree.policy * exact.advantage).sum(axis=1), 0, atol=1e-12)


def test_the_gradient_is_the_derivative_by_the_logits():
    tree = SCENARIOS["stop"].tree
    logits, h = np.log(tree.policy), 1e-6
    for s, a in np.ndindex(*logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][s, a] += h
        moved[1][s, a] -= h
        up, down = (tree.exact(softmax(each)).objective for each in moved)
        assert tree.exact().gradient[s, a] == pytest.approx((up - down) / (2 * h), abs=1e-8)


@pytest.mark.parametrize(
    ("nodes", "more", "words"),
    [
        ({"a": {"x": ((0.5, 0.0, None),)}}, {}, "add up to 1"),
        ({"a": {"x": to("a")}}, {}, "no later node"),
        ({"a": {"x": to("b")}}, {}, "no later node"),
        ({"a": {"x": win(0.5)}}, {"start": {"b": 1.0}}, "start"),
        ({"a": {"x": win(0.5)}}, {"logits": {("a", "y"): 1.0}}, "'y' at 'a'"),
    ],
)
def test_what_is_no_tree(nodes: dict, more: dict, words: str):
    with pytest.raises(ValueError, match=words):
        TreeMDP(nodes, **({"start": {"a": 1.0}} | more))


@pytest.mark.parametrize("name", SCENARIOS)
def test_episodes_follow_policy_and_tree(name: str):
    tree = SCENARIOS[name].tree
    n = 8000
    rollouts = simulate(tree, n // 4, 4, stream(0, "test", name))
    share = np.zeros(tree.policy.shape)
    np.add.at(share, (rollouts.node, rollouts.action), 1 / n)
    expected = tree.exact().visits[:, None] * tree.policy
    assert (share[expected == 0] == 0).all()
    # the members of a group share their start, so there are at least n / 4 independent draws
    assert (np.abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / (n / 4)) + 1e-12).all()
    known = {tuple(steps): [] for _, steps, _ in trajectories(tree)}
    for _, steps, reward in trajectories(tree):
        known[tuple(steps)].append(reward)
    for i in range(200):
        rows = rollouts.trajectory == i
        steps = tuple(zip(rollouts.node[rows].tolist(), rollouts.action[rows].tolist(), strict=True))
        assert any(rollouts.reward[rows].sum() == pytest.approx(reward) for reward in known[steps])
        assert rollouts.turn[rows].tolist() == list(range(rows.sum()))
        assert tree.names[rollouts.node[rows][0]] == tree.names[rollouts.start[i // 4]]


def test_the_same_seed_gives_the_same_episodes_and_another_gives_others():
    tree = SCENARIOS["rooms"].tree
    first, again, other = (simulate(tree, 20, 4, stream(seed, "test")) for seed in (0, 0, 1))
    assert np.array_equal(first.action, again.action) and np.array_equal(first.reward, again.reward)
    assert not np.array_equal(first.action, other.action)


def test_a_part_of_the_groups():
    rollouts = simulate(SCENARIOS["lengths"].tree, 6, 4, stream(0, "test"))
    part = rollouts.groups(2, 3)
    rows = (rollouts.group >= 2) & (rollouts.group < 5)
    assert np.array_equal(part.node, rollouts.node[rows]) and np.array_equal(part.reward, rollouts.reward[rows])
    assert part.trajectory[0] == 0 and part.group.max() == 2


def test_the_table_has_what_methods_read():
    scenario = SCENARIOS["search"]
    rollouts = simulate(scenario.tree, 10, 4, stream(0, "test"))
    table = table_of(rollouts, scenario)
    names = [table.labels("state")[code] for code in table["state"]]
    assert names == [scenario.tree.names[s] for s in rollouts.node]
    actions = [table.labels("action")[code] for code in table["action"]]
    assert actions == [scenario.tree.actions[s][a] for s, a in zip(rollouts.node, rollouts.action, strict=True)]
    assert np.array_equal(table["value"], scenario.tree.exact().value[rollouts.node])
    assert table["entropy"] == pytest.approx(np.log(2))  # two actions, equally likely, everywhere
    searches = np.bincount(rollouts.trajectory, [action == "search" for action in actions])
    assert np.array_equal(table["stratum"], searches[rollouts.trajectory])


def test_what_looks_alike():
    scenario = SCENARIOS["rooms"]
    table = table_of(simulate(scenario.tree, 10, 4, stream(0, "test")), scenario)
    assert set(table.labels("observation")) == {"door", "a room", "a shelf"}
    assert set(table.labels("state")) == set(scenario.tree.names)


def test_impossible_branches_are_never_drawn():
    never = {"x": ((0.0, 9.0, None), (1.0, 1.0, None), (0.0, 9.0, None))}
    tree = TreeMDP({"a": never}, start={"a": 1.0})
    assert set(simulate(tree, 200, 4, stream(0, "test")).reward) == {1.0}
