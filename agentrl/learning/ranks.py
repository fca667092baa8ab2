"""Several learners on one machine: the training process is the first rank and starts the others.

    with team_of(config) as team:
        learner = team.make(Learner, model=model, loss=loss)     # on every rank
        learner.update(samples, data, table)                      # likewise

A method that is marked ``everywhere`` goes to the other ranks by name with its arguments; all run it, and meet in the collectives
of ``torch.distributed`` (gloo on the CPU, NCCL on CUDA, one device a rank). Samples, tables and prompts travel once: what is sent
must not be changed in place while it is used.

A rank that dies breaks the connections of the others, so the first one hears of it within seconds, whatever it waits for, ends the
rest and raises; a resume goes on from the last checkpoint. When the training process is gone, however that went, the ranks end
themselves.
"""

from __future__ import annotations

import io
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from agentrl.errors import AgentRLError, ConfigError
from agentrl.learning.rank_worker import Known, New, join, meeting_place, told
from agentrl.learning.team import Sharding, Team

START_S = 300.0  # that a rank may take to import torch and what the methods need
GRACE_S = 5.0  # after a failure, that the others have to tell what they know
COLLECTIVE_S = 1800.0  # that ranks wait for one another
REMEMBERED = 8  # things that need not be sent again

R = TypeVar("R")


class Ranks(Team):
    """The first rank's side of a team of ``size``, whose other processes it starts and ends.

    ``threads`` of the CPU are divided among the ranks while they compute. Raises ConfigError for more ranks than devices, and
    AgentRLError where a rank cannot be started.
    """

    def __init__(self, size: int, sharding: Sharding, *, device: str, threads: int) -> None:
        super().__init__(0, size, sharding)
        if device == "cuda" and size > torch.cuda.device_count():
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
        self._others = [_Other(rank, self.threads, device, self._settled) for rank in range(1, size)]
        self._end = weakref.finalize(self, _end_all, self._others, os.getpid())
        try:
            self._join(device)
        except BaseException:
            self.close()
            raise

    def _join(self, device: str) -> None:
        """Waits until every rank has imported what it needs, then meets them."""
        for other in self._others:
            if other.answer(START_S)[0] != "ready":
                raise AgentRLError(f"{other.name} could not be started: {other.how()}")
        store = meeting_place(0, self.size, first=True, limit_s=START_S)
        settings = {"port": store.port, "size": self.size, "device": device, "limit_s": COLLECTIVE_S}
        for other in self._others:
            other.send(("join", settings, "fsdp2" if self.sharded else "ddp"))
        join(store, rank=0, size=self.size, device=device, limit_s=COLLECTIVE_S)
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
        died = [found for found in answers if found[0][0] == "died"]
        other_errors = [found for found in answers if found[0][0] == "raised" and found[0][1] != told(error)]
        for answer, other in (
            *died,
            *sorted(other_errors, key=lambda found: found[1].heard_at),
        ):  # the first is the cause
            self._give_up(f"{other.name} {other.how()} in {what}", answer, error)
        if any(answer[0] != "raised" for answer, _ in answers):
            self.problem = f"{what} failed: {error!r}"
            self.close()

    def _give_up(self, problem: str, answer: Sequence[Any], cause: BaseException | None = None) -> None:
        self.problem = problem
        self.close()
        error = AgentRLError(f"{problem}; --resume goes on from the last checkpoint")
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


class _Other:
    """Another rank's process, as the first one sees it."""

    def __init__(self, rank: int, threads: int, device: str, settled: threading.Event) -> None:
        ours, theirs = socket.socketpair()
        path = [str(entry) for entry in sys.path]
        start = f"from agentrl.learning.rank_worker import main; main({theirs.fileno()}, {rank}, {threads}, {device!r})"
        count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {start}"],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **count},
                start_new_session=True,  # Ctrl-C is for the training process to hear, which ends the ranks
            )
        self.socket = ours
        self.connection: Connection[Any, Any] = Connection(os.dup(ours.fileno()))
        self.name = f"learner {rank + 1} (process {self.process.pid})"
        self.answers: queue.Queue[tuple[float, tuple[Any, ...]]] = queue.Queue()
        listening = (self.connection, self.process, self.answers, settled)
        threading.Thread(target=_listen, args=listening, daemon=True).start()
        self._last: tuple[Any, ...] = ("silent",)
        self.heard_at = 0.0

    def send(self, message: tuple[Any, ...]) -> None:
        """How a rank died shows in its answer."""
        with suppress(OSError):
            self.connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def answer(self, limit_s: float) -> tuple[Any, ...]:
        """What it says next: ("done",); ("raised", error, traceback); ("died",), then for ever; ("silent",) after the limit."""
        if self._last[0] != "died":
            try:
                self.heard_at, self._last = self.answers.get(timeout=limit_s)
            except queue.Empty:
                self._last = ("silent",)
        return self._last

    def how(self) -> str:
        """How its last answer reads."""
        if self._last[0] == "raised":
            return f"raised {self._last[1]}"
        if self._last[0] == "silent":
            return "did not answer"
        status = self.process.wait()
        if status >= 0:
            return f"ended with exit status {status}"
        with suppress(ValueError):
            name = signal.Signals(-status).name
            return f"died of {name}" + (" (killed from outside; was there enough memory?)" if name == "SIGKILL" else "")
        return f"died of signal {-status}"


def _listen(
    connection: Any,
    process: subprocess.Popen[bytes],
    answers: queue.Queue[tuple[float, tuple[Any, ...]]],
    settled: threading.Event,
) -> None:
    """Hears a rank to its end. One that failed by itself is ended, so that the first rank, which waits for it in a collective,
    hears of it."""
    while True:
        try:
            answer = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            answers.put((time.monotonic(), ("died",)))
            if dist.is_initialized() and dist.get_backend() != "gloo" and not settled.wait(GRACE_S):
                dist.distributed_c10d._abort_process_group()  # NCCL waits for the dead
            return
        answers.put((time.monotonic(), answer))
        if answer[0] == "raised" and not settled.wait(GRACE_S):
            process.kill()


def _end_all(others: Sequence[_Other], owner: int) -> None:
    if os.getpid() != owner:  # a fork of it is ending
        return
    for other in others:
        with suppress(OSError):
            other.socket.shutdown(socket.SHUT_RDWR)  # which the thread that listens hears as well
        other.socket.close()
    for other in others:
        try:
            other.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            other.process.kill()
            other.process.wait()
    if dist.is_initialized():
        dist.destroy_process_group()
