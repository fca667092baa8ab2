"""Several learners: the training process is the first rank and starts the others, here or where ``start`` puts them.

    with team_of(config) as team:
        learner = team.make(Learner, model=model, loss=loss)     # on every rank
        learner.update(samples, data, table)                      # likewise

A method that is marked ``everywhere`` goes to the other ranks by name with its arguments; all run it, and meet in the collectives
of ``torch.distributed`` (gloo on the CPU, NCCL on CUDA, one device a rank). Samples, tables and prompts travel once: what is sent
must not be changed in place while it is used.

A rank that dies breaks the connections of the others, so the first one hears of it within seconds, whatever it waits for, ends the
rest and raises LearnerLost; a new start goes on from the last checkpoint (``agentrl.restarting``). One that shows no sign of life
for ``timeout_s`` (it was stopped, it swaps, its machine is gone) is killed, and has died then. Signs of life come from a thread,
so ranks that wait for one another for ever look alive: that is an error after ``COLLECTIVE_S``. When the training process is gone,
however that went, the ranks end themselves.
"""

from __future__ import annotations

import io
import os
import pickle
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from agentrl.errors import AgentRLError, ConfigError, LearnerLost
from agentrl.learning.links import Link, ProcessLink, Start
from agentrl.learning.rank_worker import Known, Meeting, New, join, meeting_place, told
from agentrl.learning.team import Sharding, Team

START_S = 300.0  # that a rank may take to import torch and what the methods need
GRACE_S = 5.0  # after a failure, that the others have to tell what they know
COLLECTIVE_S = 1800.0  # that living ranks wait for one another
TIMEOUT_S = 60.0  # without a sign of life
REMEMBERED = 8  # things that need not be sent again

R = TypeVar("R")


