"""Credit of turns: the sheets' numbers, and slow references written from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from credit_reference import (
    as_table,
    by_trajectory,
    episodes,
    episodes_of,
    mean,
    members,
    own_turns,
    standardize,
    to_go,
    total,
    whitened,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algorithms.credit import EMPG, GRPO, HGPO, MTGRPO, BiasedMTGRPO, GiGPO, ReturnToGo, TurnGAE
from agentrl.algorithms.credit.turn_gae import token_advantages
from agentrl.algorithms.method import check_columns
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError

# ---- numbers of the method sheets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entropy", "options", "wanted"),
    [
        # A_credit_and_rewards.md 4
        ([[0.2, 0.6], [1.0, 0.4, 0.8]], {}, [1.577489, 0.906916, -0.525647, -1.193264, -0.765494]),
        # agentflow_search.md V5
        ([[0.2, 0.6, 1.0], [0.4, 1.0]], {}, [1.370606, 0.716401, 0.297293, -1.502905, -0.881396]),
        ([[0.2, 0.6, 1.0], [0.4, 1.0]], {"zeta": 0.05}, [1.353703, 0.711430, 0.310716, -1.507876, -0.867973]),
        (
            [[0.2, 0.6, 1.0], [0.4, 1.0]],
            {"k": 2.0, "k_prime": 0.5},
            [1.926016, 0.500998, -0.077552, -1.669102, -0.680360],
        ),
        ([[0.5, 0.5], [0.5]], {}, [0.733333, 0.633333, -1.366667]),
    ],
)
def test_empg_numbers(entropy, options, wanted):
    table = modulated(entropy)
    assert EMPG(**options)(table) == pytest.approx(wanted, abs=1e-6)


def modulated(entropy):
    """Two trajectories with advantages 1 and -1."""
    lengths = [len(each) for each in entropy]
    advantage = np.repeat([1.0, -1.0], lengths)
    return episodes_of(["q"] * 2, lengths, [0, 0], entropy=[e for each in entropy for e in each], advantage=advantage)


def test_parts_of_empg():
    table, method = modulated([[0.2, 0.6], [1.0, 0.4, 0.8]]), EMPG()
    assert method.relative_entropy(table) == pytest.approx([0, 0.5, 1, 0.25, 0.75])
    assert method.scale(table) == pytest.approx([1.550110, 0.940189, 0.570254, 1.207227, 0.732220], abs=1e-6)
    assert method.bonus(table) == pytest.approx([0.606531, 0, 0.778801, 0.472367, 0], abs=1e-6)
    final = EMPG()(modulated([[0.2, 0.6, 1.0], [0.4, 1.0]]))
    assert np.average(final, weights=[10, 2, 1, 4, 3]) == pytest.approx(0.339017, abs=1e-6)  # V5: not 0 over tokens


def credit(method, table):
    """The advantages of a method, whether it gives further columns or not."""
    found = method(table)
    return found["advantage"] if isinstance(found, dict) else found


def test_turn_gae_numbers():
    """B_losses_and_tokens.md A4 and agentflow_search.md V7, a row in place of a token; then normalised."""
    table = episodes_of(["q"], [3], [1], value=[0.5, 0.4, 0.6], n_tokens=[1] * 3)
    method = TurnGAE(gamma=1.0, lam=0.95, normalize="none")
    assert credit(method, table) == pytest.approx([0.451, 0.58, 0.4])
    assert method(table)["returns"] == pytest.approx([0.951, 0.98, 1.0])
    whitened_and_charged = TurnGAE(gamma=1.0, lam=0.95)(table.with_columns(penalty=[0, 0, 0.1]))
    assert whitened_and_charged["returns"] == pytest.approx([0.951, 0.98, 1.0])
    assert credit(TurnGAE(gamma=1.0, lam=0.95), table) == pytest.approx([-0.280251, 1.110225, -0.829974], abs=1e-6)
    four = episodes_of(["q"], [4], [1], value=[0.2, 0.3, 0.9, 0.5])
    assert credit(method, four) == pytest.approx([0.7376875, 0.67125, 0.075, 0.5])
    gap = TurnTable(group=[0] * 3, trajectory=[0] * 3, turn=[0, 1, 3], reward=[0, 0, 1], value=[0.2, 0.3, 0.5])
    assert credit(method, gap) == pytest.approx(
        [0.741250 - 0.95 * 0.95 * 0.5 * (1 - 0.95), 0.675 - 0.95 * 0.5 * (1 - 0.95), 0.5]
    )


def test_from_turns_to_tokens():
    """The chain of a turn starts anew from the turn's advantage at its last token."""
    values, row = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85], [0, 0, 0, 1, 1, 2]
    found = token_advantages(np.array([0.5, -0.2, 0.15]), np.array(values), np.array(row), gamma=1.0, lam=0.5)
    last, middle = 0.5, 0.4 - 0.25 + 0.5 * 0.5
    assert found == pytest.approx([0.25 - 0.1 + 0.5 * middle, middle, last, 0.7 - 0.55 + 0.5 * -0.2, -0.2, 0.15])
    # with one discount for both levels and lam = 1 it is plain Monte Carlo less the value of each token
    turns = credit(TurnGAE(gamma=1.0, normalize="none"), episodes_of(["q"], [3], [1], value=[0.4, 0.7, 0.85]))
    assert token_advantages(turns, np.array(values), np.array(row)) == pytest.approx(1 - np.array(values))


