"""An agent whose actions are judged before they are executed (GUI-Critic-R1, arXiv 2506.04614): a graph of two roles.

    actor ── proposed action ──► critic ── Correct ──► executed
      ▲                             │ Incorrect
      └──── decides again, with the suggestion in its context, at most ``retries`` times

    [agent]
    name = "critic"
    roles = { critic = "checkpoint:runs/critic" }        # or the policy itself, a model behind an API, a rule

A critic cannot block: after the last retry the action is executed, and the critic is not asked about it. Nor can one that cannot be
read: without a score the action is executed, and the turn's problem says so. What the environment, or the actor, writes reaches the
critic with every tag of a critique broken, and a critique is read from what the critic itself said.

Roles are bound as those of every agent made of modules (``agentrl.agents.flow``): calls of both are recorded, those of a trained
role become samples. By default the actor is trained and the critic is the rule ``unrepeated``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from agentrl import critique, registry
from agentrl.agents.base import Decision, View
from agentrl.agents.flow.session import Caller
from agentrl.agents.flow.speakers import Asked
from agentrl.agents.memory import Window
from agentrl.agents.prompting import DEFAULT_PROMPT, default_prompt
from agentrl.agents.template import check_template, fill
from agentrl.chat.parser import ActionFormat, Parsed
from agentrl.critique import Critique
from agentrl.errors import ConfigError
from agentrl.registry import register

ADVICE = "\nYou were about to do: {proposed}\nA critic says that this is not right. It suggests: {suggestion}"
ADVICE_FIELDS = ("proposed", "suggestion", "thought")


@register("flow", "critic")
@dataclass(frozen=True)
class CriticGraph:
    """``prompt``, ``memory`` (a window) and ``action_tags`` are the actor's, and mean what they mean for the chat agent.
    ``question`` is what the critic is asked: a template of ``{taken}`` (the actions so far), ``{proposed}``, ``{observation}`` and
    the environment's texts, as ``agentrl/Critique-v0`` has it under that name, so that a critic is asked in the form that it was
    trained for. ``advice`` is added to the actor's prompt when it decides again, a template of ``{suggestion}``, ``{proposed}`` and
    ``{thought}``, the critic's; "" lets it decide again without a word. ``retries`` bounds how often.

    A rejected proposal is trained like one that was executed: it is a part of what led to the outcome."""

    prompt: str | None = None
    memory: dict[str, Any] = field(default_factory=lambda: {"turns": 4})
    action_tags: bool = True
    question: str = critique.QUESTION
    advice: str = ADVICE
    retries: Annotated[int, Field(ge=0)] = 1

    roles: ClassVar[Mapping[str, Any]] = {"actor": "trained", "critic": "rule:unrepeated"}

    def __post_init__(self) -> None:
        self.window  # noqa: B018  what is wrong with the memory is an error now
        check_template("agent.options.advice", self.advice, ADVICE_FIELDS)

    @property
    def window(self) -> Window:
        """What of the past the actor is shown. Raises ConfigError for another memory."""
        settings = {key: value for key, value in self.memory.items() if key != "name"}
        if self.memory.get("name", "window") != "window":
            raise ConfigError(f"agent.options.memory: the agent 'critic' wants a window; got {self.memory['name']!r}")
        return registry.validate(Window, settings, "agent.options.memory")

    @property
    def format(self) -> ActionFormat:
        """How the actor writes an action."""
        return ActionFormat(self.action_tags)

    def texts(self) -> Iterator[str]:
        """What it writes into prompts, for a tokenizer that is made of words."""
        yield from (self.prompt or DEFAULT_PROMPT, self.question, self.advice, "none; ")
        yield from (str(value) for key, value in self.memory.items() if key != "name")
        yield from (critique.written("", correct, "") for correct in (True, False))

    def check(self, view: View) -> None:
        """Raises ConfigError for a template field that nobody gives."""
        shown = view.fields()
        check_template("agent.options.prompt", self.prompt or "", {*shown, "history"})
        check_template("agent.options.question", self.question, critique.fields(shown, [], ""))

    async def __call__(self, view: View, call: Caller) -> Decision:
        past: list[tuple[str, str]] = call.state.setdefault("past", [])
        advice, parsed = "", Parsed("")
        for attempt in range(self.retries + 1):
            parsed = await self._act(view, call, past, advice)
            if parsed.problem or attempt == self.retries:
                break
            said = await self._judge(view, call, past, parsed.action)
            if said.correct is not False:
                break
            told = {"proposed": parsed.action, "suggestion": said.suggestion, "thought": said.thought}
            advice = fill("agent.options.advice", self.advice, told)
        past.append((view.observation, parsed.action))
        return Decision(parsed.action, valid=not parsed.problem, problem=parsed.problem)

    async def _act(self, view: View, call: Caller, past: list[tuple[str, str]], advice: str) -> Parsed:
        """What the actor would do."""
        shown = {**view.fields(), "history": self.window.history(past)}
        prompt = default_prompt(shown) if self.prompt is None else self.prompt
        asked = fill("agent.options.prompt", prompt, shown) + advice
        facts = {**_facts(view, past), "advice": advice}
        said = await call("actor", asked, facts=facts)
        return self.format.parse(said.text)

    async def _judge(self, view: View, call: Caller, past: list[tuple[str, str]], proposed: str) -> Critique:
        """What the critic says of that."""
        shown = critique.fields(view.fields(), [action for _, action in past], proposed)
        asked = fill("agent.options.question", self.question, shown)
        answer = await call("critic", asked, facts={**_facts(view, past), "proposed": proposed})
        said = critique.read(answer.text)
        if said.correct is None:
            cut = " (cut off at max_tokens)" if answer.call.finish == "length" else ""
            call.problems.append(f"critic: no score could be read{cut}")
        return said


def _facts(view: View, past: list[tuple[str, str]]) -> dict[str, Any]:
    """What a rule reads: ``observation``, ``fields`` (the environment's texts), ``admissible`` (None: it lists none) and ``past``,
    the (observation, action) of each earlier turn."""
    return {
        "observation": view.observation,
        "fields": view.fields(),
        "admissible": view.info.get("admissible_actions"),
        "past": list(past),
    }


@register("rule", "unrepeated")
def unrepeated(asked: Asked) -> str:
    """Critic: an action that the environment does not list is incorrect (the nearest that it lists is suggested), and so is one
    that was taken on this very observation in the turn before, for it changed nothing.

    facts: ``proposed``, ``observation``, ``admissible``, ``past``.
    """
    proposed, admissible, past = asked.facts["proposed"], asked.facts["admissible"], asked.facts["past"]
    if admissible is not None and proposed not in admissible:
        near = difflib.get_close_matches(proposed, admissible, n=1, cutoff=0.0)
        return critique.written("This is not among the admissible actions.", False, near[0] if near else "")
    if past and past[-1] == (asked.facts["observation"], proposed):
        return critique.written("This was done in the turn before and changed nothing.", False, "something else")
    return critique.written("Nothing speaks against it.", True, proposed)
