"""SPO: the tracker's numbers, what it remembers, and a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from credit_reference import as_table, episodes, episodes_of, total, whitened
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import stages
from agentrl.algorithms.credit import SPO
from agentrl.algorithms.credit.spo import sampling_weight, value
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.samplers import UniformSampler
from agentrl.build import Methods
from agentrl.errors import ConfigError
from agentrl.registry import build
from agentrl.types import Task, Trajectory, Turn


def one_each(rewards, **more):
    """A task for each trajectory of one turn."""
    tasks = [f"q{i}" for i in range(len(rewards))]
    return episodes_of(tasks, [1] * len(rewards), rewards, task=tasks, **more)


def known(values):
    """A tracker in which the tasks have these values."""
    return {f"q{i}": [8 * v, 8 * (1 - v)] for i, v in enumerate(values)}


def moved(**distances):
    """What the trainer tells after an iteration."""
    return {"n_updates": 3, "policy_shift": distances}


def test_the_start():
    """A_credit_and_rewards.md 5 and agentflow_search.md V6: 5 of 8 and 3 of 8 solved, and nothing known."""
    state = SPO().tracked({"a": [1, 0, 1, 1, 0, 1, 1, 0], "b": [1, 1, 1, 0, 0, 0, 0, 0], "c": []})
    assert state["a"] == pytest.approx([4.888889, 3.111111], abs=1e-6) and value(state["a"]) == pytest.approx(0.611111)
    assert state["b"] == pytest.approx([3.111111, 4.888889], abs=1e-6) and value(state["b"]) == pytest.approx(0.388889)
    assert state["c"] == [0.5, 0.5] and SPO().init(0) == {}


@pytest.mark.parametrize(
    ("rewards", "values", "options", "wanted"),
    [
        ([1, 0, 1, 1], [0.611111, 0.5, 0.9, 0.2], {}, [0.350783, -1.276037, -0.177933, 1.103187]),
        ([1, 0, 1, 0], [0.375, 0.9, 0.5, 0.1], {}, [0.852072, -1.336408, 0.672689, -0.188353]),
        ([1, 0, 1, 0], [0.375, 0.9, 0.5, 0.1], {"ddof": 0}, [0.983888, -1.543151, 0.776754, -0.217491]),
        (
            [1, 0, 1, 0],
            [0.375, 0.9, 0.5, 0.1],
            {"unit": "token", "ddof": 0},
            [0.507291, -2.657513, 0.247881, -0.997288],
        ),
    ],
)
def test_advantages(rewards, values, options, wanted):
    """The sheets' numbers; the last over tokens, for answers of 100, 20, 50 and 10."""
    found = SPO(**options)(one_each(rewards, n_tokens=[100, 20, 50, 10]), known(values))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_forgetting():
    assert [SPO().rho(d) for d in (0, 0.006, 0.06)] == pytest.approx([0.96, 0.933033, 0.875], abs=1e-6)
    assert [SPO().rho(d) for d in (0.005, 0.01, 0.02)] == pytest.approx([0.943874, 0.890899, 0.875], abs=1e-6)
    assert SPO(forgetting="constant").rho(0.0) == 0.875


@pytest.mark.parametrize(
    ("before", "reward", "distance", "wanted"),
    [
        ([44 / 9, 28 / 9], 1, 0.006, [5.561495, 2.902769]),
        ([3, 5], 1, 0.01, [3.672696, 4.454494]),
        ([3.672696, 4.454494], 0, 0.06, [3.213609, 4.897682]),
        ([3.213609, 4.897682], 1, 0, [4.085065, 4.701775]),
    ],
)
def test_updates(before, reward, distance, wanted):
    state = {"q0": before, "other": [1.0, 2.0]}
    found = SPO().observe(state, one_each([reward]), moved(q0=distance))
    assert found["q0"] == pytest.approx(wanted, abs=2e-6) and found["other"] == [1.0, 2.0]
    assert state["q0"] == before  # the state given stays as it is


