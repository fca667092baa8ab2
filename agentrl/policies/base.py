"""What a policy is: token ids in, token ids out; and a chat model: messages in, a reply out, never trainable.

A policy answers many requests at a time. Engines that batch by themselves implement ``generate``; an engine that wants
whole batches implements ``generate_batch`` and is driven through ``rollouts.batching.Rounds``, which collects the requests of all
live episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from agentrl.types import Completion, Message, Reply, Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a model: ``prompt_ids [P]``, how to sample, and a stable id (its order decides nothing but batches)."""

    id: str
    prompt_ids: Sequence[int]
    sampling: Sampling


@runtime_checkable
class Policy(Protocol):
    """``generate`` returns what was sampled, exactly, with log-probs at the sampling temperature."""

    capabilities: frozenset[str]

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        """Raises PolicyFault where the engine, not the model, failed."""
        ...


class TrainablePolicy(Protocol):
    """What the trainer wants of a policy besides its answers; ``capabilities`` has "trainable", and "engine" where it runs in
    processes of its own (it is then told what ``build.engine_fields`` gives)."""

    version: int  # of the weights; written into every completion

    def update(self, model: Any, version: int) -> int:
        """From here on it samples with the weights of ``model`` as they are now. Returns how many bytes were handed over. Also
        called while requests are under way, where ``rollout.staleness`` lets episodes go on: each completion's version says what
        it was sampled with."""
        ...

    def sleep(self) -> None:
        """Nothing is asked until the next ``update``: memory may be given back for so long."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...


@runtime_checkable
class BatchPolicy(Protocol):
    """A policy that answers a whole batch at once. One that also has ``forget(episode_id)`` is told when an episode has ended;
    the ids of its requests were ``episode_id/turn=…``."""

    capabilities: frozenset[str]

    def generate_batch(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order."""
        ...


@runtime_checkable
class ChatModel(Protocol):
    """A model behind an API: for evaluation, judges and frozen modules. One that keeps connections is an asynchronous
    context manager; rollouts enter it for their time."""

    capabilities: frozenset[str]

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        sampling: Sampling | None = None,
    ) -> Reply:
        """``tools`` are JSON schemas in OpenAI's form; without ``sampling`` the endpoint's own defaults hold. An empty or
        refused reply is a Reply. Raises PolicyFault where the endpoint, not the model, failed, and PromptTooLong where the
        messages exceed what the model takes."""
        ...

    def account(self) -> dict[str, Any]:
        """What was asked of it so far, plain JSON: ``calls, retries, tokens, cost`` …"""
        ...
