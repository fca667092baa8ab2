"""Who plays: the agent of a run file, with the models that speak for the roles of one made of modules.

    agent = seating.agent(config, config.agent_of(table), renderer, view, limit)

A role is bound to the trained policy, a checkpoint that stays as it is, a model behind an API, or a Python function.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentrl import build, registry
from agentrl.agents import Agent, ChatAgent, DemonstratorAgent, FlowAgent, View
from agentrl.agents.flow import ChatSpeaker, DemoSpeaker, FlowLimits, RuleSpeaker, Speaker, TokenSpeaker
from agentrl.agents.flow.roles import Role, graph_of, is_flow, role_of, roles_of, rule_of
from agentrl.chat import Renderer
from agentrl.config import AgentTable, RunConfig
from agentrl.errors import CheckpointError, ConfigError
from agentrl.rollouts.batching import FreeBatches
from agentrl.run_files import holds_model, shipped
from agentrl.types import Completion, Sampling

CHAT_KEYS = (
    "memory",
    "prompt",
    "system",
    "action_tags",
    "tools",
    "think_tags",
    "projection",
    "earlier_turns",
)
FLOW_KEYS = ("options", "roles", "limits")


def agent(
    config: RunConfig, table: AgentTable, renderer: Renderer | None, view: View, limit: int | None = None
) -> ChatAgent | FlowAgent:
    """The run file's agent, checked against what the environment shows. ``renderer`` None: the policy is a model behind an API, and
    the agent one made of modules. Raises ConfigError for keys that the agent does not have, for a role that it does not name, and
    for speakers that cannot be made."""
    if not is_flow(table):
        given = [key for key in FLOW_KEYS if getattr(table, key)]
        if given:
            raise ConfigError(
                f"agent.{given[0]} is for an agent made of modules; name one, as in agent.name = 'agentflow'"
            )
        assert renderer is not None, "the chat agent of an API is a MessageAgent"
        return build.chat_agent(table, renderer, view, limit)
    defaults = AgentTable()
    for key in CHAT_KEYS:
        if getattr(table, key) != getattr(defaults, key):
            raise ConfigError(f"agent.{key} is the chat agent's, and agent.name = '{table.name}'; leave it out")
    if limit is not None and table.context is not None and table.context > limit:
        raise ConfigError(
            f"agent.context = {table.context}, but the model has {limit} positions; ask for {limit} or fewer"
        )
    context = limit if table.context is None else table.context
    graph = graph_of(table)
    if hasattr(graph, "check"):
        graph.check(view)
    limits = registry.validate(FlowLimits, table.limits, "agent.limits")
    trained = TokenSpeaker(renderer, context)
    speakers = {
        name: _speaker(config, f"agent.roles.{name}", role, trained) for name, role in roles_of(graph, table).items()
    }
    return FlowAgent(graph, speakers, limits, tuple(view.tools), context)


def check_trains(config: RunConfig, agents: Iterable[Agent]) -> None:
    """Raises ConfigError for iterations in which nobody says anything that is trained."""
    mute = [
        isinstance(each, FlowAgent) and not any(voice.trained for voice in each.speakers.values()) for each in agents
    ]
    if config.run.iterations and all(mute):
        raise ConfigError(
            f"agent.roles: no role of '{config.agent.name}' is trained, so a run would change nothing; give one the speaker "
            "'trained', or let `agentrl eval` play the agent as it is"
        )


def _speaker(config: RunConfig, where: str, role: Role, trained: TokenSpeaker) -> Speaker:
    if role.kind == "rule":
        return RuleSpeaker(rule_of(role, where))
    if role.kind == "trained":
        return TokenSpeaker(trained.renderer, trained.context, role.trainable is not False, max_tokens=role.max_tokens)
    try:
        return _endpoint(config, role) if role.kind == "openai" else _frozen(config, role)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"{where}: {error}") from error


def _endpoint(config: RunConfig, role: Role) -> ChatSpeaker:
    from agentrl.policies.openai import MAX_TOKENS, OpenAIChat, parse_endpoint

    endpoint = parse_endpoint(role.rest)
    most = role.max_tokens or endpoint.max_tokens or MAX_TOKENS
    sampling = None  # the endpoint's own temperature
    if role.temperature is not None:
        sampling = Sampling(temperature=role.temperature, max_tokens=most)
    return ChatSpeaker(OpenAIChat(replace(endpoint, max_tokens=most), root_seed=config.run.seed), sampling)


# ── checkpoints that stay as they are ────────────────────────────────────────────────────────────────────────────────


class Frozen:
    """A checkpoint's policy, answered in batches without a barrier, in whatever event loop it is asked."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self._batches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, FreeBatches] = weakref.WeakKeyDictionary()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        """As ``Policy.generate``."""
        loop = asyncio.get_running_loop()
        if loop not in self._batches:
            self._batches[loop] = FreeBatches(self.policy)
        return await self._batches[loop].generate(prompt_ids, sampling, request_id)


