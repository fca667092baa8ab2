"""Columns that credit reads and reward methods write: strata, and anchors by text similarity."""

from __future__ import annotations

import difflib

import numpy as np
import pytest
from credit_reference import episodes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algorithms.credit import GRPO, HGPO, GiGPO, StratifiedGRPO
from agentrl.algorithms.method import check_columns, describe
from agentrl.algorithms.rewards import SimilarAnchor, Stratum
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import build
from agentrl.types import Call, Task, Trajectory, Turn


def episode(number, actions):
    """A trajectory with one call a turn, two where the action searches."""
    turns = [
        Turn("look", calls=[Call("agent", [1], [2])] * (2 if a.startswith("search") else 1), action=a, valid=a != "?")
        for a in actions
    ]
    turns[-1].reward = float(number == 0)
    return Trajectory(f"e{number}", "toy", Task("q"), turns=turns)


def played():
    """0, 1, 1 and 2 searches."""
    actions = [["answer"], ["search a", "answer"], ["?", "search b"], ["search a", "search c", "answer"]]
    return TurnTable.from_trajectories([episode(i, each) for i, each in enumerate(actions)])


def searches(table):
    """What a user's own function may be."""
    found = table.sum_by_trajectory(table["n_calls"] == 2)
    return found.astype(int)[table["trajectory"]]


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (Stratum(by="turns"), [1, 2, 2, 2, 2, 3, 3, 3]),
        (Stratum(by="turns", edges=(2, 3)), [0, 1, 1, 1, 1, 2, 2, 2]),
        (Stratum(by="calls"), [1, 3, 3, 3, 3, 5, 5, 5]),
        (Stratum(by="invalid"), [0, 0, 0, 1, 1, 0, 0, 0]),
        (Stratum(by="actions", pattern="^search"), [0, 1, 1, 1, 1, 2, 2, 2]),
        (Stratum(by="actions", pattern="^search", edges=(1,)), [0, 1, 1, 1, 1, 1, 1, 1]),
        (Stratum(by="function", function=f"{__name__}:searches"), [0, 1, 1, 1, 1, 2, 2, 2]),
        (Stratum(by="function", function=f"{__name__}:searches", edges=(2,)), [0, 0, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_strata(method, wanted):
    table = played()
    table = table.with_columns(**method(table))
    assert table["stratum"].tolist() == wanted
    assert np.isfinite(StratifiedGRPO(alpha=0.5)(table)).all()


def test_strata_without_actions():
    table = episodes_of(["q"] * 2, [1, 2], [0, 1], action=[None, "go", None])
    assert Stratum(by="actions", pattern="")(table)["stratum"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "actions"}, 'by = "actions": pattern is missing'),
        ({"by": "turns", "pattern": "x"}, 'pattern goes with by = "actions"'),
        ({"by": "actions", "pattern": "("}, "is no regular expression"),
        ({"by": "turns", "edges": [3, 1]}, r"edges that increase; got \[3, 1\]"),
        ({"by": "function", "function": "no_such_module:f"}, "cannot be imported"),
        ({"by": "function", "function": "math:pi"}, "is a float"),
    ],
)
def test_strata_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        build("reward", {"name": "stratum", **options})


def test_the_producers_are_known():
    check_columns([Stratum(by="turns"), StratifiedGRPO(alpha=0.5)])
    check_columns([SimilarAnchor(), GiGPO(key="anchor"), HGPO(key="anchor")])
    with pytest.raises(ConfigError, match=r"GiGPO reads the column 'anchor'.*similar_anchor"):
        check_columns([GiGPO(key="anchor")])
    assert describe(Stratum)["parameters"]["by"]["required"]


# ---- anchors by similarity -------------------------------------------------------------------------------------------

ROOM = "You are in the kitchen . On the table you see an apple , a bowl and a knife . Nothing else is here today"
TEXTS = [
    ROOM,
    ROOM.replace("today", "now"),
    ROOM.replace("knife", "fork"),
    "You open the fridge . It is empty .",
    "",
    "   ",
]


def clusters(observations, group=None, **options):
    n = len(observations)
    table = TurnTable(
        group=group or ["q"] * n, trajectory=list(range(n)), turn=[0] * n, reward=[0] * n, observation=observations
    )
    return SimilarAnchor(**options)(table)["anchor"].tolist()


def same(codes):
    """Which rows share a cluster, whatever the codes are."""
    return [[a == b for b in codes] for a in codes]


def test_near_texts_share_an_anchor():
    found = clusters([TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[0]], threshold=0.9)
    assert same(found) == same([0, 0, 1, 0])
    assert len(set(clusters([TEXTS[0], TEXTS[1]], threshold=0.99))) == 2
    assert len(set(clusters([TEXTS[0], TEXTS[0]], group=["p", "q"]))) == 2  # groups stay apart
    assert clusters([None, TEXTS[0], None]) == [-1, 0, -1]
    assert same(clusters([TEXTS[4], TEXTS[5], TEXTS[3]])) == same([0, 0, 1])  # texts without words
    assert same(clusters(["abcdefghij" * 4, "abcdefghij" * 3 + "abcdefghix"], unit="character")) == same([0, 0])


def test_a_cluster_gathers_around_its_most_visited_text():
    """b is near a and c, which are not near each other; visited most, it represents both; visited least, it joins one."""
    a, b, c = "1 2 3 4 5 6 7 8 9 x", "1 2 3 4 5 6 7 8 9 10", "0 2 3 4 5 6 7 8 9 10"
    assert same(clusters([a, b, b, c], threshold=0.9)) == same([0, 0, 0, 0])
    assert same(clusters([c, c, c, a, a, b], threshold=0.9)) == same([0, 0, 0, 1, 1, 0])


def test_gigpo_takes_the_anchors():
    table = episodes_of(["q"] * 2, [1, 1], [1, 0], observation=[TEXTS[0], TEXTS[1]])
    assert np.array_equal(GiGPO(key="observation")(table), GRPO()(table))  # raw observations never repeat
    table = table.with_columns(**SimilarAnchor(threshold=0.9)(table))
    assert GiGPO(key="anchor")(table) == pytest.approx(2 * GRPO()(table))


def slow_clusters(observations, threshold):
    """Greedy first fit in the fixed order, comparing every pair."""
    order = sorted(set(observations), key=lambda text: (-observations.count(text), text))
    found = []
    for text in order:
        for cluster in found:
            matcher = difflib.SequenceMatcher(None, cluster[0].split(), text.split(), autojunk=False)
            if matcher.ratio() >= threshold:
                cluster.append(text)
                break
        else:
            found.append([text])
    return [next(k for k, cluster in enumerate(found) if text in cluster) for text in observations]


WORDS = st.lists(st.sampled_from("abcd"), min_size=0, max_size=6).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=8), threshold=st.sampled_from([0.5, 0.8, 0.95]), data=st.data())
def test_clusters_equal_slow_in_any_order(texts, threshold, data):
    found = same(clusters(texts, threshold=threshold))
    assert found == same(slow_clusters(texts, threshold))
    order = data.draw(st.permutations(range(len(texts))))
    again = same(clusters([texts[i] for i in order], threshold=threshold))
    assert again == [[found[i][j] for j in order] for i in order]


def test_far_texts_are_not_compared(monkeypatch):
    """200 texts of unlike words: no pair passes the bound, so difflib compares none."""
    compared = []
    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", lambda self: compared.append(1) or 0.0)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 1000, 40)) for _ in range(200)]
    assert len(set(clusters(texts))) == 200 and not compared
