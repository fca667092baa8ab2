"""Agents without a model: random, oracle, expert; and the demonstrator, which writes another's actions as a model would."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium
from pydantic import Field

from agentrl.agents.base import Decision, Episode, Session, View
from agentrl.agents.chat import ChatAgent, ChatSession
from agentrl.env import ask, hook
from agentrl.errors import ConfigError
from agentrl.registry import register
from agentrl.types import Call


@register("agent", "random")
@dataclass(frozen=True)
class RandomAgent:
    """A uniformly random admissible action."""

    def start(self, episode: Episode) -> Session:
        return _RandomSession(episode)


class _RandomSession:
    def __init__(self, episode: Episode) -> None:
        self.rng = episode.rng

    async def act(self, view: View) -> Decision:
        actions = view.info.get("admissible_actions")
        if not actions:
            raise ConfigError("the random agent needs info['admissible_actions'], which this environment does not give")
        return Decision(str(actions[int(self.rng.integers(len(actions)))]))


@register("agent", "oracle")
@dataclass(frozen=True)
class OracleAgent:
    """The first action of the environment's own ``oracle()``, asked anew every turn."""

    def start(self, episode: Episode) -> Session:
        return _OracleSession(episode)


class _OracleSession:
    def __init__(self, episode: Episode) -> None:
        self.env = _with(episode, "oracle")

    async def act(self, view: View) -> Decision:
        plan = await ask(self.env, "oracle")
        return Decision(str(plan[0]) if plan else "")


@register("agent", "expert")
@dataclass(frozen=True)
class ExpertAgent:
    """The environment's searching ``expert(noise=…, seed=…)``, which sees only what an agent sees. ``noise`` is the share of
    turns on which it acts at random; ``options`` are further parameters of that expert."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def start(self, episode: Episode) -> Session:
        return _ExpertSession(self, episode)


class _ExpertSession:
    def __init__(self, agent: ExpertAgent, episode: Episode) -> None:
        self.env = _with(episode, "expert")
        self.options = {"noise": agent.noise, "seed": int(episode.rng.integers(2**31)), **agent.options}
        self.expert: Any = None

    async def act(self, view: View) -> Decision:
        if self.expert is None:
            self.expert = await ask(self.env, "expert", **self.options)
        actions = list(view.info.get("admissible_actions", ()))
        action = self.expert.act(view.observation, actions, str(view.info.get("goal", "")))
        return Decision(action, deliberate=not getattr(self.expert, "strayed", False))


@dataclass(frozen=True)
class DemonstratorAgent:
    """Writes another agent's actions down as the chat agent's completions: the same prompts, the same ids, source
    ``demo``. What supervised learning is fed with. Turns that were the expert's noise are shown but not trained on, unless
    ``imitate_noise``."""

    chat: ChatAgent
    expert: Any  # an Agent
    imitate_noise: bool = False

    def start(self, episode: Episode) -> Session:
        return _DemoSession(ChatSession(self.chat, episode), self.expert.start(episode), self.imitate_noise)


class _DemoSession:
    def __init__(self, chat: ChatSession, expert: Session, imitate_noise: bool) -> None:
        self.chat = chat
        self.expert = expert
        self.imitate_noise = imitate_noise

    async def act(self, view: View) -> Decision:
        decision = await self.expert.act(view)
        agent = self.chat.agent
        prompt = self.chat.prompt_ids(view)
        ids = agent.written(decision.action)
        if agent.parse(ids).action != decision.action.strip():
            raise ConfigError(f"the model's tokenizer or the action format cannot write the action {decision.action!r}")
        if agent.context is not None and len(prompt) + len(ids) > agent.context:
            return Decision("", valid=False, problem="the prompt no longer fits the context", over_budget=True)
        imitated = decision.deliberate or self.imitate_noise
        call = Call(role="agent", prompt_ids=prompt, completion_ids=ids, trainable=imitated, source="demo")
        self.chat.record(view, call, decision.action)
        return Decision(decision.action, [call])


def _with(episode: Episode, name: str) -> gymnasium.Env[str, str]:
    """The episode's environment, which must have the hook ``name``."""
    if hook(episode.env, name) is None:
        raise ConfigError(f"this environment has no {name}(); the {name} agent cannot play it")
    return episode.env
