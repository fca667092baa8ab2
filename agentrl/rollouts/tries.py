"""One try of one episode, as a record that can be sent to another process; and how it is played where environments and policy are.

    trajectory = await play_try(job, seat, generate=policy.generate)

``pool.Rollouts`` makes tries, decides which come when, and makes new ones of those that the machinery failed. ``Workers`` are
other processes that play them (``agentrl.cluster``).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import gymnasium

from agentrl import seeding
from agentrl.agents.base import Agent, Episode, Generate
from agentrl.env import environment
from agentrl.policies.base import ChatModel
from agentrl.rollouts.episode import Busy, Limits, run_episode
from agentrl.types import Outcome, Sampling, Task, Trajectory, Turn

EnvFactory = Callable[[], gymnasium.Env[str, str]]


class EnvPool:
    """Environments of one kind; ``take`` gives a free one or makes one. Threads may share a pool."""

    def __init__(self, factory: EnvFactory) -> None:
        self.factory = factory
        self._free: list[gymnasium.Env[str, str]] = []
        self._lock = threading.RLock()

    def take(self) -> gymnasium.Env[str, str]:
        with self._lock:
            return self._free.pop() if self._free else self.factory()

    def put(self, env: gymnasium.Env[str, str], *, broken: bool = False) -> None:
        """Gives an environment back; a broken one is closed and forgotten."""
        if not broken:
            self._free.append(env)
        else:
            _close(env, "a broken environment")  # the episode carries the first fault

    def close(self) -> None:
        """Closes what is free."""
        with self._lock:
            while self._free:
                _close(self._free.pop(), "an environment")


def _close(env: gymnasium.Env[str, str], what: str) -> None:
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"{what} could not be closed: {error!r}", stacklevel=3)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the tasks of one environment are played: its environments, the agent that plays them, and how long."""

    pool: EnvPool
    agent: Agent
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Try:
    """All that decides how a try goes, but for environments, agent and policy.

    ``id`` is the episode's, ``key`` names its random streams under ``root_seed``, ``seat`` is the name of where it is played.
    ``replay``: turns of an earlier try that a fault cut off.
    """

    id: str
    task: Task
    group: str
    key: tuple[int | str, ...]
    limits: Limits
    sampling: Sampling
    root_seed: int = 0
    seat: str = ""
    replay: Sequence[Turn] = ()


class Workers(Protocol):
    """Other processes that play tries; they have the seats and the policy."""

    async def play(self, job: Try, on_turn: Callable[[], None] | None = None) -> Trajectory:
        """As ``play_try``. A worker that dies or hangs is a fault of the tries that it had, with the turns that it told of."""
        ...

    def spent(self) -> tuple[float, float]:
        """Seconds since the start, the mean over the workers: the engine at work, at least one environment at work."""
        ...


async def play_try(
    job: Try,
    seat: Seat,
    *,
    generate: Generate | None = None,
    chat_model: ChatModel | None = None,
    on_turn: Callable[[], None] | None = None,
    on_decision: Callable[[Turn], None] | None = None,
    busy: Busy | None = None,
) -> Trajectory:
    """The record of the episode until its end, or until a fault; see ``run_episode``. The limits are the job's."""
    env = seat.pool.take()
    episode = Episode(
        id=job.id,
        task=job.task,
        env=env,
        rng=seeding.stream(job.root_seed, "agent", *job.key),
        key=job.key,
        generate=generate,
        chat_model=chat_model,
        sampling=job.sampling,
    )
    broken = True
    try:
        trajectory = await run_episode(
            seat.agent,
            episode,
            env_id=environment(env),
            seed=job.task.seed,
            group=job.group,
            limits=job.limits,
            replay=job.replay,
            on_turn=on_turn,
            on_decision=on_decision,
            busy=busy,
        )
        broken = trajectory.outcome in (Outcome.ENV_FAULT, Outcome.ENV_TIMEOUT)
    finally:
        seat.pool.put(env, broken=broken)
    return trajectory
