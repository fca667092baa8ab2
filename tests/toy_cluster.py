"""What rollout workers of the tests play with: importable by name in their processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from toys import PROMPT, Corridor, tokenizer

from agentrl import seeding
from agentrl.agents import ChatAgent, Window
from agentrl.chat import Renderer
from agentrl.cluster.worker import Parts
from agentrl.errors import ConfigError, MissingExtra
from agentrl.rollouts import EnvPool, Seat
from agentrl.types import Completion, Sampling

RENDERER = Renderer(tokenizer())
RIGHT, LEFT = (RENDERER.completion([(f"<action>go {way}</action>", True)]) for way in ("right", "left"))
LIE = 13  # a version that the policy takes for another
TOO_HOT = 9.0  # a temperature that it refuses
TOKEN_S = 0.02  # of its engine


class Walker:
    """Goes right more often than left, by the request's own stream; its log-probs are the model's first weight."""

    capabilities: frozenset[str] = frozenset({"trainable"})

    def __init__(self, model: Any) -> None:
        self.model = model
        self.version = 0

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        if sampling.temperature == TOO_HOT:
            raise ConfigError(f"a temperature of {sampling.temperature:g} is too hot")
        await asyncio.sleep(TOKEN_S)
        ids = list(RIGHT if seeding.stream(0, "walk", *sampling.key).random() < 0.7 else LEFT)
        return Completion(ids, [self.model.weight[0, 0].item()] * len(ids), version=self.version)

    def update(self, model: Any, version: int) -> int:
        self.version = version - (version == LIE)
        return 0

    def sleep(self) -> None:
        """It has no memory to give back."""

    def close(self) -> None:
        """It has started nothing."""


def linear(first: float = 0.5) -> torch.nn.Linear:
    model = torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight[0, 0] = first
    return model


def seat() -> Seat:
    return Seat(EnvPool(Corridor), ChatAgent(renderer=RENDERER, prompt=PROMPT, memory=Window(turns=1)))


def parts() -> Parts:
    model = linear(0.0)
    return Parts({"": seat()}, Walker(model), model)


def no_parts() -> Parts:
    raise ConfigError("there is no such environment")


def parts_of_an_extra() -> Parts:
    raise MissingExtra("mine", "the policy 'mine'")
