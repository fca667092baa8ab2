"""Many episodes at once, in one process: environments are kept and used again, faults are retried by replay.

rollouts = Rollouts(env_factory, agent, policy=policy, limits=Limits(max_turns=12), root_seed=0)
trajectories = rollouts.run(requests, key=("iteration", 3))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from agentrl.agents.base import Agent, Generate
from agentrl.errors import ConfigError, TooManyFaults
from agentrl.policies.base import BatchPolicy, ChatModel, Policy
from agentrl.rollouts.batching import Batches, FreeBatches, InFlight, Rounds
from agentrl.rollouts.episode import Busy, Limits
from agentrl.rollouts.tries import EnvFactory as EnvFactory
from agentrl.rollouts.tries import EnvPool, Seat, Try, Workers, play_try
from agentrl.types import Outcome, RolloutRequest, Sampling, Task, Trajectory

T = TypeVar("T")


@dataclass(slots=True)
class RolloutStats:
    """What the last ``run`` cost. ``environment_s`` sums over episodes, which share one core, or wait for
    processes side by side; ``environment_wall_s`` is how long at least one environment was at work, ``generation_s`` how
    long the policy held at least one request."""

    seconds: float = 0.0
    generation_s: float = 0.0
    environment_s: float = 0.0
    environment_wall_s: float = 0.0
    n_sampled_tokens: int = 0
    n_retries: int = 0


Place = tuple[int, int]  # a request's number, and the member's in it


class Work:
    """The episodes of one ``run``: which are still to be played, and how the others ended.

    ``known``: episodes that ended earlier, by id, see ``Rollouts.run``. Raises ConfigError for requests that cannot be played.
    """

    def __init__(
        self,
        requests: Sequence[RolloutRequest],
        key: tuple[int | str, ...],
        known: Mapping[str, Trajectory] | None = None,
        on_done: Callable[[Trajectory], None] | None = None,
    ) -> None:
        for request in requests:
            _check(request)
        self.requests = requests
        self.key = key
        self.on_done = on_done
        self.stats = RolloutStats()
        self.busy = Busy()
        places = [(place, member) for place, request in enumerate(requests) for member in range(request.n)]
        ids = {(at, n): f"{group_id(key, requests[at], at)}/member={n}" for at, n in places} if known else {}
        self.earlier = {at: known[name] for at, name in ids.items() if known and name in known}
        self.done = {at: trajectory for at, trajectory in self.earlier.items() if not trajectory.outcome.is_fault}
        self.jobs: list[Place] = [at for at in places if at not in self.done]
        self.n_episodes = len(places)

    def ended(self, at: Place, trajectory: Trajectory) -> None:
        """Raises TooManyFaults where most episodes end in faults."""
        self.done.pop(at, None)  # the newest stands last
        self.done[at] = trajectory
        if self.on_done is not None:
            self.on_done(trajectory)
        if trajectory.outcome.is_fault:
            _break_circuit(self.done.values(), self.n_episodes)

    def result(self) -> list[list[Trajectory]]:
        """One list a request, members in order."""
        return [[self.done[place, member] for member in range(r.n)] for place, r in enumerate(self.requests)]

    def count(self, seconds: float) -> RolloutStats:
        """What it cost, all episodes having ended."""
        turns = [turn for trajectory in self.done.values() for turn in trajectory.turns]
        self.stats.seconds = seconds
        self.stats.environment_wall_s = self.busy.seconds
        self.stats.environment_s = sum(turn.seconds.get("environment", 0.0) for turn in turns)
        self.stats.n_sampled_tokens = sum(len(call.completion_ids) for turn in turns for call in turn.calls)
        return self.stats


def _check(request: RolloutRequest) -> None:
    if request.task is None:
        raise ConfigError("a request without a task is for the sampler to fill in; rollouts need the task")
    if request.hint is not None or request.branch_from is not None:
        raise ConfigError(f"a request on task '{request.task.id}' wants a hint or a branch; rollouts have neither")


@dataclass(slots=True)
class Rollouts:
    """Plays requested episodes with one policy: tasks that name no environment in ``pool`` with ``agent``, the others where
    ``seats`` has them.

    ``attempts`` bounds the tries of an episode that faults; an episode that still faults keeps its fault as outcome.
    ``max_live`` bounds the episodes that run at a time. ``free``: a policy that answers in batches does so whenever it is free
    (``batching.FreeBatches``), else when all live episodes wait (``batching.Rounds``). As soon as more than half of the episodes
    of a ``run``, or the first 16 that end, have ended in faults it stops with a clear error.

    ``workers``: other processes play each try; ``pool``, ``agent`` and ``seats`` then say no more than limits, and ``home`` what
    the workers call the seat of tasks that name no environment.
    """

    pool: EnvPool
    agent: Agent
    policy: Policy | BatchPolicy | ChatModel | None = None
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    root_seed: int = 0
    attempts: int = 3
    max_live: int = 1024
    free: bool = False
    seats: Mapping[str, Seat] = field(default_factory=dict)
    workers: Workers | None = None
    home: str = ""
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

        Raises TooManyFaults where most episodes fail by the machinery's fault.
        """
        work = Work(requests, key, known or {}, on_done)
        started = time.perf_counter()
        run_to_end(self._run(work, on_turn))
        self.stats = work.count(time.perf_counter() - started)
        return work.result()

    async def _run(self, work: Work, on_turn: Callable[[], None] | None) -> None:
        queue = iter(work.jobs)
        # Each player is live until no episode is left, so a round waits for the successor of an episode that has ended.
        n_players = min(self.max_live, len(work.jobs))
        batches = self.batches(n_players)
        before = self.workers.spent() if self.workers is not None else (0.0, 0.0)

        async def play() -> None:
            for at in queue:
                await self.play(work, at, batches, on_turn)
            if batches is not None:
                batches.leave()

        try:
            async with connections(self.policy), asyncio.TaskGroup() as tasks:
                for _ in range(n_players):
                    tasks.create_task(play())
        except ExceptionGroup as group:  # the first error has cancelled the other players
            raise group.exceptions[0] from group.exceptions[0].__cause__
        finally:
            if batches is not None:
                batches.close()
        if batches is not None:
            work.stats.generation_s = batches.seconds
        elif self.workers is not None:
            work.stats.generation_s, work.busy.seconds = since(before, self.workers)

    def batches(self, n_players: int) -> Batches | None:
        """What hands requests to a policy, in batches where it wants them; None where others play, or a chat model does."""
        if isinstance(self.policy, BatchPolicy):
            return FreeBatches(self.policy) if self.free else Rounds(self.policy, n_players)
        others = self.workers is not None or isinstance(self.policy, ChatModel)
        generate = None if others else getattr(self.policy, "generate", None)
        return None if generate is None else InFlight(generate)

    async def play(
        self, work: Work, at: Place, batches: Batches | None, on_turn: Callable[[], None] | None = None
    ) -> None:
        """Plays one episode of ``work``, again where the machinery failed. Raises TooManyFaults where most of them fail so."""
        trajectory = await self._episode(work, at, batches, on_turn)
        getattr(self.policy, "forget", lambda episode: None)(trajectory.id)
        work.ended(at, trajectory)

    async def _episode(
        self, work: Work, at: Place, batches: Batches | None, on_turn: Callable[[], None] | None
    ) -> Trajectory:
        job, seat = self._try(work, at)
        chat_model = self.policy if isinstance(self.policy, ChatModel) else None
        generate: Generate | None = None if batches is None else batches.generate
        how = {"generate": generate, "chat_model": chat_model, "on_turn": on_turn, "busy": work.busy}
        trajectory: Trajectory | None = None
        for attempt in range(self.attempts):
            if self.workers is not None:
                trajectory = await self.workers.play(job, on_turn)
            else:
                trajectory = await play_try(job, seat, **how)
            if not trajectory.outcome.is_fault or trajectory.outcome is Outcome.CANCELLED:
                break
            # The longest record of its tries: a fault in the middle of a replay loses none of it.
            job = replace(job, replay=max(job.replay, trajectory.turns, key=len))
            work.stats.n_retries += attempt + 1 < self.attempts
        assert trajectory is not None
        return trajectory

    def _try(self, work: Work, at: Place) -> tuple[Try, Seat]:
        """The first try of an episode, and where it is played."""
        place, member = at
        request = work.requests[place]
        task = request.task
        assert task is not None  # `Work` refuses such requests
        seat = self.seats[task.env] if task.env else Seat(self.pool, self.agent, self.limits)
        group = group_id(work.key, request, place)
        limits = seat.limits if request.max_turns is None else replace(seat.limits, max_turns=request.max_turns)
        sampling = self.sampling
        if request.temperature is not None:
            sampling = replace(sampling, temperature=request.temperature)
        job = Try(
            id=f"{group}/member={member}",
            task=task,
            group=group,
            key=(*work.key, task.id, place, member),
            limits=limits,
            sampling=sampling,
            root_seed=self.root_seed,
            seat=task.env or self.home,
            replay=work.earlier[at].turns if at in work.earlier else (),
        )
        return job, seat