# ---- properties ------------------------------------------------------------------------------------------------------


def test_hgpo_without_history_is_the_turn_part_of_gigpo():
    table = episodes_of(["q"] * 3, [2, 3, 2], [1, 0, 1], state=list("stsurtu"))
    assert HGPO(history=0, ddof=1)(table) == pytest.approx(GiGPO()(table) - GRPO()(table))


def test_hgpo_weighs_longer_histories_more():
    """s reached by t twice and by u once: level 1 compares all three, level 2 the two, with weights 2 and 3."""
    table = episodes_of(["q"] * 3, [2] * 3, [1, 0, 0], state=list("tstsus"))
    found = HGPO(history=2, gamma=1.0, normalize="mean")(table)
    assert found[[1, 3]] == pytest.approx([(2 * 2 / 3 + 3 * 0.5) / 5, (2 * -1 / 3 + 3 * -0.5) / 5])
    assert found[5] == pytest.approx(-1 / 3)  # no level 2: alone
    based = HGPO(history=0, gamma=1.0, normalize="mean", base_group=True)(table)
    assert based[1] == pytest.approx((1 * 2 / 3 + 2 * 2 / 3) / 3)
    sizes = HGPO(history=1).metrics(table)
    assert sizes["credit/level_1_size_mean"] == 2 and sizes["credit/level_2_none_share"] == 0.5


def test_credit_needs_what_it_compares_with():
    with pytest.raises(ConfigError, match=r"TurnGAE reads the column 'value'.*critic"):
        check_columns([TurnGAE()])
    with pytest.raises(ConfigError, match="EMPG reads the column 'advantage'"):
        check_columns([EMPG()])
    check_columns([GRPO(), EMPG()])
    with pytest.raises(ConfigError, match=r"HGPO reads the column 'state'.*state_key"):
        check_columns([HGPO()])


def test_mt_grpo_by_hand():
    """Turn rewards 0.5, 0.5 then outcome 1; outcome 0 at once. The short one is charged for neither more nor less."""
    table = TurnTable(group=["q"] * 4, trajectory=list("AAAB"), turn=[0, 1, 2, 0], reward=[0.5, 0.5, 1.0, 0.0])
    assert MTGRPO()(table).tolist() == [2.0, 1.5, 1.0, -2.0]
    assert MTGRPO(turn_weight=0.0)(table).tolist() == [1.0, 1.0, 1.0, -1.0]
    # two trajectories: the std of (1, 0) and of (0.5, 0) cancels the size of a reward
    assert MTGRPO(normalize="mean_std", eps=0.0)(table) == pytest.approx(np.array([2, 2, 1, -2]) * 2**0.5)
    two = TurnTable(group=["q"] * 4, trajectory=list("AABB"), turn=[0, 1, 0, 1], reward=[1.0, 1.0, 0.0, 0.0])
    usual = BiasedMTGRPO()(two)  # two turns, as in the paper: turn rewards and outcomes each normalised, then added
    assert usual == pytest.approx(np.array([2, 1, -2, -1]) * 0.7071067, rel=2e-4)


