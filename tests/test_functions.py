"""agentrl/FunctionCalling-v0: the right calls win, anything less does not, and no text of a model raises."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentrl
from agentrl.chat.wordlevel import words
from agentrl.env import SPLITS
from agentrl.env_check import check_env, render
from agentrl.envs.functions.env import FunctionCallingEnv
from agentrl.envs.functions.tasks import HELD_OUT, HOME, KINDS, LEVELS, SERVICES, Tasks, task
from agentrl.errors import ConfigError, GameError
from agentrl.types import Task

ID = "agentrl/FunctionCalling-v0"
Calls = list[dict[str, Any]]
ENV = FunctionCallingEnv(format="python")
numbers = st.builds(
    task, st.sampled_from(sorted(LEVELS)), st.sampled_from(SPLITS), st.integers(min_value=0, max_value=1_900)
)


def play(env: FunctionCallingEnv, wanted: Task, turns: Sequence[Calls]) -> bool:
    """Whether an episode with these calls, one a turn of the agent, succeeds."""
    env.reset(options={"task": wanted})
    for calls in turns:
        for call in calls:
            _, _, over, _, _ = env.step(
                f"[{call['name']}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})]"
            )
            assert not over
        _, reward, over, _, info = env.step("Done.")
        assert (reward == 1.0) == info["success"]
        if over:
            return info["success"]
    raise AssertionError("the episode did not end")


def other(value: Any) -> Any:
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}x"


def right(wanted: Task) -> list[Calls]:
    return json.loads(json.dumps(wanted.reference))


@pytest.mark.slow  # it lists thousands of tasks
def test_it_keeps_the_contract_of_environments() -> None:
    checks = check_env(lambda: agentrl.env.make(ID), n_tasks=12, n_walks=4)
    found = {check.name: check.status for check in checks}
    assert set(found.values()) <= {"pass", "skip"}, render(checks)
    assert {name for name, status in found.items() if status == "skip"} == {"admissible", "admissible_accepted"}


@settings(max_examples=60)
@given(numbers)
def test_the_oracle_wins(wanted: Task) -> None:
    for env in (ENV, FunctionCallingEnv(check="calls", format="json")):
        env.reset(options={"task": wanted})
        plan = env.oracle()
        assert len(plan) <= (wanted.max_turns or 0)
        replies = [env.step(action) for action in plan]
        assert [reply[2] for reply in replies] == [False] * (len(plan) - 1) + [True]
        assert replies[-1][1] == 1.0 and replies[-1][4]["success"] and replies[-1][4]["score"] == 1.0
        assert all(reply[4]["valid"] and not reply[4]["n_tool_errors"] for reply in replies)


@settings(max_examples=60)
@given(numbers, st.randoms(use_true_random=False), st.sampled_from(["state", "calls"]))
def test_a_corrupted_oracle_never_wins(wanted: Task, rng: random.Random, check: str) -> None:
    env = FunctionCallingEnv(format="python", check=check)
    assert play(env, wanted, right(wanted))
    places = [(turn, place) for turn, calls in enumerate(wanted.reference) for place in range(len(calls))]
    if not places:
        call = {"name": rng.choice(wanted.options["tools"]), "arguments": {}}
        assert not play(env, wanted, [[call], *right(wanted)[1:]])
        return
    turn, place = rng.choice(places)
    dropped, changed, elsewhere = right(wanted), right(wanted), right(wanted)
    del dropped[turn][place]
    call = changed[turn][place]
    argument = rng.choice(sorted(call["arguments"]))
    call["arguments"][argument] = other(call["arguments"][argument])
    call = elsewhere[turn][place]
    call["name"] = rng.choice([name for name in wanted.options["tools"] if name != call["name"]])
    for corrupted in (dropped, changed, elsewhere):
        assert not play(env, wanted, corrupted)


@settings(max_examples=30)
@given(st.integers(0, 300), st.sampled_from(["easy", "medium", "full"]), st.randoms(use_true_random=False))
def test_calls_that_go_together_may_come_in_any_order(number: int, level: str, rng: random.Random) -> None:
    wanted = task(level, "train", KINDS.index("parallel") + len(KINDS) * number)
    turns = right(wanted)
    for turn, calls in zip(wanted.options["turns"], turns, strict=True):
        if turn.get("together"):
            rng.shuffle(calls)
    assert any(turn.get("together") for turn in wanted.options["turns"])
    assert play(ENV, wanted, turns)


@settings(max_examples=40)
@given(numbers, st.data())
def test_no_text_of_a_model_raises(wanted: Task, data: st.DataObject) -> None:
    env = FunctionCallingEnv(format=data.draw(st.sampled_from(["hermes", "json", "python"])))
    env.reset(options={"task": wanted})
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    properties = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in env.tools}
    for _ in range(4):
        name = data.draw(st.sampled_from(sorted(properties)))
        arguments = {key: data.draw(values) for key in properties[name] if data.draw(st.booleans())}
        call = json.dumps({"name": name, "arguments": arguments})
        text = data.draw(
            st.sampled_from([call, f"<tool_call>{call}</tool_call>", f"[{name}(**{arguments!r})]"]) | st.text()
        )
        cut = data.draw(st.integers(0, len(text)))
        reply = env.step(data.draw(st.sampled_from([text, text[:cut], text[cut:], text * 2])))
        assert isinstance(reply[0], str) and json.loads(json.dumps(reply[4])) == reply[4]
        assert isinstance(env.state_key(), str)


def test_no_split_shares_a_state_and_unseen_tools_are_needed() -> None:
    for level in LEVELS:
        states = {
            split: {json.dumps(found.options["state"], sort_keys=True) for found in Tasks(level, split)[:60]}
            for split in SPLITS
        }
        assert not states["train"] & states["valid_seen"] and not states["train"] & states["valid_unseen"]
        for split in ("train", "valid_seen"):
            for found in Tasks(level, split)[:60]:
                assert not HELD_OUT.intersection(offers(found)) and "tickets" not in found.options["state"]
        for found in Tasks(level, "valid_unseen")[:60]:
            called = {call["name"] for calls in found.reference for call in calls}
            assert HELD_OUT & (called if found.type != "irrelevant" else set(offers(found)))


def offers(found: Task) -> list[str]:
    return [*found.options["tools"], *(name for turn in found.options["turns"] for name in turn["offer"])]


def test_levels_kinds_and_sizes() -> None:
    for name, level in LEVELS.items():
        tasks = Tasks(name, "train")
        assert [found.type for found in tasks[:6]] == list(KINDS)
        for found in tasks[:30]:
            extra = found.type.startswith("missing")
            assert level.turns[0] <= len(found.options["turns"]) - extra <= level.turns[1]
            assert len(found.options["tools"]) <= level.tools + 3 and len(set(offers(found))) == len(offers(found))
            assert max(map(len, found.reference)) <= level.calls
            assert all(
                len(HOME) >= 5 and HOME[call["name"]] in found.options["state"] for c in found.reference for call in c
            )
    only = Tasks("tiny", "train", ["parallel", "irrelevant"])
    assert [found.type for found in only[:4]] == ["parallel", "irrelevant"] * 2
    assert len(only) == len(Tasks("tiny", "train")) // 3 and only[-1].id != only[0].id
    assert all(5 <= len(kind.listed()) <= 9 for kind in SERVICES.values())


def find(kind: str, **options: Any) -> tuple[FunctionCallingEnv, Task]:
    env = FunctionCallingEnv(kinds=[kind], format="python", **options)
    return env, env.tasks("train")[0]


def test_a_missing_function_comes_after_the_agent_says_so() -> None:
    env, wanted = find("missing_function")
    text, info = env.reset(options={"task": wanted})
    name = wanted.reference[1][0]["name"]
    assert f'"name": "{name}"' not in text and name not in [tool["function"]["name"] for tool in env.tools]
    assert (info["user_turn"], info["score"]) == (0, 0.0)
    text, reward, over, _, info = env.step("I cannot do that.")
    assert text.startswith(f"Now you have the tool {name}.\n") and f'"name": "{name}"' in text
    assert (reward, over, info["score"], info["user_turn"], info["problem"]) == (0, False, 0.5, 1, "")
    assert name in [tool["function"]["name"] for tool in env.tools]
    for action in env.oracle():
        _, reward, over, _, info = env.step(action)
    assert (reward, over, info["success"]) == (1, True, True)


def test_a_missing_parameter_is_given_when_asked_for() -> None:
    env, wanted = find("missing_parameter", describe="none")
    text, _ = env.reset(options={"task": wanted})
    assert text == wanted.options["turns"][0]["user"]
    assert env.step("Which one?")[0] == wanted.options["turns"][1]["user"]
    assert play(env, wanted, right(wanted))
    assert not play(env, wanted, [right(wanted)[1], []])  # guessed, even rightly


def test_nothing_is_to_be_called_for_an_irrelevant_request() -> None:
    env, wanted = find("irrelevant")
    assert play(env, wanted, [[]])
    assert not play(env, wanted, [[{"name": "no_such_tool", "arguments": {}}]])


def test_a_wrong_turn_ends_the_episode_unless_told_otherwise() -> None:
    wanted = task("full", "train", 0)
    env = FunctionCallingEnv(level="full", format="python")
    env.reset(options={"task": wanted})
    text, reward, over, _, info = env.step("Done.")
    assert (text, reward, over, info["success"]) == ("", 0.0, True, False)
    assert (info["problem"], info["score"]) == ("nothing was called", 0.0)
    env = FunctionCallingEnv(level="full", format="python", go_on=True)
    env.reset(options={"task": wanted})
    env.step("Done.")
    n_turns = len(wanted.reference)
    last = [env.step(action) for action in env.oracle()][-1]
    assert last[2] and not last[4]["success"] and last[1] == 0.0
    assert last[4]["score"] < 1 and last[4]["user_turn"] == n_turns - 1


def test_a_user_turn_has_a_bound() -> None:
    env, wanted = find("irrelevant", max_steps=3)
    env.reset(options={"task": wanted})
    assert [env.step("[").__getitem__(2) for _ in range(3)] == [False, False, True]
    env, wanted = find("missing_parameter", max_steps=2)
    env.reset(options={"task": wanted})
    env.step("")
    text, _, over, _, info = env.step("")
    assert text.endswith(wanted.options["turns"][1]["user"]) and not over and info["user_turn"] == 1


def test_the_answer_may_leave_out_what_is_the_default() -> None:
    state = {"bank": {"accounts": {"daily": 100, "rent": 0}, "payments": [], "cards": {}}}
    call = {"name": "transfer_money", "arguments": {"source": "daily", "target": "rent", "amount": 50}}
    wanted = Task(
        id="own",
        options={"state": state, "tools": ["transfer_money"], "turns": [{"user": "Move 50 from daily to rent."}]},
        reference=[[call]],
    )
    longer = {"name": call["name"], "arguments": {**call["arguments"], "note": ""}}
    noted = {"name": call["name"], "arguments": {**call["arguments"], "note": "gift"}}
    twice = {"name": call["name"], "arguments": {**call["arguments"], "amount": 25}}
    for check in ("state", "calls"):
        env = FunctionCallingEnv(format="python", check=check)
        assert play(env, wanted, [[call]]) and play(env, wanted, [[longer]])
        assert not play(env, wanted, [[noted]]) and not play(env, wanted, [[twice, twice]])
    bad = Task(id="bad", options={**wanted.options, "tools": ["transfer_mony"]}, reference=[[call]])
    with pytest.raises(GameError, match="Did you mean 'transfer_money'"):
        ENV.reset(options={"task": bad})
    with pytest.raises(GameError, match="needs options"):
        ENV.reset(options={"task": Task(id="empty")})
    never = Task(
        id="never", options=wanted.options, reference=[[{"name": "transfer_money", "arguments": {"amount": 1}}]]
    )
    ENV.reset(options={"task": never})
    ENV.step("[transfer_money(amount=1)]")
    with pytest.raises(GameError, match="the reference cannot be played"):
        ENV.step("Done.")


@pytest.mark.parametrize("form", ["hermes", "python"])
def test_the_vocabulary_has_every_word_of_what_is_right(form: str) -> None:
    env = FunctionCallingEnv(format=form)
    known = set(words(env.vocabulary()))
    assert len(known) < 2_500
    for split in SPLITS:
        for wanted in Tasks("tiny", split)[:120]:
            heard = [env.reset(options={"task": wanted})[0]]
            for action in env.oracle():
                heard += [action, env.step(action)[0]]
            assert not set(words(heard)) - known, (wanted.id, set(words(heard)) - known)


@pytest.mark.parametrize("form", ["hermes", "python"])
def test_the_vocabulary_has_every_word_that_a_careless_player_says(form: str) -> None:
    env = FunctionCallingEnv(format=form)
    known = set(words(env.vocabulary()))
    for wanted in Tasks("tiny", "train")[:400]:
        text, info = env.reset(options={"task": wanted})
        player, said, over = env.expert(noise=0.8, seed=wanted.seed), [*info["tool_names"]], False
        for _ in range(8):
            if not over:
                said.append(player.act(text, [], ""))
                text, _, over, _, _ = env.step(said[-1])
        assert not set(words(said)) - known, (wanted.id, set(words(said)) - known)


def test_the_names_of_the_tools_are_those_offered_now() -> None:
    env, wanted = find("missing_function", describe="none")
    text, info = env.reset(options={"task": wanted})
    assert info["tool_names"] == wanted.options["tools"]
    assert not any(name in text for name in info["tool_names"])
    brought = wanted.options["turns"][1]["offer"]
    assert env.step("Done.")[4]["tool_names"] == [*wanted.options["tools"], *brought]


def test_signatures_are_short() -> None:
    env, wanted = find("single", describe="signatures")
    text, _ = env.reset(options={"task": wanted})
    assert (
        "(account: string): " in text
        or "(order: integer): " in text
        or "(path: string): " in text
        or "(event: " in text
    )
    assert len(text) < 1_000


def test_a_careless_player_is_between_random_and_right() -> None:
    def won(noise: float) -> float:
        result = agentrl.evaluate(ID, f"expert:noise={noise}", n=60, options={"level": "tiny"}, seed=0)
        return result["success_rate"]

    assert won(0.0) == 1.0 > won(0.3) > won(1.0) > 0.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"level": "tini"}, "Did you mean 'tiny'"),
        ({"kinds": ["singel"]}, "Did you mean 'single'"),
        ({"kinds": "single"}, "wanted a list"),
        ({"check": "stat"}, "Did you mean 'state'"),
        ({"describe": "jsn"}, "Did you mean 'json'"),
        ({"max_steps": 0}, "above 0"),
        ({"format": "hermse"}, "Did you mean 'hermes'"),
        ({"tape": "calls.jsonl"}, "FunctionCalling-v0' has no option 'tape'. Known: check, describe, format, go_on"),
        ({"levle": "tiny"}, "Did you mean 'level'"),
        ({"max_step": 3}, "Did you mean 'max_steps'"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        agentrl.env.make(ID, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("split", SPLITS)
def test_the_oracle_wins_everywhere(level: str, split: str) -> None:
    for wanted in Tasks(level, split)[:1_500]:
        assert play(ENV, wanted, right(wanted))
