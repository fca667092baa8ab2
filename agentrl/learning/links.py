"""How the first rank of several learners reaches another one: a process of this machine here, an actor of a cluster in
``agentrl.cluster.learners``.

A link carries messages there and answers back, one an order, and tells whether the rank is alive: a rank that is stopped, whose
machine is gone or unplugged, does not answer and does not hang up either, so each shows a sign of life every second.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

BEAT_S = 1.0  # between two signs of life


class Link(Protocol):
    """One other rank. A single thread receives, another may send meanwhile."""

    name: str
    index: int  # of its CUDA device among those that it sees

    def send(self, message: bytes) -> None:
        """Gives an order. That the rank has died shows in ``receive``."""

    def receive(self, limit_s: float) -> bytes:
        """The next answer. Raises EOFError where the rank has ended, TimeoutError where it showed no sign of life for so long."""
        ...

    def alive(self) -> bool:
        """Whether it has not ended."""
        ...

    def kill(self) -> None:
        """Ends it at once, whatever it does."""

    def hang_up(self) -> None:
        """Tells it to end."""

    def end(self, grace_s: float) -> None:
        """Returns when it has ended, and ends it itself after so many seconds."""

    def how(self) -> str:
        """How it ended, as the end of a sentence: "died of SIGKILL"."""
        ...


Start = Callable[[int, int, str], Link]  # of rank, threads and "cpu" or "cuda"


class ProcessLink:
    """A process of this machine, behind a pair of sockets. It ends itself when the first rank is gone, however that went."""

    def __init__(self, rank: int, threads: int, device: str) -> None:
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
        self.name = f"learner {rank + 1} (process {self.process.pid})"
        self.index = rank
        self._socket = ours
        self._connection: Connection[Any, Any] = Connection(os.dup(ours.fileno()))

    def send(self, message: bytes) -> None:
        with suppress(OSError):
            self._connection.send_bytes(message)

    def receive(self, limit_s: float) -> bytes:
        message = b""
        while not message:  # a sign of life is an empty one
            try:
                # Twice: the first wait also ends where this process itself was stopped for so long.
                if not (self._connection.poll(limit_s / 2) or self._connection.poll(limit_s / 2)):
                    raise TimeoutError(f"{self.name} showed no sign of life for {limit_s:g} s")
                message = self._connection.recv_bytes()
            except TimeoutError:
                raise
            except OSError as error:
                raise EOFError(str(error)) from error
        return message

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()

    def hang_up(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # which the thread that receives hears as well
        self._socket.close()

    def end(self, grace_s: float) -> None:
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def how(self) -> str:
        status = self.process.wait()
        if status >= 0:
            return f"ended with exit status {status}"
        with suppress(ValueError):
            name = signal.Signals(-status).name
            return f"died of {name}" + (" (killed from outside; was there enough memory?)" if name == "SIGKILL" else "")
        return f"died of signal {-status}"


class Answering:
    """The other end of a ``ProcessLink``, in the rank's own process."""

    def __init__(self, handle: int) -> None:
        self._connection: Connection[Any, Any] = Connection(handle)
        self._lock = threading.Lock()
        threading.Thread(target=self._live, args=(handle,), daemon=True).start()

    def receive(self) -> bytes:
        """The next order. Raises EOFError where the first rank is gone."""
        return self._connection.recv_bytes()

    def send(self, answer: bytes) -> None:
        with self._lock, suppress(OSError):  # the first rank is gone, and this process with it
            self._connection.send_bytes(answer)

    def _live(self, handle: int) -> None:
        """Shows signs of life, and ends this process as soon as the other end is gone, whatever it is doing."""
        poll = select.poll()
        poll.register(handle, 0)  # POLLHUP comes unasked
        while not poll.poll(1000 * BEAT_S):
            self.send(b"")
        os._exit(0)
