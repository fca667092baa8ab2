"""The chat agent: a prompt template, a memory, a format of actions, one call of token ids a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.memory import Append, Window
from agentrl.agents.prompting import DEFAULT_PROMPT, Prompting, PromptSession
from agentrl.chat import ActionFormat, Parsed, Renderer
from agentrl.errors import ConfigError
from agentrl.types import Call, Message


@dataclass(frozen=True)
class ChatAgent(Prompting):
    """The agent of a policy that takes and gives token ids. ``context`` bounds prompt + completion in tokens (None: no
    bound); the other fields are those of ``Prompting``, and

    ``earlier_turns``, how a memory that appends shows the model its own earlier turns:

    - "as_sampled": the very ids that it sampled, thoughts included. An episode is one sample.
    - "as_template": as its chat template writes them, as a server behind a chat API does. Where that reads differently from the
      sampled ids, the turn opens a new sample; the earlier text is encoded again, as context, and never trained there.
    - "auto", the default: "as_template" for a template that drops thoughts or rewrites turns, so that a model is asked in the form
      that it was trained for; else "as_sampled", so that spaces which a template trims never break a sample.
    """

    renderer: Renderer
    memory: Window | Append = field(default_factory=Window)
    format: ActionFormat = field(default_factory=ActionFormat)
    prompt: str = DEFAULT_PROMPT
    system: str = ""
    context: int | None = None
    earlier_turns: Literal["auto", "as_sampled", "as_template"] = "auto"

    @property
    def follows_template(self) -> bool:
        """Whether earlier turns are shown as the chat template writes them."""
        if not isinstance(self.memory, Append) or self.earlier_turns == "as_sampled":
            return False
        return self.earlier_turns == "as_template" or not self.renderer.traits(system=bool(self.system)).keeps_history

    def describe(self) -> str:
        """One line: what the chat template was found to do, and how earlier turns are shown therefore; "" where neither matters."""
        traits = self.renderer.traits(system=bool(self.system))
        if not isinstance(self.memory, Append):
            return f"chat template: {traits}" if traits.opening else ""
        shown = "as the template writes them" if self.follows_template else "as they were sampled"
        return (
            f"chat template: {traits}; earlier turns are shown {shown} (agent.earlier_turns = {self.earlier_turns!r})"
        )

    def parse(self, completion: Sequence[int]) -> Parsed:
        """What a completion says, together with the thought that the generation prompt opened."""
        return self.format.parse(self.renderer.opening + self.renderer.decode(completion))

    def written(self, action: str) -> list[int]:
        """Ids of a completion that does ``action``, [C]: what a demonstration shows."""
        pieces = self.format.pieces(action, opened=bool(self.renderer.opening))
        return self.renderer.completion(pieces)

    def start(self, episode: Episode) -> Session:
        return ChatSession(self, episode)

    def check(self, fields: Mapping[str, str]) -> None:
        """As ``Prompting.check``; raises ConfigError also for a system text that the model's chat template does not take."""
        super().check(fields)
        if self.system and not self.renderer.traits(system=True).system:
            raise ConfigError(
                "agent.system is given, and the model's chat template takes no system message; "
                "put its text in front of agent.prompt"
            )


class ChatSession(PromptSession):
    """One chat agent in one episode."""

    def __init__(self, agent: ChatAgent, episode: Episode) -> None:
        super().__init__(agent, episode)
        self.agent = agent
        self.messages: list[Message] = []  # of the turns that lie behind, where the template writes them

    def prompt_ids(self, view: View) -> list[int]:
        """What the model is shown at this turn, [P]."""
        renderer, messages = self.agent.renderer, self.new_messages(view)
        if not self.goes_on or self.last is None:
            return renderer.prompt(messages)
        if self.agent.follows_template:
            return renderer.follow(self.last.prompt_ids, self.last.completion_ids, self.messages, messages)
        return renderer.extend(self.last.prompt_ids, self.last.completion_ids, messages)

    async def act(self, view: View) -> Decision:
        episode, agent = self.episode, self.agent
        if episode.generate is None:
            raise ConfigError("a chat agent needs a policy, and these rollouts have none")
        ids = self.prompt_ids(view)
        room = episode.sampling.max_tokens if agent.context is None else agent.context - len(ids)
        if room <= 0:
            problem = f"the prompt of {len(ids)} tokens no longer fits the context of {agent.context}"
            return Decision("", valid=False, problem=problem, over_budget=True)
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
            versions=completion.versions,
        )
        return self.decide(view, call, agent.parse(completion.ids))

    def record(self, view: View, call: Call, action: str) -> None:
        """Takes a finished turn into memory."""
        if self.agent.follows_template:
            spoken: Message = {"role": "assistant", "content": self.agent.renderer.spoken(call.completion_ids)}
            self.messages += [*self.new_messages(view), spoken]
        super().record(view, call, action)
