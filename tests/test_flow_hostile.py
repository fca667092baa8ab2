"""Flows that ask several roles at once, catch what they should not, run out of something, or whose modules write nonsense."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("transformers", reason="a flow's policy needs the extra 'train'")

from chat_server import ChatServer
from chat_server import says as replies
from toy_flows import RIGHT, Voice, agentflow, corridor_plays, graph, moves, plan, play, renderer, says, tool_env
from toys import Corridor

from agentrl import seating
from agentrl.agents import Decision, View
from agentrl.agents.flow import (
    AgentFlow,
    Asked,
    Caller,
    Command,
    DemoSpeaker,
    FlowAgent,
    FlowLimits,
    RuleSpeaker,
    TokenSpeaker,
)
from agentrl.agents.flow.structured import read
from agentrl.config import AgentTable, parse
from agentrl.errors import ConfigError, PolicyFault, TooManyFaults
from agentrl.tool import tool
from agentrl.types import Completion, Outcome, Sampling, Task

SHOWN = renderer()


# ── what modules write ───────────────────────────────────────────────────────────────────────────────────────────────

NONSENSE = {
    '{"name": "search", "arguments": {"query": NaN}}': "NaN is no JSON",
    '{"name": "search", "arguments": {"query": [-Infinity]}}': "-Infinity is no JSON",
    '{"name": "search", "arguments": {"query": 1e999}}': "the number 1e999 is too large",
    '{"name": "search", "arguments": {"query": ' + "9" * 5000 + "}}": "number out of range",
    '{"name": "search", "arguments": {"query": "Otto", "query": "Mara"}}': 'the key "query" is given twice',
    '{"name": "search", "name": "search"}': 'the key "name" is given twice',
    '{"name": "search", "arguments": ' + '{"a": ' * 40 + "1" + "}" * 41: "nested deeper than 32",
    '{"name": "search", "arguments": ' + '{"a": ' * 9000 + "1" + "}" * 9001: "recursion limit exceeded",
    '{"name": "search", "arguments": {"query": "\\ud800"}}': "invalid JSON",
    '{"name": "search"} {"name": "search"}': "invalid JSON",
}  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), NONSENSE.items(), ids=range(len(NONSENSE)))
def test_json_that_no_tool_would_take_is_a_problem_and_no_crash(text: str, problem: str) -> None:
    found = read(text, Command)
    assert found.value is None and problem in found.problem and len(found.problem) < 200
    agent = agentflow(SHOWN, executor=says(text), generator=says({"answer": "Oslo"}))
    [trajectory] = play(agent, Voice(SHOWN, plan("search", "Mara")), max_turns=2)
    assert problem in trajectory.turns[0].info["problem"] and not trajectory.turns[0].valid and trajectory.success


def test_arguments_that_the_format_cannot_write_are_an_observation() -> None:
    wrong = {"name": "search", "arguments": {"no name": "Mara"}}
    agent = agentflow(SHOWN, graph=AgentFlow(format="python"), executor=says(wrong), generator=says({"answer": "Oslo"}))
    [trajectory] = play(agent, Voice(SHOWN, plan("search", "Mara")), max_turns=2)
    assert "the command cannot be written: " in trajectory.turns[0].info["problem"] and not trajectory.turns[0].valid


@pytest.mark.parametrize("value", [None, float("nan"), b"x", {1, 2}, {"answer": object()}])
def test_a_rule_that_gives_no_text_and_no_json_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match="the rule of the role 'mover' must give a text, a mapping or a model; got"):
        corridor_plays(moves, mover=says(value))


def test_what_a_rule_raises_names_its_role() -> None:
    def broken(asked: Asked) -> str:
        return asked.facts["nothing"]

    with pytest.raises(KeyError) as error:
        corridor_plays(moves, mover=broken)
    assert error.value.__notes__ == ["raised by the rule that speaks for the role 'mover'"]


def test_a_tool_that_hangs_costs_its_own_time_and_not_the_episode() -> None:
    @tool(timeout_s=0.05)
    async def stuck(query: str) -> str:
        """Finds nothing, ever.

        Args:
            query: Anything.
        """
        await asyncio.Event().wait()
        return query

    factory = lambda: tool_env((stuck, "calculator"))  # noqa: E731
    agent = agentflow(SHOWN, factory(), planner=RuleSpeaker(says(plan("stuck", "a"))), limits=FlowLimits(seconds=60))
    [trajectory] = play(agent, factory=factory, max_turns=3)
    assert trajectory.outcome in (Outcome.TERMINATED, Outcome.MAX_TURNS) and trajectory.n_turns == 3
    assert "stuck took longer than 0.05 s" in trajectory.turns[1].observation


# ── several roles at once ────────────────────────────────────────────────────────────────────────────────────────────


class Backwards:
    """A policy that answers three requests at a time, the last first: "a", "b" … in the order of asking."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.asked: list[Sampling] = []
        self.waiting: list[asyncio.Event] = []

    async def generate(self, prompt_ids: Any, sampling: Sampling, request_id: str) -> Completion:
        text, turn = "abcabcabc"[len(self.asked)], asyncio.Event()
        self.asked.append(sampling)
        self.waiting.append(turn)
        if len(self.waiting) == 3:
            self.waiting.pop().set()
        await turn.wait()
        if self.waiting:
            self.waiting.pop().set()
        ids = SHOWN.completion([(text, False)])[: sampling.max_tokens]
        return Completion(ids, [-0.5] * len(ids))


