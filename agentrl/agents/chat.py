"""The chat agent: a prompt template, a memory, a format of actions, one call a turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.memory import Append, Window
from agentrl.agents.template import check_template, fill
from agentrl.chat import ActionFormat, Renderer
from agentrl.errors import ConfigError
from agentrl.types import Call, Message

DEFAULT_PROMPT = (
    "Task: {goal}\n{history}Observation: {observation}\nAdmissible actions:\n{admissible_actions}\n"
    "Answer with one action as <action>…</action>."
)


@dataclass(frozen=True)
class ChatAgent:
    """``prompt`` is a template whose fields are ``history``, ``observation`` and every text of the environment's info
    (Household: ``goal``, ``inventory``, ``admissible_actions``). Field values are inserted as they are; braces in them
    mean nothing. ``context`` bounds prompt + completion in tokens (None: no bound).
    """

    renderer: Renderer
    memory: Window | Append = field(default_factory=Window)
    format: ActionFormat = field(default_factory=ActionFormat)
    prompt: str = DEFAULT_PROMPT
    system: str = ""
    context: int | None = None

    def start(self, episode: Episode) -> Session:
        return ChatSession(self, episode)

    def check(self, fields: Mapping[str, str]) -> None:
        """Raises ConfigError for a template field that neither the environment nor the memory provides."""
        check_template("agent.prompt", self.prompt, {*fields, "history"})
        if isinstance(self.memory, Append):
            check_template("agent.memory.next", self.memory.next, {*fields, "history"})


class ChatSession:
    """One chat agent in one episode."""

    def __init__(self, agent: ChatAgent, episode: Episode) -> None:
        self.agent = agent
        self.episode = episode
        self.past: list[tuple[str, str]] = []
        self.last: Call | None = None

    def prompt_ids(self, view: View) -> list[int]:
        """What the model is shown at this turn, [P]."""
        agent = self.agent
        fields = {**view.fields(), "history": agent.memory.history(self.past)}
        if isinstance(agent.memory, Append) and self.last is not None:
            message: Message = {"role": "user", "content": fill("agent.memory.next", agent.memory.next, fields)}
            return agent.renderer.extend(self.last.prompt_ids, self.last.completion_ids, [message])
        messages: list[Message] = [{"role": "system", "content": agent.system}] if agent.system else []
        messages.append({"role": "user", "content": fill("agent.prompt", agent.prompt, fields)})
        return agent.renderer.prompt(messages)

    async def act(self, view: View) -> Decision:
        episode, agent = self.episode, self.agent
        if episode.generate is None:
            raise ConfigError("a chat agent needs a policy, and these rollouts have none")
        ids = self.prompt_ids(view)
        room = episode.sampling.max_tokens if agent.context is None else agent.context - len(ids)
        if room <= 0:
            return Decision("", valid=False, problem="the prompt no longer fits the context", over_budget=True)
        sampling = replace(
            episode.sampling,
            max_tokens=min(room, episode.sampling.max_tokens),
            stop_ids=agent.renderer.stop_ids,
            key=(*episode.key, view.turn),
        )
        completion = await episode.generate(ids, sampling, f"{episode.id}/turn={view.turn}")
        call = Call(
            role="agent",
            prompt_ids=ids,
            completion_ids=completion.ids,
            logprobs=completion.logprobs,
            sampling={"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens},
            finish=completion.finish,
            policy_version=completion.version,
        )
        parsed = agent.format.parse(agent.renderer.decode(completion.ids))
        self.record(view, call, parsed.action)
        return Decision(parsed.action, [call], valid=not parsed.problem, problem=parsed.problem)

    def record(self, view: View, call: Call, action: str) -> None:
        """Takes a finished turn into memory."""
        self.last = call
        self.past.append((view.observation, action))
