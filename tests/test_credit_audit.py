"""The audit of credit, and what the normaliser's further options do."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from credit_reference import as_table, episodes, episodes_of
from hypothesis import given, settings

import agentrl.algorithms.credit
from agentrl import registry
from agentrl.algorithms.audit import audit, group_sizes
from agentrl.algorithms.credit import GRPO, SPO, GiGPO, ReturnToGo, StratifiedGRPO
from agentrl.algorithms.method import columns, describe
from agentrl.algorithms.normalize import group_means, normalize
from agentrl.algorithms.table import TurnTable, discounted_sums


def three_groups():
    """A mixed group of two, a group of equal rewards and a group of one; 1 to 3 turns."""
    return episodes_of(["a", "a", "b", "b", "c"], [1, 3, 2, 2, 1], [1, 0, 1, 1, 5])


def test_audit():
    table = three_groups()
    found = audit(table, GRPO(normalize="mean")(table))
    assert found["credit/signal_share"] == 4 / 9 and found["credit/silent_group_share"] == 2 / 3
    assert found["credit/degenerate_group_share"] == 1 / 3 and found["credit/group_singleton_share"] == 1 / 3
    assert found["credit/group_size_mean"] == 5 / 3
    assert found["credit/advantage_mean"] == pytest.approx((0.5 - 1.5) / 9)
    assert (found["credit/advantage_min"], found["credit/advantage_max"]) == (-0.5, 0.5)
    assert found["credit/advantage_turn_0"] == 0 and found["credit/advantage_turn_1"] == pytest.approx(-0.5 / 3)
    assert found["credit/advantage_turn_2_3"] == -0.5 and "credit/advantage_turn_4_7" not in found
    assert found["credit/advantage_within_share"] == 0
    assert audit(table, ReturnToGo(gamma=0.5)(table))["credit/advantage_within_share"] > 0.1
    assert json.loads(json.dumps(found)) == found


def test_audit_of_nothing():
    empty = TurnTable(group=[], trajectory=[], turn=[], reward=[])
    assert audit(empty, np.zeros(0)) == {}
    silent = audit(three_groups(), np.zeros(9))
    assert silent["credit/signal_share"] == 0 and silent["credit/advantage_std"] == 0


@settings(max_examples=40, deadline=None)
@given(rows=episodes())
def test_audit_is_finite(rows):
    table = as_table(rows)
    found = audit(table, GRPO()(table))
    assert all(math.isfinite(value) for value in found.values())
    assert all(0 <= value <= 1 for name, value in found.items() if name.endswith("_share"))


def test_sizes_of_groups():
    codes = np.array([0, 1, 1, 2, 2, 2, 2, -1])
    found = group_sizes(codes, "x")
    assert found["x_size_mean"] == 7 / 3 and found["x_singleton_share"] == 1 / 7 and found["x_none_share"] == 1 / 8
    histogram = [found[f"x_size_{span}"] for span in ("1", "2_3", "4_7", "8_15", "16_up")]
    assert histogram == [1 / 7, 2 / 7, 4 / 7, 0, 0]
    assert set(group_sizes(np.full(3, -1), "x").values()) == {0, 1}


def test_metrics_of_methods():
    table = episodes_of(["a"] * 3, [2, 1, 1], [1, 0, 1], state=["s", "t", "s", "s"], stratum=[1, 1, 2, 2])
    assert GiGPO().metrics(table)["credit/anchor_size_2_3"] == 3 / 4
    strata = StratifiedGRPO(alpha=0.5).metrics(table)
    assert strata["credit/stratum_size_mean"] == 1.5 and strata["credit/stratum_singleton_share"] == 1 / 3
    assert SPO().metrics(table.with_columns(task=["a"] * 4)) == {"credit/trajectories_per_task": 3}


REQUIRED = {"stratified_grpo": {"alpha": 0.5}}
OWN = [name for name in registry.names("credit") if registry.get("credit", name).__module__.startswith("agentrl.")]


def as_columns(found):
    """What a credit method gave: advantages, or columns by name."""
    return found if isinstance(found, dict) else {"advantage": found}


@pytest.mark.parametrize("name", OWN)
def test_every_method(name):
    """Frozen, documented, importable by its class's name, and at home in a table that has its columns."""
    method = registry.build("credit", {"name": name, **REQUIRED.get(name, {})})
    described = describe(type(method))
    assert described["name"] == name and described["formula"] and described["source"] and type(method).__doc__
    assert getattr(agentrl.algorithms.credit, type(method).__name__) is type(method)
    with pytest.raises(AttributeError):
        method.gamma = 0.5
    table = episodes_of(
        ["a"] * 3, [2, 1, 1], [1, 0, 1], state=["s", "t", "s", "s"], stratum=[1, 1, 2, 2], task=["a"] * 4
    )
    table = table.with_columns(n_tokens=[2] * 4, value=[0.5] * 4, entropy=[1.0, 2.0, 0.5, 1.0], advantage=[1, 1, -1, 0])
    state = (method.init(0),) if hasattr(method, "init") else ()
    columns_given = as_columns(method(table, *state))
    assert set(columns_given) == set(columns(method, "writes"))
    for found in columns_given.values():
        assert found.shape == (4,) and found.dtype == np.float64 and np.isfinite(found).all()
    empty = TurnTable(**{c: table[c][:0] for c in table.columns})
    assert all(found.shape == (0,) for found in as_columns(method(empty, *state)).values())


