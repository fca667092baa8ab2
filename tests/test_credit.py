"""GRPO and GiGPO: the sheets' numbers, and a slow reference written from the formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import build
from agentrl.algorithms.credit import GRPO, HGPO, GiGPO
from agentrl.algorithms.rewards.kl import KLInReward
from agentrl.algorithms.table import TurnTable
from agentrl.build import Methods
from agentrl.config import AlgorithmTable
from agentrl.errors import ConfigError
from agentrl.registry import get, names, validate

# ---- numbers of the method sheets ----------------------------------------------------------------------------------


def one_turn_episodes(rewards):
    """One group, each trajectory one turn."""
    n = len(rewards)
    return TurnTable(group=["q"] * n, trajectory=list(range(n)), turn=[0] * n, reward=rewards)


@pytest.mark.parametrize(
    ("rewards", "method", "wanted"),
    [
        # A_credit_and_rewards.md 0.3: verl, then TRL's eps
        ([1, 0, 0, 1, 0], GRPO(), [1.095443, -0.730295, -0.730295, 1.095443, -0.730295]),
        ([1, 0, 0, 1, 0], GRPO(eps=1e-4), [1.095245, -0.730163, -0.730163, 1.095245, -0.730163]),
        # B_losses_and_tokens.md A5: eps 1e-6, 1e-4, population std; A6: Dr. GRPO
        ([1, 0, 0, 1], GRPO(), [0.866024, -0.866024, -0.866024, 0.866024]),
        ([1, 0, 0, 1], GRPO(eps=1e-4), [0.865875, -0.865875, -0.865875, 0.865875]),
        ([1, 0, 0, 1], GRPO(ddof=0), [0.999998, -0.999998, -0.999998, 0.999998]),
        ([1, 0, 0, 1], GRPO(normalize="mean"), [0.5, -0.5, -0.5, 0.5]),
    ],
)
def test_grpo_numbers(rewards, method, wanted):
    assert method(one_turn_episodes(rewards)) == pytest.approx(wanted, abs=1e-6)


def test_turn_statistics_of_a_group():
    """A_credit_and_rewards.md section 2 (``fl_turn``): rewards 1, 0 with 2 and 3 turns."""
    table = TurnTable(group=[0] * 5, trajectory=[0, 0, 1, 1, 1], turn=[0, 1, 0, 1, 2], reward=[0, 1, 0, 0, 0])
    assert GRPO(unit="turn")(table) == pytest.approx([1.095443, 1.095443, -0.730295, -0.730295, -0.730295], abs=1e-6)
    assert GRPO()(table) == pytest.approx([0.707106, 0.707106, -0.707106, -0.707106, -0.707106], abs=1e-6)


def sheet_table(**more):
    """A_credit_and_rewards.md 1.6: one task, rows A0, A1, B0, B1, B2, C0, C1."""
    return TurnTable(
        group=["q"] * 7,
        trajectory=list("AABBBCC"),
        turn=[0, 1, 0, 1, 2, 0, 1],
        reward=[0, 1, 0, 0, 0, 0, 1],
        state=["s0", "s1", "s0", "s1", "s2", "s0", "s2"],
        **more,
    )


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (GRPO(), [0.577349, 0.577349, -1.154699, -1.154699, -1.154699, 0.577349, 0.577349]),
        (GRPO(unit="turn"), [0.801782, 0.801782, -1.069043, -1.069043, -1.069043, 0.801782, 0.801782]),
        (GiGPO(), [1.154698, 1.284455, -2.309397, -1.861804, -1.861804, 1.154698, 1.284455]),
        (GiGPO(unit="turn"), [1.379131, 1.508888, -2.223741, -1.776149, -1.776149, 1.379131, 1.508888]),
        (
            GiGPO(unit="turn", normalize="mean"),
            [0.745238, 0.928571, -1.204762, -1.071429, -1.071429, 0.745238, 0.928571],
        ),
    ],
)
def test_gigpo_numbers(method, wanted):
    assert method(sheet_table()) == pytest.approx(wanted, abs=1.5e-6)


def test_parts_of_gigpo():
    table = sheet_table()
    assert table.returns_to_go(0.95) == pytest.approx([0.95, 1, 0, 0, 0, 0.95, 1])
    turn = GiGPO()(table) - GRPO()(table)
    assert turn == pytest.approx([0.577349, 0.707106, -1.154698, -0.707106, -0.707106, 0.577349, 0.707106], abs=1e-6)
    centred = GiGPO(normalize="mean")(table) - GRPO(normalize="mean")(table)
    assert centred == pytest.approx([0.316667, 0.5, -0.633333, -0.5, -0.5, 0.316667, 0.5], abs=1e-6)
    assert np.array_equal(GiGPO(step_weight=0.0)(table), GRPO()(table))
    assert GiGPO(step_weight=2.0)(table) == pytest.approx(GRPO()(table) + 2 * turn)
    as_observation = table.with_columns(observation=["s0", "s1", "s0", "s1", "s2", "s0", "s2"])
    assert np.array_equal(GiGPO(key="observation")(as_observation), GiGPO()(table))


def test_a_long_failure_counts_no_more_than_a_short_success():
    """verl_agent.md 5.3: 4 wins of 12 turns and 4 failures of 50, reward 10."""
    lengths, rewards = [12] * 4 + [50] * 4, [10.0] * 4 + [0.0] * 4
    trajectory = np.repeat(np.arange(8), lengths)
    turn = np.concatenate([np.arange(n) for n in lengths])
    last = turn == np.repeat(lengths, lengths) - 1
    reward = np.where(last, np.repeat(rewards, lengths), 0.0)
    table = TurnTable(group=np.zeros(248, dtype=int), trajectory=trajectory, turn=turn, reward=reward)
    wins = trajectory < 4
    assert GRPO()(table)[wins] == pytest.approx(0.935414, abs=1e-6) and GRPO()(table)[~wins] == pytest.approx(-0.935414)
    by_turn = GRPO(unit="turn")(table)
    assert by_turn[wins] == pytest.approx(2.04, abs=5e-3) and by_turn[~wins] == pytest.approx(-0.49, abs=5e-3)


# ---- edges ---------------------------------------------------------------------------------------------------------


def test_the_penalty_stays_with_its_turn():
    """Subtracted after discounting: the earlier turn's return does not see it."""
    table = sheet_table(penalty=[0, 0.1, 0, 0, 0, 0, 0])
    plain = GiGPO(normalize="mean", step_weight=1.0)
    turn = plain(table) - GRPO(normalize="mean")(table)
    assert turn[[0, 2, 5]] == pytest.approx([0.316667, -0.633333, 0.316667], abs=1e-6)  # s0 as without penalty
    assert turn[[1, 3]] == pytest.approx([0.45, -0.45])  # s1: 0.9 against 0
    score = GRPO(normalize="mean")(table)
    mean = ((1 + 0.9) / 2 + 0 + 1) / 3
    assert score == pytest.approx([1 - mean, 0.9 - mean, -mean, -mean, -mean, 1 - mean, 1 - mean])


