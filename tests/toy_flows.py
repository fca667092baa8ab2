"""Flows on a small world: an environment with tools, policies that say given texts, and agents made of them."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel
from toys import Corridor

from agentrl.agents import View
from agentrl.agents.flow import (
    AgentFlow,
    Asked,
    Caller,
    FlowAgent,
    FlowLimits,
    FunctionGraph,
    RuleSpeaker,
    TokenSpeaker,
)
from agentrl.chat import Renderer, build_tokenizer
from agentrl.rollouts import EnvPool, Limits, Rollouts
from agentrl.tool import tool
from agentrl.tool_env import ToolEnv
from agentrl.types import Completion, RolloutRequest, Sampling, Task, Trajectory

FACTS = {"Mara": "Mara lives in Oslo.", "Otto": "Otto lives in Bergen."}
QUESTIONS = [("Where does Mara live?", "Oslo"), ("Where does Otto live?", "Bergen"), ("What is 2 + 3?", "5")]
TEXTS = (
    "tool sub_goal search calculator name arguments query expression stop answer analysis context said true false",
    "Mara Otto Oslo Bergen Nobody lives in Where does live What is Error go left right wise yes no a b c hm plan critic serch",
    "Finds what known of person The begin finish Says much long hostile python raised KeyError has no argument wish Doc",
    "string person s name One a time You stand at again Did you mean Known tools that may call To one write Several such",
    "blocks reply are called together",
)


@tool
def search(query: str) -> str:
    """Finds what is known of a person.

    Args:
        query: The person's name.
    """
    return FACTS[query]  # a name that nobody has is an exception of the tool


def renderer() -> Renderer:
    """Knows the words of this file and of AgentFlow's prompts, with a space before them and without, and all signs."""
    words = re.findall("[A-Za-z]+", " ".join([*TEXTS, *AgentFlow().texts()]))
    signs = [*string.punctuation, "…", " ", *string.digits, *(f" {digit}" for digit in string.digits), "\n"]
    return Renderer(build_tokenizer([*signs, *words, *(f" {word}" for word in words)]))


def tool_env(tools: Sequence[Any] = (search, "calculator"), turns: int = 4) -> ToolEnv:
    tasks = [
        Task(id=f"q{n}", seed=n, options={"prompt": text}, reference=answer, max_turns=turns)
        for n, (text, answer) in enumerate(QUESTIONS)
    ]
    right = lambda task, answer, calls: float(answer == task.reference)  # noqa: E731
    return ToolEnv(list(tools), {"train": tasks}, right, describe="none")  # AgentFlow's prompts hold the tools' cards


class Voice:
    """A policy that says the given texts in turn, the last one for ever, or what a function of the prompt's text makes."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self, shown: Renderer, *texts: str, answer: Callable[[str], str] | None = None) -> None:
        self.renderer, self.texts, self.answer = shown, list(texts), answer
        self.asked: list[tuple[str, Sampling, str]] = []

    async def generate(self, prompt_ids: Any, sampling: Sampling, request_id: str) -> Completion:
        prompt = self.renderer.tokenizer.decode(list(prompt_ids))
        self.asked.append((prompt, sampling, request_id))
        if self.answer is not None:
            text = self.answer(prompt)
        else:
            text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        ids = self.renderer.completion([(text, False)])[: sampling.max_tokens]
        return Completion(ids, [-0.5] * len(ids), "stop" if len(ids) < sampling.max_tokens else "length", 3)


def plan(tool: str, sub_goal: str) -> str:
    return json.dumps({"tool": tool, "sub_goal": sub_goal})


def agentflow(shown: Renderer, env: ToolEnv | None = None, graph: AgentFlow | None = None, **parts: Any) -> FlowAgent:
    """AgentFlow with its own rules; ``parts`` are other rules or speakers for roles, and ``limits``, ``context``."""
    from agentrl.agents.flow import first_argument, first_result, last_result

    graph = graph or AgentFlow()
    limits = parts.pop("limits", FlowLimits())
    context = parts.pop("context", None)
    rules: dict[str, Any] = {"executor": first_argument, "verifier": first_result, "generator": last_result}
    speakers: dict[str, Any] = {
        "planner": TokenSpeaker(shown, context),
        **{k: RuleSpeaker(v) for k, v in rules.items()},
    }
    speakers |= {k: RuleSpeaker(v) if callable(v) else v for k, v in parts.items()}
    return FlowAgent(graph, speakers, limits, tuple((env or tool_env()).tools), context)


def play(
    agent: Any,
    policy: Any = None,
    *,
    n: int = 1,
    factory: Callable[[], Any] = tool_env,
    tasks: Sequence[int] = (0,),
    **how: Any,
) -> list[Trajectory]:
    """Episodes of some tasks, one after the other with one agent object."""
    limits = Limits(**{key: how.pop(key) for key in ("max_turns", "time_limit_s") if key in how})
    sampling = how.pop("sampling", Sampling(max_tokens=40))
    pool = EnvPool(factory)
    rollouts = Rollouts(pool, agent, policy=policy, limits=limits, sampling=sampling, max_live=1, **how)
    known = factory().tasks("train")
    found = rollouts.run([RolloutRequest(known[place], n) for place in tasks], ("toy", 0))
    rollouts.close()
    return [trajectory for group in found for trajectory in group]


def says(text: Any) -> Callable[[Asked], Any]:
    """A rule that always says the same."""
    return lambda asked: text


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
