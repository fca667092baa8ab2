"""An agent turns observations into calls and calls into an action.

    session = agent.start(episode)            once an episode
    decision = await session.act(view)        once a turn

``Episode`` is what an agent may know of the episode; ``generate`` is the policy, or ``chat_model`` where it takes messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np

from agentrl.policies.base import ChatModel
from agentrl.types import Call, Completion, Outcome, Sampling, Task

Generate = Callable[[Sequence[int], Sampling, str], Awaitable[Completion]]


@dataclass(slots=True)
class Episode:
    """The frame of one episode. ``rng`` is the agent's own named stream; ``env`` serves hooks (oracle, expert) only."""

    id: str
    task: Task
    env: gymnasium.Env[str, str]
    rng: np.random.Generator
    key: tuple[int | str, ...]  # names the sampling streams of this episode
    generate: Generate | None = None
    chat_model: ChatModel | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_turns: int | None = None  # that the episode may have; None: nobody said
    deadline: float | None = None  # of ``time.monotonic``, where the episode has one


@dataclass(frozen=True, slots=True)
class View:
    """What the agent sees before a turn: the observation, ``info``, and the turn's number from 0. ``tools``: those that the
    environment names (in OpenAI's form), in the view from which agents are built."""

    observation: str
    info: dict[str, Any]
    turn: int
    tools: Sequence[dict[str, Any]] = ()

    def fields(self) -> dict[str, str]:
        """The fields that a prompt template may name: ``observation``, ``turn`` (its number from 1) and every text value of
        ``info``; lists of texts (``admissible_actions``) come one a line."""
        found = {key: value for key, value in self.info.items() if isinstance(value, str)}
        for key, value in self.info.items():
            if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
                found[key] = "\n".join(value)
        found |= {"observation": self.observation, "turn": str(self.turn + 1)}
        return found


@dataclass(slots=True)
class Decision:
    """An action and the calls that led to it. ``valid`` is False for a completion that holds no action; whether the
    environment admits the action is checked by the episode, where ``only_admissible``."""

    action: str
    calls: list[Call] = field(default_factory=list)
    valid: bool = True
    problem: str = ""
    deliberate: bool = True  # False for an expert's noise, which nobody should imitate
    only_admissible: bool = True
    over_budget: bool = False  # the prompt no longer fits: the episode ends with MAX_TOKENS
    ends: Outcome | None = (
        None  # a limit ends the episode here; calls that were made are kept as a turn without a reply
    )
    leaves: bool = False  # a person ends the episode here: CANCELLED, with ``problem`` as its error


class Session(Protocol):
    """One agent in one episode.

    A session that asks a model also has ``record(view, call, action)``, which takes in a turn that an earlier try of the
    episode has played, or ``replay(view, turn)``, which gives the decision of such a turn; one without either is a function of
    ``Episode.rng`` and of what it sees, and is asked again on a replay.
    """

    async def act(self, view: View) -> Decision: ...


class Agent(Protocol):
    """Makes sessions; holds no state of an episode itself."""

    def start(self, episode: Episode) -> Session: ...