def test_a_group_of_one_gives_zero_or_the_raw_score():
    table = TurnTable(group=["q"] * 2, trajectory=["a"] * 2, turn=[0, 1], reward=[0, 3], penalty=[0.5, 0], state=[1, 2])
    assert GRPO()(table).tolist() == [0, 0] and GiGPO()(table).tolist() == [0, 0]
    assert GRPO(singleton="raw")(table).tolist() == [2.5, 3.0]
    assert GiGPO(singleton="raw")(table).tolist() == [2.5, 3.0]


def test_a_state_visited_once_or_without_key_has_no_turn_advantage():
    table = sheet_table().with_columns(state=["s0", "s1", None, "s2", "s3", -1, None])
    assert np.array_equal(GiGPO()(table), GRPO()(table))


def test_equal_states_of_different_groups_are_not_compared():
    table = TurnTable(group=["p", "q"], trajectory=["a", "b"], turn=[0, 0], reward=[0.0, 1.0], state=["s", "s"])
    assert GiGPO()(table).tolist() == [0, 0]


@pytest.mark.parametrize("normalize", ["mean_std", "mean"])
@pytest.mark.parametrize("unit", ["trajectory", "turn"])
def test_no_variance_is_exactly_zero(normalize, unit):
    """Late in training all members of a group succeed: identical returns 10·0.95^k must not become rounding noise."""
    for n_members in (2, 3, 5, 7, 8):
        trajectory, turn = np.divmod(np.arange(n_members * 50), 50)
        table = TurnTable(
            group=np.zeros(n_members * 50, dtype=int),
            trajectory=trajectory,
            turn=turn,
            reward=np.where(turn == 49, 10.0, 0.0),
            state=turn,
        )
        assert not GiGPO(normalize=normalize, unit=unit)(table).any()
        assert not GiGPO(normalize=normalize, unit=unit, eps=0.0)(table).any()


def test_metrics():
    table = sheet_table().with_columns(state=["s0", "s1", "s0", "s2", None, "s0", "s3"])
    found = GiGPO().metrics(table)
    assert found["credit/anchor_size_mean"] == 6 / 4 and found["credit/anchor_singleton_share"] == 3 / 6
    assert found["credit/anchor_none_share"] == 1 - 6 / 7 and found["credit/anchor_size_2_3"] == 3 / 6
    nothing = GiGPO().metrics(table.with_columns(state=[None] * 7))
    assert nothing["credit/anchor_size_mean"] == 0 and nothing["credit/anchor_none_share"] == 1


