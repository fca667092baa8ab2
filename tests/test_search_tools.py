"""SearchQA with further tools: calls beside the search, and the rules that play AgentFlow's modules on it."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="the search environment needs the extra 'search'")

from agentrl.agents.flow import Asked
from agentrl.env import make
from agentrl.env_check import check_env, failed, render
from agentrl.envs.search.env import SearchEnv
from agentrl.envs.search.modules import Planner, answer, enough
from agentrl.errors import ConfigError, GameError
from agentrl.tool import Toolset, tool

ID = "agentrl/SearchQA-v0"


def called(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def started(place: int = 0, **options: Any) -> SearchEnv:
    env = SearchEnv(**{"difficulty": "tiny", "k": 1, "tools": ["calculator"], **options})
    env.reset(options={"task": env.tasks("train")[place]})
    return env


def test_it_names_its_tools_only_where_it_has_some() -> None:
    assert [each["function"]["name"] for each in started().tools] == ["search", "calculator"]
    assert SearchEnv().tools == []


def test_a_call_of_the_search_is_a_search() -> None:
    one, other = started(), started()
    title = one.question.removesuffix("?").split(" ", 2)[-1]
    by_call, by_tag = one.step(called("search", query=title)), other.step(f"<search> {title} </search>")
    assert by_call[0] == by_tag[0] and "<information>" in by_call[0]
    assert by_call[4]["n_tool_calls"] == 1 and by_call[4]["n_tool_errors"] == 0
    assert json.loads(one.state_key())[:3] == json.loads(other.state_key())[:3]


def test_the_calculator_computes_and_the_state_tells_it() -> None:
    env = started()
    before = env.state_key()
    text, reward, terminated, _, info = env.step(called("calculator", expression="1700 + 85"))
    assert text == "<tool_response>\n1785\n</tool_response>" and reward == 0 and not terminated
    assert info["valid"] and info["n_tool_calls"] == 1 and env.state_key() != before
    saved = pickle.loads(pickle.dumps(env.snapshot()))
    other = started(3)
    other.restore(saved)
    assert other.state_key() == env.state_key()
    env.reset(options={"task": env.tasks("train")[0]})
    assert env.state_key() == before


@pytest.mark.parametrize(
    ("action", "told", "valid", "n_calls"),
    [
        (called("calculater", expression="1"), "no tool is called 'calculater'. Did you mean 'calculator'?", False, 0),
        (called("calculator", term="1"), "calculator has no argument 'term'", False, 1),
        (called("calculator", expression="one"), "'one' is no arithmetic", True, 1),
        ("<tool_call>{nothing}</tool_call>", "it is no JSON", False, 0),
        (called("search", query="x") * 2, "wanted one call in a reply; got 2; nothing was called", False, 0),
        (called("search", query="x") + "</tool_call>", "closes nothing", False, 0),
    ],
)
def test_what_goes_wrong_in_a_call_is_an_observation(action: str, told: str, valid: bool, n_calls: int) -> None:
    text, _, terminated, _, info = started().step(action)
    assert text.startswith("Error: ") and told in text and not terminated
    assert info["valid"] is valid and info["n_tool_errors"] == 1 and info["n_tool_calls"] == n_calls


def test_an_argument_cannot_act_as_an_answer() -> None:
    env = started()
    text, reward, terminated, _, _ = env.step(called("search", query=f"<answer> {env.answers[0]} </answer>"))
    assert not terminated and reward == 0 and "<information>" in text


def test_without_tools_a_call_is_no_action() -> None:
    env = SearchEnv()
    env.reset(seed=0)
    assert env.step(called("search", query="x"))[4]["valid"] is False


def test_tools_that_cannot_be_taken_are_told() -> None:
    @tool
    def search(query: str) -> str:
        """Looks up."""
        return query

    class Notes(Toolset):
        @tool
        def note(self, text: str) -> str:
            """Writes down."""
            return text

    for given, problem in (
        ([search], "two tools are called 'search'"),
        ([Notes], "SearchQA.tools takes functions"),
        ("calculator", "tools: wanted a list"),
        (["calculater"], "no tool is called 'calculater'"),
    ):
        with pytest.raises((ConfigError, Exception), match=problem):
            SearchEnv(tools=given)


def test_a_tool_that_waits_is_waited_for_also_inside_an_event_loop() -> None:
    @tool
    async def slow(text: str) -> str:
        """Waits."""
        await asyncio.sleep(0.01)
        return text.upper()

    env = started(tools=[slow])
    assert "HM" in env.step(called("slow", text="hm"))[0]
    assert "HM" in asyncio.run(env.ask("step", called("slow", text="hm")))[0]


def test_it_keeps_the_contract_with_tools() -> None:
    found = check_env(lambda: make(ID, difficulty="tiny", tools=["calculator"]))
    assert not failed(found), render(found)


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(env: SearchEnv, steps: list[dict[str, Any]], seed: int = 0) -> Asked:
    facts = {"question": env.question, "steps": steps, "tools": ["search", "calculator"]}
    return Asked("planner", [], facts, np.random.default_rng(seed))


def test_planner_verifier_and_generator_win_every_question_that_the_expert_wins() -> None:
    for place in range(40):
        env, steps = started(place, searches=2), []
        for _ in range(2):
            if enough(asked(env, steps))["stop"]:
                break
            plan = Planner()(asked(env, steps))
            text = env.step(called(plan["tool"], query=plan["sub_goal"]))[0]
            steps.append({**plan, "result": text, "failed": False})
        _, reward, terminated, _, _ = env.step(f"<answer> {answer(asked(env, steps))['answer']} </answer>")
        assert reward == 1 and terminated, env.question


def test_a_careless_planner_strays_as_often_as_it_is_told_and_says_so() -> None:
    env, strayed, others = started(), 0, 0
    for seed in range(400):
        about = asked(env, [], seed)
        plan = Planner(noise=0.5, other=0.4)(about)
        strayed += about.strayed
        others += plan["tool"] == "calculator"
    assert 160 < strayed < 240 and 50 < others < 110


def test_an_answer_without_what_is_needed_is_one_of_the_names_seen() -> None:
    env = started()
    assert not enough(asked(env, []))["stop"]
    assert answer(asked(env, []))["answer"] in env.question
    broken = [{"tool": "calculator", "sub_goal": "x", "result": "Error: no", "failed": True}]
    assert not enough(asked(env, broken))["stop"]
    with pytest.raises(GameError, match="knows no wording like"):
        enough(Asked("verifier", [], {"question": "Why?", "steps": []}, np.random.default_rng(0)))
