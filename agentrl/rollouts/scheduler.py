"""Rollouts that run ahead of training: while the learner is busy with one iteration, the episodes of the next ones go on.

    with Ahead(rollouts) as ahead:
        ahead.start(("iteration", 0), requests, rank=0)
        ahead.start(("iteration", 1), more, rank=1)         # its episodes take the places that the others leave free
        groups, stats = ahead.take(("iteration", 0))        # waits until each has ended; none is dropped for being long

How far ahead is for the caller to say, by what it starts (``collecting.Collector``: ``rollout.staleness`` iterations).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from agentrl.rollouts.pool import Place, Rollouts, RolloutStats, Work
from agentrl.types import RolloutRequest, Trajectory

__all__ = ["Ahead", "Gate"]


class Gate:
    """Lets ``places`` in at a time; of those who wait, the lowest rank first, then who came first."""

    def __init__(self, places: int) -> None:
        self.free = places
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    async def enter(self, rank: int) -> None:
        """Waits for a place."""
        if self.free:
            self.free -= 1
            return
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), ticket))
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():  # it was given the place in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Gives a place back, to who waits or to who comes."""
        while self._waiting:
            ticket = heapq.heappop(self._waiting)[2]
            if not ticket.done():
                ticket.set_result(None)
                return
        self.free += 1


@dataclass(slots=True)
class _Ticket:
    """One ``start``: its episodes, those that ended and were not told of yet (None: no more will), and its end."""

    work: Work
    ended: queue.SimpleQueue[Trajectory | None]
    end: Future[float]


class Ahead:
    """Plays the requests of several iterations with one engine, in a thread of its own. At most ``rollouts.max_live`` episodes
    live at a time; those of the lowest rank begin first.

    A policy that answers in batches is driven without a barrier. The policy is asked from this thread while its weights may be
    renewed from another: it has to hold them for itself.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts
        self._gate = Gate(rollouts.max_live)
        self._tickets: dict[tuple[int | str, ...], _Ticket] = {}
        self._batches = replace(rollouts, free=True).batches(rollouts.max_live)
        self._generation_s = 0.0  # until the last `take`
        self._spent = rollouts.workers.spent() if rollouts.workers is not None else (0.0, 0.0)  # likewise
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollouts", daemon=True)
        self._thread.start()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, key: tuple[int | str, ...], requests: Sequence[RolloutRequest], rank: int) -> None:
        """Begins the episodes of ``requests`` as places come free; ``key`` is as in ``Rollouts.run``. Raises ConfigError for
        requests that cannot be played."""
        ended: queue.SimpleQueue[Trajectory | None] = queue.SimpleQueue()
        work = Work(requests, key, on_done=ended.put)
        end = asyncio.run_coroutine_threadsafe(self._play(work, rank), self._loop)
        end.add_done_callback(lambda _: ended.put(None))
        self._tickets[key] = _Ticket(work, ended, end)

    def take(
        self, key: tuple[int | str, ...], on_done: Callable[[Trajectory], None] | None = None
    ) -> tuple[list[list[Trajectory]], RolloutStats]:
        """One list of trajectories a request, and what they cost, once all have ended; seconds of generation are the engine's since
        the last ``take``. ``on_done`` is called with each, in this thread. Raises what ``Rollouts.run`` does."""
        ticket = self._tickets.pop(key)
        while (trajectory := ticket.ended.get()) is not None:
            if on_done is not None:
                on_done(trajectory)
        stats = ticket.work.count(ticket.end.result())
        if self._batches is not None:
            before, self._generation_s = self._generation_s, self._batches.seconds
            stats.generation_s = self._generation_s - before
        elif (workers := self.rollouts.workers) is not None:
            before, self._spent = self._spent, workers.spent()
            stats.generation_s, stats.environment_wall_s = (
                now - then for now, then in zip(self._spent, before, strict=True)
            )
        return ticket.work.result(), stats

    def close(self) -> None:
        """Stops what still runs, its environments included, and waits for that."""
        if self._loop.is_closed():
            return
        for ticket in self._tickets.values():
            ticket.end.cancel()
        for ticket in self._tickets.values():
            while ticket.ended.get() is not None:
                pass
        self._tickets.clear()
        asyncio.run_coroutine_threadsafe(_ended(), self._loop).result()
        if self._batches is not None:
            self._batches.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _play(self, work: Work, rank: int) -> float:
        """Seconds from the first episode's start to the last one's end."""
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as tasks:
                for at in work.jobs:
                    tasks.create_task(self._play_one(work, at, rank))
        except ExceptionGroup as group:  # the first error has cancelled the others
            raise group.exceptions[0] from group.exceptions[0].__cause__
        return time.perf_counter() - started

    async def _play_one(self, work: Work, at: Place, rank: int) -> None:
        await self._gate.enter(rank)
        try:
            await self.rollouts.play(work, at, self._batches)
        finally:
            self._gate.leave()


async def _ended() -> None:
    """Waits for every other task of the loop, all of them cancelled by now."""
    others: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
