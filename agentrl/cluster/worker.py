"""What runs in a rollout worker: environments, agents and a policy of its own, which play the tries that it is sent.

    worker = RolloutWorker(setup(functools.partial(parts_of, config)))
    await worker.start(weights, version)
    await worker.begin([(7, job)], [])
    report = await worker.events(1.0)        # (7, "turn", …), (7, "stepped", …), …, (7, "ended", trajectory)

A plain class without Ray; ``workers`` makes actors of it. Nothing is raised to Ray: an error is an answer.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from agentrl.agents.base import Generate
from agentrl.cluster.plugins import Sent, install
from agentrl.cluster.weights import Packed, load
from agentrl.env import environment
from agentrl.errors import AgentRLError, UserError
from agentrl.policies.base import BatchPolicy
from agentrl.rollouts import Seat, Try, play_try
from agentrl.rollouts.batching import FreeBatches, InFlight
from agentrl.rollouts.episode import Busy
from agentrl.rollouts.worker import told
from agentrl.types import Trajectory, Turn

Answer = tuple[Any, ...]  # ("done", value) or ("raised", pickled error or None, its text, its traceback)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker plays with. ``model`` has the policy's weights; ``seats`` by the names that tries give."""

    seats: Mapping[str, Seat]
    policy: Any
    model: Any


@dataclass(frozen=True, slots=True)
class About:
    """A worker that has started: its process, its machine's name, and the environments' ids by seat."""

    pid: int
    host: str
    envs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """What has happened since the last report, in order: (a try's number, what, of what). ``turn``: one was decided, and the
    environment gets it now; ``stepped``: (its place, what the environment made of it); ``ended``: the trajectory without its
    calls, which came with the turns; ``raised``: as in ``Answer``. And seconds since the start: the engine at work, at least one
    environment at work."""

    events: list[tuple[int, str, Any]] = field(default_factory=list)
    generation_s: float = 0.0
    environment_s: float = 0.0


def setup(make: Callable[[], Parts], sent: Sent) -> bytes:
    """What a worker is made of: a function of a module that makes its parts, and what the user has registered."""
    from ray.cloudpickle import dumps  # pyright: ignore[reportAttributeAccessIssue]

    return dumps((sent, make))


class RolloutWorker:
    """All methods are called in one event loop. ``setup``: as the function of that name gives it."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self._parts: Parts | None = None
        self._batches: FreeBatches | InFlight | None = None
        self._generate: Generate | None = None
        self._busy = Busy()
        self._events: list[tuple[int, str, Any]] = []
        self._some = asyncio.Event()
        self._live: dict[int, asyncio.Task[None]] = {}

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, weights: Packed, version: int) -> Answer:
        """Builds everything and takes the weights. Gives ``About``."""
        return await self._answer(self._start, weights, version)

    def _start(self, weights: Packed, version: int) -> About:
        sent, make = pickle.loads(self._setup)
        problems = install(sent)
        try:
            self._parts = parts = make()
        except Exception as error:
            if problems and isinstance(error, AgentRLError):
                kind = UserError if isinstance(error, UserError) else AgentRLError  # others take more than a text
                raise kind(f"{error} ({'; '.join(problems)})") from error
            raise
        policy = parts.policy
        self._batches = FreeBatches(policy) if isinstance(policy, BatchPolicy) else InFlight(policy.generate)
        self._generate = self._batches.generate
        self._take_weights(weights, version)
        envs = {}
        for name, seat in parts.seats.items():
            env = seat.pool.take()
            envs[name] = environment(env)
            seat.pool.put(env)
        return About(os.getpid(), socket.gethostname(), envs)

    async def close(self) -> Answer:
        """Ends what is played, the environments and the policy."""
        live = list(self._live.values())
        for task in live:
            task.cancel()
        await asyncio.gather(*live, return_exceptions=True)
        return await self._answer(self._close)

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
        if self._parts is not None:
            for seat in self._parts.seats.values():
                seat.pool.close()
            self._parts.policy.close()

    async def _answer(self, work: Callable[..., Any], *given: Any) -> Answer:
        """What ``work`` gives or raises; in a thread, so that signs of life are given meanwhile."""
        try:
            return "done", await asyncio.get_running_loop().run_in_executor(None, work, *given)
        except Exception as error:
            return told(error)

    # ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def take_weights(self, weights: Packed, version: int) -> Answer:
        """From here on it samples with these. Gives the policy's version."""
        return await self._answer(self._take_weights, weights, version)

    def _take_weights(self, weights: Packed, version: int) -> int:
        assert self._parts is not None, "it has started"
        load(self._parts.model, weights)
        self._parts.policy.update(self._parts.model, version)
        return self._parts.policy.version

    async def sleep(self) -> Answer:
        """As ``TrainablePolicy.sleep``."""
        assert self._parts is not None, "it has started"
        return await self._answer(self._parts.policy.sleep)

    # ── episodes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def begin(self, jobs: list[tuple[int, Try]], cancelled: list[int]) -> None:
        """Begins to play tries under their numbers, and stops others."""
        for number, job in jobs:
            task = self._live[number] = asyncio.create_task(self._play(number, job))
            task.add_done_callback(lambda _, number=number: self._live.pop(number))  # also of one that never ran
        for number in cancelled:
            if number in self._live:
                self._live[number].cancel()

    async def events(self, limit_s: float) -> Report:
        """What happened since the last call; waits so long at most where nothing did: a sign of life."""
        if not self._events:
            self._some.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), limit_s)
        found, self._events = self._events, []
        generation_s = self._batches.seconds if self._batches is not None else 0.0
        return Report(found, generation_s, self._busy.seconds)

    def _tell(self, number: int, what: str, of: Any) -> None:
        self._events.append((number, what, of))
        self._some.set()

    async def _play(self, number: int, job: Try) -> None:
        parts = self._parts
        assert parts is not None, "it has started"
        known = list(job.replay)
        place = 0

        def decided(turn: Turn) -> None:
            known.append(turn)
            self._tell(number, "turn", turn)

        def stepped() -> None:
            nonlocal place
            if place >= len(job.replay):
                turn = known[place]
                self._tell(number, "stepped", (place, turn.reward, turn.valid, turn.info, turn.seconds))
            else:
                self._tell(number, "stepped", None)
            place += 1

        try:
            trajectory = await play_try(
                job,
                parts.seats[job.seat],
                generate=self._generate,
                on_turn=stepped,
                on_decision=decided,
                busy=self._busy,
            )
        except Exception as error:
            self._tell(number, "raised", told(error))
        else:
            self._tell(number, "ended", without_calls(trajectory))
        finally:
            getattr(parts.policy, "forget", lambda episode: None)(job.id)


def without_calls(trajectory: Trajectory) -> Trajectory:
    """The record without what is largest in it."""
    return replace(trajectory, turns=[replace(turn, calls=[]) for turn in trajectory.turns])


def with_calls(trajectory: Trajectory, turns: list[Turn]) -> Trajectory:
    """The record with the calls of the same turns as they came before."""
    for turn, known in zip(trajectory.turns, turns, strict=False):  # one that was cut off in a replay has fewer
        turn.calls = known.calls
    return trajectory