def test_return_to_go_by_hand():
    table = episodes_of(["q"] * 3, [1, 3, 3], [1, 0, 1])
    assert ReturnToGo()(table) == pytest.approx([0.5, -1, -1, -1, 0.5, 1, 1])
    assert ReturnToGo(baseline="group")(table) == pytest.approx([0.5, -1, -0.5, -0.5, 0.5, 1, 1])
    assert ReturnToGo(baseline="none", gamma=0.5)(table).tolist() == [1, 0, 0, 0, 0.25, 0.5, 1]
    alone = episodes_of(["q"] * 2, [1, 2], [0, 1])
    assert ReturnToGo()(alone).tolist() == [-1, 1, 0] and ReturnToGo(singleton="raw")(alone).tolist() == [-1, 1, 1]


def test_empg_goes_with_any_other():
    table = episodes_of(["q"] * 3, [2, 3, 2], [1, 0, 1], state=list("stsurtu"), entropy=[0.3] * 7)
    for method in (GRPO(), GiGPO(), ReturnToGo()):
        advantage = method(table)
        found = EMPG(zeta=0.0)(table.with_columns(advantage=advantage))
        assert found == pytest.approx(advantage - advantage.mean())  # equal entropies change nothing but the centre


# ---- against slow references -----------------------------------------------------------------------------------------


def slow(method, rows):
    """The advantages of a method by its formula, row by row."""
    match method:
        case HGPO():
            return [slow_hgpo(method, rows, i) for i in range(len(rows))]
        case MTGRPO():
            return [slow_mt_grpo(method, rows, row) for row in rows]
        case BiasedMTGRPO():
            return slow_biased(method, rows)
        case ReturnToGo():
            return [slow_return_to_go(method, rows, row) for row in rows]
        case TurnGAE():
            values = [slow_gae(method, rows, row) - row["penalty"] for row in rows]
            return whitened(rows, values, method.unit) if method.normalize == "mean_std" else values
        case EMPG():
            return slow_empg(method, rows)
    raise AssertionError(method)


def last_states(rows, row, k):
    own = own_turns(rows, row)
    place = own.index(row)
    states = tuple(each["state"] for each in own[max(place - k + 1, 0) : place + 1])
    return states if len(states) == k and None not in states else None


def slow_hgpo(method, rows, i):
    values = [to_go(rows, row, method.gamma) - row["penalty"] for row in rows]
    found = []
    if method.base_group:
        score = [total(rows, row) - row["penalty"] for row in rows]
        found.append((1.0, by_trajectory(rows, i, score, ["group"], ddof=method.ddof)))
    for k in range(1, method.history + 2):
        key = last_states(rows, rows[i], k)
        same = [
            value
            for row, value in zip(rows, values, strict=True)
            if key is not None and row["group"] == rows[i]["group"] and last_states(rows, row, k) == key
        ]
        if same:
            found.append(((k + 1) ** method.alpha, standardize(values[i], same, ddof=method.ddof)))
    found = [(weight, value) for weight, value in found if abs(value) > 1e-9]
    return sum(w * value for w, value in found) / sum(w for w, _ in found) if found else 0.0


def split(rows, row):
    """Outcome of the row's trajectory, and its earlier rewards from the row's turn on, by turn."""
    own = own_turns(rows, row)
    return own[-1]["reward"], {each["turn"]: each["reward"] for each in own[:-1]}


def slow_mt_grpo(method, rows, row):
    firsts = [rows[each[0]] for each in members(rows, row, "group").values()]
    others = [each for each in firsts if each["trajectory"] != row["trajectory"]]
    if not others:
        return 0.0

    def later(each):
        rewards = split(rows, each)[1]
        return sum(method.gamma ** (t - row["turn"]) * r for t, r in rewards.items() if t >= row["turn"])

    penalty = [mean(each["penalty"] for each in own_turns(rows, other)) for other in others]
    outcomes = [split(rows, other)[0] - charge for other, charge in zip(others, penalty, strict=True)]
    turn = later(row) - mean(later(other) for other in others)
    return split(rows, row)[0] - row["penalty"] - mean(outcomes) + method.turn_weight * turn


