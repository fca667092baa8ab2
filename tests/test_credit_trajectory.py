"""Credit of whole trajectories: the sheets' numbers, and slow references written from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from credit_reference import (
    as_table,
    by_trajectory,
    episodes,
    episodes_of,
    members,
    one_turn_episodes,
    standardize,
    to_go,
    total,
    whitened,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algorithms.credit import (
    BNPO,
    GRPO,
    NGRPO,
    RLOO,
    DrGRPO,
    FlowGRPO,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    StratifiedGRPO,
)
from agentrl.algorithms.credit.bnpo import beta_parameters
from agentrl.algorithms.method import check_columns
from agentrl.algorithms.normalize import group_means, normalize
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import build

# ---- numbers of the method sheets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "method", "wanted"),
    [
        # B_losses_and_tokens.md A1, A2 (plain, then with the KL of B0 in the reward), A6
        ([1, 0, 0, 1], DrGRPO(), [0.5, -0.5, -0.5, 0.5]),
        ([1, 0, 0, 1], RLOO(), [0.666667, -0.666667, -0.666667, 0.666667]),
        ([1, -0.015, -0.01, 0.995], RLOO(), [0.676667, -0.676667, -0.67, 0.67]),
        # A_credit_and_rewards.md 6: all wrong, one correct, six correct, all correct; 24: plain GRPO of one correct
        ([0] * 8, NGRPO(), [-0.333332] * 8),
        ([1] + [0] * 7, NGRPO(), [1.763830] + [-0.503951] * 7),
        ([1] * 6 + [0] * 2, NGRPO(), [0.503951] * 6 + [-1.763830] * 2),
        ([1] * 8, NGRPO(), [0.0] * 8),
        ([1] + [0] * 7, NGRPO(n_virtual=0), [2.474867] + [-0.353552] * 7),
    ],
)
def test_numbers_of_one_group(rewards, method, wanted):
    assert method(one_turn_episodes(rewards)) == pytest.approx(wanted, abs=1e-6)


def test_ngrpo_in_closed_form():
    """All wrong, one virtual member: -1/√(G+1) with the sample std, -1/√G with the population std."""
    table = one_turn_episodes([0.0] * 5)
    assert NGRPO(eps=0.0)(table) == pytest.approx([-1 / 6**0.5] * 5)
    assert NGRPO(eps=0.0, ddof=0)(table) == pytest.approx([-1 / 5**0.5] * 5)


def test_reinforce_plus_plus_numbers():
    """B_losses_and_tokens.md A3 on batch B0, one row a token, so that the KL of each can stand in its reward."""
    rewards = [-0.005, 0.005, 1.0, -0.005, -0.01, 0.005, -0.01, -0.005, 0.995]
    trajectory, turn = [0, 0, 0, 1, 1, 2, 2, 2, 3], [0, 1, 2, 0, 1, 0, 1, 2, 0]
    rows = [
        {"group": "q", "trajectory": i, "turn": t, "reward": r, "n_tokens": 1}
        for i, t, r in zip(trajectory, turn, rewards, strict=True)
    ]
    wanted = [1.054065, 1.063448, 1.054065, -0.850758, -0.841375, -0.841375, -0.850758, -0.831992, 1.044681]
    assert ReinforcePlusPlus()(as_table(rows)) == pytest.approx(wanted, abs=1e-6)


def test_reinforce_plus_plus_baseline_numbers():
    """The same batch with one row an answer: answers of 3, 2, 3 and 1 tokens."""
    table = one_turn_episodes([1, 0, 0, 1], n_tokens=[3, 2, 3, 1])
    wanted = [1.054093, -0.843274, -0.843274, 1.054093]
    assert ReinforcePlusPlusBaseline()(table) == pytest.approx(wanted, abs=1e-6)
    once = ReinforcePlusPlusBaseline(unit="trajectory")(table)
    assert once == pytest.approx([0.866025, -0.866025, -0.866025, 0.866025], abs=1e-6)


def test_flow_grpo_numbers():
    """A_credit_and_rewards.md 2 and agentflow_search.md V2: over rollouts, then as released over turns."""
    two = episodes_of(["q"] * 2, [2, 3], [1, 0], success=[True] * 2 + [False] * 3)
    assert FlowGRPO()(two) == pytest.approx([0.707106] * 2 + [-0.707106] * 3, abs=1e-6)
    assert FlowGRPO(unit="turn")(two) == pytest.approx([1.095443] * 2 + [-0.730295] * 3, abs=1e-6)
    assert np.array_equal(FlowGRPO(outcome="success")(two), FlowGRPO()(two))
    three = episodes_of(["q"] * 3, [3, 1, 2], [1, 0, 1])
    assert FlowGRPO(eps=0.0)(three) == pytest.approx([0.577350] * 3 + [-1.154701] + [0.577350] * 2, abs=1e-6)
    assert FlowGRPO(ddof=0)(three)[3] == pytest.approx(-1.414214, abs=4e-6)
    assert FlowGRPO(unit="turn")(three) == pytest.approx([0.408247] * 3 + [-2.041236] + [0.408247] * 2, abs=1e-6)
    four = episodes_of(["q"] * 4, [1, 5, 1, 1], [1, 0, 0, 0])
    assert FlowGRPO()(four) == pytest.approx([1.499997] + [-0.499999] * 7, abs=1e-6)
    assert FlowGRPO(unit="turn")(four) == pytest.approx([2.474867] + [-0.353552] * 7, abs=1e-6)


def test_the_objective_of_flow_grpo():
    """``fl_J``: the clipped surrogate of rollout 1, (1/T) Σ_t (1/|a_t|) Σ_j."""
    advantage = FlowGRPO()(episodes_of(["q"] * 2, [2, 3], [1, 0]))
    terms = []
    for turn, ratios in enumerate([np.array([1.1, 0.9]), np.array([1.5])]):
        a = advantage[turn]
        terms.append(np.minimum(ratios * a, ratios.clip(0.8, 1.3) * a).mean())
    assert np.mean(terms) == pytest.approx(0.813172, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "strata", "options", "wanted"),
    [
        # A_credit_and_rewards.md 3 (sample std): blend, SAN alone, global alone
        (
            [1, 0, 0, 1, 1, 0, 1, 1],
            [1, 1, 1, 2, 2, 2, 2, 3],
            {"alpha": 0.8, "ddof": 1, "eps": 1e-8},
            [1.068674, -0.703403, -0.703403, 0.544914, 0.544914, -1.441523, 0.544914, 0.144914],
        ),
        (
            [1, 0, 0, 1, 1, 0, 1, 1],
            [1, 1, 1, 2, 2, 2, 2, 3],
            {"alpha": 1.0, "ddof": 1, "eps": 1e-8},
            [1.154701, -0.577350, -0.577350, 0.5, 0.5, -1.5, 0.5, 0.0],
        ),
        (
            [1, 0, 0, 1, 1, 0, 1, 1],
            [1, 1, 1, 2, 2, 2, 2, 3],
            {"alpha": 0.0, "ddof": 1, "eps": 1e-8},
            [0.724569, -1.207615, -1.207615, 0.724569, 0.724569, -1.207615, 0.724569, 0.724569],
        ),
        # agentflow_search.md V4a: SAN, then blends with eps 1e-6, population and sample std
        (
            [1, 0, 0, 0, 1, 1, 1, 0],
            [1] * 4 + [2] * 4,
            {"alpha": 1.0, "eps": 0.0},
            [1.732051, -0.57735, -0.57735, -0.57735, 0.57735, 0.57735, 0.57735, -1.732051],
        ),
        (
            [1, 0, 0, 0, 1, 1, 1, 0],
            [1] * 4 + [2] * 4,
            {"alpha": 0.5},
            [1.366022, -0.788673, -0.788673, -0.788673, 0.788673, 0.788673, 0.788673, -1.366022],
        ),
        (
            [1, 0, 0, 0, 1, 1, 1, 0],
            [1] * 4 + [2] * 4,
            {"alpha": 0.8},
            [1.585637, -0.661879, -0.661879, -0.661879, 0.661879, 0.661879, 0.661879, -1.585637],
        ),
        (
            [1, 0, 0, 0, 1, 1, 1, 0],
            [1] * 4 + [2] * 4,
            {"alpha": 0.8, "ddof": 1},
            [1.387080, -0.587082, -0.587082, -0.587082, 0.587082, 0.587082, 0.587082, -1.387080],
        ),
        # V4b: two strata of one
        (
            [1, 0, 0, 1, 1, 0, 0, 0],
            [1, 1, 1, 2, 2, 2, 3, 4],
            {"alpha": 1.0, "eps": 0.0},
            [1.414214, -0.707107, -0.707107, 0.707107, 0.707107, -1.414214, 0.0, 0.0],
        ),
        (
            [1, 0, 0, 1, 1, 0, 0, 0],
            [1, 1, 1, 2, 2, 2, 3, 4],
            {"alpha": 0.5, "eps": 0.0},
            [1.352604, -0.740852, -0.740852, 0.999051, 0.999051, -1.094406, -0.387298, -0.387298],
        ),
        (
            [1, 0, 0, 1, 1, 0, 0, 0],
            [1, 1, 1, 2, 2, 2, 3, 4],
            {"alpha": 0.8, "ddof": 1},
            [1.165281, -0.606793, -0.606793, 0.703402, 0.703402, -1.068672, -0.144913, -0.144913],
        ),
        # V4d: graded rewards
        ([0, 0.5, 1, 0.2, 0.8], [1, 1, 1, 2, 2], {"alpha": 1.0, "eps": 0.0}, [-1.224745, 0.0, 1.224745, -1.0, 1.0]),
        (
            [0, 0.5, 1, 0.2, 0.8],
            [1, 1, 1, 2, 2],
            {"alpha": 0.0, "eps": 0.0},
            [-1.355815, 0.0, 1.355815, -0.813489, 0.813489],
        ),
    ],
)
def test_stratified_numbers(rewards, strata, options, wanted):
    table = one_turn_episodes(rewards, stratum=strata)
    assert StratifiedGRPO(**options)(table) == pytest.approx(wanted, abs=1e-6 if options.get("eps") != 0.0 else 4e-6)


def test_bnpo_numbers():
    """A_credit_and_rewards.md 7: success rates 1/4, 1/2, 3/4, then six more uneven ones."""
    rewards = [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    table = episodes_of(list("aaaabbbbcccc"), [1] * 12, rewards)
    assert beta_parameters(np.array([0.25, 0.5, 0.75])) == pytest.approx((1.5, 1.5))
    assert BNPO().weights(np.array([0.25, 0.5, 0.75])) == pytest.approx([0.9069, 0.785398, 0.9069], abs=1e-6)
    found = BNPO()(table)
    assert found[[0, 1]] == pytest.approx([0.680175, -0.226725], abs=1e-6)
    assert found[[4, 6]] == pytest.approx([0.392699, -0.392699], abs=1e-6)
    assert found[[8, 11]] == pytest.approx([0.226725, -0.680175], abs=1e-6)
    six = np.array([0.25, 0.5, 0.75, 0.9, 0.1, 0.4])
    assert beta_parameters(six) == pytest.approx((1.282635, 1.302128), abs=1e-6)
    wanted = [0.922298, 0.857021, 0.942261, 1.180376, 1.130890, 0.863891]
    assert BNPO().weights(six) == pytest.approx(wanted, abs=1e-6)


# ---- properties ------------------------------------------------------------------------------------------------------


def test_bnpo_is_reinforce_and_grpo_at_its_ends():
    """Equal rates, and one group alone: REINFORCE with the group's mean. Rates 0 and 1: advantage 0."""
    alone = one_turn_episodes([1, 0, 0, 1])
    assert BNPO()(alone).tolist() == DrGRPO()(alone).tolist()
    equal = episodes_of(["a", "a", "b", "b"], [1] * 4, [1, 0, 0, 1])
    assert BNPO()(equal).tolist() == DrGRPO()(equal).tolist()
    ends = episodes_of(["a", "a", "b", "b", "c", "c"], [2] * 6, [1, 1, 0, 0, 1, 0])
    found = BNPO()(ends)
    assert found[:8].tolist() == [0.0] * 8 and np.isfinite(found).all() and found[8] > 0 > found[11]
    wide = BNPO(r_min=-10, r_max=10)(episodes_of(["a", "a"], [1, 1], [10, -10]))
    assert wide.tolist() == [0.5, -0.5]


