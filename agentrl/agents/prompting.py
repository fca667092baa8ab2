"""What chat agents have in common, whether token ids or messages reach the model: a prompt template, a memory, a format of
actions, and the past of one episode."""

from __future__ import annotations

from collections.abc import Container, Mapping

from agentrl.agents.base import Decision, Episode, View
from agentrl.agents.memory import Append, Window
from agentrl.agents.template import check_template, fill
from agentrl.chat.parser import ActionFormat, Parsed
from agentrl.types import Call, Message


def default_prompt(fields: Container[str]) -> str:
    """The prompt where a run file gives none, of what the environment shows: ``goal`` and ``admissible_actions`` may be
    missing.

    >>> default_prompt(["observation"])
    '{history}Observation: {observation}\\nAnswer with one action as <action>…</action>.'
    """
    lines = [
        "Task: {goal}\n" if "goal" in fields else "",
        "{history}Observation: {observation}\n",
        "Admissible actions:\n{admissible_actions}\n" if "admissible_actions" in fields else "",
        "Answer with one action as <action>…</action>.",
    ]
    return "".join(lines)


FREE_PROMPT = "{history}{observation}"  # where an action is the model's whole reply
DEFAULT_PROMPT = default_prompt(("goal", "admissible_actions"))


class Prompting:
    """An agent that shows a conversation and reads an action from the answer.

    ``prompt`` is a template whose fields are ``history``, ``observation`` and every text of the environment's info
    (Household: ``goal``, ``inventory``, ``admissible_actions``) and ``turn``, the turn's number from 1. Field values are
    inserted as they are; braces in them mean nothing.
    """

    memory: Window | Append
    format: ActionFormat
    prompt: str
    system: str

    def messages(self, view: View, past: list[tuple[str, str]], *, goes_on: bool = False) -> list[Message]:
        """What a turn adds to the conversation: all of it, or the memory's ``next`` where it ``goes_on`` behind a call.
        ``past`` holds (observation, action) of every earlier turn."""
        fields = {**view.fields(), "history": self.memory.history(past)}
        if goes_on and isinstance(self.memory, Append):
            return [{"role": "user", "content": fill("agent.memory.next", self.memory.next, fields)}]
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*messages, {"role": "user", "content": fill("agent.prompt", self.prompt, fields)}]

    def check(self, fields: Mapping[str, str]) -> None:
        """Raises ConfigError for a template field that neither the environment nor the memory provides."""
        check_template("agent.prompt", self.prompt, {*fields, "history"})
        if isinstance(self.memory, Append):
            check_template("agent.memory.next", self.memory.next, {*fields, "history"})


class PromptSession:
    """One such agent in one episode: its past turns and its last call."""

    def __init__(self, prompting: Prompting, episode: Episode) -> None:
        self.prompting = prompting
        self.episode = episode
        self.past: list[tuple[str, str]] = []
        self.last: Call | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the next turn stands behind the last call, in one conversation with it."""
        return isinstance(self.prompting.memory, Append) and self.last is not None

    def new_messages(self, view: View) -> list[Message]:
        """What this turn adds to the conversation (``Prompting.messages``)."""
        return self.prompting.messages(view, self.past, goes_on=self.goes_on)

    def decide(self, view: View, call: Call, parsed: Parsed) -> Decision:
        """The decision that an answer holds, taken into memory."""
        self.record(view, call, parsed.action)
        return Decision(
            parsed.action,
            [call],
            valid=not parsed.problem,
            problem=parsed.problem,
            only_admissible=self.prompting.format.only_admissible,
        )

    def record(self, view: View, call: Call, action: str) -> None:
        """Takes a finished turn into memory."""
        self.last = call
        self.past.append((view.observation, action))
