"""Many episodes at once, in one process: environments are kept and used again, faults are retried by replay.

rollouts = Rollouts(env_factory, agent, policy=policy, limits=Limits(max_turns=12), root_seed=0)
trajectories = rollouts.run(requests, key=("iteration", 3))
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import gymnasium

from agentrl import seeding
from agentrl.agents.base import Agent, Episode, Generate
from agentrl.env import environment
from agentrl.errors import AgentRLError, ConfigError
from agentrl.policies.base import BatchPolicy, ChatModel, Policy
from agentrl.rollouts.episode import Busy, Limits, run_episode
from agentrl.rollouts.rounds import Rounds
from agentrl.types import Outcome, RolloutRequest, Sampling, Task, Trajectory, Turn

EnvFactory = Callable[[], gymnasium.Env[str, str]]
T = TypeVar("T")


class EnvPool:
    """Environments of one kind; ``take`` gives a free one or makes one."""

    def __init__(self, factory: EnvFactory) -> None:
        self.factory = factory
        self._free: list[gymnasium.Env[str, str]] = []

    def take(self) -> gymnasium.Env[str, str]:
        return self._free.pop() if self._free else self.factory()

    def put(self, env: gymnasium.Env[str, str], *, broken: bool = False) -> None:
        """Gives an environment back; a broken one is closed and forgotten."""
        if not broken:
            self._free.append(env)
        else:
            _close(env, "a broken environment")  # the episode carries the first fault

    def close(self) -> None:
        """Closes what is free."""
        while self._free:
            _close(self._free.pop(), "an environment")


def _close(env: gymnasium.Env[str, str], what: str) -> None:
    try:
        env.close()
    except Exception as error:
        warnings.warn(f"{what} could not be closed: {error!r}", stacklevel=3)


@dataclass(slots=True)
class RolloutStats:
    """What the last ``run`` cost. ``environment_s`` sums over episodes, which share one core, or wait for
    processes side by side; ``environment_wall_s`` is how long at least one environment was at work; ``generation_s`` is known of
    policies that answer in batches."""

    seconds: float = 0.0
    generation_s: float = 0.0
    environment_s: float = 0.0
    environment_wall_s: float = 0.0
    n_sampled_tokens: int = 0
    n_retries: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the tasks of one environment are played: its environments, the agent that plays them, and how long."""

    pool: EnvPool
    agent: Agent
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Rollouts:
    """Plays requested episodes with one policy: tasks that name no environment in ``pool`` with ``agent``, the others where
    ``seats`` has them.

    ``attempts`` bounds the tries of an episode that faults; an episode that still faults keeps its fault as outcome.
    ``max_live`` bounds the episodes that run at a time. As soon as more than half of the episodes of a ``run``, or the first
    16 that end, have ended in faults it stops with a clear error.
    """

    pool: EnvPool
    agent: Agent
    policy: Policy | BatchPolicy | ChatModel | None = None
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    root_seed: int = 0
    attempts: int = 3
    max_live: int = 1024
    seats: Mapping[str, Seat] = field(default_factory=dict)
    stats: RolloutStats = field(default_factory=RolloutStats)

    def close(self) -> None:
        """Closes the environments that no episode holds."""
        for pool in (self.pool, *(seat.pool for seat in self.seats.values())):
            pool.close()

    def run(
        self,
        requests: Sequence[RolloutRequest],
        key: tuple[int | str, ...],
        on_done: Callable[[Trajectory], None] | None = None,
        on_turn: Callable[[], None] | None = None,
        known: Mapping[str, Trajectory] | None = None,
    ) -> list[list[Trajectory]]:
        """One list of trajectories a request, members in order. ``key`` names the random streams; trajectory ids carry it.
        ``on_done`` is called with each episode that ends here, ``on_turn`` after each turn of any. ``known`` are episodes of the
        same requests that ended earlier, by id: they stand in the result as they are, but one that ended in a fault is tried
        again, by replay.

        Raises AgentRLError where most episodes fail by the machinery's fault.
        """
        for request in requests:
            if request.task is None:
                raise ConfigError("a request without a task is for the sampler to fill in; rollouts need the task")
            if request.hint is not None or request.branch_from is not None:
                raise ConfigError(
                    f"a request on task '{request.task.id}' wants a hint or a branch; rollouts have neither"
                )
        self.stats = stats = RolloutStats()
        started = time.perf_counter()
        result = run_to_end(self._run(requests, key, on_done, on_turn, known or {}))
        stats.seconds = time.perf_counter() - started
        turns = [turn for group in result for member in group for turn in member.turns]
        stats.environment_s = sum(turn.seconds.get("environment", 0.0) for turn in turns)
        stats.n_sampled_tokens = sum(len(call.completion_ids) for turn in turns for call in turn.calls)
        return result

    async def _run(
        self,
        requests: Sequence[RolloutRequest],
        key: tuple[int | str, ...],
        on_done: Callable[[Trajectory], None] | None,
        on_turn: Callable[[], None] | None,
        known: Mapping[str, Trajectory],
    ) -> list[list[Trajectory]]:
        places = [(place, member) for place, request in enumerate(requests) for member in range(request.n)]
        ids = {(at, n): f"{_group_id(key, requests[at], at)}/member={n}" for at, n in places} if known else {}
        earlier = {at: known[name] for at, name in ids.items() if name in known}
        done = {at: trajectory for at, trajectory in earlier.items() if not trajectory.outcome.is_fault}
        jobs = [at for at in places if at not in done]
        queue = iter(jobs)
        # Each player is live until no episode is left, so a round waits for the successor of an episode that has ended.
        n_players = min(self.max_live, len(jobs))
        rounds = Rounds(self.policy, n_players) if isinstance(self.policy, BatchPolicy) else None
        busy = Busy()
        forget = getattr(self.policy, "forget", lambda episode: None)

        async def play() -> None:
            for place, member in queue:
                played = earlier[place, member].turns if (place, member) in earlier else ()
                trajectory = await self._episode(requests[place], place, member, key, rounds, on_turn, busy, played)
                forget(trajectory.id)
                done[place, member] = trajectory
                if trajectory.outcome.is_fault:
                    _break_circuit(done.values(), len(places))
                if on_done is not None:
                    on_done(trajectory)
            if rounds is not None:
                rounds.leave()

        connections = self.policy if isinstance(self.policy, AbstractAsyncContextManager) else nullcontext()
        try:
            async with connections, asyncio.TaskGroup() as tasks:
                for _ in range(n_players):
                    tasks.create_task(play())
        except ExceptionGroup as group:  # the first error has cancelled the other players
            raise group.exceptions[0] from group.exceptions[0].__cause__
        if rounds is not None:
            self.stats.generation_s = rounds.seconds
        self.stats.environment_wall_s = busy.seconds
        return [[done[place, member] for member in range(request.n)] for place, request in enumerate(requests)]

    async def _episode(
        self,
        request: RolloutRequest,
        place: int,
        member: int,
        key: tuple[int | str, ...],
        rounds: Rounds | None,
        on_turn: Callable[[], None] | None,
        busy: Busy,
        played: Sequence[Turn],
    ) -> Trajectory:
        """``played``: the longest record of its tries; a fault in the middle of a replay loses none of it."""
        task = request.task
        assert task is not None  # `run` refuses such requests
        seat = self.seats[task.env] if task.env else Seat(self.pool, self.agent, self.limits)
        group = _group_id(key, request, place)
        chat_model = self.policy if isinstance(self.policy, ChatModel) else None
        generate: Generate | None = None
        if chat_model is None:
            generate = rounds.generate if rounds is not None else getattr(self.policy, "generate", None)
        limits = seat.limits if request.max_turns is None else replace(seat.limits, max_turns=request.max_turns)
        sampling = self.sampling
        if request.temperature is not None:
            sampling = replace(sampling, temperature=request.temperature)
        stream_key = (*key, task.id, place, member)
        trajectory: Trajectory | None = None
        for attempt in range(self.attempts):
            env = seat.pool.take()
            episode = Episode(
                id=f"{group}/member={member}",
                task=task,
                env=env,
                rng=seeding.stream(self.root_seed, "agent", *stream_key),
                key=stream_key,
                generate=generate,
                chat_model=chat_model,
                sampling=sampling,
            )
            broken = True
            try:
                trajectory = await run_episode(
                    seat.agent,
                    episode,
                    env_id=environment(env),
                    seed=task.seed,
                    group=group,
                    limits=limits,
                    replay=played,
                    on_turn=on_turn,
                    busy=busy,
                )
                broken = trajectory.outcome in (Outcome.ENV_FAULT, Outcome.ENV_TIMEOUT)
            finally:
                seat.pool.put(env, broken=broken)
            if not trajectory.outcome.is_fault or trajectory.outcome is Outcome.CANCELLED:
                break
            played = max(played, trajectory.turns, key=len)
            self.stats.n_retries += attempt + 1 < self.attempts
        assert trajectory is not None
        return trajectory


def _group_id(key: tuple[int | str, ...], request: RolloutRequest, place: int) -> str:
    prefix = "/".join(f"{name}={value}" for name, value in zip(key[0::2], key[1::2], strict=True))
    assert request.task is not None  # `run` refuses such requests
    return f"{prefix}/task={request.task.id}/place={place}"


def play(rollouts: Rollouts, tasks: Sequence[Task], key: tuple[int | str, ...] = ("rollout", 0)) -> list[Trajectory]:
    """One episode a task, in order."""
    return [group[0] for group in rollouts.run([RolloutRequest(task, 1) for task in tasks], key)]


HOPELESS = 16  # episodes in a row, from the first on: nothing works, and a long panel need not be half over to say so


def _break_circuit(ended: Collection[Trajectory], n_episodes: int) -> None:
    faulty = [trajectory for trajectory in ended if trajectory.outcome.is_fault]
    if len(faulty) * 2 > n_episodes or len(faulty) == len(ended) >= HOPELESS:
        raise AgentRLError(
            f"{len(faulty)} of {n_episodes} episodes failed by the machinery's fault, the first: "
            f"{faulty[0].outcome}: {faulty[0].error}"
        )


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop runs already (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