def test_bnpo_takes_no_reward_outside_its_range():
    with pytest.raises(ConfigError, match=r"BNPO wants the reward.*r_max = 1; got 10"):
        BNPO()(one_turn_episodes([0, 10]))
    twenty = TurnTable(group=["q"] * 21, trajectory=[0] * 20 + [1], turn=[*range(20), 0], reward=[0.05] * 20 + [0.0])
    assert twenty.sum_by_trajectory(twenty["reward"])[0] > 1
    assert BNPO()(twenty).tolist() == pytest.approx([0.5] * 20 + [-0.5])
    with pytest.raises(ConfigError, match="r_min below r_max; got 1 and 1"):
        build("credit", {"name": "bnpo", "r_min": 1, "r_max": 1})


def test_a_group_of_one():
    table = episodes_of(["q"], [2], [1], penalty=[0.25, 0.0])
    for method in (DrGRPO, RLOO, FlowGRPO, NGRPO):
        assert method()(table).tolist() == [0, 0] and method(singleton="raw")(table).tolist() == [0.75, 1.0]
    assert BNPO()(table).tolist() == [0, 0] and BNPO(singleton="raw")(table).tolist() == [0.75, 1.0]
    assert StratifiedGRPO(alpha=0.5)(table.with_columns(stratum=[1, 1])).tolist() == [0, 0]


