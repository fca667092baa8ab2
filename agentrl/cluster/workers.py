"""The training process's side of the rollout workers: who plays which try, who is alive, who takes the place of the dead.

    workers = Workers(cluster, setup(make, collect()), pack(model))
    trajectory = await workers.play(job)          # from any event loop
    seconds = workers.update(pack(model), version=1)
    workers.close()

A try goes to the worker that plays the fewest, members of a group to one worker, as long as that keeps the balance: they share
the beginnings of their prompts. Each worker is asked for news all the time. One that dies, or has none for
``resources.worker_timeout_s`` seconds, is killed and another takes its place and its weights; the tries that it had end in a fault
with the turns that it told of, so that ``Rollouts`` replays them.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agentrl.cluster.placement import Cluster
from agentrl.cluster.weights import Packed
from agentrl.cluster.worker import About, Answer, Report, RolloutWorker, with_calls
from agentrl.errors import AgentRLError
from agentrl.policies.loop_thread import LoopThread
from agentrl.rollouts import Try
from agentrl.types import Outcome, Trajectory, Turn

START_S = 900.0  # for imports, weights and an engine
CLOSE_S = 10.0
SIGN_S = 1.0  # between two signs of life of a worker that has nothing to tell
GRACE_S = 2.0  # for an answer that has arrived while this process itself stood still
LONGEST = 400  # characters of what Ray says
SLACK = 8  # tries that a worker may have more than another, for the sake of a group


class Gone(Exception):
    """A worker that is of no use any more, and why."""


@dataclass(slots=True)
class Entry:
    """A try that a worker plays. ``turns``: all that is known of it, those of earlier tries included."""

    job: Try
    end: asyncio.Future[Trajectory]
    on_turn: Callable[[], None]
    turns: list[Turn]


@dataclass(slots=True)
class Slot:
    """A worker's place; the workers in it come one after the other. ``began_s``, ``spent``: seconds of the present one."""

    index: int
    actor: Any = None
    about: About | None = None
    ready: bool = False
    version: int = -1  # that it has answered with
    n_failures: int = 0  # since the last update
    live: dict[int, Entry] = field(default_factory=dict)
    to_begin: list[tuple[int, Try]] = field(default_factory=list)
    to_cancel: list[int] = field(default_factory=list)
    spent: tuple[float, float] = (0.0, 0.0)  # of the present worker: engine, environments
    spent_before: tuple[float, float] = (0.0, 0.0)  # of those before it

    @property
    def name(self) -> str:
        where = "" if self.about is None else f" (process {self.about.pid} on {self.about.host})"
        return f"rollout worker {self.index + 1}{where}"


