"""What environments say of why an episode failed, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import pytest

import agentrl
from agentrl.env import FAILURES, SPLITS, TextEnv, hook, make
from agentrl.env_check import check_env
from agentrl.evaluation.failures import KINDS, failure
from agentrl.types import Outcome, Task, Trajectory, Turn

HOUSEHOLD, SEARCH, FUNCTIONS = "agentrl/Household-v0", "agentrl/SearchQA-v0", "agentrl/FunctionCalling-v0"


# ── kinds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def episode(outcome: Outcome, said: str, *turns: tuple[str, str, bool]) -> Trajectory:
    made = [Turn(state, action=action, valid=valid) for state, action, valid in turns]
    return Trajectory("t", "toy", Task("a"), turns=made, outcome=outcome, failure=said)


STRAIGHT = tuple((f"s{n}", "go", True) for n in range(4))


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (episode(Outcome.MAX_TURNS, "never_found", *STRAIGHT), "never_found"),
        (episode(Outcome.TERMINATED, "wrong_action", *STRAIGHT), "wrong_action"),
        (episode(Outcome.TRUNCATED, "wrong_action", *STRAIGHT), "wrong_action"),
        (episode(Outcome.MAX_TURNS, "", *STRAIGHT), "out_of_turns"),
        (episode(Outcome.TERMINATED, "", *STRAIGHT), "terminated"),
        # what it did comes before what it did not reach
        (episode(Outcome.MAX_TURNS, "never_found", *[("s", "go", True)] * 4), "loop"),
        (episode(Outcome.MAX_TURNS, "never_found", *[("s", "?", False)] * 4), "invalid_actions"),
        (episode(Outcome.TERMINATED, "never_found", *[("s", "?", False)] * 4), "never_found"),
        (episode(Outcome.MAX_TOKENS, "never_found", *STRAIGHT), "over_budget"),
        (episode(Outcome.ENV_FAULT, "never_found"), "fault"),
    ],
)
def test_an_environments_word_takes_its_place_among_the_rules(found: Trajectory, kind: str) -> None:
    assert failure(found) == kind and kind in KINDS and set(FAILURES) < set(KINDS)
    assert Trajectory.from_dict(found.to_dict()) == found


def test_records_from_before_can_be_read() -> None:
    record = episode(Outcome.MAX_TURNS, "", *STRAIGHT).to_dict()
    del record["failure"]
    assert failure(Trajectory.from_dict(record)) == "out_of_turns"


# ── household ────────────────────────────────────────────────────────────────────────────────────────────────────────


def household(task_type: str, seed: int = 0) -> tuple[Any, Any]:
    env = make(HOUSEHOLD, difficulty="tiny", task_types=[task_type])
    env.reset(seed=seed)
    return env, env.get_wrapper_attr("world")


def walk(env: Any, actions: Sequence[str]) -> None:
    for action in actions:
        assert env.step(action)[4]["is_action_valid"], action


def look_everywhere(env: Any, world: Any) -> None:
    for place in world.house.receptacles:
        if f"go to {place.name}" in world.admissible():
            env.step(f"go to {place.name}")
        if f"open {place.name}" in world.admissible():
            env.step(f"open {place.name}")
    assert not world.unseen()


def test_a_household_whose_item_was_never_seen() -> None:
    env, world = household("pick_and_place_simple")
    assert hook(env, "failure")() == "never_found"
    look_everywhere(env, world)
    assert hook(env, "failure")() is None  # found, and nothing done yet: what is missing is turns


def test_a_household_in_which_one_of_two_was_seen() -> None:
    env, world = household("pick_two_obj_and_place")
    plan = hook(env, "oracle")()
    take = next(place for place, action in enumerate(plan) if action.startswith("take "))
    walk(env, plan[:take])
    wanted = [item for item in world.house.items if item.kind == world.house.goal.item]
    told = [item for item in wanted if not {world.house.receptacles[i].name for i in item.within} & set(world.unseen())]
    assert hook(env, "failure")() == ("never_found" if len(told) < 2 else None)
    walk(env, plan[take:-1])  # both were seen, and all but the last action was done
    assert hook(env, "failure")() is None


def test_a_household_in_which_another_item_was_moved() -> None:
    env, world = household("pick_and_place_simple", seed=3)
    look_everywhere(env, world)
    goal, items = world.house.goal, {item.name: item for item in world.house.items}
    for place in world.house.receptacles:
        env.step(f"go to {place.name}")
        takes = [action.split(" from ")[0].removeprefix("take ") for action in world.admissible() if "take" in action]
        if other := [name for name in takes if items[name].kind != goal.item]:
            walk(env, [f"take {other[0]} from {place.name}"])
            break
    else:
        pytest.fail("no other item in this house")
    assert hook(env, "failure")() == "wrong_action"
    walk(env, [f"move {other[0]} to {place.name}"])
    assert hook(env, "failure")() is None  # put back


def test_a_household_in_which_the_item_was_not_treated() -> None:
    env, world = household("pick_clean_then_place_in_recep")
    look_everywhere(env, world)
    plan = hook(env, "oracle")()
    clean = next(action for action in plan if action.startswith("clean "))
    for action in plan:
        if action != clean:
            env.step(action)
    assert world.won is False and hook(env, "failure")() == "wrong_action"


def test_a_household_whose_lamp_was_never_seen() -> None:
    env, world = household("look_at_obj_in_light")
    lamps = [item for item in world.house.items if item.kind == world.house.goal.toggle]
    targets = [item for item in world.house.items if item.kind == world.house.goal.item]
    apart = {place for item in targets for place in item.within} - {place for item in lamps for place in item.within}
    assert apart
    for place in apart:
        env.step(f"go to {world.house.receptacles[place].name}")
        env.step(f"open {world.house.receptacles[place].name}")
    seen = {world.house.receptacles[place].name for item in lamps for place in item.within} - set(world.unseen())
    assert hook(env, "failure")() == (None if seen else "never_found")


def test_another_engine_says_nothing() -> None:
    env = make(HOUSEHOLD).unwrapped
    assert env.failure() is None  # nor does a game that was not begun
    env._game = object()  # type: ignore[attr-defined]
    assert env.failure() is None  # type: ignore[attr-defined]


# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_whose_passage_was_not_retrieved_and_one_that_was_answered_wrongly() -> None:
    pytest.importorskip("bm25s", reason="SearchQA needs the extra 'search'")
    env = make(SEARCH, difficulty="tiny")
    env.reset(seed=0)
    *searches, _ = hook(env, "oracle")()
    assert searches and hook(env, "failure")() == "never_found"
    env.step("<answer> nobody knows </answer>")
    assert hook(env, "failure")() == "never_found"
    env.reset(seed=0)
    for search in searches:
        env.step(search)
    assert hook(env, "failure")() is None
    assert env.step("<answer> nobody knows </answer>")[4]["success"] is False
    assert hook(env, "failure")() == "wrong_action"


def test_real_questions_look_for_the_answer_where_no_passage_is_named(tmp_path: Any) -> None:
    pytest.importorskip("bm25s", reason="SearchQA needs the extra 'search'")
    import json

    rows = [{"id": "q", "question": "Where is the museum?", "golden_answers": ["Cold Bay"]}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    passages = [
        {"id": "0", "contents": '"Museum"\nThe museum is in Cold Bay.'},
        {"id": "1", "contents": '"Tower"\nThe tower is in Rome.'},
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages))
    env = make(SEARCH, data=str(tmp_path), k=1)
    (task,) = (task for split in SPLITS for task in env.get_wrapper_attr("tasks")(split))
    env.reset(options={"task": task})
    env.step("<search> tower Rome </search>")
    assert hook(env, "failure")() == "never_found"
    env.step("<search> museum </search>")
    assert hook(env, "failure")() is None


# ── function calling ─────────────────────────────────────────────────────────────────────────────────────────────────


def functions() -> Iterator[Any]:
    env = make(FUNCTIONS, level="tiny")
    for task in env.get_wrapper_attr("tasks")("train")[:40]:
        env.reset(options={"task": task})
        if "<tool_call>" in hook(env, "oracle")()[0]:  # there is something to call
            yield env


def test_a_request_without_the_tool_it_needs_and_one_with_wrong_arguments() -> None:
    from agentrl.chat.tool_calls import call_format

    n_wrong = 0
    for env in functions():
        assert hook(env, "failure")() is None  # nothing was judged yet
        task = env.get_wrapper_attr("task")
        env.step("I do not know.")
        assert hook(env, "failure")() == "never_found"
        env.reset(options={"task": task})
        right = env.get_wrapper_attr("right_calls")(task, 0)
        again = call_format("hermes").render([*right, *right])  # the right ones, each twice
        ended = env.step(again)[2] or env.step("Done.")[2]
        if ended and not env.get_wrapper_attr("_info")()["score"]:
            n_wrong += 1
            assert hook(env, "failure")() == "wrong_action"
    assert n_wrong


# ── episodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Doors(TextEnv):
    """Two turns; says what ``says`` says, and counts how often it is asked."""

    asked = 0

    def __init__(self, says: Any = "never_found", wins: bool = False) -> None:
        self.says, self.wins = says, wins

    def tasks(self, split: str) -> list[Task]:
        return [Task(f"{split}-{n}", seed=n, split=split) for n in range(4)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task, self.turn = self.choose_task(options), 0
        return "a door", {"admissible_actions": ["open", "knock"]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        info = {"success": self.wins and self.turn == 2, "admissible_actions": ["open", "knock"]}
        return f"door {self.turn}", 0.0, self.turn == 2, False, info

    def failure(self) -> Any:
        type(self).asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def outcome(env: gymnasium.Env[str, str], **seating: Any) -> Trajectory:
    (found,) = agentrl.rollout(lambda: env, "random", n=1, **seating)
    return found


def test_the_hook_is_asked_once_at_the_end_and_through_wrappers() -> None:
    Doors.asked = 0
    found = outcome(gymnasium.Wrapper(Doors()))
    assert (found.failure, found.outcome, Doors.asked) == ("never_found", Outcome.TERMINATED, 1)
    assert outcome(Doors(), max_turns=1).failure == "never_found"
    assert outcome(Doors(None)).failure == ""


def test_an_episode_that_succeeds_is_not_asked() -> None:
    Doors.asked = 0
    found = outcome(Doors(wins=True))
    assert found.success and found.failure == "" and Doors.asked == 0


@pytest.mark.parametrize(("says", "words"), [("tired", "failure must return never_found, wrong_action or None; got 'tired'"),
                                             (ZeroDivisionError("a bug"), "failure raised ZeroDivisionError")])  # fmt: skip
def test_another_word_is_the_environments_fault(says: Any, words: str) -> None:
    from agentrl.agents.base import Episode
    from agentrl.registry import build, load_plugins
    from agentrl.rollouts.episode import Limits, run_episode
    from agentrl.seeding import stream

    load_plugins()
    env, agent = Doors(says), build("agent", {"name": "random"})
    made = Episode("e", Task("train-0"), env, stream(0, "agent"), ("a", 0))
    found = asyncio.run(run_episode(agent, made, env_id="Doors", seed=0, group="g", limits=Limits()))
    assert found.outcome is Outcome.ENV_FAULT and words in found.error and found.failure == ""


@pytest.mark.slow
def test_a_process_of_its_own_is_asked_too() -> None:
    found = agentrl.rollout(HOUSEHOLD, "random", n=2, isolation="process", max_turns=2)
    inline = agentrl.rollout(HOUSEHOLD, "random", n=2, max_turns=2)
    assert [t.failure for t in found] == [t.failure for t in inline]
    assert {t.failure for t in found} <= {"never_found", "wrong_action", ""} and any(t.failure for t in found)


def test_an_evaluation_counts_them() -> None:
    result = agentrl.evaluate(HOUSEHOLD, "random", n=12, max_turns=3)
    assert result["failures"]["never_found"] > 0
    assert sum(result["failures"].values()) == 12 - round(12 * result["success_rate"])
    assert [row["failure"] for row in result["episodes"]].count("never_found") == result["failures"]["never_found"]


# ── agentrl check ────────────────────────────────────────────────────────────────────────────────────────────────────


class Chatty(Doors):
    """Asking it changes it."""

    def failure(self) -> Any:
        self.turn += 1
        return None


@pytest.mark.parametrize(
    ("made", "name", "status"),
    [
        (lambda: Doors(), "failure", "pass"),
        (lambda: Doors("lost"), "failure", "fail"),
        (lambda: Doors(ValueError("a bug")), "failure", "fail"),
        (lambda: Chatty(), "hooks_pure", "fail"),
        (lambda: make(HOUSEHOLD), "failure", "pass"),
    ],
)
def test_the_checks_of_the_hook(made: Any, name: str, status: str) -> None:
    (check,) = [check for check in check_env(made, n_tasks=3, n_walks=2) if check.name == name]
    assert check.status == status, check


def test_bfcl_says_so_in_every_category() -> None:
    pytest.importorskip("bfcl_eval", reason="the package bfcl_eval is not installed: make bfcl")
    env = make("agentrl/BFCL-v0")
    firsts = {task.type: task for task in reversed(env.get_wrapper_attr("tasks")("valid_unseen"))}
    assert len(firsts) > 10
    for kind, task in firsts.items():
        env.reset(options={"task": task})
        _, _, ended, _, info = env.step("no idea")
        assert hook(env, "failure")() == ("never_found" if ended and not info["success"] else None), kind