def test_rloo_leaves_out_a_trajectory_and_not_a_row():
    """Two rollouts of 1 and 3 turns: the baseline of each is the other's reward, however long it is."""
    table = episodes_of(["q"] * 2, [1, 3], [1, 0])
    assert RLOO()(table).tolist() == [1, -1, -1, -1]
    assert RLOO(unit="turn")(table) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    charged = episodes_of(["q"] * 2, [1, 2], [1, 0], penalty=[0, 0.4, 0])
    assert RLOO()(charged) == pytest.approx([1.2, -1.4, -1.0])  # the other's mean score is -0.2


def test_stratified_grpo_in_theory():
    """agentflow_search.md 3: (i) to (viii), population std and eps = 0."""
    rewards, strata = [1, 0, 0, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 2, 3, 4]
    table = one_turn_episodes(rewards, stratum=strata)
    san = StratifiedGRPO(alpha=1.0, eps=0.0)(table)
    for stratum in (1, 2):
        inside = san[np.array(strata) == stratum]
        assert inside.mean() == pytest.approx(0) and inside.var() == pytest.approx(1)
    assert san.var() == pytest.approx(6 / 8)  # the share of trajectories in strata that vary
    raw = np.array(rewards, dtype=float)
    affine = table.with_columns(reward=3 * raw + 2)
    assert StratifiedGRPO(alpha=0.6, eps=0.0)(affine) == pytest.approx(StratifiedGRPO(alpha=0.6, eps=0.0)(table))
    one = table.with_columns(stratum=[7] * 8)
    assert StratifiedGRPO(alpha=0.3)(one) == pytest.approx(GRPO(ddof=0)(table))
    assert np.array_equal(StratifiedGRPO(alpha=0.0)(table), GRPO(ddof=0)(table))
    shifted = table.with_columns(reward=raw + 5 * (np.array(strata) == 2))
    assert StratifiedGRPO(alpha=1.0)(shifted) == pytest.approx(StratifiedGRPO(alpha=1.0)(table))
    assert abs(GRPO()(shifted) - GRPO()(table)).max() > 0.1


