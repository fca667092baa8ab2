"""Who speaks for a role: a policy of token ids (trained, or frozen), a model behind an API, a Python function; in demonstrations a
function whose words are written down as the trained policy's.

A speaker takes a ``Request`` and gives the ``Call`` that is its record; ``text_of`` a call is what was said, also of one that was
recorded in an earlier try of the episode.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from agentrl.agents.base import Episode, Generate
from agentrl.agents.flow.structured import written
from agentrl.chat import Renderer
from agentrl.errors import ConfigError, PolicyFault, PromptTooLong
from agentrl.policies.base import ChatModel
from agentrl.types import Call, Message, Outcome, Sampling

_WORD = re.compile(r"\w+|[^\w\s]")


class Stopped(BaseException):
    """A limit ends the episode, or with ``outcome`` None the turn. No Exception: what a graph catches must not hide a limit."""

    def __init__(self, problem: str, outcome: Outcome | None) -> None:
        super().__init__(problem)
        self.problem, self.outcome = problem, outcome


@dataclass(slots=True)
class Asked:
    """What a rule gets: the role, the messages that a model would see, and the ``facts`` that the graph gives with them.
    ``rng`` is a stream of this call's own. A rule that errs on purpose sets ``strayed``: demonstrations may leave that out."""

    role: str
    messages: Sequence[Message]
    facts: Mapping[str, Any]
    rng: np.random.Generator
    strayed: bool = False


Rule = Callable[[Asked], Any]  # a text, a mapping or a model (written as JSON), or an awaitable of one


@dataclass(slots=True)
class Request:
    """A call that a graph makes. ``number`` counts the calls of the turn; ``max_tokens`` is the most that may be sampled,
    None where only the speaker's own bound holds."""

    episode: Episode
    turn: int
    number: int
    asked: Asked
    max_tokens: int | None = None

    @property
    def id(self) -> str:
        return f"{self.episode.id}/turn={self.turn}/call={self.number}"

    @property
    def key(self) -> tuple[int | str, ...]:
        """Names the random stream of what is sampled."""
        return (*self.episode.key, self.turn, "call", self.number)


class Speaker(Protocol):
    """One role's voice."""

    @property
    def trained(self) -> bool:
        """Whether its calls become samples."""
        ...

    async def say(self, request: Request) -> Call:
        """Raises PolicyFault where an engine or endpoint fails, and Stopped where a prompt no longer fits."""
        ...

    def text_of(self, call: Call) -> str:
        """What was said in a call of this speaker."""
        ...

    def n_tokens(self, text: str) -> int:
        """How long a text is for it."""
        ...


@dataclass(frozen=True)
class TokenSpeaker:
    """A policy of token ids. ``generate`` None: the policy of the rollouts, the one that is trained; else a frozen one. Its
    sampling is the episode's for the trained policy, else ``sampling``. ``context`` bounds prompt + completion.

    Where the rollouts' policy is a model behind an API (an evaluation), it is asked by messages.
    """

    renderer: Renderer | None
    context: int | None = None
    trained: bool = True
    generate: Generate | None = None
    sampling: Sampling | None = None
    max_tokens: int | None = None

    async def say(self, request: Request) -> Call:
        episode, asked = request.episode, request.asked
        own = self.sampling or episode.sampling
        if self.generate is None and episode.generate is None and episode.chat_model is not None:
            bounded = replace(own, max_tokens=min(own.max_tokens, self.max_tokens or own.max_tokens))
            return await ChatSpeaker(episode.chat_model, bounded).say(request)
        generate = self.generate or episode.generate
        if generate is None or self.renderer is None:
            raise ConfigError(f"the role '{asked.role}' needs a policy, and these rollouts have none")
        ids = self.renderer.prompt(asked.messages)
        bounds = [own.max_tokens, self.max_tokens, request.max_tokens]
        room = None if self.context is None else self.context - len(ids)
        if room is not None and room <= 0:
            problem = f"{asked.role}: the prompt of {len(ids)} tokens no longer fits the context of {self.context}"
            raise Stopped(problem, Outcome.MAX_TOKENS)
        most = min(bound for bound in (*bounds, room) if bound is not None)
        sampling = replace(own, max_tokens=most, stop_ids=self.renderer.stop_ids, key=request.key)
        done = await generate(ids, sampling, request.id)
        return Call(
            role=asked.role,
            prompt_ids=ids,
            completion_ids=done.ids,
            logprobs=done.logprobs,
            sampling=sampling.shown(),
            finish=done.finish,
            policy_version=done.version,
            versions=done.versions,
            trainable=self.trained,
        )

    def text_of(self, call: Call) -> str:
        if call.reply is not None:
            return str(call.reply["text"])
        assert self.renderer is not None
        return self.renderer.opening + self.renderer.decode(call.completion_ids)

    def n_tokens(self, text: str) -> int:
        return count_words(text) if self.renderer is None else len(self.renderer.encode_text(text))