def test_hyper_parameters_are_checked():
    assert validate(GiGPO, {"gamma": 1, "key": "observation"}, "algorithm.credit") == GiGPO(1.0, key="observation")
    with pytest.raises(ConfigError, match=r"algorithm.credit.gamma: .*less than or equal to 1; got 1.5"):
        validate(GiGPO, {"gamma": 1.5}, "algorithm.credit")
    with pytest.raises(ConfigError, match=r"algorithm.credit has no parameter 'gama'. Did you mean 'gamma'"):
        validate(GiGPO, {"gama": 0.9}, "algorithm.credit")
    with pytest.raises(
        ConfigError, match=r"algorithm.credit has no parameter 'remedies'"
    ):  # of the class, for messages
        validate(GiGPO, {"remedies": {}}, "algorithm.credit")


@pytest.mark.parametrize("credit", [name for name in names("credit") if hasattr(get("credit", name), "eps")])
def test_an_eps_that_would_make_every_advantage_zero_is_refused(credit: str) -> None:
    with pytest.raises(ConfigError, match=r"algorithm.credit.eps: .*finite number; got inf"):
        needed = {"alpha": 0.5} if credit == "stratified_grpo" else {}  # has no default
        validate(get("credit", credit), {"eps": math.inf, **needed}, "algorithm.credit")


@pytest.mark.parametrize("credit", ["spo", "bnpo"])
def test_rewards_without_bounds_are_refused_where_bounds_are_wanted(credit: str) -> None:
    def made(**changes: Any) -> Methods:
        return build.methods(AlgorithmTable(credit={"name": credit}, **changes), state_keys=True)

    with pytest.raises(ConfigError, match=r"algorithm.rewards\[1\] \(KLInReward\) gives rewards without bounds, and"):
        made(rewards=[{"name": "invalid_action"}, {"name": "kl", "coef": 0.1}])
    made(rewards=[{"name": "invalid_action"}, {"name": "overlong", "longest": 9, "buffer": 3}])
    made(regularizers=[{"name": "kl", "coef": 0.1}])


@pytest.mark.parametrize(
    ("cls", "parameters", "words"),
    [
        (GiGPO, {"gamma": "0.9"}, "algorithm.gamma: a number is wanted; got '0.9'"),
        (GiGPO, {"step_weight": True}, "algorithm.step_weight: a number is wanted; got True"),
        (GiGPO, {"ddof": True}, "algorithm.ddof: a number is wanted; got True"),
        (HGPO, {"alpha": math.nan}, "algorithm.alpha: a number is wanted; got nan"),
        (HGPO, {"base_group": "yes"}, "algorithm.base_group: true or false is wanted; got 'yes'"),
        (HGPO, {"base_group": 1}, "algorithm.base_group: true or false is wanted; got 1"),
        (
            KLInReward,
            {"coef": {"rule": "linear", "start": "0", "end": 1.0, "over": 3}},
            "algorithm.coef.start: a number",
        ),
    ],
)
def test_nothing_is_made_of_text_and_no_number_is_nan(cls: Any, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(cls, parameters, "algorithm")


# ---- against a slow reference --------------------------------------------------------------------------------------


def slow_normalize(scored, everyone, *, weight_of, n, scale, ddof, singleton):
    """(x - mean) / (std + 1e-6) of one group by its formula; scored and everyone are lists of (row, value)."""
    values = [value for _, value in everyone]
    if n <= 1:
        return {row: value if singleton == "raw" else 0.0 for row, value in scored}
    if max(values) - min(values) <= 1e-12 * max(abs(value) for value in values):
        return {row: 0.0 for row, _ in scored}
    mean = sum(weight_of[row] * value for row, value in everyone) / n
    if scale == "mean":
        return {row: value - mean for row, value in scored}
    variance = sum(weight_of[row] * (value - mean) ** 2 for row, value in everyone) / (n - ddof)
    return {row: (value - mean) / (variance**0.5 + 1e-6) for row, value in scored}


def slow_episode(rows, unit, scale, ddof, singleton):
    result = {}
    for group in {row["group"] for row in rows}:
        members = [(i, row) for i, row in enumerate(rows) if row["group"] == group]
        scored = []
        for i, row in members:
            own = sorted(
                (each["turn"], each["reward"]) for _, each in members if each["trajectory"] == row["trajectory"]
            )
            scored.append((i, sum(reward for _, reward in own) - row["penalty"]))
        length = {i: sum(1 for _, each in members if each["trajectory"] == row["trajectory"]) for i, row in members}
        weight = {i: 1 / length[i] if unit == "trajectory" else 1.0 for i, _ in members}
        n = len({row["trajectory"] for _, row in members}) if unit == "trajectory" else len(members)
        result |= slow_normalize(scored, scored, weight_of=weight, n=n, scale=scale, ddof=ddof, singleton=singleton)
    return [result[i] for i in range(len(rows))]


def slow_turn(rows, gamma, scale, ddof):
    result = {}
    for i, row in enumerate(rows):
        if row["state"] is None:
            result[i] = 0.0
            continue
        visits = []
        for j, other in enumerate(rows):
            if (other["group"], other["state"]) == (row["group"], row["state"]):
                later = [each for each in rows if each["trajectory"] == other["trajectory"]]
                later = [each for each in later if each["turn"] >= other["turn"]]
                value = sum(gamma ** (each["turn"] - other["turn"]) * each["reward"] for each in later)
                visits.append((j, value - other["penalty"]))
        own = [(j, value) for j, value in visits if j == i]
        weight = {j: 1.0 for j, _ in visits}
        result |= slow_normalize(own, visits, weight_of=weight, n=len(visits), scale=scale, ddof=ddof, singleton="zero")
    return [result[i] for i in range(len(rows))]


REWARD = st.sampled_from([0.0, 0.0, 1.0, 10.0, -0.5, 0.1, 0.25])
PENALTY = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.5])
STATE = st.sampled_from(["s", "t", "u", None])


