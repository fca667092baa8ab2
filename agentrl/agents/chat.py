"""The chat agent: a prompt template, a memory, a format of actions, one call of token ids a turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.memory import Append, Window
from agentrl.agents.prompting import DEFAULT_PROMPT, Prompting, PromptSession
from agentrl.chat import ActionFormat, Renderer
from agentrl.errors import ConfigError
from agentrl.types import Call


@dataclass(frozen=True)
class ChatAgent(Prompting):
    """The agent of a policy that takes and gives token ids. ``context`` bounds prompt + completion in tokens (None: no
    bound); the other fields are those of ``Prompting``."""

    renderer: Renderer
    memory: Window | Append = field(default_factory=Window)
    format: ActionFormat = field(default_factory=ActionFormat)
    prompt: str = DEFAULT_PROMPT
    system: str = ""
    context: int | None = None

    def start(self, episode: Episode) -> Session:
        return ChatSession(self, episode)


class ChatSession(PromptSession):
    """One chat agent in one episode."""

    def __init__(self, agent: ChatAgent, episode: Episode) -> None:
        super().__init__(agent, episode)
        self.agent = agent

    def prompt_ids(self, view: View) -> list[int]:
        """What the model is shown at this turn, [P]."""
        renderer, messages = self.agent.renderer, self.new_messages(view)
        if self.goes_on and self.last is not None:
            return renderer.extend(self.last.prompt_ids, self.last.completion_ids, messages)
        return renderer.prompt(messages)

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
            sampling=sampling.shown(),
            finish=completion.finish,
            policy_version=completion.version,
        )
        return self.decide(view, call, agent.format.parse(agent.renderer.decode(completion.ids)))