class Workers:
    """Starts ``resources.rollout_workers`` workers and waits for them. ``n_replaced``, ``n_moved``: workers that others took the
    place of, and tries that they had. ``note`` is told of each, in another thread than the caller's.

    Raises what the user configured wrongly, as a worker found it, and AgentRLError where workers cannot be started.
    """

    def __init__(
        self,
        cluster: Cluster,
        setup: bytes,
        weights: Packed,
        version: int = 0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        import ray

        self.cluster = cluster
        self.table = cluster.table
        self.n_replaced = self.n_moved = 0
        self._note = note
        self._actor_class = ray.remote(RolloutWorker)
        self._setup = ray.put(setup)
        self._weights, self._version = ray.put(weights), version
        self._numbers = itertools.count()
        self._homes: dict[str, Slot] = {}  # by group
        self._problem: BaseException | None = None  # why nothing can be asked any more
        self._slots = [Slot(index) for index in range(self.table.rollout_workers)]
        self._loop = LoopThread("workers")
        try:
            self._loop.run(self._open())
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._slots)

    async def _open(self) -> None:
        self._changed = asyncio.Event()  # somebody is ready, or something is hopeless; set anew for each waiter
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        while not all(slot.ready for slot in self._slots):
            await self._change()

    # ── what others ask ──────────────────────────────────────────────────────────────────────────────────────────────

    async def play(self, job: Try, on_turn: Callable[[], None] | None = None) -> Trajectory:
        """The record of a try, as ``rollouts.Workers`` says. Raises what the user configured wrongly, and AgentRLError where
        workers die faster than they are replaced."""
        loop = asyncio.get_running_loop()

        def told() -> None:
            if on_turn is not None:
                loop.call_soon_threadsafe(on_turn)

        return await asyncio.wrap_future(self._loop.submit(self._play(job, told)))

    def spent(self) -> tuple[float, float]:
        """Seconds of engine and environments, the mean over the places."""
        totals = [(slot.spent[0] + slot.spent_before[0], slot.spent[1] + slot.spent_before[1]) for slot in self._slots]
        return sum(engine for engine, _ in totals) / len(totals), sum(envs for _, envs in totals) / len(totals)

    def update(self, weights: Packed, version: int) -> float:
        """Every worker samples with these weights from here on; returns the seconds until all of them had them. Raises AgentRLError
        where one does not take them."""
        import ray

        started = time.perf_counter()
        self._loop.run(self._update(ray.put(weights), version))
        return time.perf_counter() - started

    def sleep(self) -> None:
        """Nobody asks until the next update."""
        self._loop.run(self._sleep())

    def close(self) -> None:
        """Ends the workers and waits for that; twice is once."""
        self._problem = self._problem or AgentRLError("the rollout workers were closed")
        if not self._loop.loop.is_closed():
            self._loop.run(self._close())
            self._loop.close()

    # ── tries ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _play(self, job: Try, on_turn: Callable[[], None]) -> Trajectory:
        slot = await self._choose(job.group)
        number = next(self._numbers)
        end: asyncio.Future[Trajectory] = asyncio.get_running_loop().create_future()
        slot.live[number] = Entry(job, end, on_turn, list(job.replay))
        slot.to_begin.append((number, job))
        self._send_soon(slot)
        try:
            return await end
        except asyncio.CancelledError:
            if slot.live.pop(number, None) is not None:
                slot.to_cancel.append(number)
                self._send_soon(slot)
            raise

    async def _choose(self, group: str) -> Slot:
        """A worker that is ready."""
        while not (ready := [slot for slot in self._slots if slot.ready]):
            await self._change()
        if self._problem is not None:
            raise self._problem
        if not any(slot.live for slot in self._slots):
            self._homes.clear()
        return chosen(ready, self._homes, group)

    def _send_soon(self, slot: Slot) -> None:
        """Sends what is to begin and to stop, all of this moment in one message."""
        if len(slot.to_begin) + len(slot.to_cancel) == 1:
            asyncio.get_running_loop().call_soon(self._send, slot)

    def _send(self, slot: Slot) -> None:
        jobs, cancelled = slot.to_begin, slot.to_cancel
        slot.to_begin, slot.to_cancel = [], []
        if slot.ready and (jobs or cancelled):
            slot.actor.begin.remote(jobs, cancelled)  # how a worker dies shows where it is asked for news

    async def _change(self) -> None:
        """Waits until a worker is ready, and raises where none will be."""
        if self._problem is None:
            await self._changed.wait()
        if self._problem is not None:
            raise self._problem

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # ── a place's workers ────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, slot: Slot) -> None:
        """Keeps a worker in a place."""
        while self._problem is None:
            try:
                await self._begin(slot)
                await self._listen(slot)
            except Gone as gone:
                self._bury(slot, str(gone))
                if slot.n_failures > self.table.worker_restarts:
                    self._give_up(
                        AgentRLError(
                            f"{gone}; it was the worker number {slot.n_failures} in this place since the last update, and "
                            f"resources.worker_restarts = {self.table.worker_restarts}; their logs are in Ray's session folder"
                        )
                    )
            except Exception as error:  # what the user configured wrongly, or a defect here
                self._give_up(error)

    async def _begin(self, slot: Slot) -> None:
        slot.actor = self._actor_class.options(**self.cluster.worker(slot.index)).remote(self._setup)
        weights, version = self._weights, self._version
        slot.about = await self._ask(slot, slot.actor.start.remote(weights, version), START_S, "did not start")
        slot.version = version
        if version != self._version:  # of an update that came meanwhile
            await self._give(slot)
        slot.ready = True
        self._tell_change()

    async def _listen(self, slot: Slot) -> None:
        """Hears a worker to its end, and raises Gone."""
        limit_s = self.table.worker_timeout_s
        while True:
            asked = slot.actor.events.remote(min(SIGN_S, limit_s / 4))
            report: Report = await self._wait(slot, asked, limit_s, f"gave no sign of life for {limit_s:g} s")
            slot.spent = report.generation_s, report.environment_s
            for number, what, of in report.events:
                if (entry := slot.live.get(number)) is not None:  # else it was cancelled
                    self._hear(slot, number, entry, what, of)

    def _hear(self, slot: Slot, number: int, entry: Entry, what: str, of: Any) -> None:
        if what == "turn":
            entry.turns.append(of)
        elif what == "stepped":
            if of is not None:
                place, *result = of
                turn = entry.turns[place]
                turn.reward, turn.valid, turn.info, turn.seconds = result
            entry.on_turn()
        else:
            del slot.live[number]
            if not entry.end.done():
                if what == "ended":
                    entry.end.set_result(with_calls(of, entry.turns))
                else:
                    entry.end.set_exception(_raised(of, slot))

    async def _wait(self, slot: Slot, asked: Any, limit_s: float, problem: str) -> Any:
        """What a worker answers. Raises Gone where it dies, or does not in time."""
        from ray.exceptions import RayError, RayTaskError

        task = asyncio.ensure_future(_value(asked))
        try:
            done, _ = await asyncio.wait({task}, timeout=limit_s)
            if not done:
                done, _ = await asyncio.wait({task}, timeout=GRACE_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            raise Gone(f"{slot.name} {problem}")
        try:
            return task.result()
        except RayTaskError as error:
            raise Gone(f"{slot.name} failed: {str(error.cause or error).strip().splitlines()[-1]}") from None
        except RayError as error:
            raise Gone(f"{slot.name} died ({_reason(error)})") from None

    async def _ask(self, slot: Slot, asked: Any, limit_s: float, problem: str) -> Any:
        """The same of what answers ``Answer``; raises what was raised there."""
        answer: Answer = await self._wait(slot, asked, limit_s, problem)
        if answer[0] == "raised":
            raise _raised(answer, slot)
        return answer[1]

    def _bury(self, slot: Slot, problem: str) -> None:
        """Ends a worker; its tries end in a fault."""
        import ray

        slot.ready = False
        slot.n_failures += 1
        replaced = slot.n_failures <= self.table.worker_restarts
        self.n_replaced += replaced
        slot.spent_before = slot.spent_before[0] + slot.spent[0], slot.spent_before[1] + slot.spent[1]
        slot.spent, slot.version = (0.0, 0.0), -1
        ray.kill(slot.actor, no_restart=True)
        entries, slot.live = list(slot.live.values()), {}
        slot.to_begin, slot.to_cancel = [], []
        self.n_moved += len(entries)
        if replaced:
            n, limit = slot.n_failures, self.table.worker_restarts
            self._note(
                f"WORKER REPLACED: {problem}; its episodes that were under way, {len(entries)}, go on by replay (the {n}. of at "
                f"most {limit} in this place before the next update)"
            )
        envs = slot.about.envs if slot.about is not None else {}
        for entry in entries:
            if not entry.end.done():
                entry.end.set_result(_cut_off(entry, envs.get(entry.job.seat, ""), problem))
        slot.about = None

    def _give_up(self, error: BaseException) -> None:
        """Everybody who waits gets the error, and everybody who asks later."""
        self._problem = self._problem or error
        for slot in self._slots:
            slot.ready = False
            entries, slot.live = list(slot.live.values()), {}
            for entry in entries:
                if not entry.end.done():
                    entry.end.set_exception(self._problem)
        for keeper in self._keepers:
            if keeper is not asyncio.current_task():
                keeper.cancel()
        self._tell_change()

    # ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _update(self, weights: Any, version: int) -> None:
        self._weights, self._version = weights, version
        await asyncio.gather(*(self._give(slot) for slot in self._slots if slot.ready))
        while any(slot.version != version for slot in self._slots):  # of one that is being replaced
            await self._change()
        for slot in self._slots:
            slot.n_failures = 0

    async def _give(self, slot: Slot) -> None:
        """Gives a worker the present weights; one that dies or hangs over it is replaced by one that has them. Raises AgentRLError
        where it does not take them."""
        import ray

        version, actor = self._version, slot.actor
        try:
            asked = actor.take_weights.remote(self._weights, version)
            answered = await self._ask(slot, asked, START_S, "did not take the weights")
        except Gone:
            ray.kill(actor, no_restart=True)
            return  # who listens to it will know
        if answered != version:
            raise AgentRLError(f"{slot.name} was given the weights of version {version} and answers with {answered}")
        slot.version = version

    async def _sleep(self) -> None:
        if self._problem is not None:
            raise self._problem
        await asyncio.gather(*(self._send_to_sleep(slot) for slot in self._slots if slot.ready))

    async def _send_to_sleep(self, slot: Slot) -> None:
        """One that dies or hangs over it is replaced."""
        import ray

        actor = slot.actor
        try:
            await self._ask(slot, actor.sleep.remote(), START_S, "did not go to sleep")
        except Gone:
            ray.kill(actor, no_restart=True)  # who listens to it will know

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _close(self) -> None:
        import ray

        keepers = getattr(self, "_keepers", [])
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        actors = [slot.actor for slot in self._slots if slot.actor is not None]
        for slot in self._slots:
            slot.ready, slot.actor = False, None
        closing = {asyncio.ensure_future(_value(actor.close.remote())) for actor in actors}
        if closing:
            done, late = await asyncio.wait(closing, timeout=CLOSE_S)
            for task in done:
                task.exception()  # a dead one has nothing to close
            for task in late:
                task.cancel()
        for actor in actors:
            ray.kill(actor, no_restart=True)


def chosen(ready: Sequence[Slot], homes: dict[str, Slot], group: str) -> Slot:
    """The worker of a group, unless another has much less to do: then that, which is its worker from here on."""
    least = min(ready, key=lambda slot: len(slot.live))
    home = homes.get(group)
    if home is None or not home.ready or len(home.live) >= len(least.live) + SLACK:
        home = homes[group] = least
    return home


async def _value(asked: Any) -> Any:
    return await asked


def _raised(answer: Answer, slot: Slot) -> BaseException:
    """The exception that was raised in a worker, with its traceback as a note."""
    _, itself, text, where = answer
    error: BaseException | None = None
    if itself is not None:
        with suppress(Exception):  # a class that only the worker can import
            error = pickle.loads(itself)
    error = error or AgentRLError(f"{slot.name} raised {text}")
    error.add_note(f"raised in {slot.name}:\n{where}")
    return error


def _cut_off(entry: Entry, env_id: str, problem: str) -> Trajectory:
    job = entry.job
    record = Trajectory(id=job.id, env=env_id, task=job.task, group=job.group, seed=job.task.seed, turns=entry.turns)
    record.outcome, record.error = Outcome.POLICY_FAULT, problem
    return record


def _reason(error: BaseException) -> str:
    """Why Ray says that an actor is gone, in a few words."""
    text = str(error)
    if "SIGKILL" in text or "connection error code" in text:
        return "killed from outside; was there enough memory?"
    words = " ".join(text.split()) or type(error).__name__
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} …"