async def three(view: View, call: Caller) -> str:
    said = await asyncio.gather(*(call("planner", f"plan {view.turn}") for _ in range(3)))
    call.state.setdefault("said", []).append([one.text for one in said])
    return "go right"


def test_calls_at_the_same_time_are_recorded_as_asked_and_replayed_so() -> None:
    policy, calls, heard = Backwards(), [], []

    async def act(view: View, call: Caller) -> str:
        action = await three(view, call)
        heard.append(call.state["said"][-1])
        return action

    agent = FlowAgent(graph(act, planner=""), {"planner": TokenSpeaker(SHOWN)})
    [trajectory] = play(agent, policy, factory=lambda: Corridor(calls, failing=(2,)))
    said = [[SHOWN.decode(call.completion_ids) for call in turn.calls] for turn in trajectory.turns]
    assert trajectory.success and said == [["a", "b", "c"]] * 2 and len(policy.asked) == 6
    assert len(heard) == 4 and all(one == ["a", "b", "c"] for one in heard)  # two turns, each played again
    assert len({sampling.key for sampling in policy.asked}) == 6


class Failing:
    """A speaker of many calls at a time, whose second one of all fails."""

    trained = False

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def say(self, request: Any) -> Any:
        self.asked.append(request.number)
        if len(self.asked) == 2:
            raise PolicyFault("the endpoint is gone")
        return await RuleSpeaker(says(f"{request.number}")).say(request)

    def text_of(self, call: Any) -> str:
        return str(call.reply["text"])

    def n_tokens(self, text: str) -> int:
        return len(text)


def grouped(call: Caller, n: int = 3) -> Any:
    async def asks() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call("critic", f"{number}?")) for number in range(n)]
        return [task.result().text for task in tasks]

    return asks()


def test_a_fault_among_calls_at_the_same_time_is_a_fault_and_each_hears_its_own_answer() -> None:
    heard: list[Any] = []

    async def act(view: View, call: Caller) -> str:
        heard.append(await grouped(call))
        return "go right"

    critic = Failing()
    [trajectory] = play(FlowAgent(graph(act, critic=""), {"critic": critic}), factory=Corridor)
    assert trajectory.success and all(one == ["0", "1", "2"] for one in heard)
    assert (
        critic.asked.count(0) == 2 and critic.asked.count(1) == 3
    )  # of two turns; the first one's call 0 is in the record


def test_an_answer_behind_the_call_that_failed_is_not_taken_for_its_own() -> None:
    """The middle one of three fails when the others are answered: the record has a gap, and is good up to there."""
    heard: list[Any] = []

    class FailsLate(Failing):
        def __init__(self) -> None:
            super().__init__()
            self.others = asyncio.Semaphore(0)

        async def say(self, request: Any) -> Any:
            self.asked.append(request.number)
            if request.number == 1 and self.asked.count(1) == 1:
                await self.others.acquire()
                raise PolicyFault("the endpoint is gone")
            if request.number == 2:
                asyncio.get_running_loop().call_soon(self.others.release)
            return await RuleSpeaker(says(f"{request.number}")).say(request)

    async def act(view: View, call: Caller) -> str:
        heard.append(await grouped(call))
        return "go right"

    critic = FailsLate()
    [trajectory] = play(FlowAgent(graph(act, critic=""), {"critic": critic}), factory=Corridor)
    assert trajectory.success and heard == [["0", "1", "2"]] * 2
    assert critic.asked == [0, 1, 2, 1, 2, 0, 1, 2]  # of the first turn what the record does not reach