@st.composite
def episodes(draw):
    """Ragged groups, singletons among them, 1 to 5 turns, rows in any order; some groups with equal rewards."""
    rows = []
    for group in range(draw(st.integers(1, 3))):
        same = draw(st.booleans())
        for member in range(draw(st.integers(1, 4))):
            n_turns = draw(st.integers(1, 5))
            for turn in range(n_turns):
                reward = (10.0 if turn == n_turns - 1 else 0.0) if same else draw(REWARD)
                rows.append(
                    {
                        "group": f"g{group}",
                        "trajectory": f"g{group}m{member}",
                        "turn": turn,
                        "reward": reward,
                        "penalty": 0.0 if same else draw(PENALTY),
                        "state": draw(STATE),
                    }
                )
    return draw(st.permutations(rows))


def as_table(rows):
    return TurnTable(**{name: [row[name] for row in rows] for name in rows[0]})


@settings(max_examples=150, deadline=None)
@given(
    rows=episodes(),
    unit=st.sampled_from(["trajectory", "turn"]),
    scale=st.sampled_from(["mean_std", "mean"]),
    ddof=st.sampled_from([0, 1]),
    singleton=st.sampled_from(["zero", "raw"]),
    gamma=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    step_weight=st.sampled_from([0.0, 1.0, 0.8]),
)
def test_fast_equals_slow(rows, unit, scale, ddof, singleton, gamma, step_weight):
    table = as_table(rows)
    if "state" not in table:
        table = table.with_columns(state=[row["state"] for row in rows])
    options = {"unit": unit, "normalize": scale, "ddof": ddof, "singleton": singleton}
    episode, turn = slow_episode(rows, unit, scale, ddof, singleton), slow_turn(rows, gamma, scale, ddof)
    joint = [a + step_weight * b for a, b in zip(episode, turn, strict=True)]
    assert GRPO(**options)(table) == pytest.approx(episode, rel=1e-9, abs=1e-9)
    assert GiGPO(gamma=gamma, step_weight=step_weight, **options)(table) == pytest.approx(joint, rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(rows=episodes(), data=st.data(), unit=st.sampled_from(["trajectory", "turn"]))
def test_the_order_of_rows_does_not_matter(rows, data, unit):
    order = data.draw(st.permutations(range(len(rows))))
    for method in (GRPO(unit=unit), GiGPO(unit=unit)):
        first, again = method(as_table(rows)), method(as_table([rows[i] for i in order]))
        assert again == pytest.approx(first[list(order)], rel=1e-12, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(rows=episodes())
def test_advantages_of_a_group_cancel(rows):
    """Over a group with each trajectory counted once, and over the turns of an anchor group, they sum to zero."""
    table = as_table(rows)
    advantage = GRPO()(table)
    once = np.bincount(table["trajectory"], advantage) / table.n_turns
    assert np.bincount(table.group_of_trajectory, once) == pytest.approx(np.zeros(table.n_groups), abs=1e-9)
    turn, anchor = GiGPO()(table) - advantage, table.group_by("group", "state")
    keyed = anchor >= 0
    assert np.bincount(anchor[keyed], turn[keyed]) == pytest.approx(np.zeros(anchor.max() + 1), abs=1e-9)