@dataclass(frozen=True)
class ChatSpeaker:
    """A model behind an API, never trained. ``sampling`` None: the endpoint's own settings."""

    model: ChatModel
    sampling: Sampling | None = None
    trained: bool = False

    async def say(self, request: Request) -> Call:
        sampling = self.sampling
        if sampling is not None:
            most = [n for n in (sampling.max_tokens, request.max_tokens) if n is not None]
            sampling = replace(sampling, max_tokens=min(most), key=request.key)
        asked = request.asked
        try:
            reply = await self.model.generate(asked.messages, None, sampling)
        except PromptTooLong as error:
            raise Stopped(f"{asked.role}: {error}", Outcome.MAX_TOKENS) from None
        return Call(
            role=asked.role,
            prompt_ids=[],
            completion_ids=[],
            sampling={} if sampling is None else sampling.shown(),
            finish=reply.finish,
            trainable=False,
            messages=list(asked.messages),
            reply=reply.to_dict(),
        )

    def text_of(self, call: Call) -> str:
        return _replied(call)

    def n_tokens(self, text: str) -> int:
        return count_words(text)


@dataclass(frozen=True)
class RuleSpeaker:
    """A Python function. Its words are recorded, and on a replay taken from the record. What it raises is a bug, and stops the
    run."""

    rule: Rule
    trained: bool = False

    async def say(self, request: Request) -> Call:
        text = await spoken(self.rule, request.asked)
        messages = list(request.asked.messages)
        return Call(request.asked.role, [], [], trainable=False, source="rule", messages=messages, reply={"text": text})

    def text_of(self, call: Call) -> str:
        return _replied(call)

    def n_tokens(self, text: str) -> int:
        return count_words(text)


@dataclass(frozen=True)
class DemoSpeaker:
    """A rule in the place of the trained policy: its words as that policy would have sampled them, source ``demo``. Where the
    rule strayed it is shown but not learned from, unless ``imitate_noise``."""

    speaker: TokenSpeaker
    rule: Rule
    imitate_noise: bool = False
    trained: bool = True

    async def say(self, request: Request) -> Call:
        text, asked, renderer = await spoken(self.rule, request.asked), request.asked, self.speaker.renderer
        assert renderer is not None, "a demonstrator is made with a renderer"
        opened = [("</think>", True)] if renderer.opening else []
        prompt, ids = renderer.prompt(asked.messages), renderer.completion([*opened, (text, False)])
        if renderer.decode(ids).removeprefix("</think>") != text:
            raise ConfigError(f"the model's tokenizer cannot write what the role '{asked.role}' says: {text!r:.100}")
        context = self.speaker.context
        if context is not None and len(prompt) + len(ids) > context:
            raise Stopped("the prompt no longer fits the context", Outcome.MAX_TOKENS)
        imitated = self.speaker.trained and (self.imitate_noise or not asked.strayed)
        return Call(asked.role, prompt, ids, trainable=imitated, source="demo")

    def text_of(self, call: Call) -> str:
        return self.speaker.text_of(call)

    def n_tokens(self, text: str) -> int:
        return self.speaker.n_tokens(text)


async def spoken(rule: Rule, asked: Asked) -> str:
    """What a rule says, as text. Raises what the rule raises, with a note that names the role, and ConfigError for what is neither
    a text nor JSON."""
    try:
        value = rule(asked)
        value = await value if inspect.isawaitable(value) else value
    except Exception as error:
        error.add_note(f"raised by the rule that speaks for the role '{asked.role}'")
        raise
    wanted = f"the rule of the role '{asked.role}' must give a text, a mapping or a model; got {value!r:.100}"
    if value is None:
        raise ConfigError(f"{wanted}; does it end without a return?")
    try:
        return written(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{wanted}: {error}") from error


def count_words(text: str) -> int:
    """Words and signs: the length of a text where no tokenizer is known."""
    return len(_WORD.findall(text))


def _replied(call: Call) -> str:
    if call.reply is None:
        raise PolicyFault(f"the record of the role '{call.role}' holds no reply: it was played by another speaker")
    return str(call.reply["text"])
