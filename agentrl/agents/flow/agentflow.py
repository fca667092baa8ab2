"""AgentFlow: planner, executor, verifier and generator over an evolving memory (arXiv 2510.05592, section 3).

    a turn of the environment:
      verifier(question, memory) ── stop ──► generator(question, memory) ──► <answer> … </answer>, the last turn
            │ go on
      planner(question, tools, memory) ─► {"tool", "sub_goal"} ─► executor(plan, card) ─► {"name", "arguments"} ─► action

Each step of the planner is one turn: the command is the turn's action, written as a call of a tool, and its result is the next
observation, which goes into memory. So credit sees the planner's steps one by one, and the tools run under the environment's own
isolation. Only the planner is trained unless the run file says otherwise.

What differs from the released system: memory is fresh for each episode and bounded; commands are JSON that the tool's schema
checks, never Python that is executed; a plan or command that cannot be read is an observation; the verifier stops by a field that
says so and by nothing else; sampling is the run file's. The released code's analysis of the question before the first step, by
a model of its own, is left out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from agentrl.agents.base import Decision, View
from agentrl.agents.flow.memory import Memory, Step
from agentrl.agents.flow.session import Caller
from agentrl.agents.template import check_template
from agentrl.chat.tool_calls import call_format
from agentrl.errors import ConfigError, did_you_mean
from agentrl.registry import register
from agentrl.types import ToolCall

PLANNER = (
    "{question}\nTools:\n{cards}\nSteps so far:\n{memory}Steps left: {left}\nChoose the next step. Answer with one JSON object: "
    '{{"tool": "the name of a tool", "sub_goal": "what this step is to find", "context": "what it has to know for that"}}'
)
EXECUTOR = (
    "{question}\nTool: {card}\nStep: {sub_goal}\nWhat is known: {context}\nWrite the command. Answer with one JSON object: "
    '{{"name": "{tool}", "arguments": {{…}}}}'
)
VERIFIER = (
    "{question}\nSteps so far:\n{memory}Is that enough to answer, and certain? Answer with one JSON object: "
    '{{"stop": true or false, "analysis": "why"}}'
)
GENERATOR = (
    "{question}\nSteps so far:\n{memory}Give the final answer, as short as it can be. Answer with one JSON object: "
    '{{"answer": "…"}}'
)
STEP = "Step {number}. {tool}: {sub_goal}\n{result}\n"
FIELDS: dict[str, tuple[str, ...]] = {
    "planner": ("question", "tools", "cards", "memory", "left"),
    "executor": ("question", "tool", "card", "sub_goal", "context"),
    "verifier": ("question", "memory"),
    "generator": ("question", "memory"),
    "step": ("number", "tool", "sub_goal", "command", "result"),
}


_TAGS = re.compile(r"<(?=/?(?:answer|search|think|tool_call|information)>)")
_RESPONSE = re.compile(r"<tool_response>((?:(?!<tool_response>).)*)</tool_response>", re.DOTALL)


class Plan(BaseModel):
    """A step that the planner wants."""

    tool: str
    sub_goal: str
    context: str = ""
    justification: str = ""


class Command(BaseModel):
    """A call of a tool, as the executor writes it."""

    name: str
    arguments: dict[str, Any] = {}


class Verdict(BaseModel):
    """Whether the verifier wants no further step."""

    stop: bool
    analysis: str = ""


class Final(BaseModel):
    """The generator's answer."""

    answer: str


