"""Several samples a task: pass@k, pass^k, intervals clustered by task, paired differences; why episodes fail; pages."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import evaluate, seeding
from agentrl.evaluation import (
    Evaluation,
    clustered_mean,
    clustered_wilson,
    mcnemar,
    paired_bootstrap,
    pass_at_k,
    pass_hat_k,
    wilson,
)
from agentrl.evaluation.details import details, difficulty_of, ks
from agentrl.evaluation.failures import KINDS, failure, repeated_turns
from agentrl.evaluation.page import html
from agentrl.evaluation.tables import escaped, markdown
from agentrl.types import Call, Outcome, Task, Trajectory, Turn

N_DRAWS = 300


# ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_and_pass_hat_k_are_means_over_all_choices_of_k_episodes(ends: list[bool], data: Any) -> None:
    k = data.draw(st.integers(1, len(ends)))
    chosen = list(itertools.combinations(ends, k))
    n, c = len(ends), sum(ends)
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
    assert pass_hat_k(n, c, k) == pytest.approx(sum(map(all, chosen)) / len(chosen))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_a_draw_that_cannot_be_made_has_no_estimate(n: int, c: int, k: int) -> None:
    for estimate in (pass_at_k, pass_hat_k):
        with pytest.raises(ValueError, match="wanted 1 <= k <= n"):
            estimate(n, c, k)


@given(st.integers(1, 40), st.data())
def test_one_episode_a_task_has_wilsons_interval(n: int, data: Any) -> None:
    ends = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    assert clustered_wilson(ends, [1] * n) == pytest.approx(wilson(sum(ends), n))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20))
def test_a_clustered_interval_lies_between_that_of_the_tasks_and_that_of_the_episodes(found: Any) -> None:
    successes, counts = [min(pair) for pair in found], [max(pair) for pair in found]
    low, high = clustered_wilson(successes, counts)
    total = sum(counts)
    inner = wilson(sum(successes), total)
    share = sum(successes) / total if total else 0.5
    assert 0 <= low <= inner[0] + 1e-9 and inner[1] - 1e-9 <= high <= 1 and low - 1e-9 <= share <= high + 1e-9


def _rates_of_tasks(rng: random.Random, m: int) -> list[float]:
    return [rng.betavariate(1.2, 0.8) for _ in range(m)]  # tasks differ much: mean 0.6


def _successes(rng: random.Random, rate: float, k: int) -> int:
    return sum(rng.random() < rate for _ in range(k))


def test_clustered_intervals_cover_where_those_of_episodes_do_not() -> None:
    rng, m, k = random.Random(1), 40, 4
    covered = {"clustered": 0, "episodes": 0, "mean": 0}
    for _ in range(N_DRAWS):
        found = [_successes(rng, rate, k) for rate in _rates_of_tasks(rng, m)]
        mean = clustered_mean(found, [k] * m)[1]
        assert mean is not None
        intervals = {"clustered": clustered_wilson(found, [k] * m), "episodes": wilson(sum(found), m * k), "mean": mean}
        for name, (low, high) in intervals.items():
            covered[name] += low <= 0.6 <= high
    assert 0.92 <= covered["clustered"] / N_DRAWS <= 0.98
    assert 0.92 <= covered["mean"] / N_DRAWS <= 0.98
    assert covered["episodes"] / N_DRAWS < 0.9


def test_paired_bootstrap_intervals_cover() -> None:
    """Both sides meet the same tasks; the second gains 0.1 on each."""
    rng, m, k = random.Random(2), 40, 2
    covered = 0
    for draw in range(N_DRAWS):
        rates = [0.8 * rate for rate in _rates_of_tasks(rng, m)]
        before = [_successes(rng, rate, k) for rate in rates]
        after = [_successes(rng, rate + 0.1, k) for rate in rates]
        counts = [k] * m
        _, interval = paired_bootstrap((before, counts), (after, counts), seeding.stream(draw, "test"), draws=300)
        assert interval is not None
        covered += interval[0] <= 0.1 <= interval[1]
    assert 0.90 <= covered / N_DRAWS <= 0.985


def test_a_paired_bootstrap_by_hand() -> None:
    rng = seeding.stream(0, "test")
    value, interval = paired_bootstrap(([1, 0, 0], [2, 2, 0]), ([2, 1, 0], [2, 2, 0]), rng)
    assert value == 0.5 and interval == (0.5, 0.5)
    assert paired_bootstrap(([1], [2]), ([2], [2]), rng) == (0.5, None)
    with pytest.raises(ValueError, match="at least one value"):
        paired_bootstrap(([0], [0]), ([1], [1]), rng)


@given(st.integers(0, 6), st.integers(0, 6))
def test_mcnemar_counts_the_outcomes_that_are_at_least_as_uneven(gained: int, lost: int) -> None:
    n = gained + lost
    uneven = sum(abs(2 * sum(signs) - n) >= abs(gained - lost) for signs in itertools.product((0, 1), repeat=n))
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(uneven / 2**n)


# ── what a panel says ────────────────────────────────────────────────────────────────────────────────────────────────


def trajectory(task: str, success: bool, outcome: Outcome = Outcome.TERMINATED, **task_fields: Any) -> Trajectory:
    call = Call("agent", [1, 2, 3], [4])
    turns = [Turn("o", calls=[call], reward=float(success), seconds={"sampling": 0.5, "environment": 0.25})]
    return Trajectory(f"task={task}", "toy", Task(task, **task_fields), turns=turns, success=success, outcome=outcome)


def panel() -> Evaluation:
    """Two tasks, four samples each: 2 of 4, and 1 of 3 beside a fault."""
    ends = [("a", True), ("a", False), ("a", True), ("a", False), ("b", True), ("b", False), ("b", False)]
    found = [trajectory(task, success, options={"level": task * 2}) for task, success in ends]
    return Evaluation([*found, trajectory("b", False, Outcome.ENV_FAULT)], 1.0, samples=4)


def test_details_by_hand() -> None:
    found = details(panel())
    assert found["n_tasks"] == 2 and ks(4) == list(map(int, found["pass_at_k"])) == [1, 2, 4]
    assert found["pass_at_k"]["1"]["value"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert found["pass_at_k"]["2"]["value"] == pytest.approx((1 - 1 / 6 + 1 - 1 / 3) / 2)
    assert found["pass_hat_k"]["2"]["value"] == pytest.approx((1 / 6 + 0) / 2)
    assert (found["pass_at_k"]["4"]["n_tasks"], found["pass_at_k"]["4"]["value"]) == (1, 1.0)
    assert found["tokens_per_episode"] == {"prompt": 3, "completion": 1}
    assert found["time"] == {"sampling_per_episode_s": 0.5, "environment_per_episode_s": 0.25}
    assert {name: row["n"] for name, row in found["by_difficulty"].items()} == {"aa": 4, "bb": 3}
    assert found["failures"]["terminated"] == 4 and found["failures"]["fault"] == 1
    assert [row["sample"] for row in found["episodes"]] == [0, 1, 2, 3] * 2
    assert panel().to_dict()["ci95"] == list(clustered_wilson([2, 1], [4, 3]))


def test_details_of_nothing_and_of_faults_alone() -> None:
    for trajectories in ([], [trajectory("a", False, Outcome.ENV_FAULT)]):
        found = details(Evaluation(trajectories, 0.0))
        assert found["pass_at_k"] == {} and found["score_ci95"] is None and "by_difficulty" not in found


def test_tokens_of_an_endpoint_are_what_it_reports() -> None:
    silent = trajectory("a", True)
    silent.turns[0].calls = [Call("agent", [], [], reply={"n_prompt": 7})]
    assert details(Evaluation([silent], 0.0))["tokens_per_episode"] == {"prompt": 7, "completion": None}


def test_difficulty_is_an_option_of_the_task() -> None:
    assert difficulty_of(Task("a", options={"difficulty": 3, "level": "easy"})) == "3"
    assert difficulty_of(Task("a", options={"level": ["x"]})) == difficulty_of(Task("a")) == ""


# ── why episodes fail ────────────────────────────────────────────────────────────────────────────────────────────────


def failed(outcome: Outcome, *turns: tuple[str, str, bool], keys: bool = True) -> Trajectory:
    made = [Turn(s, state_key=s if keys else None, action=action, valid=valid) for s, action, valid in turns]
    return Trajectory("t", "toy", Task("a"), turns=made, outcome=outcome)


STRAIGHT = tuple((f"s{n}", "go", True) for n in range(6))


@pytest.mark.parametrize(
    ("episode", "kind"),
    [
        (failed(Outcome.CANCELLED, *STRAIGHT), "fault"),
        (failed(Outcome.MAX_TOKENS, *STRAIGHT), "over_budget"),
        (failed(Outcome.TIME_LIMIT), "over_budget"),
        (failed(Outcome.TERMINATED, *[("s", "go", False)] * 4), "terminated"),
        (failed(Outcome.MAX_TURNS, *[("s", "go", False)] * 3, *STRAIGHT[:3]), "invalid_actions"),
        (failed(Outcome.MAX_TURNS, *[("s", "go", True)] * 3, *STRAIGHT[:3]), "loop"),
        (failed(Outcome.TRUNCATED, *[("s", "go", True)] * 3, *STRAIGHT[:3], keys=False), "loop"),
        (failed(Outcome.MAX_TURNS, *[("s", "go", True)] * 2, *STRAIGHT[:1]), "out_of_turns"),  # repeated once only
        (failed(Outcome.MAX_TURNS, *[("s", "go", True)] * 3, *STRAIGHT[:5]), "out_of_turns"),  # 2 of 8 turns
        (failed(Outcome.TRUNCATED, *STRAIGHT), "out_of_turns"),
        (failed(Outcome.MAX_TURNS), "out_of_turns"),
    ],
)
def test_the_kind_of_a_failure(episode: Trajectory, kind: str) -> None:
    assert failure(episode) == kind and kind in KINDS
    episode.success = True
    assert failure(episode) == ("fault" if kind == "fault" else None)
    episode.success = False


def test_another_action_or_another_state_is_no_repetition() -> None:
    turns = [("s", "go", True), ("s", "look", True), ("t", "go", True), ("s", "go", True)]
    assert repeated_turns(failed(Outcome.MAX_TURNS, *turns)) == 1


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────

EVIL = "<script>alert(1)</script> | & [x](y) `z`"


def shown() -> dict[str, Any]:
    heading = {"env": EVIL, "policy": EVIL, "split": EVIL, "seed": 0, "samples": 2}
    evil = Trajectory(EVIL, "toy", Task(EVIL, type=EVIL, options={"level": EVIL}))
    found = Evaluation([evil, evil], 1.0, samples=2)
    return {**heading, **found.to_dict(), **details(found)}


def test_names_on_the_page_run_nothing_and_need_no_network() -> None:
    page = html(shown())
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    assert "http:" not in page and "https:" not in page and "src=" not in page


def test_names_in_markdown_stay_in_their_cells() -> None:
    page = markdown(shown())
    assert "<script" not in page and "\\| &amp; \\[x]\\(y) \\`z\\`" in page
    assert escaped("pick_up _x_ [0.5, 1]") == "pick_up \\_x\\_ [0.5, 1]"
    assert escaped("a\n# b") == "a \\# b"


def test_one_sample_has_the_episodes_of_several() -> None:
    """The first samples do not depend on how many there are."""
    one, three = (
        evaluate("agentrl/Household-v0", "expert:noise=0.5", 3, samples=samples, max_turns=8) for samples in (1, 3)
    )
    assert [row for row in three["episodes"] if row["sample"] == 0] == one["episodes"]
    assert three["n"] == 9 and three["n_tasks"] == 3 and len({str(row) for row in three["episodes"]}) == 9
    assert {row["type"] for row in three["episodes"]} == set(three["by_type"])