@pytest.mark.parametrize(
    ("rewards", "strata", "global_variance", "gap"),
    [
        ([1, 0, 0, 1, 1, 0, 1, 1], [1, 1, 1, 2, 2, 2, 2, 3], 0.234375, 0.057292),  # san_var, san_bet
        ([1, 0, 0, 0, 1, 1, 1, 0], [1] * 4 + [2] * 4, 0.25, 0.0625),  # V4a
        ([1, 0, 0, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 2, 3, 4], 0.234375, 0.067708),  # V4b
    ],
)
def test_strata_take_away_the_variance_between_them(rewards, strata, global_variance, gap):
    """Centred only: Var[R - mean] - Var[R - mean of the stratum] = the variance of the strata's means."""
    table = one_turn_episodes(rewards, stratum=strata)
    group, stratum = table["group"], table.group_by("group", "stratum")
    whole = normalize(table.scores(), group, scale="none")
    within = normalize(table.scores(), stratum, scale="none")
    between = group_means(table.scores(), stratum)[stratum]
    assert whole.var() == pytest.approx(global_variance) and whole.var() - within.var() == pytest.approx(gap, abs=1e-6)
    assert between.var() == pytest.approx(gap, abs=1e-6)


def test_strata_are_of_trajectories_and_have_a_producer():
    table = episodes_of(["q"] * 2, [2, 1], [1, 0], stratum=[1, 2, 1])
    with pytest.raises(ConfigError, match="constant within a trajectory, and 0 has more than one value"):
        StratifiedGRPO(alpha=0.5)(table)
    with pytest.raises(ConfigError, match=r"reads the column 'stratum'.*name = \"stratum\""):
        check_columns([StratifiedGRPO(alpha=0.5)])
    check_columns([StratifiedGRPO(alpha=0.5, stratum="success")])
    with pytest.raises(ConfigError, match="alpha is missing: it has no default"):
        build("credit", {"name": "stratified_grpo"})


# ---- against slow references -----------------------------------------------------------------------------------------