@register("flow", "agentflow")
@dataclass(frozen=True)
class AgentFlow:
    """``planner``, ``executor``, ``verifier``, ``generator`` and ``step`` are templates (``FIELDS`` lists what each may name;
    ``cards`` and ``card`` are the tools' descriptions, ``question`` the environment's ``goal``, else its first observation).
    ``memory_tokens`` bounds the memory in a prompt, ``result_tokens`` each result in it; what is longer is cut in the middle.
    ``notes`` adds a sentence to the card of a tool: its limitation, its best practice. ``format`` is that of the environment's tool
    calls. At the episode's last turn the generator answers in any case."""

    planner: str = PLANNER
    executor: str = EXECUTOR
    verifier: str = VERIFIER
    generator: str = GENERATOR
    step: str = STEP
    memory_tokens: Annotated[int, Field(ge=16)] = 2048
    result_tokens: Annotated[int, Field(ge=16)] = 512
    notes: dict[str, str] = field(default_factory=dict)
    format: str = "hermes"

    roles: ClassVar[Mapping[str, Any]] = {
        "planner": "trained",
        "executor": "rule:first_argument",
        "verifier": "rule:first_result",
        "generator": "rule:last_result",
    }

    def __post_init__(self) -> None:
        for name, known in FIELDS.items():
            check_template(f"agent.options.{name}", getattr(self, name), known)
        call_format(self.format)

    def texts(self) -> Iterator[str]:
        """What it writes into prompts, for a tokenizer that is made of words."""
        yield from (getattr(self, name) for name in FIELDS)
        yield from self.notes.values()
        yield json.dumps({"tool": "", "sub_goal": "", "name": "", "arguments": {}, "stop": True, "answer": ""})
        yield "true false 0 1 2 3 4 5 6 7 8 9 … characters were cut none No tool is called the plan cannot be read Arguments: {}"

    def check(self, view: View) -> None:
        """Raises ConfigError for an environment that names no tools, and for a note on a tool that it does not have."""
        names = [tool["function"]["name"] for tool in view.tools]
        if not names:
            raise ConfigError(
                "AgentFlow needs an environment that names its tools, and this one has none; SearchQA has some with "
                '[env.options] tools = ["calculator"]'
            )
        for name in self.notes:
            if name not in names:
                raise ConfigError(f"agent.options.notes: there is no tool '{name}'.{did_you_mean(name, names)}")

    async def __call__(self, view: View, call: Caller) -> str | Decision:
        episode = call.state
        if "memory" not in episode:
            question = view.info.get("goal")
            episode |= {"memory": Memory(), "question": question if isinstance(question, str) else view.observation}
        memory: Memory = episode["memory"]
        pending: Step | None = episode.pop("pending", None)
        if pending is not None:
            pending.result = pending.result or unwrapped(view.observation)
            pending.failed = pending.failed or bool(view.info.get("n_tool_errors")) or view.info.get("valid") is False
            memory.steps.append(pending)
        if call.turns_left == 1 or (memory.steps and await self._enough(call)):
            return await self._answer(call)
        return await self._step(call)

    async def _enough(self, call: Caller) -> bool:
        """The verifier's word. What cannot be read as one means: go on."""
        found = await call("verifier", self._filled("verifier", call), Verdict, facts=self._facts(call))
        return found.value is not None and found.value.stop

    async def _answer(self, call: Caller) -> str | Decision:
        found = await call("generator", self._filled("generator", call), Final, facts=self._facts(call))
        return call.invalid("") if found.value is None else f"<answer> {_untagged(found.value.answer)} </answer>"

    async def _step(self, call: Caller) -> str | Decision:
        cards = {tool["function"]["name"]: tool["function"] for tool in call.tools}
        asked = self._filled(
            "planner", call, tools=", ".join(cards), cards="\n".join(map(self._card, cards.values())), left=_left(call)
        )
        facts = {**self._facts(call), "tools": list(cards), "left": call.turns_left}
        plan = await call("planner", asked, Plan, facts=facts)
        if plan.value is None:
            return self._failed(call, Step(tool="none"), f"the plan cannot be read: {plan.problem}")
        step = Step(tool=plan.value.tool, sub_goal=plan.value.sub_goal)
        card = cards.get(plan.value.tool)
        if card is None:
            name = plan.value.tool[:64]
            return self._failed(call, step, f"No tool is called '{name}'.{did_you_mean(name, cards)}")
        return await self._run(call, step, plan.value, card)

    async def _run(self, call: Caller, step: Step, plan: Plan, card: Mapping[str, Any]) -> str | Decision:
        told = {"tool": plan.tool, "card": self._card(card), "sub_goal": plan.sub_goal, "context": plan.context}
        facts = {**self._facts(call), "plan": asdict(step) | plan.model_dump(), "card": card}
        command = await call("executor", self._filled("executor", call, **told), Command, facts=facts)
        if command.value is None:
            return self._failed(call, step, f"the command cannot be read: {command.problem}")
        if command.value.name != plan.tool:
            return self._failed(
                call, step, f"the command is for '{command.value.name[:64]}', the step for '{plan.tool}'"
            )
        step.command = json.dumps(command.value.arguments, ensure_ascii=False)
        try:
            action = call_format(self.format).render([ToolCall(command.value.name, command.value.arguments)])
        except ConfigError as error:  # of arguments that this format has no way to write
            return self._failed(call, step, f"the command cannot be written: {error}")
        call.state["pending"] = step
        return action

    def _failed(self, call: Caller, step: Step, problem: str) -> Decision:
        """A step that came to nothing; the memory tells the planner why."""
        step.failed, step.result = True, problem
        call.state["pending"] = step
        return call.invalid(problem)

    def _filled(self, name: str, call: Caller, **fields: str) -> str:
        known = {"question": call.state["question"], **fields}
        if "memory" in FIELDS[name]:
            count = functools.partial(call.n_tokens, role=name)  # in tokens of the module that reads it
            known["memory"] = call.state["memory"].text(
                self.memory_tokens, count=count, template=self.step, result_budget=self.result_tokens
            )
        return getattr(self, name).format_map(known)

    def _facts(self, call: Caller) -> dict[str, Any]:
        return {"question": call.state["question"], "steps": call.state["memory"].facts()}

    def _card(self, tool: Mapping[str, Any]) -> str:
        """A tool as the modules read it: its name, what it does, its arguments and the note."""
        arguments = {
            name: f"{about.get('type', 'any')} - {about.get('description', '')}".removesuffix(" - ")
            for name, about in tool.get("parameters", {}).get("properties", {}).items()
        }
        text = f"{tool['name']}: {tool['description']} Arguments: {json.dumps(arguments, ensure_ascii=False)}"
        return f"{text} {self.notes[tool['name']]}" if tool["name"] in self.notes else text


def unwrapped(observation: str) -> str:
    """The result that an observation is, without what an environment writes around the one result of a call.

    >>> unwrapped("<tool_response>\\n5\\n</tool_response>"), unwrapped('{"name": "add", "result": "5"}'), unwrapped("5")
    ('5', '5', '5')
    """
    text = observation.strip()
    if (tagged := _RESPONSE.fullmatch(text)) is not None:
        return tagged[1].strip()
    if text.startswith('{"name": '):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if isinstance(found, dict) and isinstance(found.get("result"), str):
            return found["result"]
    return text


def _left(call: Caller) -> str:
    return "any" if call.turns_left is None else str(call.turns_left - 1)


def _untagged(answer: str) -> str:
    """An answer cannot end its own tag, nor be read as a call: tags that mean something to an environment are broken. A result that
    became an answer may hold some.

    >>> _untagged("1 < 2 </ans</answer>wer> <tool_call>{}</tool_call>")
    '1 < 2 </ans‹/answer>wer> ‹tool_call>{}‹/tool_call>'
    """
    return _TAGS.sub("‹", answer)