_loaded: weakref.WeakValueDictionary[tuple[Any, ...], _Loaded] = weakref.WeakValueDictionary()


@dataclass(eq=False)
class _Loaded:
    """A checkpoint that several roles may share."""

    frozen: Frozen
    renderer: Renderer
    context: int | None

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        return await self.frozen.generate(prompt_ids, sampling, request_id)


def _frozen(config: RunConfig, role: Role) -> TokenSpeaker:
    path = _folder(role.rest)
    key = (
        str(Path(path).resolve()),
        config.model.dtype,
        build.device(config),
        config.run.seed,
        config.rollout.batch_size,
    )
    loaded = _loaded.get(key) or _load(config, path)
    _loaded[key] = loaded
    most = role.max_tokens or config.rollout.max_tokens
    sampling = Sampling(temperature=role.temperature or 0.0, max_tokens=most)
    return TokenSpeaker(loaded.renderer, loaded.context, False, loaded.generate, sampling)


def _folder(name: str) -> str:
    """The model of a checkpoint, of a run folder, or of a start that ships with agentrl."""
    known = (Path(name), Path(name) / "checkpoints" / "latest", shipped(name).with_suffix(""))
    return str(next((place for place in known if holds_model(place)), name))


def _load(config: RunConfig, path: str) -> _Loaded:
    """Raises CheckpointError for a folder that holds no model."""
    from agentrl.policies.transformers import TransformersPolicy

    table = config.model.model_copy(update={"path": path, "config": None, "lora": None})
    models = build.models(config.model_copy(update={"model": table}), [])
    models.model.requires_grad_(False)
    policy = TransformersPolicy(models.model, root_seed=config.run.seed, batch_size=config.rollout.batch_size)
    return _Loaded(Frozen(policy), models.renderer, build.context_limit(models.model))


# ── demonstrations ───────────────────────────────────────────────────────────────────────────────────────────────────


def demonstrator(config: RunConfig, agent: ChatAgent | FlowAgent) -> Agent:
    """The agent as ``[demos]`` lets it be shown: another agent's actions as the chat agent would write them, or in an agent made of
    modules the words of rules as those of its trained roles. Raises ConfigError for roles that have no rule, or are not trained."""
    table = config.demos
    if isinstance(agent, ChatAgent):
        if table.roles:
            raise ConfigError(
                "demos.roles is for an agent made of modules, and [agent] is a chat agent; use demos.agent"
            )
        return DemonstratorAgent(agent, registry.build("agent", table.agent, "demos.agent"), table.imitate_noise)
    rules = {name: role_of(spec, f"demos.roles.{name}") for name, spec in table.roles.items()}
    speakers = agent.speakers.items()
    trained = {name: each for name, each in speakers if isinstance(each, TokenSpeaker) and each.generate is None}
    for name, role in rules.items():
        if name not in trained or role.kind != "rule":
            raise ConfigError(
                f"demos.roles.{name}: wanted a role of the trained policy ({', '.join(trained)}) and a rule for it"
            )
    if missing := [name for name in trained if name not in rules]:
        raise ConfigError(
            f"demos.roles says nothing for '{missing[0]}', a role of the trained policy; give it a rule: rule:NAME"
        )
    shown: Mapping[str, Speaker] = {
        name: DemoSpeaker(speaker, rule_of(rules[name], f"demos.roles.{name}"), table.imitate_noise)
        for name, speaker in trained.items()
    }
    return FlowAgent(agent.graph, {**agent.speakers, **shown}, agent.limits, agent.tools, agent.context)