def slow(method, rows):
    """The advantages of a method by its formula, row by row."""
    score = [total(rows, row) - row["penalty"] for row in rows]
    everywhere = range(len(rows))
    match method:
        case DrGRPO():
            return [by_trajectory(rows, i, score, ["group"], scale=False) for i in everywhere]
        case RLOO():
            return [slow_rloo(rows, i, score) for i in everywhere]
        case FlowGRPO():
            return [by_trajectory(rows, i, score, ["group"], ddof=method.ddof) for i in everywhere]
        case ReinforcePlusPlus():
            values = [to_go(rows, row, method.gamma) - row["penalty"] for row in rows]
            return whitened(rows, values, method.unit)
        case ReinforcePlusPlusBaseline():
            centred = [by_trajectory(rows, i, score, ["group"], scale=False) for i in everywhere]
            return whitened(rows, centred, method.unit)
        case StratifiedGRPO():
            san = [by_trajectory(rows, i, score, ["group", "stratum"], ddof=method.ddof) for i in everywhere]
            whole = [by_trajectory(rows, i, score, ["group"], ddof=method.ddof) for i in everywhere]
            return [method.alpha * a + (1 - method.alpha) * b for a, b in zip(san, whole, strict=True)]
    raise AssertionError(method)


def slow_rloo(rows, i, score):
    others = [each for name, each in members(rows, rows[i], "group").items() if name != rows[i]["trajectory"]]
    if not others:
        return 0.0
    return score[i] - sum(sum(score[j] for j in each) / len(each) for each in others) / len(others)


METHODS = [
    DrGRPO(),
    RLOO(),
    FlowGRPO(),
    FlowGRPO(ddof=0),
    ReinforcePlusPlus(),
    ReinforcePlusPlus(gamma=0.9, unit="turn"),
    ReinforcePlusPlus(unit="trajectory"),
    ReinforcePlusPlusBaseline(),
    StratifiedGRPO(alpha=0.7),
    StratifiedGRPO(alpha=1.0, ddof=1),
]


@settings(max_examples=100, deadline=None)
@given(rows=episodes(), method=st.sampled_from(METHODS))
def test_fast_equals_slow(rows, method):
    assert method(as_table(rows)) == pytest.approx(slow(method, rows), rel=1e-8, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(rows=episodes(outcome_only=True), ddof=st.sampled_from([0, 1]), n_virtual=st.sampled_from([1, 3]))
def test_ngrpo_equals_slow(rows, ddof, n_virtual):
    rows = [{**row, "penalty": 0.0} for row in rows]
    wanted = []
    for row in rows:
        rewards = [total(rows, rows[each[0]]) for each in members(rows, row, "group").values()]
        value = standardize(total(rows, row), rewards + [1.0] * n_virtual, ddof=ddof)
        wanted.append(value if len(rewards) > 1 else 0.0)
    assert NGRPO(ddof=ddof, n_virtual=n_virtual)(as_table(rows)) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(rows=episodes(outcome_only=True))
def test_bnpo_equals_slow(rows):
    rates = {}
    for row in rows:
        rewards = [total(rows, rows[each[0]]) for each in members(rows, row, "group").values()]
        rates[row["group"]] = sum(rewards) / len(rewards)
    weight = dict(zip(rates, BNPO().weights(np.array(list(rates.values()))), strict=True))
    score = [total(rows, row) - row["penalty"] for row in rows]
    wanted = [
        weight[row["group"]] * by_trajectory(rows, i, score, ["group"], scale=False) for i, row in enumerate(rows)
    ]
    assert BNPO()(as_table(rows)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(rows=episodes(outcome_only=True), data=st.data(), method=st.sampled_from([*METHODS, NGRPO(), BNPO()]))
def test_the_order_of_rows_does_not_matter(rows, data, method):
    order = data.draw(st.permutations(range(len(rows))))
    first, again = method(as_table(rows)), method(as_table([rows[i] for i in order]))
    assert again == pytest.approx(first[list(order)], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", [*METHODS, NGRPO(), BNPO()])
def test_equal_rewards_give_exactly_zero(method):
    """Whatever rounding does: rewards of 0.1 · 3 in groups of seven, episodes of 1 to 7 turns."""
    reward = 1.0 if isinstance(method, NGRPO) else 0.1 * 3
    lengths = [1, 2, 3, 4, 5, 6, 7]
    table = episodes_of(["q"] * 7, lengths, [reward] * 7, stratum=[0] * 28, n_tokens=[3] * 28)
    if not isinstance(method, ReinforcePlusPlus) or method.gamma == 1:
        assert not method(table).any()
