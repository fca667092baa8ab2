"""Between rollouts and updates: scores that fail, credit that adds, changes or writes columns, methods that remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from agentrl import stages
from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.filters import DynamicSampling
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.method import Method, check_columns
from agentrl.algorithms.rewards import InvalidAction
from agentrl.algorithms.samplers import UniformSampler
from agentrl.build import Methods
from agentrl.errors import ConfigError, EnvFault
from agentrl.types import Group, Outcome, RolloutRequest, Task, Trajectory, Turn


def methods(**changes: Any) -> Methods:
    plain = {name: [] for name in ("scores", "filters", "rewards", "token_weights", "regularizers")}
    return Methods(**{**plain, "sampler": UniformSampler(), "credit": [GRPO()], "loss": PPOClip(), **changes})


def trajectories() -> list[Trajectory]:
    def one(name: str, reward: float, valid: bool = True) -> Trajectory:
        turns = [Turn("a", state_key="a", valid=valid), Turn("b", state_key="b", reward=reward)]
        return Trajectory(id=name, env="toy", task=Task(id="task", type="easy"), group="g", turns=turns)

    return [one("won", 1.0), one("lost", 0.0, valid=False)]


@dataclass(frozen=True)
class Judge(Method):
    stage = "score"
    answers: tuple[Any, ...] = ()
    seen: Any = None

    async def __call__(self, asked: list[Trajectory]) -> Any:
        answer = self.answers[min(len(self.seen), len(self.answers) - 1)]
        self.seen.append(len(asked))
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_an_outage_is_tried_again_and_then_a_fault() -> None:
    played, seen = trajectories(), []
    stages.score(methods(scores=[Judge((EnvFault("down"), OSError("down"), [0.5, 0.25]), seen)]), played)
    assert seen == [2, 2, 2] and [t.rewards for t in played] == [{"Judge": 0.5}, {"Judge": 0.25}]
    stages.score(methods(scores=[Judge((TimeoutError("slow"),), [])]), played)
    assert all(t.outcome is Outcome.ENV_FAULT and "slow" in t.error for t in played)


@pytest.mark.parametrize("answer", [[1.0], [1.0, float("nan")], [1.0, 2.0, 3.0]])
def test_scores_that_are_no_scores_are_one_clear_error(answer: Any) -> None:
    with pytest.raises(ConfigError, match="one finite score for each of 2 trajectories"):
        stages.score(methods(scores=[Judge((answer,), [])]), trajectories())


def test_a_bug_in_a_score_is_raised_and_not_a_fault() -> None:
    with pytest.raises(NameError):
        stages.score(methods(scores=[Judge((NameError("oops"),), [])]), trajectories())


@dataclass(frozen=True)
class Doubling(Method):
    stage = "credit"
    reads = ("advantage",)
    writes = ("advantage",)

    def __call__(self, table: TurnTable) -> np.ndarray:
        return 2 * table["advantage"]


@dataclass(frozen=True)
class Writing(Method):
    """Adds a column, and no advantage."""

    stage = "credit"
    writes = ("weight",)

    def __call__(self, table: TurnTable) -> Mapping[str, np.ndarray]:
        return {"weight": np.arange(len(table), dtype=float)}


def test_credit_adds_changes_and_writes_columns() -> None:
    played = trajectories()
    expected = GRPO()(TurnTable.from_trajectories(played))
    _, once = stages.assign_credit(methods(), {}, played, {})
    np.testing.assert_array_equal(once, expected)
    _, summed = stages.assign_credit(methods(credit=[GRPO(), GRPO()]), {}, played, {})
    np.testing.assert_allclose(summed, 2 * expected)
    table, changed = stages.assign_credit(methods(credit=[GRPO(), Writing(), Doubling()]), {}, played, {})
    np.testing.assert_allclose(changed, 2 * expected)
    assert table["weight"].tolist() == [0, 1, 2, 3] and table["advantage"].tolist() == changed.tolist()
    assert [turn.advantage for t in played for turn in t.turns] == changed.tolist()


def test_penalties_are_written_once_however_often_credit_is_computed() -> None:
    played = trajectories()
    for _ in range(2):
        table, _ = stages.assign_credit(methods(rewards=[InvalidAction(coef=0.1)]), {}, played, {})
        assert table["penalty"].tolist() == [0, 0, 0.1, 0]
    assert [turn.penalty for t in played for turn in t.turns] == [0, 0, 0.1, 0]


@dataclass(frozen=True)
class Tracker(Method):
    """The outcome against a running mean of the task's outcomes: what SPO does."""

    stage = "credit"
    writes = ("advantage",)

    def init(self, seed: int) -> dict[str, Any]:
        return {}

    def observe(self, state: dict[str, Any], table: TurnTable, probe: Any) -> dict[str, Any]:
        names, totals = table.labels("task"), table.sum_by_trajectory(table["reward"])
        return {**state, names[0]: float(totals.mean())}

    def __call__(self, table: TurnTable, state: Mapping[str, Any]) -> np.ndarray:
        baseline = np.array([state.get(table.labels("task")[code], 0.0) for code in table["task"]])
        return table.sum_by_trajectory(table["reward"])[table.group_by("trajectory")] - baseline


