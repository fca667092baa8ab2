"""Roles as run files write them: who speaks for each role of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from agentrl import registry
from agentrl.agents.flow.session import FunctionGraph
from agentrl.config import AgentTable
from agentrl.errors import ConfigError, did_you_mean

CHAT = "chat"
KINDS = {"trained": "trained", "checkpoint": "checkpoint:PATH", "openai": "openai:URL#MODEL", "rule": "rule:NAME"}


@dataclass(frozen=True, slots=True)
class Role:
    """Who speaks for a role. ``trainable``: whether the calls of the trained policy become samples. ``temperature`` is for a
    checkpoint (absent: 0) or an endpoint (absent: its own); the trained policy has that of ``[rollout]``. ``max_tokens`` bounds a
    completion further. ``options`` are the parameters of a rule."""

    speaker: str
    trainable: bool | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.speaker.partition(":")[0]

    @property
    def rest(self) -> str:
        return self.speaker.partition(":")[2]


def is_flow(table: AgentTable) -> bool:
    """Whether a table names an agent made of modules."""
    return table.name != CHAT


def graph_of(table: AgentTable) -> Any:
    """The graph that a table names, with its settings. Raises ConfigError, or RegistryError for an unknown name."""
    found = registry.get("flow", table.name)
    if isinstance(found, type):
        return registry.build("flow", {**table.options, "name": table.name}, "agent.options")
    if not isinstance(found, FunctionGraph):
        raise ConfigError(
            f"agent.name = '{table.name}' is no agent made of modules; decorate it by agentrl.agents.flow.flow"
        )
    if table.options:
        raise ConfigError(f"agent.options: '{table.name}' has no settings; got {', '.join(table.options)}")
    return found


def roles_of(graph: Any, table: AgentTable) -> dict[str, Role]:
    """Each role of a graph and who speaks for it. Raises ConfigError for a role that the graph does not name."""
    for name in table.roles:
        if name not in graph.roles:
            raise ConfigError(f"agent.roles: '{table.name}' has no role '{name}'.{did_you_mean(name, graph.roles)}")
    return {name: role_of(table.roles.get(name, usual), f"agent.roles.{name}") for name, usual in graph.roles.items()}


def role_of(spec: Any, where: str) -> Role:
    """A role's table, or its speaker alone. Raises ConfigError for what is none."""
    role = registry.validate(Role, {"speaker": spec} if isinstance(spec, str) else spec, where)
    if role.kind not in KINDS or (role.kind == "trained") != (role.rest == ""):
        raise ConfigError(f"{where}: wanted a speaker as {', '.join(KINDS.values())}; got {role.speaker!r}")
    wrong = {
        "trainable": role.trainable is not None and role.kind != "trained",
        "temperature": role.temperature is not None and role.kind in ("trained", "rule"),
        "max_tokens": role.max_tokens is not None and role.kind == "rule",
        "options": bool(role.options) and role.kind != "rule",
    }
    for key, unfit in wrong.items():
        if unfit:
            raise ConfigError(f"{where}.{key} means nothing for the speaker {role.speaker!r}; leave it out")
    return role


def texts_of(table: AgentTable) -> Iterator[str]:
    """What an agent made of modules writes into prompts, for a tokenizer that is made of words."""
    texts: Any = getattr(graph_of(table), "texts", ())
    found: Iterable[str] = texts() if callable(texts) else texts  # type: ignore[assignment]
    yield from found


def rule_of(role: Role, where: str) -> Callable[..., Any]:
    """The function of a rule; a class is made with the role's options. Raises ConfigError or RegistryError."""
    found = registry.get("rule", role.rest)
    if isinstance(found, type):
        return registry.validate(found, role.options, f"{where}.options")
    if not callable(found):
        raise ConfigError(f"{where}: '{role.rest}' is no function")
    if role.options:
        raise ConfigError(f"{where}.options: '{role.rest}' has no settings; got {', '.join(role.options)}")
    return found