class Ranks(Team):
    """The first rank's side of a team of ``size``, whose other processes it starts and ends.

    ``threads`` of the CPU are divided among the ranks of this machine while they compute. ``start`` starts another one (None: a
    process of this machine), and ``host`` is an address of this machine that all of them reach. Raises ConfigError for more ranks
    than devices, and AgentRLError where a rank cannot be started.
    """

    def __init__(
        self,
        size: int,
        sharding: Sharding,
        *,
        device: str,
        threads: int,
        timeout_s: float = TIMEOUT_S,
        start: Start | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(0, size, sharding)
        if start is None and device == "cuda" and size > torch.cuda.device_count():
            raise ConfigError(
                f"resources.learners = {size}, and torch sees {torch.cuda.device_count()} CUDA devices; each learner needs its own"
            )
        if dist.is_initialized():
            raise ConfigError(
                "this process is a rank of other learners already; end them first (Trainer.run does, or Team.close)"
            )
        self.threads = max(1, threads // size)
        self.problem = ""  # why nothing can be asked any more
        self._inside = False
        self._settled = threading.Event()
        self._names: dict[int, int] = {}  # id of a part: its number
        self._parts: list[Any] = []  # keeps the ids alive
        self._sent: dict[int, Any] = {}  # what the others remember, by its number
        self._n_sent = 0
        self._others: list[_Other] = []
        self._end = weakref.finalize(self, _end_all, self._others, os.getpid())
        try:
            for rank in range(1, size):
                link = (start or ProcessLink)(rank, self.threads, device)
                self._others.append(_Other(link, timeout_s, self._settled))
            self._join(device, host)
        except BaseException:
            self.close()
            raise

    def _join(self, device: str, host: str) -> None:
        """Waits until every rank has imported what it needs, then meets them."""
        for other in self._others:
            other.send(("prepare",))
        self._started()
        store = meeting_place(host, 0, self.size, first=True, limit_s=START_S)
        meeting = Meeting(host, store.port, self.size, device, COLLECTIVE_S)
        for other in self._others:
            other.send(("join", meeting, "fsdp2" if self.sharded else "ddp", other.link.index))
        join(store, meeting, rank=0, index=0)
        self._started()

    def _started(self) -> None:
        for other in self._others:
            if other.answer(START_S)[0] != "done":
                raise AgentRLError(f"{other.name} could not be started: {other.how()}")

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def make(self, kind: Callable[..., R], **fields: Any) -> R:
        """Raises ConfigError for fields that cannot travel to another process, and what making the part raises."""
        buffer, number = io.BytesIO(), len(self._parts)
        try:
            torch.save((kind, fields), buffer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"resources.learners = {self.size} needs methods that can be named to another process, and one cannot: {error}; "
                "define it in a module"
            ) from error
        message = ("make", number, buffer.getvalue())
        part = self._all("start", message, lambda: kind(**fields, team=self))
        self._names[id(part)] = number
        self._parts.append(part)
        return part

    def together(self, part: Any, method: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """Raises AgentRLError where a rank died or failed, and what the method itself raises on all of them."""
        if self._inside:
            return method(part, *args, **kwargs)
        given = [self._named(value) for value in args], {key: self._named(value) for key, value in kwargs.items()}
        message = ("call", self._names[id(part)], method.__name__, *given, getattr(part, "states", None))
        return self._all(method.__name__, message, lambda: method(part, *args, **kwargs))

    def close(self) -> None:
        """Ends the other ranks and waits for that."""
        self.problem = self.problem or "it was closed"
        self._end()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── all at once ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _all(self, what: str, message: tuple[Any, ...], own: Callable[[], R]) -> R:
        """Lets the others do it, too, and returns what this rank finds."""
        if self.problem:
            raise AgentRLError(f"the learners cannot be asked any more: {self.problem}")
        self._settled.clear()
        for other in self._others:
            other.send(message)
        try:
            with self._computing():
                found = own()
        except BaseException as error:
            self._settled.set()
            self._after(error, what)
            raise
        self._settled.set()
        for other in self._others:
            answer = other.answer(COLLECTIVE_S)
            if answer[0] != "done":
                self._give_up(f"{other.name} {other.how()} in {what}", answer)
        return found

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """The threads are divided in the block: outside of it the other ranks rest."""
        before = torch.get_num_threads()
        self._inside = True
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            self._inside = False
            torch.set_num_threads(before)

    def _after(self, error: BaseException, what: str) -> None:
        """This rank failed. Returns where all of them did so in the same way, and can go on; else ends the others, and raises for
        the one that was the cause."""
        answers = [(other.answer(GRACE_S), other) for other in self._others]
        cause = _cause(error, answers)
        if cause is not None:
            self._give_up(f"{cause.name} {cause.how()} in {what}", cause.last, error)
        if any(answer[0] != "raised" for answer, _ in answers):
            self.problem = f"{what} failed: {error!r}"
            self.close()

    def _give_up(self, problem: str, answer: Sequence[Any], cause: BaseException | None = None) -> None:
        self.problem = problem
        self.close()
        failed = answer[0] == "raised" and not _of_a_meeting(answer[1])  # which a new start would meet again
        error = (
            AgentRLError(f"{problem}; agentrl train --resume goes on from the last checkpoint")
            if failed
            else LearnerLost(problem)
        )
        if answer[0] == "raised":
            error.add_note(f"raised there:\n{answer[2]}")
        raise error from cause

    def _named(self, value: Any) -> Any:
        """A value as it is sent: what is large and was sent before by its number alone."""
        if not _large(value):
            return value
        for number, known in self._sent.items():
            if known is value:
                return Known(number)
        self._n_sent += 1
        self._sent[self._n_sent] = value
        forgotten = [number for number in self._sent if number <= self._n_sent - REMEMBERED]
        for number in forgotten:
            del self._sent[number]
        return New(self._n_sent, value, forgotten)


def _large(value: Any) -> bool:
    from agentrl.algorithms.table import TurnTable
    from agentrl.learning.critic import Prompts
    from agentrl.learning.samples import Sample

    return isinstance(value, (TurnTable, Prompts)) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Sample)
    )


def _of_a_meeting(error: str) -> bool:
    """Whether an error is that of a rank that waited for others in vain, and not its own."""
    return any(name in error for name in ("gloo", "NCCL", "Connection closed by peer"))


def _cause(error: BaseException, answers: Sequence[tuple[tuple[Any, ...], _Other]]) -> _Other | None:
    """Which of the others made the first rank fail with this error; None where the error is its own."""
    by_kind: dict[str, list[_Other]] = {"died": [], "raised": [], "silent": [], "done": []}
    for answer, other in answers:
        if answer[:2] != ("raised", told(error)):
            by_kind[answer[0]].append(other)
    in_order = sorted(by_kind["raised"], key=lambda other: (_of_a_meeting(other.last[1]), other.heard_at))
    silent = by_kind["silent"] if _of_a_meeting(told(error)) else []
    return next(iter([*by_kind["died"], *in_order, *silent]), None)


class _Other:
    """Another rank, as the first one sees it."""

    def __init__(self, link: Link, timeout_s: float, settled: threading.Event) -> None:
        self.link = link
        self.last: tuple[Any, ...] = ("silent",)
        self.heard_at = 0.0
        self._answers: queue.Queue[tuple[float, tuple[Any, ...]]] = queue.Queue()
        threading.Thread(target=_listen, args=(link, self._answers, timeout_s, settled), daemon=True).start()

    @property
    def name(self) -> str:
        return self.link.name

    def send(self, message: tuple[Any, ...]) -> None:
        """How a rank died shows in its answer."""
        self.link.send(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def answer(self, limit_s: float) -> tuple[Any, ...]:
        """What it says next: ("done",); ("raised", error, traceback); ("died", how), then for ever; ("silent",) after the limit."""
        if self.last[0] != "died":
            try:
                self.heard_at, self.last = self._answers.get(timeout=limit_s)
            except queue.Empty:
                self.last = ("silent",)
        return self.last

    def how(self) -> str:
        """How its last answer reads."""
        if self.last[0] == "raised":
            return f"raised {self.last[1]}"
        return "did not answer" if self.last[0] == "silent" else self.last[1]


def _listen(
    link: Link, answers: queue.Queue[tuple[float, tuple[Any, ...]]], timeout_s: float, settled: threading.Event
) -> None:
    """Hears a rank to its end. One that failed by itself is ended, so that the first rank, which waits for it in a collective,
    hears of it; so is one that shows no sign of life."""
    limit_s = START_S
    while True:
        try:
            answer = pickle.loads(link.receive(limit_s))
        except (EOFError, TimeoutError) as error:
            how = (
                link.how()
                if isinstance(error, EOFError)
                else f"showed no sign of life for {limit_s:g} s and was killed"
            )
            link.kill()
            answers.put((time.monotonic(), ("died", how)))
            if dist.is_initialized() and dist.get_backend() != "gloo" and not settled.wait(GRACE_S):
                dist.distributed_c10d._abort_process_group()  # NCCL waits for the dead
            return
        limit_s = timeout_s
        answers.put((time.monotonic(), answer))
        if answer[0] == "raised" and not settled.wait(GRACE_S):
            link.kill()


def _end_all(others: Sequence[_Other], owner: int) -> None:
    if os.getpid() != owner:  # a fork of it is ending
        return
    for other in others:
        other.link.hang_up()
    for other in others:
        other.link.end(GRACE_S)
    if dist.is_initialized():
        dist.destroy_process_group()