def test_a_method_that_remembers_gets_its_state_and_sees_everything() -> None:
    chosen, played = methods(credit=[Tracker()]), trajectories()
    states = stages.initial_states(chosen, seed=3)
    assert states == {"sampler": {"seed": 3}, "credit[0]": {}}
    assert stages.assign_credit(chosen, states, played, {})[1].tolist() == [1, 1, 0, 0]
    states = stages.observe(chosen, states, played)
    assert states == {"sampler": {"seed": 3}, "credit[0]": {"task": 0.5}}
    assert stages.assign_credit(chosen, states, played, {})[1].tolist() == [0.5, 0.5, -0.5, -0.5]


@pytest.mark.parametrize("state", [np.zeros(2), {1: "integer keys become text"}, {"a": (1, 2)}, object()])
def test_a_state_that_a_checkpoint_would_change_is_refused(state: Any) -> None:
    class Odd(Tracker):
        def init(self, seed: int) -> Any:
            return state

    with pytest.raises(ConfigError, match=r"credit\[0\] must be JSON"):
        stages.initial_states(methods(credit=[Odd()]), seed=0)


def test_filters_follow_one_another() -> None:
    first, second = Group("a", []), Group("b", [])
    drop_a = lambda groups: ([g for g in groups if g.id != "a"], ["again a"])  # noqa: E731
    seen: list[list[str]] = []
    note = lambda groups: (seen.append([g.id for g in groups]) or groups, ["more"])  # noqa: E731
    kept, requests, measured = stages.keep(methods(filters=[drop_a, note]), {}, [first, second])
    assert kept == [second] and requests == ["again a", "more"] and seen == [["b"]] and measured == {}


def test_a_filter_may_see_all_groups_of_the_iteration() -> None:
    """``dapo`` counts the groups of earlier rounds; the filters around it see those of this round."""

    def group(name: str, *rewards: float) -> Group:
        members = [Trajectory(f"{name}{r}", "toy", Task("task"), turns=[Turn("o", reward=r)]) for r in rewards]
        return Group(name, members)

    seen: list[list[str]] = []
    note = lambda groups: (seen.append([g.id for g in groups]) or groups, [])  # noqa: E731
    chosen = methods(filters=[note, DynamicSampling(groups=2), note])
    kept, requests, measured = stages.keep(chosen, {}, [group("a", 0, 1), group("b", 1, 1)])
    assert [g.id for g in kept] == ["a"] and [r.task for r in requests] == [None]
    assert measured == {"filter/trimmed": 0, "filter/missing": 1}
    kept, requests, measured = stages.keep(chosen, {}, [group("c", 0, 1), group("d", 0, 1), group("e", 0, 0)], kept)
    assert [g.id for g in kept] == ["a", "c"] and requests == []
    assert measured == {"filter/trimmed": 1, "filter/missing": 0}
    assert seen == [["a", "b"], ["a"], ["c", "d", "e"], ["c"]]


def test_a_filter_of_the_iteration_may_drop_an_earlier_group() -> None:
    class Latest(Method):
        stage = "filter"
        sees = "iteration"

        def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
            return groups[-1:], []

    old, new = Group("old", []), Group("new", [])
    assert stages.keep(methods(filters=[Latest()]), {}, [new], [old])[0] == [new]
    assert stages.keep(methods(filters=[Latest()]), {}, [], [old])[0] == [old]


def test_open_requests_take_the_next_places_of_the_sampler() -> None:
    tasks = [Task(str(n)) for n in range(12)]
    sampler = UniformSampler(tasks=3, group_size=4)
    state = sampler.init(0)
    order = [[r.task for r in sampler.propose(state, step, tasks)] for step in range(4)]
    proposals = stages.Proposals(sampler, tasks)
    fresh, known = RolloutRequest(None, 0, source="dapo"), RolloutRequest(tasks[5], 2)
    assert [r.task for r in proposals.begin(state)] == order[0]
    found = proposals.fill([fresh, known, RolloutRequest(None, 7)])
    assert [r.task for r in found] == [order[1][0], tasks[5], order[1][1]]
    assert [(r.n, r.source) for r in found] == [(4, "dapo"), (2, "sampler"), (7, "sampler")]
    assert [r.task for r in proposals.fill([fresh, fresh])] == [order[1][2], order[2][0]]
    assert [r.task for r in proposals.begin(state)] == order[3] and proposals.step == 4  # what is left is left out
    assert len({r.id for places in order for r in places}) == 12  # an epoch: nothing was played twice


def test_a_sampler_with_nothing_left_is_a_clear_error() -> None:
    class Empty(UniformSampler):
        def propose(self, state: Any, step: int, tasks: Any) -> list[RolloutRequest]:
            return []

    proposals = stages.Proposals(Empty(), [Task("a")])
    proposals.begin({})
    with pytest.raises(ConfigError, match=r"sampler \(Empty\) proposes none at place 1"):
        proposals.fill([RolloutRequest(None, 0)])


def test_columns_of_the_learner_are_no_columns_of_the_table() -> None:
    class Reading(Method):
        stage = "credit"
        reads = ("logp_ref",)

    with pytest.raises(ConfigError, match="logp_ref"):
        check_columns([Reading()])
    Reading.reads = ("entropy",)
    check_columns([Reading()])