# ---- the normaliser --------------------------------------------------------------------------------------------------


def test_leaving_one_out():
    x, groups = np.array([1.0, 2.0, 6.0, 5.0]), np.array([0, 0, 0, 1])
    found = normalize(x, groups, scale="none", leave_one_out=True)
    assert found == pytest.approx([-3, -1.5, 4.5, 0])
    assert normalize(x, groups, scale="none", leave_one_out=True, singleton="raw")[3] == 5
    by_trajectory = normalize(x, groups, trajectory=np.array([0, 0, 1, 2]), scale="none", leave_one_out=True)
    assert by_trajectory == pytest.approx([-5, -4, 4.5, 0])
    scaled = normalize(x, groups, leave_one_out=True, ddof=0, eps=0.0)
    assert scaled[:3] == pytest.approx(np.array([-3, -1.5, 4.5]) / x[:3].std())


def test_rows_that_do_not_count_see_the_whole_mean():
    x, count = np.array([1.0, 3.0, 10.0]), np.array([True, True, False])
    found = normalize(x, np.zeros(3, dtype=int), scale="none", leave_one_out=True, count=count)
    assert found == pytest.approx([-2, 2, 8])


def test_rows_that_count_several_times():
    x, times = np.array([1.0, 4.0, 9.0]), np.array([3, 1, 0])
    spelled = np.array([1.0, 1.0, 1.0, 4.0])
    found = normalize(x, np.zeros(3, dtype=int), times=times, eps=0.0)
    assert found == pytest.approx((x - spelled.mean()) / spelled.std(ddof=1))


def test_virtual_members_differ_by_group():
    x, groups = np.array([1.0, 2.0, 4.0]), np.array([0, 0, 1])
    found = normalize(x, groups, scale="none", leave_one_out=True, virtual=(0.0, np.array([1, 2])))
    assert found == pytest.approx([1 - 1, 2 - 0.5, 4])
    assert normalize(np.ones(2), np.array([0, 0]), virtual=(1.0, 3)).tolist() == [0, 0]


def test_means_of_groups():
    x, groups = np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 0, -1])
    assert group_means(x, groups).tolist() == [3] and group_means(x, groups, np.array([0, 0, 1, 2])).tolist() == [3.5]


# ---- the table -------------------------------------------------------------------------------------------------------


def test_neighbours_along_a_trajectory():
    table = TurnTable(group=["q"] * 5, trajectory=list("babaa"), turn=[1, 0, 0, 1, 2], reward=[0] * 5)
    values = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    assert table.shifted(values, 1, -1.0).tolist() == [-1, 40, 10, 50, -1]
    assert table.shifted(values, -1, -1.0).tolist() == [30, -1, -1, 20, 40]
    assert table.shifted(values, 2, 0.0).tolist() == [0, 50, 0, 0, 0]
    assert table.is_last().tolist() == [True, False, False, False, True]
    assert table.scores().tolist() == [0] * 5


def test_discounted_sums():
    found = discounted_sums(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 0, 0, 1]), np.array([0, 1, 3, 0]), 0.5)
    assert found.tolist() == [1 + 0.5 * 3, 2 + 0.25 * 4, 4, 8]
