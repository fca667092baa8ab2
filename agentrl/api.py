"""The Python side of the command line: what ``import agentrl`` offers, loaded on first use.

import agentrl

summary = agentrl.train("quickstart", "run.seed=1")
result = agentrl.evaluate("agentrl/Household-v0", "expert", n=50)
for trajectory in agentrl.rollout("agentrl/Household-v0", "random", n=2):
    print(trajectory)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl import config as configs
from agentrl import trainer
from agentrl.agents import Agent
from agentrl.config import RunConfig
from agentrl.errors import ConfigError
from agentrl.evaluator import EnvSource, evaluate, seated
from agentrl.overrides import overridden
from agentrl.policies import ChatModel
from agentrl.rollouts import play
from agentrl.types import Trajectory

__all__ = ["evaluate", "rollout", "train"]


def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains as a run file says (its path, the name of a shipped one, or its tables as a dictionary) and returns what
    ``summary.json`` holds. ``overrides`` are ``dotted.key=value``, as on the command line; ``out`` is the run folder."""
    if isinstance(config, RunConfig):
        if overrides:
            raise ConfigError("overrides change a run file; a RunConfig is complete: change it with model_copy")
        settings = config
    elif isinstance(config, Mapping):
        settings = configs.parse(overridden(config, overrides))
    else:
        settings = configs.load(configs.find(str(config)), overrides)
    return trainer.train(settings, out, resume=resume)


def rollout(env: EnvSource, agent: str | Agent | ChatModel = "random", n: int = 1, **seating: Any) -> list[Trajectory]:
    """Plays the first ``n`` tasks of a split (0: all) and returns the trajectories; ``print(trajectory)`` is a transcript.

    ``env`` is an id or a callable that makes one; ``agent`` is a policy spec (``random``, ``oracle``, ``expert``,
    ``checkpoint:PATH``, ``openai:URL#MODEL``), an agent, or a chat model. ``seating``: config, split, seed, temperature,
    max_turns, options, isolation, step_timeout_s, reset_timeout_s.
    """
    with seated(env, agent, **seating) as players:
        return play(players.rollouts, players.tasks(n))
