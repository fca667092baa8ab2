"""Environments in processes of their own (``[env] isolation = "process"``): only there can a timeout be enforced, and only
there does an environment that is slow, hangs or crashes leave the other episodes alone.

    pool = ProcessPool(Maker("agentrl/Household-v0", {"difficulty": "tiny"}), step_timeout_s=60)
    env = pool.take()
    text, info = env.reset(seed=0)

A worker that does not answer in time is killed with its children and the episode's outcome is ``env_timeout``; one that
dies is ``env_fault``; both are retried by replay. Exceptions arrive with their type and message. How the processes are
started and ended: ``worker``.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agentrl.env import AwaitedEnv
from agentrl.errors import ConfigError, EnvFault, EnvTimeout
from agentrl.rollouts.tries import EnvPool
from agentrl.rollouts.worker import CHUNK, GRACE_S, KILL, ORDER, RELEASE, SPAWN, About, Inbox, Maker, packed, receive

__all__ = ["Maker", "ProcessEnv", "ProcessPool"]

STEP_TIMEOUT_S = 60.0
RESET_TIMEOUT_S = 300.0
LONG = ("reset", "tasks", "find_task", "vocabulary")  # what the timeout of a reset bounds
# Many workers share few cores; each of them with as many threads as there are cores would stand in the others' way.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Launcher:
    """This side of the keeper, which starts and ends workers. Its process begins with the first worker, and again with the
    next one should it die."""

    def __init__(self, factory: Callable[[], gymnasium.Env[Any, Any]], timeout_s: float) -> None:
        if not hasattr(os, "fork"):
            raise ConfigError('env.isolation = "process" needs Linux or macOS; use "inline" here')
        try:
            self._factory = pickle.dumps(factory)
        except Exception as error:  # whatever the factory's parts do
            raise ConfigError(
                f'env.isolation = "process" needs an environment that can be named to another process; {error}; '
                "give an id, or a class or function of a module"
            ) from error
        self.timeout_s = timeout_s
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def spawn(self) -> tuple[int, socket.socket]:
        """A new worker: its number, and our end of its connection. It is not waited for. Raises what loading the
        environment's module raises."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        with theirs:
            for control in (self._keeper(), None):
                try:
                    socket.send_fds(control or self._keeper(), [ORDER.pack(SPAWN, number)], [theirs.fileno()])
                    break
                except OSError:  # it died a moment ago
                    if control is None:
                        raise
                    self.close()
        return number, ours

    def _keeper(self) -> socket.socket:
        """The way to a keeper that lives."""
        if self._control is None or self._process is None or self._process.poll() is not None:
            self.close()
            self._control = self._start()
        return self._control

    def end(self, number: int, order: bytes) -> None:
        """Lets a worker close its environment (RELEASE), or kills it and all that it has started (KILL). Returns at once."""
        with suppress(OSError):  # without a keeper there are no workers
            if self._control is not None:
                self._control.sendall(ORDER.pack(order, number))

    def close(self) -> None:
        """Ends every worker and the keeper, and waits for that."""
        if self._end is not None:
            self._end()
        self._control = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        path = [str(entry) for entry in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from agentrl.rollouts.worker import main; main({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=THREADS | os.environ,
                start_new_session=True,  # Ctrl-C is for the training process to hear, which ends the workers
            )
        self._end = weakref.finalize(self, _end_keeper, self._process, ours, os.getpid())
        try:
            ours.settimeout(self.timeout_s)
            ours.sendall(packed(self._factory))
            answer = receive(ours, Inbox())
            ours.settimeout(None)
        except (TimeoutError, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise ConfigError(f"no process for environments could be started: {error!r}") from error
        if answer is None or answer[0] != "gave":
            self.close()
            raise _remote_error(answer) if answer else ConfigError("no process for environments could be started")
        return ours


def _end_keeper(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    if os.getpid() != owner:  # a fork of it is ending
        return
    with suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()
    try:
        process.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()  # its workers have asked to be killed with it
        process.wait()


class ProcessEnv(AwaitedEnv):
    """An environment in a worker, with all its public methods and attributes. ``pid`` is its process, once it has answered.

    Methods called here wait for the answer; ``ask(name, …)`` can be awaited. ``reset_timeout_s`` bounds the making of the
    environment with the first call, ``reset``, and what lists tasks and words; ``step_timeout_s`` bounds every other call.
    Raises EnvTimeout where it is exceeded, EnvFault where the worker died, and else what the environment raises.
    """

    def __init__(
        self, launcher: Launcher, *, step_timeout_s: float, reset_timeout_s: float, known: About | None
    ) -> None:
        self.step_timeout_s = step_timeout_s
        self.reset_timeout_s = reset_timeout_s
        self.pid: int | None = None
        self.about: About | None = None
        self._launcher = launcher
        self._inbox = Inbox()
        self._busy = False
        self._gone = ""  # why nothing can be asked any more
        self._closed = False
        if known is not None:
            self._learn(known)
        self._number, self._socket = launcher.spawn()
        self._socket.setblocking(False)

    def _learn(self, about: About) -> None:
        self.about = about
        self.spec = about.spec or EnvSpec(about.name)
        self.observation_space, self.action_space = about.spaces

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """What the environment's ``reset`` gives."""
        super().reset(seed=seed)
        return self._call("reset", ((), {"seed": seed, "options": options}))

    def step(self, action: str) -> Any:
        """What the environment's ``step`` gives."""
        return self._call("step", ((action,), {}))

    def close(self) -> None:
        """Lets the worker close its environment and end, or kills it where it is in the middle of something. Returns at once."""
        if not self._closed:
            self._closed, self._gone = True, self._gone or "it was closed"
            self._launcher.end(self._number, KILL if self._busy else RELEASE)
            self._socket.close()

    def __getattr__(self, name: str) -> Any:
        about: About | None = self.__dict__.get("about")
        if about is not None and name in about.methods:
            return functools.partial(self._method, name)
        if about is not None and name in about.values:
            return self._call(name, None)
        raise AttributeError(f"{about.name if about else type(self).__name__} has no attribute '{name}'")

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._call(name, (args, kwargs))

    def lives(self) -> bool:
        """Whether a worker that has answered before still stands by: not where it, or its keeper, has died meanwhile."""
        if not self._gone and not self._busy and self.pid is not None and self._answer("") is not None:
            self._gone = "it died"
        return not self._gone

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method ``name`` gives; other episodes go on meanwhile."""
        key, limit_s = self._begin(name)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit_s):
                with suppress(BrokenPipeError, ConnectionResetError):  # how it died stands in what it left to read
                    await loop.sock_sendall(self._socket, packed((name, (args, kwargs))))
                while (answer := self._answer(name)) is None:
                    await self._readable(loop)
        except TimeoutError:
            answer = self._answer(name)  # the loop itself may have been busy elsewhere, and not the worker
        return self._result(name, answer, key)

    async def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        arrived: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, lambda: arrived.done() or arrived.set_result(None))
        try:
            await arrived
        finally:
            loop.remove_reader(self._socket)

    def _call(self, name: str, arguments: tuple[tuple[Any, ...], dict[str, Any]] | None) -> Any:
        """The same, in one go: ``arguments`` is None for an attribute."""
        key, limit_s = self._begin(name)
        ends = time.monotonic() + limit_s
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        try:
            self._socket.settimeout(limit_s)
            with suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(packed((name, arguments)))
            self._socket.setblocking(False)
            while (answer := self._answer(name)) is None and time.monotonic() < ends:
                poll.poll(1e3 * max(0.0, ends - time.monotonic()))
        except TimeoutError:
            answer = None
        return self._result(name, answer, key)

    def _begin(self, name: str) -> tuple[str, float]:
        """Marks the worker as busy; returns which timeout it is under, and how long that is."""
        if self._busy and not self._gone:
            self._gone = "a call was given up in the middle"
        if self._gone:
            raise EnvFault(f"{name} was asked of a worker that cannot answer: {self._gone}")
        self._busy = True
        key = "reset_timeout_s" if self.pid is None or name in LONG else "step_timeout_s"
        return key, getattr(self, key)

    def _answer(self, name: str) -> tuple[Any, ...] | None:
        """What has arrived: the answer, or how the worker died; None where nothing has."""
        ended = False
        try:
            while data := self._socket.recv(CHUNK):
                self._inbox.feed(data)
            ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            ended = True
        try:
            for message in self._inbox.messages():
                if message[0] != "ready":
                    return message
                self.pid = message[1].pid
                self._learn(message[1])
        except Exception as error:  # whatever the classes in it do
            return "unreadable", f"{type(error).__name__}: {error}"
        return ("died", None) if ended else None

    def _result(self, name: str, answer: tuple[Any, ...] | None, key: str) -> Any:
        """What the environment gave. Raises what it raised."""
        if answer is not None and answer[0] in ("gave", "raised") and self.pid is not None:
            self._busy = False
        if answer is None:
            self._gone = f"{name} took longer than env.{key} = {getattr(self, key):g} s"
            self._launcher.end(self._number, KILL)
            raise EnvTimeout(f"{self._gone}; its process was killed")
        if answer[0] == "gave":
            return answer[1]
        if answer[0] == "raised":
            self._gone = "" if self.pid is not None else "the environment could not be made"
            raise _remote_error(answer)
        if answer[0] == "unreadable":
            self._gone = f"what {name} gave could not be read"
            raise EnvFault(f"what {name} gave cannot be read outside of its process: {answer[1]}")
        self._gone = "it died"
        raise EnvFault(f"the environment's process died {_how(answer[1])} in {name}")


def _how(status: int | None) -> str:
    if status is None:
        return "without a word"
    if status >= 0:
        return f"with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"of {name}" + (" (killed from outside; was there enough memory?)" if name == "SIGKILL" else "")


def _remote_error(answer: tuple[str, bytes | None, str, str]) -> Exception:
    """The exception that was raised there, with its traceback as a note; one that cannot travel is an EnvFault that names it."""
    _, itself, text, where = answer
    error: Exception | None = None
    if itself is not None:
        with suppress(Exception):  # a class that only the worker can import
            error = pickle.loads(itself)
    error = error or EnvFault(f"the environment's process raised {text}")
    error.add_note(f"raised in the environment's process:\n{where}")
    return error


class ProcessPool(EnvPool):
    """A pool whose environments live in workers, one each. ``factory`` makes an environment and can be pickled; the first
    one is waited for, later ones are made while other episodes go on.

    Raises ConfigError for a factory that another process cannot load, and what making the first environment raises.
    """

    def __init__(
        self,
        factory: Callable[[], gymnasium.Env[str, str]],
        *,
        step_timeout_s: float | None = None,
        reset_timeout_s: float | None = None,
    ) -> None:
        self.step_timeout_s = STEP_TIMEOUT_S if step_timeout_s is None else step_timeout_s
        self.reset_timeout_s = RESET_TIMEOUT_S if reset_timeout_s is None else reset_timeout_s
        self._launcher = Launcher(factory, self.reset_timeout_s)
        self._about: About | None = None
        self._made: weakref.WeakSet[ProcessEnv] = weakref.WeakSet()
        super().__init__(self._make)

    def _make(self) -> ProcessEnv:
        times = {"step_timeout_s": self.step_timeout_s, "reset_timeout_s": self.reset_timeout_s}
        env = ProcessEnv(self._launcher, **times, known=self._about)
        self._made.add(env)
        if self._about is None:
            try:
                _ = env._call("spec", None)
            except BaseException:
                env.close()
                raise
            self._about = env.about
        return env

    def take(self) -> gymnasium.Env[str, str]:
        """A worker that lives: an episode must not lose its tries on those that died while nobody used them."""
        while True:
            env = super().take()
            if not isinstance(env, ProcessEnv) or env.lives():
                return env
            env.close()

    def close(self) -> None:
        """Ends every worker, also those in use."""
        super().close()
        for env in list(self._made):
            env.close()
        self._launcher.close()