def since(before: tuple[float, float], workers: Workers) -> tuple[float, float]:
    """What ``workers.spent()`` has grown by."""
    generation_s, environment_s = workers.spent()
    return generation_s - before[0], environment_s - before[1]


def group_id(key: tuple[int | str, ...], request: RolloutRequest, place: int) -> str:
    """The name of a request's group, which its members' ids begin with."""
    prefix = "/".join(f"{name}={value}" for name, value in zip(key[0::2], key[1::2], strict=True))
    assert request.task is not None  # `Work` refuses such requests
    return f"{prefix}/task={request.task.id}/place={place}"


def connections(policy: Any) -> AbstractAsyncContextManager[Any]:
    """What is open while a policy is asked: of a chat model that keeps connections, those."""
    return policy if isinstance(policy, AbstractAsyncContextManager) else nullcontext()


def play(rollouts: Rollouts, tasks: Sequence[Task], key: tuple[int | str, ...] = ("rollout", 0)) -> list[Trajectory]:
    """One episode a task, in order."""
    return [group[0] for group in rollouts.run([RolloutRequest(task, 1) for task in tasks], key)]


HOPELESS = 16  # episodes in a row, from the first on: nothing works, and a long panel need not be half over to say so


def _break_circuit(ended: Collection[Trajectory], n_episodes: int) -> None:
    faulty = [trajectory for trajectory in ended if trajectory.outcome.is_fault]
    if len(faulty) * 2 > n_episodes or len(faulty) == len(ended) >= HOPELESS:
        last = faulty[-1]
        raise TooManyFaults(
            f"{len(faulty)} of {n_episodes} episodes failed by the machinery's fault, the last by {last.outcome}: {last.error}; "
            f"they are {told([trajectory.id for trajectory in faulty])}",
            list(ended),
        )


def told(ids: Sequence[str], n: int = 4) -> str:
    """The last ``n`` of some ids, the newest first, and how many more there are."""
    shown = ", ".join(list(ids)[: -n - 1 : -1])
    return f"{shown} and {len(ids) - n} more" if len(ids) > n else shown


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop runs already (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
