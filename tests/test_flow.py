"""Agents made of modules: calls and records, structured answers, limits, faults and replays."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="a flow's policy needs the extra 'train'")

from toy_flows import RIGHT, Move, Voice, corridor_plays, graph, moves, play, renderer, says
from toys import Corridor

from agentrl.agents import View
from agentrl.agents.flow import (
    Asked,
    Caller,
    FlowAgent,
    FlowLimits,
    RuleSpeaker,
    TokenSpeaker,
)
from agentrl.agents.flow.structured import read, written
from agentrl.errors import ConfigError, PolicyFault, TooManyFaults
from agentrl.learning.samples import make_samples
from agentrl.types import Outcome, Sampling, Trajectory

SHOWN = renderer()


# ── structured answers ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the answer is empty"),
        ("right", 'wanted one JSON object; got "right"'),
        ('["right"]', "wanted one JSON object"),
        ('{"go": "right"} and then', "invalid JSON"),
        ('{"go": "right"', "invalid JSON"),
        ("{}", "'go' is missing"),
        ('{"go": 1}', "'go': input should be a valid string; got 1"),
        ('<think>{"go": "left"}', "the answer is empty"),
        ("{" * 5000, "invalid JSON"),
        ('{"go": "' + "x" * 200_000 + '"}', "longer than 100000"),
    ],
)
def test_what_is_no_answer_is_a_problem_in_words(text: str, problem: str) -> None:
    found = read(text, Move)
    assert found.value is None and problem in found.problem and len(found.problem) < 200


@pytest.mark.parametrize(
    "text", [RIGHT, f"<think>left?</think>\n{RIGHT}", f"```json\n{RIGHT}\n```", '{\n "go":\n"right"}']
)
def test_an_answer_is_read_behind_thoughts_in_a_fence_and_over_lines(text: str) -> None:
    assert read(text, Move).value == Move(go="right")


@given(st.text())
def test_reading_never_raises(text: str) -> None:
    for body in (text, "{" + text, "{" + text + "}", '{"go": "' + text + '"}'):
        found = read(body, Move)
        assert (found.value is None) == bool(found.problem)


@given(st.text())
def test_what_is_written_is_read_back(text: str) -> None:
    clean = text.encode(errors="replace").decode()
    if "<think>" not in clean:
        assert read(written({"go": clean}), Move).value == Move(go=clean)


# ── calls and records ────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_calls_of_trained_roles_become_samples_and_all_are_recorded() -> None:
    async def act(view: View, call: Caller) -> str:
        first = await call("planner", f"plan {view.turn}")
        await call("critic", first.text)
        await call("watcher", "yes")
        second = await call("planner", "again")
        assert first.call is not second.call
        return "go right"

    frozen = Voice(SHOWN, "no")
    speakers = {
        "planner": TokenSpeaker(SHOWN),
        "critic": TokenSpeaker(SHOWN, trained=False, generate=frozen.generate, sampling=Sampling(0.0, max_tokens=9)),
        "watcher": RuleSpeaker(says("yes")),
    }
    agent = FlowAgent(graph(act, planner="", critic="", watcher=""), speakers)
    [trajectory] = play(agent, Voice(SHOWN, "a b", "c"), factory=Corridor)
    assert trajectory.success and trajectory.n_turns == 2
    kinds = [[(call.role, call.trainable, call.source) for call in turn.calls] for turn in trajectory.turns]
    told = [
        ("planner", True, "policy"),
        ("critic", False, "policy"),
        ("watcher", False, "rule"),
        ("planner", True, "policy"),
    ]
    assert kinds == [told, told]
    assert trajectory.turns[0].calls[2].reply == {"text": "yes"}
    samples = make_samples([trajectory])
    assert [sample.calls[0].role for sample in samples] == ["planner"] * 4
    assert sum(sample.n_trained for sample in samples) == sum(
        len(call.completion_ids) for call in trajectory.calls() if call.role == "planner"
    )
    assert [sample.row.max() for sample in samples] == [0, 0, 1, 1]
    assert len({sampling.key for _, sampling, _ in frozen.asked}) == 2
    assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory


def test_a_role_of_the_trained_policy_may_be_kept_from_training() -> None:
    speaker = TokenSpeaker(SHOWN, trained=False)
    trajectory = corridor_plays(moves, Voice(SHOWN, RIGHT), mover=speaker)
    assert trajectory.success and make_samples([trajectory]) == []


def test_a_failed_parse_is_an_invalid_turn_with_the_reason() -> None:
    trajectory = corridor_plays(moves, Voice(SHOWN, "go", RIGHT), mover=TokenSpeaker(SHOWN))
    assert [turn.valid for turn in trajectory.turns] == [False, True, True]
    assert (
        trajectory.turns[0].info["problem"]
        == 'mover: wanted one JSON object; got "go"; wanted one JSON object; got "go"'
    )
    assert trajectory.turns[0].action == "" and trajectory.turns[0].calls[0].trainable


def test_a_problem_of_a_side_role_leaves_the_turn_valid_and_is_told() -> None:
    async def act(view: View, call: Caller) -> str:
        await call("side", "?", Move)
        return "go right"

    turn = corridor_plays(act, side=says("hm")).turns[0]
    assert turn.valid and turn.info["problem"] == 'side: wanted one JSON object; got "hm"'


def test_state_is_fresh_for_each_episode_and_lives_through_it() -> None:
    async def act(view: View, call: Caller) -> str:
        call.state.setdefault("turns", []).append(view.turn)
        assert call.state["turns"] == list(range(view.turn + 1))
        return "go right"

    agent = FlowAgent(graph(act), {})
    assert all(trajectory.success for trajectory in play(agent, factory=Corridor, tasks=(0, 1, 2), n=2))


def test_a_graph_that_asks_an_unknown_role_or_returns_no_action_is_told_so() -> None:
    async def misspelt(view: View, call: Caller) -> str:
        return (await call("moover", "?")).text

    async def nothing(view: View, call: Caller) -> Any:
        await call("mover", "?")

    with pytest.raises(ConfigError, match=r"asks a role 'moover' that it does not name. Did you mean 'mover'"):
        corridor_plays(misspelt, mover=says("x"))
    with pytest.raises(ConfigError, match="a flow returns an action, a text; got NoneType"):
        corridor_plays(nothing, mover=says("x"))
    with pytest.raises(ConfigError, match="nobody speaks for the role 'mover'"):
        FlowAgent(graph(moves, mover="trained"), {})


def test_rules_may_be_coroutines_and_have_a_stream_of_their_own() -> None:
    drawn: list[int] = []

    async def drawing(asked: Asked) -> dict[str, str]:
        await asyncio.sleep(0)
        drawn.append(int(asked.rng.integers(10**9)))
        return {"go": "right"}

    assert corridor_plays(moves, mover=drawing).success
    first = list(drawn)
    assert corridor_plays(moves, mover=drawing).success
    assert drawn == first * 2 and len(set(first)) == len(first)


# ── limits inside a call ─────────────────────────────────────────────────────────────────────────────────────────────


def test_more_calls_than_allowed_make_the_turn_invalid() -> None:
    async def asks_on(view: View, call: Caller) -> str:
        while view.turn == 0:
            await call("critic", "?")
        return "go right"

    trajectory = corridor_plays(asks_on, limits=FlowLimits(calls=5), critic=says("no"))
    assert trajectory.success and [turn.valid for turn in trajectory.turns] == [False, True, True]
    assert (
        len(trajectory.turns[0].calls) == 5 and "more than 5 calls in one turn" in trajectory.turns[0].info["problem"]
    )


def test_a_graph_cannot_catch_a_limit() -> None:
    async def stubborn(view: View, call: Caller) -> str:
        while True:
            with suppress(Exception):  # what many write
                await call("critic", "?")

    trajectory = corridor_plays(stubborn, limits=FlowLimits(calls=2), critic=says("no"))
    assert trajectory.outcome is Outcome.MAX_TURNS and not any(turn.valid for turn in trajectory.turns)


def test_tokens_of_the_episode_bound_the_completion_that_would_exceed_them() -> None:
    policy = Voice(SHOWN, "a b c a b c a b c")
    trajectory = corridor_plays(moves, policy, limits=FlowLimits(tokens=15), mover=TokenSpeaker(SHOWN))
    sizes = [len(call.completion_ids) for call in trajectory.calls()]
    assert sum(sizes) == 15 and trajectory.outcome is Outcome.MAX_TOKENS
    assert [sampling.max_tokens for _, sampling, _ in policy.asked] == [15, 15 - sizes[0]]
    assert trajectory.turns[-1].calls and trajectory.error == "the 15 tokens of the episode are used up"


def test_a_prompt_that_no_longer_fits_ends_the_episode_and_keeps_what_was_sampled() -> None:
    async def growing(view: View, call: Caller) -> str:
        await call("mover", "go")
        await call("mover", "go " * 40)
        return "go right"

    trajectory = corridor_plays(growing, Voice(SHOWN, "a"), mover=TokenSpeaker(SHOWN, context=30))
    assert trajectory.outcome is Outcome.MAX_TOKENS and "no longer fits the context of 30" in trajectory.error
    assert [len(turn.calls) for turn in trajectory.turns] == [1] and len(make_samples([trajectory])) == 1


def hangs() -> Any:
    async def forever(*asked: Any) -> Any:
        await asyncio.Event().wait()

    return forever


@pytest.mark.parametrize("who", ["rule", "policy", "graph"])
def test_seconds_hold_inside_a_call(who: str) -> None:
    async def act(view: View, call: Caller) -> str:
        await call("quick", "?")
        if who == "graph":
            await asyncio.Event().wait()
        await call("slow", "?")
        return "go right"

    slow: Any = TokenSpeaker(SHOWN, generate=hangs()) if who == "policy" else hangs()
    started = time.monotonic()
    trajectory = corridor_plays(act, limits=FlowLimits(seconds=0.2), quick=says("yes"), slow=slow)
    assert time.monotonic() - started < 10
    assert trajectory.outcome is Outcome.TIME_LIMIT and trajectory.error == "the seconds of the episode are used up"
    assert [call.role for call in trajectory.turns[-1].calls] == ["quick"] and not trajectory.turns[-1].valid


def test_the_time_limit_of_rollouts_holds_inside_a_call_of_a_flow() -> None:
    agent = FlowAgent(graph(moves, mover=""), {"mover": RuleSpeaker(hangs())})
    [trajectory] = play(agent, factory=Corridor, time_limit_s=0.2)
    assert trajectory.outcome is Outcome.TIME_LIMIT and trajectory.turns == []


def test_a_timeout_of_the_graphs_own_is_its_own() -> None:
    async def act(view: View, call: Caller) -> str:
        async with asyncio.timeout(0.01):
            await call("slow", "?")
        return "go right"

    with pytest.raises(TimeoutError):
        corridor_plays(act, limits=FlowLimits(seconds=60), slow=hangs())


def test_the_agent_is_told_how_many_turns_are_left() -> None:
    seen: list[int | None] = []

    async def act(view: View, call: Caller) -> str:
        seen.append(call.turns_left)
        return "go left"

    play(FlowAgent(graph(act), {}), factory=Corridor, max_turns=3)
    assert seen == [3, 2, 1]


# ── faults and replays ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Breaks:
    """A speaker whose endpoint fails at some of its requests."""

    failing: tuple[int, ...]
    n: int = 0
    trained: bool = False

    async def say(self, request: Any) -> Any:
        self.n += 1
        if self.n in self.failing:
            raise PolicyFault("the endpoint is gone")
        return await RuleSpeaker(says("yes")).say(request)

    def text_of(self, call: Any) -> str:
        return str(call.reply["text"])

    def n_tokens(self, text: str) -> int:
        return len(text)


async def asks_twice(view: View, call: Caller) -> str:
    said = await call("planner", f"plan {view.turn}")
    call.state.setdefault("said", []).append(said.text)
    await call("critic", said.text)
    return "go right" if len(call.state["said"]) == view.turn + 1 else "go left"


def test_a_fault_between_two_calls_of_a_turn_asks_nobody_twice() -> None:
    policy = Voice(SHOWN, "a", "b", "c")
    agent = FlowAgent(
        graph(asks_twice, planner="", critic=""), {"planner": TokenSpeaker(SHOWN), "critic": Breaks((2, 3))}
    )
    [trajectory] = play(agent, policy, factory=Corridor)
    assert trajectory.success and trajectory.outcome is Outcome.TERMINATED
    assert [call.role for call in trajectory.calls()] == ["planner", "critic"] * 2
    assert len(policy.asked) == 2  # what was sampled before the fault is never sampled anew
    assert "unfinished" not in trajectory.turns[-1].info and not any(
        turn.info.get("problem") for turn in trajectory.turns
    )


def test_a_fault_of_the_environment_replays_the_flow_from_its_record() -> None:
    policy, calls = Voice(SHOWN, "a", "b", "c"), []
    agent = FlowAgent(graph(asks_twice, planner="", critic=""), {"planner": TokenSpeaker(SHOWN), "critic": Breaks(())})
    [trajectory] = play(agent, policy, factory=lambda: Corridor(calls, failing=(2,)))
    assert trajectory.success and len(policy.asked) == 2
    assert [SHOWN.decode(call.completion_ids) for call in trajectory.calls() if call.role == "planner"] == ["a", "b"]


def test_a_flow_that_comes_to_another_end_on_a_replay_is_a_fault() -> None:
    n: list[int] = []

    async def forgetful(view: View, call: Caller) -> str:
        n.append(1)
        return "go right" if len(n) == 1 else "go left"

    agent, calls = FlowAgent(graph(forgetful), {}), []
    with pytest.raises(TooManyFaults, match="turn 0 cannot be replayed: the agent now came to 'go left'"):
        play(agent, factory=lambda: Corridor(calls, failing=(1, 2)), attempts=2)
