"""States of another environment with an action that is proposed there: what a critic is asked about.

A state is found by playing the oracle's way, with wrong turns; what is right there says the oracle. An action that is proposed as
wrong is another of those that the environment admits. Several may be right: where the environment has ``snapshot`` and ``restore``,
each admissible one is tried, and is right if it wins or leaves the oracle a shorter way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from agentrl.env import checked_reset, environment, hook
from agentrl.errors import ConfigError, GameError
from agentrl.types import Task

TRIES = 4  # of a walk that wins too early


@dataclass(frozen=True, slots=True)
class Proposal:
    """A state and what is proposed there. ``shown``: the environment's own texts; ``right``: every right action, the oracle's
    first."""

    shown: dict[str, str]
    taken: tuple[str, ...]
    proposed: str
    right: tuple[str, ...]

    @property
    def correct(self) -> bool:
        return self.proposed in self.right


def propose(
    env: gymnasium.Env[str, str], task: Task, rng: np.random.Generator, *, wrong: float, stray: float
) -> Proposal:
    """A state of ``task`` with a proposed action: wrong with the chance ``wrong``, after turns of which the share ``stray`` was
    admissible and no more. Raises ConfigError for an environment without an oracle, GameError for a task that it cannot play."""
    if hook(env, "oracle") is None:
        raise ConfigError(f"{environment(env)} has no oracle() to say which action is right; name another environment")
    for attempt in range(TRIES):
        state = _walk(env, task, rng, stray if attempt + 1 < TRIES else 0.0)
        if state is not None:
            break
    else:
        raise GameError(f"the oracle of {environment(env)} has no way through task '{task.id}'")
    observation, info, taken = state
    plan = _plan(env)
    admissible = [str(action) for action in info.get("admissible_actions", ())]
    right = _right(env, plan, admissible)
    others = [action for action in admissible or [*plan[1:], *taken] if action not in right]
    is_wrong = bool(rng.random() < wrong) and bool(others)
    choice = others if is_wrong else right
    proposed = choice[int(rng.integers(len(choice)))]
    return Proposal(_texts(observation, info), tuple(taken), proposed, tuple(right))


def _walk(
    env: gymnasium.Env[str, str], task: Task, rng: np.random.Generator, stray: float
) -> tuple[str, dict[str, Any], list[str]] | None:
    """Plays some turns: what is seen then, and what was done; None where that was the end."""
    observation, info = checked_reset(env, task)
    taken: list[str] = []
    n_turns = int(rng.integers(max(1, len(_plan(env)))))
    for _ in range(n_turns):
        plan, admissible = _plan(env), list(info.get("admissible_actions", ()))
        if not plan:
            return None
        strays = bool(rng.random() < stray) and bool(admissible)
        action = str(admissible[int(rng.integers(len(admissible)))]) if strays else plan[0]
        observation, _, terminated, truncated, info = env.step(action)
        taken.append(action)
        if terminated or truncated:
            return None
    return (observation, info, taken) if _plan(env) else None


def _right(env: gymnasium.Env[str, str], plan: Sequence[str], admissible: Sequence[str]) -> list[str]:
    """The actions that are right here, the oracle's own first."""
    snapshot, restore = hook(env, "snapshot"), hook(env, "restore")
    found = [plan[0]]
    if snapshot is None or restore is None:
        return found
    here = snapshot()
    for action in admissible:
        if action not in found:
            _, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            if bool(info.get("success")) if ended else len(_plan(env)) < len(plan):
                found.append(action)
            restore(here)
    return found


def _plan(env: gymnasium.Env[str, str]) -> list[str]:
    return [str(action) for action in env.get_wrapper_attr("oracle")()]


def _texts(observation: str, info: dict[str, Any]) -> dict[str, str]:
    """As ``View.fields`` gives them to a prompt."""
    found = {key: value for key, value in info.items() if isinstance(value, str)}
    for key, value in info.items():
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            found[key] = "\n".join(value)
    return {**found, "observation": observation}