def slow_biased(method, rows):
    outcome = [split(rows, row)[0] - row["penalty"] for row in rows]
    compared = []
    for row in rows:
        earlier = split(rows, row)[1]
        same = [other for other in rows if (other["group"], other["turn"]) == (row["group"], row["turn"])]
        same = [other["reward"] for other in same if other["turn"] in split(rows, other)[1]]
        is_last = row["turn"] not in earlier
        compared.append(0.0 if is_last else standardize(row["reward"], same, eps=method.eps))
    with_compared = [{**row, "compared": value} for row, value in zip(rows, compared, strict=True)]
    return [
        by_trajectory(rows, i, outcome, ["group"], eps=method.eps)
        + method.turn_weight * to_go(with_compared, with_compared[i], method.gamma, "compared")
        for i in range(len(rows))
    ]


def slow_return_to_go(method, rows, row):
    own = to_go(rows, row, method.gamma) - row["penalty"]
    others = [each for each in rows if each["group"] == row["group"] and each["trajectory"] != row["trajectory"]]
    reached = [to_go(rows, each, method.gamma) - each["penalty"] for each in others if each["turn"] == row["turn"]]
    n = len(reached) if method.baseline == "turn" else len({each["trajectory"] for each in others})
    return own - sum(reached) / n if n else 0.0


def slow_gae(method, rows, row):
    own = own_turns(rows, row)
    place, result, decay = own.index(row), 0.0, 1.0
    for i in range(place, len(own)):
        ahead = own[i + 1]["value"] if i + 1 < len(own) else 0.0
        result += decay * (own[i]["reward"] + method.gamma * ahead - own[i]["value"])
        decay *= method.gamma * method.lam
    return result


def slow_empg(method, rows):
    entropy = [row["entropy"] for row in rows]
    h = [(e - min(entropy)) / (max(entropy) - min(entropy) + method.eps) for e in entropy]
    sure = [np.exp(-method.k * each) for each in h]
    result = []
    for i, row in enumerate(rows):
        after = [
            j
            for j, other in enumerate(rows)
            if other["trajectory"] == row["trajectory"] and other["turn"] == row["turn"] + 1
        ]
        bonus = np.exp(-method.k_prime * h[after[0]]) if after else 0.0
        result.append(row["advantage"] * sure[i] / (mean(sure) + method.eps) + method.zeta * bonus)
    return [value - mean(result) for value in result]


METHODS = [
    HGPO(),
    HGPO(history=1, alpha=0.0, ddof=1, gamma=1.0),
    HGPO(base_group=True),
    MTGRPO(),
    MTGRPO(gamma=0.9, turn_weight=0.3),
    BiasedMTGRPO(),
    BiasedMTGRPO(gamma=0.9, turn_weight=0.3),
    ReturnToGo(),
    ReturnToGo(gamma=0.9, baseline="group"),
    TurnGAE(lam=0.9),
    TurnGAE(gamma=1.0, normalize="none"),
    TurnGAE(unit="turn"),
    EMPG(),
    EMPG(k=2.0, k_prime=0.5, zeta=0.3),
]


def table_of(rows):
    table = as_table(rows)
    return table if "state" in table else table.with_columns(state=[row["state"] for row in rows])


@settings(max_examples=100, deadline=None)
@given(rows=episodes(), method=st.sampled_from(METHODS))
def test_fast_equals_slow(rows, method):
    assert credit(method, table_of(rows)) == pytest.approx(slow(method, rows), rel=1e-8, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(rows=episodes(), data=st.data(), method=st.sampled_from(METHODS))
def test_the_order_of_rows_does_not_matter(rows, data, method):
    order = data.draw(st.permutations(range(len(rows))))
    first, again = credit(method, table_of(rows)), credit(method, table_of([rows[i] for i in order]))
    assert again == pytest.approx(first[list(order)], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "method", [HGPO(), HGPO(base_group=True), MTGRPO(), BiasedMTGRPO(), ReturnToGo(), ReturnToGo(gamma=0.95)]
)
def test_equal_trajectories_give_exactly_zero(method):
    n = 7
    table = episodes_of(["q"] * n, [5] * n, [0.1 * 3] * n, state=list(range(5)) * n)
    table = table.with_columns(reward=table["reward"] + 0.7 * (table["turn"] == 2))
    assert not method(table).any()
