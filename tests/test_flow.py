"""Agents made of modules: roles and who speaks for them, structured answers, limits, records, replays, run files."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

pytest.importorskip("transformers", reason="a flow's policy needs the extra 'train'")

from chat_server import ChatServer
from chat_server import says as replies
from toy_flows import Voice, agentflow, plan, play, renderer, says, tool_env
from toys import Corridor

from agentrl import build, registry, seating
from agentrl.agents import View
from agentrl.agents.flow import (
    AgentFlow,
    Asked,
    Caller,
    DemoSpeaker,
    FlowAgent,
    FlowLimits,
    FunctionGraph,
    RuleSpeaker,
    TokenSpeaker,
    cut_middle,
    flow,
)
from agentrl.agents.flow.structured import read, written
from agentrl.config import AgentTable, parse
from agentrl.errors import ConfigError, PolicyFault, RegistryError, TooManyFaults
from agentrl.learning.samples import make_samples
from agentrl.types import Completion, Outcome, Sampling, Trajectory

SHOWN = renderer()


class Move(BaseModel):
    go: str


def graph(function: Any, **roles: Any) -> FunctionGraph:
    return FunctionGraph(function, roles)


def corridor_plays(function: Any, policy: Any = None, limits: FlowLimits | None = None, **speakers: Any) -> Trajectory:
    made = {name: RuleSpeaker(each) if callable(each) else each for name, each in speakers.items()}
    agent = FlowAgent(graph(function, **dict.fromkeys(made, "trained")), made, limits or FlowLimits())
    [trajectory] = play(agent, policy, factory=Corridor)
    return trajectory


async def moves(view: View, call: Caller) -> Any:
    """Asks for a move, and plays it."""
    said = await call("mover", f"go {view.turn}", Move)
    return call.invalid(said.problem) if said.value is None else f"go {said.value.go}"


RIGHT = '{"go": "right"}'


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


# ── speakers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_role_may_be_a_model_behind_an_api() -> None:
    with ChatServer(replies(RIGHT)) as server:
        table = AgentTable(name="toy_moves", roles={"mover": f"openai:{server.url}#judge,max_tokens=7"})
        config = parse({"env": {"id": "toy"}})
        made = seating.agent(config, table, SHOWN, View("", {}, 0))
        assert isinstance(made, FlowAgent)
        [trajectory] = play(made, factory=Corridor)
        assert trajectory.success and make_samples([trajectory]) == []
        call = trajectory.turns[0].calls[0]
        assert call.messages == [{"role": "user", "content": "go 0"}] and call.reply and call.reply["n_prompt"] == 100
        assert "temperature" not in server.asked[0].body and server.asked[0].body["max_tokens"] == 7
        cool = table.model_copy(update={"roles": {"mover": {"speaker": table.roles["mover"], "temperature": 0.3}}})
        play(seating.agent(config, cool, SHOWN, View("", {}, 0)), factory=Corridor)
        assert server.asked[-1].body["temperature"] == 0.3


def test_demonstrations_write_a_rules_words_as_the_trained_policys() -> None:
    def straying(asked: Asked) -> dict[str, str]:
        asked.strayed = asked.facts == {} and asked.messages[0]["content"].endswith("0")
        return {"go": "right"}

    for imitate in (False, True):
        speaker = DemoSpeaker(TokenSpeaker(SHOWN), straying, imitate)
        trajectory = corridor_plays(moves, mover=speaker)
        assert trajectory.success
        assert [call.trainable for call in trajectory.calls()] == [imitate, True]
        assert {call.source for call in trajectory.calls()} == {"demo"}
        assert [SHOWN.decode(call.completion_ids) for call in trajectory.calls()] == [RIGHT] * 2
        assert trajectory.turns[0].info.get("noise") is True
    with pytest.raises(ConfigError, match="tokenizer cannot write what the role 'mover' says"):
        corridor_plays(moves, mover=DemoSpeaker(TokenSpeaker(SHOWN), says({"go": "Zanzibar"})))


# ── run files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@flow("toy_moves", roles={"mover": "trained"}, texts=["go 0 1 2 3 4 5 6 7 8 9"])
async def toy_moves(view: View, call: Caller) -> Any:
    return await moves(view, call)


def made(**table: Any) -> Any:
    config = parse({"env": {"id": "toy"}, "agent": {"name": "toy_moves", **table}})
    return seating.agent(config, config.agent, SHOWN, View("", {}, 0), 64)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"name": "toy_move"}, "no flow is called 'toy_move'. Did you mean 'toy_moves'"),
        (
            {"memory": {"name": "append"}},
            "agent.memory is the chat agent's, and agent.name = 'toy_moves'; leave it out",
        ),
        ({"prompt": "x"}, "agent.prompt is the chat agent's"),
        ({"options": {"x": 1}}, "'toy_moves' has no settings; got x"),
        ({"roles": {"movr": "trained"}}, "'toy_moves' has no role 'movr'. Did you mean 'mover'"),
        (
            {"roles": {"mover": "train"}},
            "wanted a speaker as trained, checkpoint:PATH, openai:URL#MODEL, rule:NAME; got 'train'",
        ),
        ({"roles": {"mover": "trained:x"}}, "wanted a speaker as trained"),
        (
            {"roles": {"mover": {"speaker": "trained", "temperature": 0.5}}},
            "agent.roles.mover.temperature means nothing",
        ),
        ({"roles": {"mover": {"speaker": "rule:first_result", "trainable": True}}}, "trainable means nothing"),
        ({"roles": {"mover": {"speaker": "rule:first_result", "options": {"a": 1}}}}, "'first_result' has no settings"),
        ({"roles": {"mover": {"speaker": "trained", "speed": 1}}}, "has no parameter 'speed'"),
        ({"roles": {"mover": {"trainable": True}}}, "agent.roles.mover.speaker is missing"),
        ({"roles": {"mover": "rule:first_reslt"}}, "no rule is called 'first_reslt'. Did you mean 'first_result'"),
        ({"limits": {"calls": 0}}, "agent.limits.calls"),
        ({"limits": {"turns": 3}}, "agent.limits has no parameter 'turns'"),
        ({"context": 65}, "agent.context = 65, but the model has 64 positions"),
        ({"name": "chat", "roles": {"mover": "trained"}}, "agent.roles is for an agent made of modules"),
    ],
)
def test_what_a_run_file_says_wrongly_is_told(table: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, RegistryError)) as error:
        made(**table)
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_run_file_makes_a_flow_with_its_own_bounds() -> None:
    agent = made(
        context=48, roles={"mover": {"speaker": "trained", "max_tokens": 5}}, limits={"calls": 3, "seconds": 9.0}
    )
    assert agent.limits == FlowLimits(calls=3, seconds=9.0) and agent.context == 48
    assert agent.speakers["mover"] == TokenSpeaker(SHOWN, 48, True, max_tokens=5)


def test_rules_come_by_name_by_place_and_with_settings() -> None:
    table = {"speaker": "rule:agentrl.envs.search.modules:Planner", "options": {"noise": 0.5}}
    rule = made(roles={"mover": table}).speakers["mover"].rule
    assert rule.noise == 0.5 and registry.get("rule", "last_result") is not None
    with pytest.raises(ConfigError, match=r"agent.roles.mover.options.noise: input should be less than or equal to 1"):
        made(roles={"mover": {**table, "options": {"noise": 2.0}}})


def test_a_tokenizer_made_of_words_knows_what_a_flow_writes() -> None:
    config = parse({"env": {"id": "toy"}, "agent": {"name": "agentflow"}})
    texts = build.texts_of(config)
    assert AgentFlow().planner in texts and any("sub_goal" in text for text in texts)
    assert build.texts_of(parse({"env": {"id": "toy"}, "agent": {"name": "toy_moves"}})) == ["go 0 1 2 3 4 5 6 7 8 9"]


def test_agentflow_wants_an_environment_that_names_tools() -> None:
    config = parse({"env": {"id": "toy"}, "agent": {"name": "agentflow"}})
    with pytest.raises(ConfigError, match=r"AgentFlow needs an environment that names its tools"):
        seating.agent(config, config.agent, SHOWN, View("", {}, 0))
    view = View("", {}, 0, tool_env().tools)
    with pytest.raises(ConfigError, match=r"there is no tool 'serch'. Did you mean 'search'"):
        noted = AgentTable(name="agentflow", options={"notes": {"serch": "x"}})
        seating.agent(config, noted, SHOWN, view)
    with pytest.raises(ConfigError, match=r"agent.options.planner names a field '\{memroy\}'"):
        seating.agent(config, AgentTable(name="agentflow", options={"planner": "{memroy}"}), SHOWN, view)


@pytest.mark.parametrize("left", [0, 1, 7, 40, 99, 100])
def test_what_is_too_long_is_cut_in_its_middle_within_the_budget(left: int) -> None:
    text = "".join(chr(97 + n % 26) for n in range(100))
    found = cut_middle(text, left, len)
    assert len(found) <= left or found == ""
    if left == 100:
        assert found == text
    elif found:
        head, _, tail = found.partition(" … ")
        assert text.startswith(head) and text.endswith(found.rpartition(" … ")[2]) and "characters were cut" in tail


# ── checkpoints as roles ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_frozen_checkpoint_speaks_greedily_beside_the_trained_policy_and_is_loaded_once() -> None:
    config = parse({
        "env": {"id": "toy"},
        "agent": {"name": "toy_frozen", "roles": {"critic": "checkpoint:warmstart", "judge": "checkpoint:warmstart"}},
        "rollout": {"max_tokens": 4},
        "resources": {"device": "cpu", "threads": 1},
    })  # fmt: skip

    async def act(view: View, call: Caller) -> str:
        await call("planner", f"plan {view.turn}")
        said = [await call(role, "You stand at 0.") for role in ("critic", "judge")]
        assert said[0].text == said[1].text
        return "go right"

    flow("toy_frozen", roles={"planner": "trained", "critic": "trained", "judge": "trained"})(act)
    agent = seating.agent(config, config.agent, SHOWN, View("", {}, 0))
    assert isinstance(agent, FlowAgent)
    critic, judge = agent.speakers["critic"], agent.speakers["judge"]
    assert isinstance(critic, TokenSpeaker) and isinstance(judge, TokenSpeaker)
    assert critic.renderer is judge.renderer and not critic.trained
    trajectories = play(agent, Voice(SHOWN, "a"), factory=Corridor, tasks=(0, 1), n=2)
    assert all(trajectory.success for trajectory in trajectories)
    frozen = [call for trajectory in trajectories for call in trajectory.calls() if call.role != "planner"]
    assert not any(call.trainable for call in frozen) and all(call.sampling["temperature"] == 0 for call in frozen)
    assert len({tuple(call.completion_ids) for call in frozen}) == 1
    assert {sample.calls[0].role for sample in make_samples(trajectories)} == {"planner"}


def test_a_policy_that_answers_in_batches_serves_flows_with_different_numbers_of_calls() -> None:
    from toys import Answering

    async def act(view: View, call: Caller) -> str:
        for _ in range(1 + view.turn % 2):
            await call("mover", "go")
        return "go right"

    policy = Answering(lambda request: SHOWN.completion([("a", False)]))
    agent = FlowAgent(graph(act, mover="trained"), {"mover": TokenSpeaker(SHOWN)})
    from agentrl.rollouts import EnvPool, Rollouts
    from agentrl.types import RolloutRequest

    rollouts = Rollouts(EnvPool(Corridor), agent, policy=policy)
    found = rollouts.run([RolloutRequest(task, 2) for task in Corridor().tasks("train")], ("toy", 0))
    assert all(trajectory.success for group in found for trajectory in group)
    assert len(policy.batches[0]) == 12


def test_an_evaluation_by_an_api_speaks_for_the_trained_role(tmp_path: Path) -> None:
    from agentrl.evaluator import evaluate
    from agentrl.policies.openai import OpenAIChat, parse_endpoint

    file = tmp_path / "flow.toml"
    file.write_text(
        '[env]\nid = "agentrl/SearchQA-v0"\n[agent]\nname = "agentflow"\n'
        '[agent.roles]\nverifier = "rule:agentrl.envs.search.modules:enough"\n'
        'generator = "rule:agentrl.envs.search.modules:answer"\n'
    )
    with ChatServer(replies(plan("search", "nobody"))) as server:
        model = OpenAIChat(parse_endpoint(f"{server.url}#m"))
        result = evaluate(
            "agentrl/SearchQA-v0", model, n=2, config=str(file), options={"tools": ["calculator"], "searches": 2}
        )
    assert result["n"] == 2 and result["faults"] == 0 and result["calls"] >= 2


def test_completions_are_cut_where_they_were_bounded() -> None:
    async def generate(ids: Any, sampling: Sampling, name: str) -> Completion:
        return Completion([5] * sampling.max_tokens, None, "length")

    trajectory = corridor_plays(moves, mover=TokenSpeaker(SHOWN, generate=generate, max_tokens=3))
    assert {len(call.completion_ids) for call in trajectory.calls()} == {3}


def test_agentflow_answers_an_easy_question() -> None:
    [trajectory] = play(agentflow(SHOWN), Voice(SHOWN, plan("calculator", "2 + 3")), tasks=(2,))
    assert trajectory.success and [turn.valid for turn in trajectory.turns] == [True, True]
