"""The message agent: the chat agent's prompts, memory and format for a model behind an API, which takes messages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.memory import Append, Window
from agentrl.agents.prompting import DEFAULT_PROMPT, Prompting, PromptSession
from agentrl.chat.parser import ActionFormat, Parsed
from agentrl.errors import ConfigError, PromptTooLong
from agentrl.types import Call, Message, Reply

NO_TEXT = "(no text)"  # some endpoints refuse a conversation with an empty message in it


@dataclass(frozen=True)
class MessageAgent(Prompting):
    """The agent of a ``ChatModel``. Its calls hold ``messages`` and ``reply`` in place of token ids, and are never trained."""

    memory: Window | Append = field(default_factory=Window)
    format: ActionFormat = field(default_factory=ActionFormat)
    prompt: str = DEFAULT_PROMPT
    system: str = ""

    def start(self, episode: Episode) -> Session:
        return MessageSession(self, episode)


class MessageSession(PromptSession):
    """One message agent in one episode."""

    def messages(self, view: View) -> list[Message]:
        """The whole conversation that the model is shown at this turn. With memory ``append`` the model's own texts stand
        in it; its thoughts (the reasoning field of a reply) do not."""
        new = [_sendable(message) for message in self.new_messages(view)]
        if not self.goes_on or self.last is None:
            return new
        said = (self.last.reply or {}).get("text") or NO_TEXT
        return [*(self.last.messages or ()), {"role": "assistant", "content": said}, *new]

    async def act(self, view: View) -> Decision:
        episode = self.episode
        if episode.chat_model is None:
            raise ConfigError("a message agent needs a chat model, and these rollouts have none")
        messages = self.messages(view)
        sampling = replace(episode.sampling, key=(*episode.key, view.turn))
        try:
            reply = await episode.chat_model.generate(messages, None, sampling)
        except PromptTooLong as error:
            return Decision("", valid=False, problem=str(error), over_budget=True)
        call = Call(
            role="agent",
            prompt_ids=[],
            completion_ids=[],
            sampling=sampling.shown(),
            finish=reply.finish,
            trainable=False,
            messages=messages,
            reply=reply.to_dict(),
        )
        return self.decide(view, call, self._parsed(reply))

    def _parsed(self, reply: Reply) -> Parsed:
        """A reply that holds no action is the model's doing; the problem says what came in its place."""
        form = self.prompting.format
        if reply.reasoning:  # the thought that the format asks for stands in a field of its own
            form = replace(form, think_tags=False)
        parsed = form.parse(reply.text)
        if not parsed.problem:
            return parsed
        if reply.refusal:
            return replace(parsed, problem=f"the model refused: {reply.refusal}")
        cut = " (cut off at max_tokens)" if reply.finish == "length" else ""
        return replace(parsed, problem=f"{parsed.problem}{cut}" if reply.text else f"the answer is empty{cut}")


def _sendable(message: Message) -> Message:
    """A lone surrogate becomes "?": it cannot be written as UTF-8."""
    content = message.get("content")
    return {**message, "content": content.encode(errors="replace").decode()} if isinstance(content, str) else message