def test_a_limit_among_calls_at_the_same_time_is_that_limit() -> None:
    async def act(view: View, call: Caller) -> str:
        await grouped(call)
        return "go right"

    trajectory = corridor_plays(act, limits=FlowLimits(calls=2), critic=says("no"))
    assert trajectory.outcome is Outcome.MAX_TURNS and not any(turn.valid for turn in trajectory.turns)
    assert "more than 2 calls in one turn" in trajectory.turns[0].info["problem"]


def test_the_tokens_of_an_episode_hold_for_calls_at_the_same_time() -> None:
    policy = Voice(SHOWN, "a b c a b c a b c")
    trajectory = corridor_plays(three, policy, limits=FlowLimits(tokens=20), planner=TokenSpeaker(SHOWN))
    sizes = [len(call.completion_ids) for call in trajectory.calls()]
    assert sum(sizes) == 20 and len(sizes) > 1 and trajectory.outcome is Outcome.MAX_TOKENS


def test_what_still_runs_when_a_turn_ends_is_ended_and_asks_nobody_later() -> None:
    ended: list[str] = []

    async def hangs(asked: Asked) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return ""

    kept: list[Caller] = []

    async def act(view: View, call: Caller) -> str:
        kept.append(call)
        slow = asyncio.ensure_future(call("slow", "?"))
        await asyncio.wait([slow, asyncio.ensure_future(call("quick", "?"))], return_when=asyncio.FIRST_COMPLETED)
        return "go right"

    trajectory = corridor_plays(act, slow=hangs, quick=says("yes"))
    assert trajectory.success and ended == ["cancelled"] * 2
    assert [[call.role for call in turn.calls] for turn in trajectory.turns] == [["quick"]] * 2
    with pytest.raises(ConfigError, match="asks the role 'quick' behind the end of its turn"):
        asyncio.run(kept[0]("quick", "?"))


# ── what a graph catches ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_limit_holds_whatever_the_graph_catches() -> None:
    async def stubborn(view: View, call: Caller) -> str:
        try:
            while True:
                await call("critic", "?")
        except BaseException:
            return "go right"

    trajectory = corridor_plays(stubborn, limits=FlowLimits(calls=2), critic=says("no"))
    assert trajectory.outcome is Outcome.MAX_TURNS and {turn.action for turn in trajectory.turns} == {""}

    async def forever(asked: Asked) -> str:
        await asyncio.Event().wait()
        return ""

    trajectory = corridor_plays(stubborn, limits=FlowLimits(seconds=0.1), critic=forever)
    assert trajectory.outcome is Outcome.TIME_LIMIT and trajectory.turns == []


def test_a_fault_that_the_graph_catches_is_a_fault_all_the_same() -> None:
    async def falls_back(view: View, call: Caller) -> str:
        try:
            await call("critic", "?")
        except Exception:
            return "go left"  # would be trained as if nothing had happened
        return "go right"

    critic = Failing()
    [trajectory] = play(FlowAgent(graph(falls_back, critic=""), {"critic": critic}), factory=Corridor)
    assert trajectory.success and [turn.action for turn in trajectory.turns] == ["go right"] * 2

    async def gone(asked: Asked) -> str:
        raise PolicyFault("the endpoint is gone")

    with pytest.raises(TooManyFaults, match="the endpoint is gone"):
        corridor_plays(falls_back, critic=gone)


def test_seconds_hold_for_a_flow_that_asks_nobody() -> None:
    async def act(view: View, call: Caller) -> str:
        return "go left"

    class Slow(Corridor):
        """Its clock stands where a call of an environment of this process left it."""

        def step(self, action: str) -> Any:
            time.sleep(0.03)
            return super().step(action)

    agent = FlowAgent(graph(act), {}, FlowLimits(seconds=0.05))
    [trajectory] = play(agent, factory=Slow, max_turns=50)
    assert trajectory.outcome is Outcome.TIME_LIMIT and 1 <= trajectory.n_turns < 10


