"""The agent of a model behind an API: what it shows, what it makes of a reply, and what the record holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from toys import PROMPT, Corridor

import agentrl
from agentrl.agents import Append, ChatAgent, MessageAgent, Window
from agentrl.agents.prompting import DEFAULT_PROMPT, default_prompt
from agentrl.chat import ActionFormat
from agentrl.errors import AgentRLError, ConfigError, PolicyFault, PromptTooLong
from agentrl.rollouts import EnvPool, Limits, Rollouts, play
from agentrl.types import Message, Outcome, Reply, Sampling, Task, Trajectory

RIGHT = Reply("<action>go right</action>", n_prompt=9, n_completion=5)
TASKS = [Task(f"t{n}", options={"length": 3}) for n in range(40)]


class Model:
    """A chat model that answers with the given replies in turn (the last one for ever; errors are raised)."""

    capabilities = frozenset({"messages"})

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies, self.asked, self.open = list(replies), [], 0

    async def __aenter__(self) -> Model:
        self.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open -= 1

    async def generate(self, messages: Sequence[Message], tools: Any = None, sampling: Sampling | None = None) -> Reply:
        assert self.open == 1
        self.asked.append((json.loads(json.dumps(messages)), tools, sampling))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def account(self) -> dict[str, Any]:
        return {"calls": len(self.asked)}


def run(
    agent: MessageAgent, model: Any, n: int = 1, env: Callable[[], Corridor] = Corridor, **limits: Any
) -> list[Trajectory]:
    rollouts = Rollouts(EnvPool(env), agent, policy=model, limits=Limits(**limits), sampling=Sampling(max_tokens=8))
    return play(rollouts, TASKS[:n])


def played(
    *replies: Reply | Exception, env: Callable[[], Corridor] = Corridor, **agent: Any
) -> tuple[Trajectory, Model]:
    model = Model(*replies)
    (trajectory,) = run(MessageAgent(**{"prompt": PROMPT, **agent}), model, env=env, max_turns=6)
    assert model.open == 0
    return trajectory, model


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_a_window_is_one_message_a_turn() -> None:
    trajectory, model = played(RIGHT, system="Be brief.", memory=Window(turns=1, item="Action {number}: {action}\n"))
    assert trajectory.success and trajectory.n_turns == 3
    for number, (messages, _, _) in enumerate(model.asked):
        assert [message["role"] for message in messages] == ["system", "user"]
        assert messages[0]["content"] == "Be brief."
        past = f"Action {number}: go right\n" if number else ""
        observation = trajectory.turns[number].observation
        assert messages[1]["content"] == f"Task: reach the end\n{past}Observation: {observation}\ngo left\ngo right\n"


def test_append_is_a_conversation_with_the_models_own_words_and_without_its_thoughts() -> None:
    thinking = dataclasses.replace(RIGHT, reasoning="left or right?")
    trajectory, model = played(thinking, Reply(""), RIGHT, memory=Append(next="Now: {observation}"))
    start, second, third, _ = (turn.observation for turn in trajectory.turns)
    assert [message["content"] for message in model.asked[2][0]] == [
        f"Task: reach the end\nObservation: {start}\ngo left\ngo right\n",
        RIGHT.text,
        f"Now: {second}",
        "(no text)",
        f"Now: {third}",
    ]
    assert [m["role"] for m in model.asked[2][0]] == ["user", "assistant", "user", "assistant", "user"]


def test_ids_and_messages_show_the_same_texts() -> None:
    transformers = pytest.importorskip("transformers")
    assert transformers
    from toys import tokenizer

    from agentrl.chat import Renderer
    from agentrl.policies import ScriptedPolicy

    renderer = Renderer(tokenizer())
    by_ids = ChatAgent(renderer, prompt=PROMPT)
    answer = renderer.completion([(RIGHT.text, True)])
    policy = ScriptedPolicy(lambda prompt_ids, sampling, request_id: answer)
    rollouts = Rollouts(EnvPool(Corridor), by_ids, policy=policy, sampling=Sampling(max_tokens=8))
    (ids,) = play(rollouts, TASKS[:1])
    messages, _ = played(RIGHT)
    for one, other in zip(ids.calls(), messages.calls(), strict=True):
        assert other.messages is not None
        assert list(one.prompt_ids) == renderer.prompt(other.messages)


def test_each_turn_has_a_stream_of_its_own() -> None:
    _, model = played(RIGHT)
    keys = [sampling.key for _, _, sampling in model.asked]
    assert [key[-1] for key in keys] == [0, 1, 2] and len({key[:-1] for key in keys}) == 1
    assert [sampling.max_tokens for _, _, sampling in model.asked] == [8, 8, 8]


def test_a_lone_surrogate_is_shown_as_a_question_mark() -> None:
    class Garbled(Corridor):
        def _view(self):
            text, info = super()._view()
            return f"\ud800 {text}", info

    _, model = played(RIGHT, env=Garbled)
    assert all("? You stand" in messages[0]["content"] for messages, _, _ in model.asked)


# ---- the default prompt ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "absent"), [((), ()), (("goal",), ("Task",)), (("goal", "admissible_actions"), ("Task", "Admissible"))]
)
def test_the_default_prompt_takes_what_the_environment_shows(missing: tuple[str, ...], absent: tuple[str, ...]) -> None:
    class Terse(Corridor):
        def _view(self):
            text, info = super()._view()
            return text, {key: value for key, value in info.items() if key not in missing}

    model = Model(RIGHT)
    (trajectory,) = agentrl.rollout(Terse, model, n=1, split="train", max_turns=9)
    (message,) = model.asked[0][0]
    assert trajectory.turns[0].observation in message["content"] and "<action>…</action>" in message["content"]
    for word in ("Task", "Admissible"):
        assert (word in message["content"]) == (word not in absent)
    assert trajectory.success


def test_the_default_prompt_is_the_one_that_was() -> None:
    assert default_prompt(["goal", "observation", "admissible_actions", "inventory"]) == DEFAULT_PROMPT


def test_a_template_is_checked_before_the_first_episode(tmp_path: Any) -> None:
    file = tmp_path / "prompt.toml"
    file.write_text('[agent]\nprompt = "{gaol}"\n')
    model = Model(RIGHT)
    with pytest.raises(ConfigError, match=r"agent.prompt names a field '\{gaol\}'.*Did you mean 'goal'"):
        agentrl.rollout(Corridor, model, n=1, split="train", config=file)
    assert model.asked == []


# ---- what is made of a reply ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply("go right"), "no <action>…</action> found"),
        (Reply("<action>go ri", finish="length"), "no <action>…</action> found (cut off at max_tokens)"),
        (Reply(""), "the answer is empty"),
        (Reply("", "so many thoughts", finish="length"), "the answer is empty (cut off at max_tokens)"),
        (Reply("", "<action>go right</action>"), "the answer is empty"),
        (Reply("", refusal="I will not."), "the model refused: I will not."),
        (Reply(refusal="flagged", finish="abort"), "the model refused: flagged"),
        (Reply("", tool_calls=[{"id": "1"}]), "the answer is empty"),
        (Reply("<action></action>"), "<action> is empty"),
    ],
)
def test_a_reply_without_an_action_is_the_models_doing(reply: Reply, problem: str) -> None:
    trajectory, _ = played(reply, RIGHT)
    first, *others = trajectory.turns
    assert (first.action, first.valid, first.info["problem"]) == ("", False, problem)
    assert trajectory.success and not trajectory.outcome.is_fault and all(turn.valid for turn in others)


def test_a_reply_that_was_cut_behind_its_action_counts() -> None:
    trajectory, _ = played(dataclasses.replace(RIGHT, text=f"{RIGHT.text} and then", finish="length"))
    assert trajectory.success and all(turn.valid for turn in trajectory.turns)


def test_a_thought_may_stand_in_the_reasoning_field() -> None:
    form = ActionFormat(think_tags=True)
    assert not played(RIGHT, format=form)[0].turns[0].valid
    for reply in (
        dataclasses.replace(RIGHT, reasoning="</think><action>go left</action>"),
        dataclasses.replace(RIGHT, text=f"<think>right</think>{RIGHT.text}"),
    ):
        assert played(reply, format=form)[0].success


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_a_fault_is_retried_by_replay_and_nothing_is_asked_twice() -> None:
    for memory in (Window(turns=2), Append()):
        trajectory, model = played(RIGHT, PolicyFault("down"), RIGHT, memory=memory)
        undisturbed, other = played(RIGHT, memory=memory)
        assert trajectory.success and trajectory.n_turns == 3
        assert [m for m, _, _ in model.asked[2:]] == [m for m, _, _ in other.asked[1:]]
        assert [c.messages for c in trajectory.calls()] == [c.messages for c in undisturbed.calls()]


def test_a_model_that_never_answers_stops_the_run_before_it_is_half_over() -> None:
    model = Model(PolicyFault("the server is down"))
    with pytest.raises(AgentRLError, match=r"16 of 40 episodes failed.*policy_fault: the server is down"):
        run(MessageAgent(prompt=PROMPT), model, n=40)
    assert model.open == 0


def test_one_fault_in_many_is_counted_and_no_more() -> None:
    replies = [RIGHT] * 3 + [PolicyFault("down")] * 3 + [RIGHT]
    model = Model(*replies)
    rollouts = Rollouts(EnvPool(Corridor), MessageAgent(prompt=PROMPT), policy=model, max_live=1)
    outcomes = [t.outcome for t in play(rollouts, TASKS[:4])]
    assert outcomes == [Outcome.TERMINATED, Outcome.POLICY_FAULT, Outcome.TERMINATED, Outcome.TERMINATED]


def test_a_conversation_that_is_too_long_ends_the_episode_by_its_own_doing() -> None:
    trajectory, model = played(RIGHT, PromptTooLong("16 tokens"), memory=Append())
    assert (trajectory.outcome, trajectory.n_turns, len(model.asked)) == (Outcome.MAX_TOKENS, 1, 2)


def test_a_message_agent_without_a_chat_model_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="needs a chat model"):
        run(MessageAgent(prompt=PROMPT), None)


# ---- the record -----------------------------------------------------------------------------------------------------


def test_a_call_records_what_was_sent_and_received_and_is_never_trained() -> None:
    reply = dataclasses.replace(RIGHT, reasoning="hm", finish="length")
    trajectory, model = played(reply)
    call = trajectory.turns[1].calls[0]
    assert call.messages == model.asked[1][0]
    assert call.reply == {"text": RIGHT.text, "reasoning": "hm", "n_prompt": 9, "n_completion": 5}
    assert (call.trainable, list(call.prompt_ids), list(call.completion_ids)) == (False, [], [])
    assert (call.finish, call.sampling) == ("length", {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8})


def test_a_record_survives_json_and_prints_as_a_transcript() -> None:
    trajectory, _ = played(Reply("", refusal="No."), RIGHT, memory=Append())
    assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory
    text = str(trajectory)
    assert "  > go right" in text and "(invalid)" in text and "messages" not in text


def test_calls_of_a_chat_model_are_no_samples() -> None:
    from agentrl.algorithms.table import TurnTable

    trajectory, _ = played(RIGHT)
    table = TurnTable.from_trajectories([trajectory])
    assert list(table["n_tokens"]) == [0, 0, 0]
