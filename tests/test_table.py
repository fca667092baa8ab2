"""The turn table, the normaliser and the declarations of methods."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from agentrl.algorithms.credit import GRPO, GiGPO
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.method import check_columns, columns, describe
from agentrl.algorithms.normalize import dense, normalize
from agentrl.algorithms.regularizers import KL
from agentrl.algorithms.rewards import InvalidAction
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.types import Call, Outcome, Task, Trajectory, Turn


def small_table(**more):
    """Two trajectories of one group, the rows shuffled: b1, a0, b0, a1, a2."""
    return TurnTable(
        group=["q"] * 5,
        trajectory=["b", "a", "b", "a", "a"],
        turn=[1, 0, 0, 1, 2],
        reward=[4.0, 1.0, 0.0, 2.0, 8.0],
        **more,
    )


def test_columns_keep_the_order_in_which_rows_were_given():
    table = small_table(state=["s", None, "t", "s", None], observation=["x", "y", "x", "y", "z"])
    assert (table.n_rows, table.n_trajectories, table.n_groups, len(table)) == (5, 2, 1, 5)
    assert table["reward"].tolist() == [4, 1, 0, 2, 8]
    assert table["state"].tolist() == [0, -1, 1, 0, -1]
    assert table["observation"].tolist() == [0, 1, 0, 1, 2]
    assert table.labels("trajectory") == ["b", "a"]
    assert table["trajectory"].tolist() == [0, 1, 0, 1, 1]
    assert table["penalty"].tolist() == [0] * 5 and table["segment"].tolist() == [0] * 5
    assert table["node"].tolist() == [0, 1, 2, 3, 4]
    assert table.n_turns.tolist() == [2, 3] and table.group_of_trajectory.tolist() == [0, 0]
    assert table["turn"][table.order].tolist() == [0, 1, 0, 1, 2]


def test_integer_keys_are_codes_too_and_minus_one_is_none():
    table = TurnTable(
        group=[7, 7, -3], trajectory=np.array([10, 11, 12]), turn=[0, 0, 0], reward=[0, 0, 0], state=[-1, 5, 5]
    )
    assert table["group"].tolist() == [0, 0, 1] and table["state"].tolist() == [-1, 0, 0]


def test_sums_and_returns():
    table = small_table()
    assert table.sum_by_trajectory(table["reward"]).tolist() == [4, 11]
    assert table.returns_to_go(0.5).tolist() == [4, 1 + 0.5 * (2 + 0.5 * 8), 2, 6, 8]
    assert table.returns_to_go(0.0).tolist() == table["reward"].tolist()
    assert table.returns_to_go(1.0, np.ones(5)).tolist() == [1, 3, 2, 2, 1]


def test_a_gap_in_turn_numbers_is_discounted():
    table = TurnTable(group=["q"] * 2, trajectory=["a"] * 2, turn=[0, 3], reward=[0.0, 1.0])
    assert table.returns_to_go(0.5).tolist() == [0.125, 1.0]


def test_returns_of_a_long_episode_neither_overflow_nor_vanish():
    n = 20_000
    table = TurnTable(group=[0] * n, trajectory=[0] * n, turn=np.arange(n), reward=np.ones(n))
    returns = table.returns_to_go(0.5)
    assert returns[0] == 2.0 and returns[-1] == 1.0 and returns[-2] == 1.5


def test_shuffled_rows_give_the_same_bits():
    rng = np.random.default_rng(0)
    trajectory, turn = np.divmod(np.arange(200), 20)
    reward = rng.normal(size=200)
    table = TurnTable(group=trajectory // 5, trajectory=trajectory, turn=turn, reward=reward)
    rows = rng.permutation(200)
    shuffled = TurnTable(
        group=(trajectory // 5)[rows], trajectory=trajectory[rows], turn=turn[rows], reward=reward[rows]
    )
    assert np.array_equal(table.returns_to_go(0.9)[rows], shuffled.returns_to_go(0.9))
    total, again = (each.sum_by_trajectory(each["reward"])[each["trajectory"]] for each in (table, shuffled))
    assert np.array_equal(total[rows], again)


def test_group_by():
    table = TurnTable(
        group=["p", "p", "q", "q", "q"],
        trajectory=["a", "b", "c", "d", "e"],
        turn=[0] * 5,
        reward=[0] * 5,
        state=["s", "s", "s", None, "t"],
        stratum=["searched", None, "searched", "searched", "not"],
        depth=[3, 3, 3, -1, -7],
    )
    assert table.group_by("group", "state").tolist() == [0, 0, 1, -1, 2]
    assert table.group_by("group").tolist() == [0, 0, 1, 1, 1]
    assert table.group_by("stratum", "group").tolist() == [0, -1, 1, 1, 2]
    assert table.group_by("group", "state", "depth").tolist() == [0, 0, 1, -1, 2]


def test_dense_codes():
    assert dense(np.array([5, 2, 5, 9])).tolist() == [1, 0, 1, 2]
    assert dense(np.array([10**12, 2, 10**12])).tolist() == [1, 0, 1]
    assert dense(np.array([], dtype=np.int64)).tolist() == []


def test_with_columns_leaves_the_table_as_it_is():
    table = small_table()
    more = table.with_columns(penalty=[1, 0, 0, 0, 0], entropy=np.arange(5.0), kind=["u", "v", "u", "u", "u"])
    assert more["penalty"].tolist() == [1, 0, 0, 0, 0] and more["kind"].tolist() == [0, 1, 0, 0, 0]
    assert table["penalty"].tolist() == [0] * 5 and "entropy" not in table and "entropy" in more
    with pytest.raises(ValueError, match=r"'turn' defines the rows"):
        table.with_columns(turn=[0] * 5)
    with pytest.raises(ValueError, match=r"read-only"):
        table["reward"][0] = 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [0.0, 1.0]}, "'reward' must have one value a row, 3 as 'trajectory' has; got 2"),
        ({"reward": 1.0}, "'reward' must have one value a row, 3 as 'trajectory' has; got a single value"),
        ({"turn": [0, 0, 0]}, "turn 0 of trajectory 'a' is given twice"),
        ({"group": ["q", "p", "q"]}, "trajectory 'a' stands in two groups"),
        ({"group": ["q", None, "q"]}, "'group' has no value in row 1"),
        ({"reward": [0.0, float("nan"), 1.0]}, "'reward' must hold finite numbers; row 1 has nan"),
        ({"penalty": [0.0, 0.0, float("inf")]}, "'penalty' must hold finite numbers; row 2 has inf"),
        ({"turn": [0.0, 0.5, 1.0]}, "'turn' must hold integers"),
        ({"state": [0.5, 1.5, 2.5]}, "'state' must hold strings or integers; got float"),
        ({"entropy": [[0.5], [1.5], [2.5]]}, "'entropy' must hold one number or string a row"),
    ],
)
def test_what_is_not_a_table_is_one_clear_error(change, message):
    good = {"group": ["q"] * 3, "trajectory": ["a", "a", "b"], "turn": [0, 1, 0], "reward": [0.0, 1.0, 2.0]}
    TurnTable(**good)
    with pytest.raises(ValueError, match=message):
        TurnTable(**(good | change))


def test_a_missing_column_names_the_near_one():
    with pytest.raises(ConfigError, match=r"no column 'rewards'. Did you mean 'reward'"):
        small_table()["rewards"]


def episode(name, turns, **more):
    return Trajectory(id=name, env="my/Env-v0", task=Task(id="door-1"), turns=turns, **more)


def test_from_trajectories():
    call = Call(role="agent", prompt_ids=[1, 2], completion_ids=[3, 4, 5])
    frozen = Call(role="judge", prompt_ids=[1], completion_ids=[3], trainable=False)
    first = episode(
        "a",
        [
            Turn("hall", state_key="h", calls=[call, frozen], reward=0.5, penalty=0.1, valid=False),
            Turn("room", calls=[call, call], reward=1.0),
        ],
        rewards={"judge": 2.0, "length": -0.25},
        group="g",
        success=True,
    )
    second = episode("b", [Turn("hall", state_key="h")], group="g")
    table = TurnTable.from_trajectories([first, episode("empty", [], group="g"), second])
    assert table["reward"].tolist() == [0.5, 2.75, 0.0]
    assert table.sum_by_trajectory(table["reward"]).tolist() == [first.reward, second.reward]
    assert table["penalty"].tolist() == [0, 0, 0]  # a record's penalty is a result: reward methods write it anew
    assert table.labels("task") == ["door-1"] and table["type"].tolist() == [0, 0, 0]
    assert table["valid"].tolist() == [False, True, True]
    assert table["state"].tolist() == [0, -1, 0] and table["observation"].tolist() == [0, 1, 0]
    assert table["n_tokens"].tolist() == [3, 6, 0] and table["success"].tolist() == [True, True, False]
    assert table.n_groups == 1 and table.n_trajectories == 2


def test_from_trajectories_without_group_state_or_turns():
    table = TurnTable.from_trajectories([episode("a", [Turn("hall")]), episode("b", [Turn("hall")])])
    assert table.labels("group") == ["door-1"]
    with pytest.raises(ConfigError, match=r"no column 'state'"):
        GiGPO()(table)
    empty = TurnTable.from_trajectories([])
    assert len(empty) == 0 and GiGPO()(empty).tolist() == [] and GRPO()(empty).tolist() == []


def test_a_fault_has_no_place_in_a_table():
    with pytest.raises(ValueError, match=r"'a' ended as env_fault"):
        TurnTable.from_trajectories([episode("a", [Turn("hall")], outcome=Outcome.ENV_FAULT)])


# ---- the normaliser ------------------------------------------------------------------------------------------------


def test_weighting_by_trajectory_is_the_statistics_of_trajectories():
    values, trajectory = np.array([3.0, 3, 3, 3, 1, 5]), np.array([0, 0, 0, 0, 1, 2])
    found = normalize(values, np.zeros(6, dtype=int), trajectory=trajectory, eps=0.0)
    once = np.array([3.0, 1, 5])
    assert found == pytest.approx(((once - once.mean()) / once.std(ddof=1))[trajectory], abs=1e-12)


def test_weighting_by_trajectory_with_values_that_differ_within_one():
    values, trajectory = np.array([2.0, 4, 1]), np.array([0, 0, 1])
    found = normalize(values, np.zeros(3, dtype=int), trajectory=trajectory, eps=0.0)
    mean = (3 + 1) / 2
    variance = ((2 - mean) ** 2 + (4 - mean) ** 2) / 2 + (1 - mean) ** 2
    assert found == pytest.approx((values - mean) / variance**0.5, abs=1e-12)


def test_eps_ddof_and_scale():
    values, group = np.array([1.0, 3.0]), np.zeros(2, dtype=int)
    assert normalize(values, group, eps=0.5)[1] == pytest.approx(1 / (2**0.5 + 0.5))
    assert normalize(values, group, eps=0.5, eps_placement="inside")[1] == pytest.approx(1 / 2.5**0.5)
    assert normalize(values, group, eps=0.0, ddof=0)[1] == pytest.approx(1.0)
    assert normalize(values, group, scale="none").tolist() == [-1.0, 1.0]


def test_groups_of_one_and_rows_in_no_group():
    values, group = np.array([5.0, 7.0, 9.0, 4.0]), np.array([0, -1, 1, 1])
    assert normalize(values, group, scale="none").tolist() == [0, 0, 2.5, -2.5]
    assert normalize(values, group, scale="none", singleton="raw").tolist() == [5, 0, 2.5, -2.5]
    assert normalize(values, np.full(4, -1)).tolist() == [0, 0, 0, 0]


def test_rows_that_do_not_count_are_normalised_by_those_that_do():
    values, group = np.array([1.0, 3.0, 10.0]), np.zeros(3, dtype=int)
    counted = np.array([True, True, False])
    assert normalize(values, group, scale="none", count=counted).tolist() == [-1, 1, 8]
    flat = np.array([1.0, 1.0, 10.0])
    assert normalize(flat, group, count=counted).tolist() == [0, 0, 0]
    assert normalize(flat, group, scale="none", count=counted).tolist() == [0, 0, 9]
    trajectory = np.array([0, 1, 1])
    assert normalize(values, group, scale="none", trajectory=trajectory, count=counted).tolist() == [-1, 1, 8]


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("by_trajectory", [True, False])
def test_no_variance_is_exactly_zero(scale, by_trajectory):
    """10·0.95^k by powers and by repeated products differ in the last bit; divided by std + eps that is no zero."""
    by_product = 10.0
    for k in range(1, 50):
        by_product *= 0.95
        for size in (2, 3, 7, 11):
            values = np.array([10 * 0.95**k] * (size - 1) + [by_product])
            trajectory = np.arange(size) if by_trajectory else None
            for eps in (1e-6, 0.0):
                found = normalize(values, np.zeros(size, dtype=int), trajectory=trajectory, scale=scale, eps=eps)
                assert not found.any()
    assert normalize(np.array([1e-3, 1e-3 + 1e-9]), np.zeros(2, dtype=int), scale="none").any()


# ---- declarations --------------------------------------------------------------------------------------------------


def test_check_columns_names_wanted_found_and_remedy():
    check_columns([InvalidAction(), GiGPO(), PPOClip(), KL(coef=0.1)], {"state"})
    check_columns([GiGPO(key="observation"), PPOClip()], set())
    with pytest.raises(ConfigError, match=r"GiGPO reads the column 'state'.*there are: .*use key = \"observation\""):
        check_columns([GiGPO(), PPOClip()], set())
    with pytest.raises(ConfigError, match=r"PPOClip reads the column 'advantage'.*Add a method"):
        check_columns([PPOClip()], {"state"})
    with pytest.raises(ConfigError, match=r"GRPO writes it but runs later: put it first"):
        check_columns([PPOClip(), GRPO()], {"state"})


def test_columns_fill_in_hyper_parameters():
    assert columns(GiGPO())[-1] == "state" and columns(GiGPO(key="observation"))[-1] == "observation"
    assert columns(GRPO(), "writes") == ("advantage",)


def test_describe():
    found = describe(GiGPO, "gigpo")
    assert found["stage"] == "credit" and found["name"] == "gigpo" and found["writes"] == ["advantage"]
    assert found["parameters"]["gamma"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.95}
    assert found["parameters"]["key"]["enum"] == ["state", "observation", "anchor"]
    assert describe(KL, "kl")["parameters"]["coef"]["required"] is True
    assert "\n" not in found["formula"] and found["source"]


def test_a_stage_package_finds_its_methods_by_name():
    import agentrl.algorithms.credit as package

    assert package.GiGPO is GiGPO
    with pytest.raises(AttributeError, match=r"Did you mean 'GiGPO'"):
        _ = package.GiGP0


def test_importing_methods_loads_no_torch():
    code = (
        "import sys, agentrl.algorithms, agentrl.algorithms.inputs\n"
        "from agentrl.algorithms.credit import GRPO, GiGPO\n"
        "from agentrl.algorithms.losses import PPOClip\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