# ── what is kept on a replay ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_replayed_turn_is_the_turn_that_was_played() -> None:
    def straying(asked: Asked) -> dict[str, str]:
        asked.strayed = asked.messages[0].get("content") == "go 0"
        return {"go": "right"}

    async def act(view: View, call: Caller) -> Decision:
        said = await call("mover", f"go {view.turn}")
        assert said.text == RIGHT
        return Decision(" go right ", only_admissible=False)

    def run(failing: tuple[int, ...]) -> list[tuple[bool, object, list[bool]]]:
        calls: list[str] = []
        agent = FlowAgent(graph(act, mover=""), {"mover": DemoSpeaker(TokenSpeaker(SHOWN), straying)})
        [trajectory] = play(agent, factory=lambda: Corridor(calls, failing), max_turns=2)
        return [
            (turn.valid, turn.info.get("noise"), [call.trainable for call in turn.calls]) for turn in trajectory.turns
        ]

    assert run(()) == run((2,)) and [noise for _, noise, _ in run(())] == [True, None]


# ── what bounds an endpoint ──────────────────────────────────────────────────────────────────────────────────────────


def seated(server: ChatServer, **role: Any) -> FlowAgent:
    table = AgentTable(
        name="agentflow",
        roles={"planner": {"speaker": f"openai:{server.url}#m,max_tokens=99", **role}},
        limits={"tokens": 10**6},
    )
    made = seating.agent(parse({"env": {"id": "toy"}}), table, SHOWN, View("", {}, 0, tool_env().tools))
    assert isinstance(made, FlowAgent)
    return made


def test_max_tokens_of_an_endpoints_role_leaves_its_temperature_alone() -> None:
    with ChatServer(replies(plan("search", "Mara"))) as server:
        play(seated(server, max_tokens=7), max_turns=2)
        assert server.asked[-1].body["max_tokens"] == 7 and "temperature" not in server.asked[-1].body
        play(seated(server, temperature=0.5), max_turns=2)
        assert server.asked[-1].body["max_tokens"] == 99 and server.asked[-1].body["temperature"] == 0.5


def test_an_endpoint_in_the_place_of_the_trained_policy_keeps_the_roles_bound() -> None:
    from agentrl.policies.openai import OpenAIChat, parse_endpoint

    with ChatServer(replies(RIGHT)) as server:
        chat = OpenAIChat(parse_endpoint(f"{server.url}#m"))
        trajectory = corridor_plays(moves, chat, mover=TokenSpeaker(None, max_tokens=5))
    assert trajectory.success and {request.body["max_tokens"] for request in server.asked} == {5}


def test_an_endpoint_that_counts_no_tokens_is_bounded_by_words() -> None:
    with ChatServer(replies(RIGHT, usage=None)) as server:
        speaker = seated(server).speakers["planner"]
        trajectory = corridor_plays(moves, limits=FlowLimits(tokens=5), mover=speaker)
    assert trajectory.outcome is Outcome.MAX_TOKENS and len(server.asked) == 1


def test_the_memory_is_counted_in_tokens_of_the_module_that_reads_it() -> None:
    """A role with a tokenizer of its own, here one that cuts words into letters."""

    class Letters(TokenSpeaker):
        def n_tokens(self, text: str) -> int:
            return len(text)

    frozen = Voice(SHOWN, '{"stop": true}')
    letters = Letters(SHOWN, trained=False, generate=frozen.generate, sampling=Sampling(0.0, max_tokens=20))
    flow = AgentFlow(memory_tokens=38, verifier="{memory}", planner="plan")
    agent = agentflow(SHOWN, graph=flow, verifier=letters, generator=says({"answer": "Oslo"}))
    [trajectory] = play(agent, Voice(SHOWN, plan("search", "Mara")), tasks=(0,))
    ((prompt, _, _),) = frozen.asked
    assert trajectory.success and "characters were cut" in prompt and "Mara lives" not in prompt  # 9 words, 41 letters


def test_a_task_needs_no_memory_of_another_in_parallel() -> None:
    """Several episodes of one agent object at a time."""
    from agentrl.rollouts import EnvPool, Rollouts
    from agentrl.types import RolloutRequest

    agent = agentflow(SHOWN, verifier=says({"stop": False}))
    policy = Voice(SHOWN, answer=lambda prompt: plan("search", "Mara" if "Where does Mara" in prompt else "Otto"))
    tasks: list[Task] = list(tool_env().tasks("train"))[:2]
    rollouts = Rollouts(EnvPool(tool_env), agent, policy=policy, sampling=Sampling(max_tokens=40), max_live=8)
    found = rollouts.run([RolloutRequest(task, 4) for task in tasks], ("toy", 0))
    rollouts.close()
    assert rollouts.max_live == 8 and len(policy.asked) == 8 * 3
    for prompt, _, _ in policy.asked:
        assert ("Mara" in prompt) != ("Otto" in prompt)
    assert all(trajectory.n_turns == 4 for group in found for trajectory in group)
