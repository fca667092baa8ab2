"""Tapes: what is recorded is replayed, and nothing else is ever called in its place."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import hypothesis
import hypothesis.strategies as st
import pytest

from agentrl.chat.tool_calls import call_format
from agentrl.errors import ConfigError, ToolFault
from agentrl.rollouts import Maker, ProcessPool
from agentrl.tool import Tool, ToolError, ToolResult, Toolset, tool
from agentrl.tool_env import ToolEnv
from agentrl.tool_tape import Player, Tape
from agentrl.types import Task, ToolCall

numbers = itertools.count()
made: list[str] = []


@tool
def draw(what: Any = None) -> int:
    """Another number each time."""
    return next(numbers)


@tool
def shaky(how: str) -> str:
    """Fails in some way."""
    if how == "fault":
        raise ToolFault("the server is down")
    if how == "error":
        raise ToolError("not so")
    return how.upper()


class Notes(Toolset):
    def __init__(self) -> None:
        made.append("Notes")

    def open(self, task: Task | None) -> None:
        self.lines: list[str] = []

    @tool
    def write(self, line: str) -> str:
        """Writes a line down."""
        self.lines.append(line)
        return f"{next(numbers)} {self.lines}"


class Absent(Toolset):
    lifetime = "run"

    async def open(self, task: Task | None) -> None:
        raise ToolFault("there is no server")

    def tools(self) -> list[Tool]:
        return []


TASKS = {"train": [{"prompt": f"task {n}"} for n in range(3)]}


def notebook(tools: Sequence[Any] = (draw, shaky, Notes), **options: Any) -> ToolEnv:
    return ToolEnv(tools, TASKS, lambda task, answer, calls: 1.0, **options)


gymnasium.register(id="test/Notebook-v0", entry_point=f"{__name__}:notebook")
Calls = Sequence[tuple[str, dict[str, Any]]]


def play(env: Any, task: int, *turns: Calls) -> list[str]:
    """What the model sees."""
    seen = [env.reset(options={"task": f"train-{task}"})[0]]
    for calls in turns:
        action = call_format("hermes").render([ToolCall(name, arguments) for name, arguments in calls])
        seen.append(env.step(action)[0])
    return seen


def one(name: str, **arguments: Any) -> Calls:
    return [(name, arguments)]


# ── replay gives what was recorded ───────────────────────────────────────────────────────────────────────────────────

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
calls = st.one_of(
    st.builds(lambda what: ("draw", {"what": what}), values),
    st.builds(lambda how: ("shaky", {"how": how}), st.sampled_from(["error", "fine"]) | values),
    st.builds(lambda line: ("write", {"line": line}), st.text(max_size=5)),
    st.builds(lambda extra: ("write", {"lime": extra}), values),
)
episodes = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.lists(calls, min_size=1, max_size=3), max_size=4)), min_size=1, max_size=4
)


def of_episode(number: int, call: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """A call that no other episode makes where its answer is another each time: of two answers, a tape keeps one."""
    name, arguments = call
    if name == "draw":
        return name, {"what": [number, arguments["what"]]}
    return name, {key: f"{number} {value}" if key == "line" else value for key, value in arguments.items()}


def answers(env: ToolEnv) -> list[Any]:
    return [(called.call, called.result.text, called.result.error) for called in env.called]


@hypothesis.given(episodes, st.randoms(use_true_random=False))
@hypothesis.settings(max_examples=25)
def test_replay_gives_what_was_recorded(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], order: random.Random
) -> None:
    path = str(tmp_path_factory.mktemp("tape") / "calls.jsonl")
    played = [
        (number, task, [[of_episode(number, call) for call in turn] for turn in turns])
        for number, (task, turns) in enumerate(drawn)
    ]
    env = notebook(tape=path, tape_mode="record")
    first = {number: (play(env, task, *turns), answers(env)) for number, task, turns in played}
    before = list(made)
    replay = notebook(["not.installed:Server"], tape=path, tape_mode="replay")
    order.shuffle(played)
    seen = {number: (play(replay, task, *turns), answers(replay)) for number, task, turns in played}
    assert seen == first
    assert made == before  # no toolset was made


def test_an_episode_that_repeats_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "calls.jsonl")
    turns = [
        one("draw"),
        one("draw"),
        one("write", line="a"),
        one("write", line="a"),
        one("draw", what={"b": 1, "a": 2}),
    ]
    first = play(notebook(tape=path, tape_mode="record"), 0, *turns)
    assert len(set(first)) == 6
    turns[4] = one("draw", what={"a": 2, "b": 1})  # the order of keys means nothing
    assert play(notebook(tape=path, tape_mode="replay"), 0, *turns) == first


def test_a_later_recording_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "calls.jsonl")
    env = notebook(tape=path, tape_mode="record")
    assert play(env, 0, one("draw")) != (second := play(env, 0, one("draw")))
    assert play(notebook(tape=path, tape_mode="replay"), 0, one("draw")) == second


def test_errors_are_recorded_and_faults_are_not(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    env = notebook(tape=str(path), tape_mode="record")
    turns = [one("shaky", how="error"), one("shaky"), one("shaky", how=3), one("unknown"), one("shaky", how="fine")]
    first = play(env, 0, *turns)
    assert [
        word in text for word, text in zip(("not so", "missing", "string", "no tool", "FINE"), first[1:], strict=True)
    ]
    with pytest.raises(ToolFault, match="server is down"):
        env.step(call_format("hermes").render([ToolCall("shaky", {"how": "fault"})]))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("error") for row in rows] == [None, "tool", "arguments", "arguments", None]
    replay = notebook(tape=str(path), tape_mode="replay")
    assert play(replay, 0, *turns) == first
    with pytest.raises(ToolFault, match=r'holds no answer to shaky\({"how":"fault"}\)'):
        replay.step(call_format("hermes").render([ToolCall("shaky", {"how": "fault"})]))


def test_replay_needs_no_server_and_never_calls(tmp_path: Path) -> None:
    path = str(tmp_path / "calls.jsonl")
    first = play(notebook(tape=path, tape_mode="record"), 0, one("draw"))
    with pytest.raises(ToolFault, match="no server"):
        notebook([Absent]).reset(seed=0)
    replay = notebook([Absent, "not.installed:Server"], tape=path, tape_mode="replay")
    assert [each["function"]["name"] for each in replay.tools] == ["draw", "shaky", "write"]
    assert play(replay, 0, one("draw")) == first
    before = next(numbers)
    with pytest.raises(ToolFault, match="holds no answer to draw"):
        play(replay, 0, one("draw"), one("draw"))
    assert next(numbers) == before + 1
    with pytest.raises(ToolFault, match="holds no answer"):  # another history
        play(replay, 0, one("write", line="new"))


def test_auto_calls_what_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "calls.jsonl")
    first = play(notebook(tape=path), 0, one("draw"), one("write", line="a"))
    env = notebook(tape=path)
    second = play(env, 1, one("draw"), one("draw"))
    assert second[1] == first[1] and second[2] != first[1]
    third = play(env, 0, one("draw"), one("write", line="a"), one("write", line="b"))
    assert third[1] == first[1] and third[2] != first[2]  # tools with a state are always called
    assert "['a', 'b']" in third[3]


class Growing(Toolset):
    """Has a further tool after each."""

    n = 0

    def open(self, task: Task | None) -> None:
        self.n = 0

    def tools(self) -> list[Tool]:
        self.n += 1
        return [Tool(lambda: "x", name=f"t{n}", description="d", parameters={"type": "object"}) for n in range(self.n)]


class Talk(ToolEnv):
    """Answers once before the episode ends."""

    def reply(self, task: Task, text: str) -> str | None:
        return "and now?" if text == "first" else None


def test_tools_that_change_within_an_episode(tmp_path: Path) -> None:
    def names(env: ToolEnv) -> list[list[str]]:
        seen = [env.tools]
        env.reset(seed=0)
        seen.append(env.tools)
        assert env.step("first")[0] == "and now?"
        return [[each["function"]["name"] for each in tools] for tools in [*seen, env.tools]]

    options: dict[str, Any] = {"tape": str(tmp_path / "calls.jsonl")}
    recorded = names(Talk([Growing], TASKS, lambda task, answer, calls: 1.0, **options))
    assert len(recorded[1]) < len(recorded[2])
    replayed = names(Talk([], TASKS, lambda task, answer, calls: 1.0, tape_mode="replay", **options))
    assert replayed[1:] == recorded[1:]


def test_state_keys_stay_where_tools_are_called(tmp_path: Path) -> None:
    class Keyed(Notes):
        def state_key(self) -> str:
            return str(self.lines)

    env = notebook([Keyed], tape=str(tmp_path / "calls.jsonl"))
    play(env, 0, one("write", line="a"))
    assert "['a']" in env.state_key()


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        (None, {"tape_mode": "replay"}, "there is no tape"),
        (None, {"tape_mode": "recrod"}, "Did you mean 'record'"),
        (None, {"tape": "/no/such/folder/calls.jsonl"}, "folder"),
        ("", {"tape_mode": "replay"}, "holds no tools"),
        ('{"task": "a", "n": 0, "tools": []}\n{"a": 1}\n', {}, "line 2: it is no line of a tape"),
        ("no json\n", {}, "line 1"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: str | None, options: dict[str, Any], why: str) -> None:
    path = tmp_path / "calls.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=why):
        notebook(**{"tape": str(path), **options})


@pytest.mark.parametrize("torn", [b'{"key": "a', b"x" * 10_000])
def test_a_line_that_was_not_finished_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "calls.jsonl"
    first = play(notebook(tape=str(path), tape_mode="record"), 0, one("draw", what=1))
    with open(path, "ab") as file:
        file.write(torn)
    assert play(notebook(tape=str(path), tape_mode="replay"), 0, one("draw", what=1)) == first
    second = play(notebook(tape=str(path)), 0, one("draw", what=1), one("draw", what=2))
    assert second[1] == first[1] and torn not in path.read_bytes()
    assert play(notebook(tape=str(path), tape_mode="replay"), 0, one("draw", what=2))[1] == second[2]


def test_a_tape_that_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    play(notebook(tape=str(path)), 0, one("draw", what="x" * 1000))
    path.unlink()
    fresh = play(notebook(tape=str(path)), 0, one("draw"))
    assert play(notebook(tape=str(path), tape_mode="replay"), 0, one("draw")) == fresh
    assert len(path.read_text().splitlines()) == 2


def write(path: str, me: int, n: int) -> None:
    tape = Tape.at(path, must_exist=False)
    for number in range(n):
        tape.add_call(f"{me}-{number}", {"tool": "t"}, ToolResult("ä" * (number % 7 * 3000), None, 0.5))


def test_two_processes_write_to_one_tape(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(str(path), me, 100)) for me in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["key"] for row in rows} == {f"{me}-{n}" for me in range(2) for n in range(100)} and len(rows) == 200
    tape = Tape.at(str(path), must_exist=True)
    assert tape.find("1-3") == ToolResult("ä" * 9000, None, 0.5)


@pytest.mark.slow
def test_environments_in_processes_of_their_own(tmp_path: Path) -> None:
    path = str(tmp_path / "calls.jsonl")
    pool = ProcessPool(Maker("test/Notebook-v0", {"tape": path, "tape_mode": "record"}))
    try:
        envs = [pool.take(), pool.take()]
        first = [play(env, task, one("draw", what=task), one("write", line="a")) for task, env in enumerate(envs)]
    finally:
        pool.close()
    replay = notebook(tape=path, tape_mode="replay")
    assert [play(replay, task, one("draw", what=task), one("write", line="a")) for task in (0, 1)] == first


def test_arguments_that_are_no_json_are_told(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    player = Player(str(tmp_path / "calls.jsonl"), "auto")
    for arguments in ({"what": deep}, {"what": {1: 2, "a": 3}}):
        result = asyncio.run(player.call(draw, arguments))
        assert result.error == "arguments" and "cannot be written as JSON" in result.text
