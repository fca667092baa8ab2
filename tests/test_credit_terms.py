"""Why a number is what it is: every method's explanation gives its advantages, and its formulas are true as they are printed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from credit_reference import as_table, episodes, episodes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import registry
from agentrl.algorithms.credit import (
    BNPO,
    EMPG,
    GRPO,
    HGPO,
    MTGRPO,
    NGRPO,
    RLOO,
    SPO,
    BiasedMTGRPO,
    DrGRPO,
    FlowGRPO,
    GiGPO,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    ReturnToGo,
    StratifiedGRPO,
    TurnGAE,
)
from agentrl.algorithms.terms import Comparison, Term, as_json, to_go

METHODS = [
    GRPO(),
    GRPO(normalize="mean", unit="turn"),
    GRPO(singleton="raw", ddof=0, eps=0.0),
    DrGRPO(),
    DrGRPO(unit="turn", singleton="raw"),
    RLOO(),
    RLOO(unit="turn"),
    RLOO(singleton="raw"),
    NGRPO(),
    NGRPO(n_virtual=3, r_max=10.0, ddof=0),
    FlowGRPO(),
    FlowGRPO(outcome="success", unit="turn"),
    StratifiedGRPO(alpha=0.5),
    StratifiedGRPO(alpha=0.25, ddof=1),
    ReinforcePlusPlus(gamma=0.9),
    ReinforcePlusPlus(unit="turn"),
    ReinforcePlusPlus(unit="trajectory", gamma=0.0),
    ReinforcePlusPlusBaseline(),
    ReinforcePlusPlusBaseline(unit="trajectory", singleton="raw"),
    GiGPO(),
    GiGPO(normalize="mean", step_weight=0.5, unit="turn", singleton="raw", key="observation"),
    HGPO(),
    HGPO(history=3, base_group=True, alpha=0.0, normalize="mean"),
    MTGRPO(),
    MTGRPO(normalize="mean_std", gamma=0.9, turn_weight=0.3, singleton="raw"),
    BiasedMTGRPO(),
    BiasedMTGRPO(normalize="mean", gamma=0.9),
    ReturnToGo(),
    ReturnToGo(baseline="group", gamma=0.9, normalize="mean_std"),
    ReturnToGo(baseline="none", gamma=0.5),
    ReturnToGo(singleton="raw"),
    TurnGAE(),
    TurnGAE(normalize="none", lam=0.9),
    TurnGAE(unit="trajectory", gamma=0.5),
    EMPG(),
    EMPG(k=2.0, k_prime=0.5, zeta=0.05),
]
UNIT = [BNPO(), BNPO(singleton="raw"), BNPO(max_weight=1.5), SPO(), SPO(unit="token", ddof=0)]  # rewards from 0 to 1
STATE = {"q0": [3.0, 1.0], "q1": [0.5, 4.0]}


def assert_explained(method, rows):
    table = as_table(rows).with_columns(
        observation=[row["state"] for row in rows], success=np.array([row["reward"] > 0 for row in rows])
    )
    state = (STATE,) if hasattr(method, "init") else ()
    found = method(table, *state)
    advantages = found["advantage"] if isinstance(found, dict) else found
    for row in range(len(table)):
        term = method.explain(table, row, *state)
        assert term.symbol == "A" and term.value == pytest.approx(advantages[row], rel=1e-9, abs=1e-9)
        for each in term.walk():
            printed = eval(each.filled(digits=17).replace("^", "**"), {"sqrt": math.sqrt, "exp": math.exp})
            assert printed == pytest.approx(each.value, rel=1e-9, abs=1e-9)
            if each.among is not None:
                assert each.among.rows.size and (each is not term or row in each.among.rows)
                assert each.among.rows.size == each.among.values.size == each.among.weights.size
                assert each.among.weights.sum() == pytest.approx(each.among.n_units)
        assert json.loads(json.dumps(as_json(term, lambda row: {"row": row})))["value"] == term.value


@settings(max_examples=120)
@given(rows=episodes(), method=st.sampled_from(METHODS))
def test_the_terms_of_every_method_add_up_to_its_advantages(rows, method):
    assert_explained(method, rows)


@settings(max_examples=60)
@given(rows=episodes(outcome_only=True), method=st.sampled_from(UNIT))
def test_the_terms_of_methods_of_success_rates(rows, method):
    assert_explained(method, rows)


def test_every_own_method_explains_itself():
    own = [registry.get("credit", name) for name in registry.names("credit")]
    own = {cls for cls in own if cls.__module__.startswith("agentrl.")}
    assert own == {type(method) for method in [*METHODS, *UNIT]}
    assert all(hasattr(cls, "explain") for cls in own)


def sheet():
    """One task, rows A0, A1, B0, B1, B2, C0, C1 (the sheet of tests/test_credit.py)."""
    return episodes_of("qqq", [2, 3, 2], [1, 0, 1], state=["s0", "s1", "s0", "s1", "s2", "s0", "s2"])


def test_gigpo_as_it_is_printed():
    term = GiGPO()(sheet()), GiGPO().explain(sheet(), 0)
    of_episode, of_turn = term[1].parts
    assert term[1].filled() == "0.5773 + 1 * 0.5773" and term[1].value == pytest.approx(term[0][0])
    assert (
        of_episode.formula == "(S - mean_g) / (std_g + eps)"
        and of_episode.filled() == "(1 - 0.6667) / (0.5774 + 1e-06)"
    )
    assert of_turn.filled() == "(0.95 - 0.6333) / (0.5485 + 1e-06)"
    assert of_turn.parts[0].formula == "gamma * r_1 - penalty" and of_turn.parts[0].filled() == "0.95 * 1 - 0"
    assert of_turn.among.rows.tolist() == [0, 2, 5] and of_turn.among.values.tolist() == [0.95, 0, 0.95]
    assert (of_turn.among.name, of_turn.among.about, of_turn.among.symbol) == ("anchor group", "s0", "D")
    assert of_episode.among.n_units == 3 and of_episode.among.weights.tolist() == [
        1 / 2,
        1 / 2,
        *[1 / 3] * 3,
        1 / 2,
        1 / 2,
    ]


def test_what_is_not_compared_says_why():
    table = sheet().with_columns(state=["s0", "s1", None, "s1", "s2", "s3", "s2"])
    notes = {row: GiGPO().explain(table, row).parts[1] for row in (0, 2)}
    assert notes[0].note == "alone in its anchor group" and notes[0].formula == "0"
    assert notes[2].note == "in no anchor group" and notes[2].among is None
    equal = episodes_of("qq", [1, 2], [1, 1])
    term = GRPO().explain(equal, 1)
    assert term.note == "all of its group have the same S" and term.value == 0
    alone = episodes_of("q", [1], [3])
    assert GRPO().explain(alone, 0).value == 0 and GRPO(singleton="raw").explain(alone, 0).filled() == "3"


def test_many_rewards_are_summed_up():
    table = episodes_of("q", [12], [1]).with_columns(reward=np.arange(1.0, 13.0))
    term = to_go(table, 0, 0.9)
    assert term.formula.endswith("+ later") and term.note == "later: the same of 4 more turns"
    assert term.value == pytest.approx(table.returns_to_go(0.9)[0])
    assert to_go(table, 11, 0.9).formula == "r_11" and to_go(table, 0, 1.0).formula.startswith("r_0 + r_1 + ")


def test_formulas_are_arithmetic_only():
    assert Term("A", "-min(x, 2) ** 2", {"x": 3.0}).value == -4
    assert Term("A", "x - y", {"x": -1.0, "y": -2.0}).filled() == "-1 - (-2)"
    with pytest.raises(ValueError, match=r"knows \+ - \* / \*\*, sqrt, exp, min, max; got '\[1\]'"):
        _ = Term("A", "[1]").value
    with pytest.raises(KeyError):
        _ = Term("A", "x").value


@pytest.mark.parametrize("options", [{"scale": "none"}, {"eps_placement": "inside"}, {"leave_one_out": True}])
def test_virtual_members_and_tokens_count(options):
    values, groups = np.array([1.0, 2.0, 4.0, 4.5]), np.array([0, 0, 1, 0])
    for more in ({"times": np.array([3, 1, 1, 2])}, {"virtual": (0.5, np.array([2, 0]))}, {"virtual": (9.0, 1)}):
        comparison = Comparison(values=values, groups=groups, **options, **more)
        found = [comparison.term("A", row).value for row in range(4)]
        assert found == pytest.approx(comparison.normalized().tolist())