def test_a_task_twice_in_a_batch_counts_twice():
    table = episodes_of(["q"] * 3, [2, 1, 3], [1, 0, 1], task=["q"] * 6)
    assert SPO().observe({"q": [2.0, 2.0]}, table, moved(q=0.0))["q"] == pytest.approx([0.96 * 2 + 2, 0.96 * 2 + 1])


def test_sampling_weights():
    found = [sampling_weight([8 * v, 8 - 8 * v]) for v in (0.611111, 0.5, 0.9, 0.2)]
    assert found == pytest.approx([0.537498, 0.55, 0.35, 0.45], abs=1e-6)
    counts = [(v * n, (1 - v) * n) for v, n in zip((0, 0.1, 0.375, 0.5, 0.9, 1), (8, 8, 8, 16, 16, 25), strict=True)]
    wanted = [0.05, 0.0875, 0.110515, 0.08125, 0.06875, 0.05]
    assert [sampling_weight(each, gamma=1.0) for each in counts] == pytest.approx(wanted, abs=1e-6)


def test_what_it_cannot_do():
    with pytest.raises(ConfigError, match=r"nobody measured it; set forgetting = \"constant\""):
        SPO().observe({}, one_each([1]), {"n_updates": 3})
    assert SPO(forgetting="constant").observe({}, one_each([1]), None) == {"q0": [0.875 * 0.5 + 1, 0.875 * 0.5]}
    with pytest.raises(ConfigError, match="r_max = 1; got 10"):
        SPO()(one_each([10]), {})
    assert SPO(r_max=10.0)(one_each([10, 0]), {}) == pytest.approx([0.7071068, -0.7071068])
    with pytest.raises(ConfigError, match="rho_min at most rho_max"):
        build("credit", {"name": "spo", "rho_min": 0.9, "rho_max": 0.8})


def test_in_the_trainer():
    """A run with the tracker keeps its state."""
    plain = {name: [] for name in ("scores", "filters", "rewards", "token_weights", "regularizers")}

    def methods(spo):
        return Methods(**{**plain, "sampler": UniformSampler(), "credit": [spo], "loss": PPOClip()})

    chosen = methods(SPO(forgetting="constant"))
    played = [
        Trajectory(f"e{i}", "toy", Task(task), turns=[Turn("look", reward=reward)])
        for i, (task, reward) in enumerate([("a", 1.0), ("b", 0.0)])
    ]
    states = stages.initial_states(chosen, seed=0)
    for _ in range(2):
        _, advantages = stages.assign_credit(chosen, states, played, {})
        states = stages.observe(chosen, states, played)
        assert advantages.tolist() == pytest.approx([0.7071068, -0.7071068])
    won = 0.875 * (0.875 * 0.5 + 1) + 1
    assert states["credit[0]"] == {"a": [won, 0.875**2 * 0.5], "b": [0.875**2 * 0.5, won]}


@settings(max_examples=60, deadline=None)
@given(rows=episodes(outcome_only=True), unit=st.sampled_from(["trajectory", "token"]), data=st.data())
def test_fast_equals_slow_in_any_order(rows, unit, data):
    state = {"q0": [3.0, 1.0], "q2": [0.5, 2.5]}
    expected = {"q0": 0.75, "q1": 0.5, "q2": 1 / 6}
    surprise = [total(rows, row) - row["penalty"] - expected[row["task"]] for row in rows]
    wanted = whitened(rows, surprise, unit, inside=False)
    found = SPO(unit=unit)(as_table(rows), state)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-8)
    order = data.draw(st.permutations(range(len(rows))))
    again = SPO(unit=unit)(as_table([rows[i] for i in order]), state)
    assert again == pytest.approx(np.asarray(found)[list(order)], rel=1e-6, abs=1e-8)
    after = SPO().observe(state, as_table(rows), moved(q0=0.02))
    for task in {row["task"] for row in rows}:
        played = {row["trajectory"]: total(rows, row) for row in rows if row["task"] == task}
        rho, (a, b) = (0.875 if task == "q0" else 0.96), state.get(task, (0.5, 0.5))
        won = sum(played.values())
        assert after[task] == pytest.approx([rho * a + won, rho * b + len(played) - won])
