"""What runs in other processes: the keeper, and the workers that it forks, each with one environment.

    training process ── keeper ─┬─ worker: env ── whatever the environment starts
                                └─ worker: env

The keeper is a fresh interpreter with one thread, so forking it is safe (the training process has torch's threads), and
a worker starts in milliseconds and shares the memory of what the keeper has imported: the environment's own module. It
runs nothing of the environment, so it never hangs. It buries workers, tells the other side how they died, kills them
when it is told to, with everything that they have started (Linux; elsewhere, with their process group), and ends them
all when the training process is gone, however that went.

The standard library's ``forkserver`` does the first half only, and runs the user's main script again in each worker.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import inspect
import os
import pickle
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import gymnasium
import numpy as np

from agentrl.env import make, registration
from agentrl.errors import EnvError
from agentrl.registry import load_plugins

HEADER = struct.Struct("!Q")  # the length of a message
ORDER = struct.Struct("!cQ")  # what to do, the number of the worker
SPAWN, RELEASE, KILL = b"s", b"r", b"k"
GRACE_S = 5.0  # that a worker has for the environment's close()
CHUNK = 1 << 16
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # Linux: prctl(2)

Env = gymnasium.Env[Any, Any]
Factory = Callable[[], Env]


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def packed(message: Any) -> bytes:
    """A message as it travels: its length, then its pickle."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


class Inbox:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes in what has arrived."""
        self._data += data

    def messages(self) -> Iterator[Any]:
        """The messages that are complete."""
        while len(self._data) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            body = bytes(self._data[HEADER.size : end])
            del self._data[:end]
            yield pickle.loads(body)


def receive(connection: socket.socket, inbox: Inbox) -> Any:
    """The next message; None where the other side has closed. For sides that take one message at a time."""
    while True:
        for message in inbox.messages():
            return message
        data = connection.recv(CHUNK)
        if not data:
            return None
        inbox.feed(data)


@dataclass(frozen=True, slots=True)
class About:
    """What the other side must know of an environment: its registration, its class, its spaces and its public names, those
    of wrappers included, divided into methods and the rest."""

    pid: int
    spec: Any
    name: str
    spaces: tuple[Any, Any]
    methods: frozenset[str]
    values: frozenset[str]


def about(env: Env) -> About:
    """Looks at an environment without calling anything of it: a property may be of use only after a reset."""
    methods, values, layer = set(), set(), env
    while True:
        for name in {*dir(type(layer)), *vars(layer)}:
            if not name.startswith("_") and name not in methods | values:
                (methods if callable(inspect.getattr_static(layer, name, None)) else values).add(name)
        if not isinstance(layer, gymnasium.Wrapper):
            break
        layer = layer.env
    spaces, kind = (env.observation_space, env.action_space), type(env.unwrapped).__name__
    return About(os.getpid(), env.spec, kind, spaces, frozenset(methods), frozenset(values))


def told(error: Exception) -> tuple[str, bytes | None, str, str]:
    """An exception as a message: itself where pickle gives it back as it is, its type with its text, and its traceback."""
    where = "".join(traceback.format_exception(error))
    text = f"{type(error).__name__}: {error}"
    try:
        itself = pickle.dumps(error)
        back = pickle.loads(itself)
    except Exception:  # whatever its class does: type and text are enough
        return "raised", None, text, where
    same = type(back) is type(error) and str(back) == str(error)
    return "raised", itself if same else None, text, where


@dataclass(frozen=True)
class Maker:
    """Makes environments of one id, also in a process that knows it only by what travels with this: the registrations."""

    env_id: str
    options: dict[str, Any] = field(default_factory=dict)
    registered: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "registered", self.registered or (registration(self.env_id),))

    def load(self) -> None:
        """Imports the environment's module, and registers it where that has not done so."""
        load_plugins()
        if ":" in self.env_id:
            importlib.import_module(self.env_id.rpartition(":")[0])
        for spec in self.registered:
            if isinstance(spec.entry_point, str):
                importlib.import_module(spec.entry_point.partition(":")[0])
            gymnasium.registry.setdefault(spec.id, spec)

    def __call__(self) -> gymnasium.Env[str, str]:
        return make(self.env_id, **self.options)


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def serve(connection: socket.socket, factory: Factory) -> None:
    """Makes an environment and answers until the other side closes; then closes the environment."""
    try:
        env = factory()
        first = packed(("ready", about(env)))
    except Exception as error:
        connection.sendall(packed(told(error)))
        return
    inbox = Inbox()
    with suppress(BrokenPipeError, ConnectionResetError):  # closed without waiting for the answer
        connection.sendall(first)
        while (request := receive(connection, inbox)) is not None:
            connection.sendall(_answer(env, *request))
    env.close()


def _answer(env: Env, name: str, arguments: tuple[tuple[Any, ...], dict[str, Any]] | None) -> bytes:
    """What an attribute is, or what a method gives, or what it raises."""
    try:
        value = env.get_wrapper_attr(name)
        if arguments is not None:
            value = value(*arguments[0], **arguments[1])
        if isinstance(value, Iterator):
            value = list(value)
        return _sendable(name, value)
    except Exception as error:
        return packed(told(error))


def _sendable(name: str, value: Any) -> bytes:
    try:
        return packed(("gave", value))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        kind = type(value).__name__
        raise EnvError(f"{name} gave a {kind} that cannot be sent to another process: {error}") from error


# ── the keeper ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Kept:
    """A worker that lives. After ``deadline`` it is killed."""

    pid: int
    connection: socket.socket  # the worker's end, for a last word after its death
    deadline: float | None = None


class Keeper:
    """Forks, kills and buries workers as ``control`` says, until it closes."""

    def __init__(self, control: socket.socket, factory: Factory) -> None:
        self.control = control
        self.factory = factory
        self.workers: dict[int, Kept] = {}
        self.parent = os.getppid()
        self.closing = False
        self._wake, write = socket.socketpair()
        self._wake_write = write
        for end in (self._wake, write):
            end.setblocking(False)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(control, selectors.EVENT_READ)

    def run(self) -> None:
        """Returns when ``control`` has closed and no worker is left."""
        while not (self.closing and not self.workers):
            deadlines = [kept.deadline for kept in self.workers.values() if kept.deadline is not None]
            # A second at most, for a process that the training process has forked may hold the control socket open.
            wait = max(0.0, min([1.0, *(deadline - time.monotonic() for deadline in deadlines)]))
            for key, _ in self._selector.select(wait):
                if key.fileobj is self.control:
                    self._obey()
                else:
                    self._wake.recv(CHUNK)
            if os.getppid() != self.parent:
                self._close()
            self._bury()
            for kept in self.workers.values():
                if kept.deadline is not None and kept.deadline <= time.monotonic():
                    _kill(kept.pid)
                    kept.deadline = None
        with suppress(ChildProcessError):  # until none is left
            while True:
                _kill_strays(set())
                os.waitpid(-1, 0)

    def _obey(self) -> None:
        try:
            data, ends, _, _ = socket.recv_fds(self.control, ORDER.size, 1)
        except ConnectionResetError:
            data, ends = b"", []
        if not data:
            self._close()
            return
        order, number = ORDER.unpack(data)
        if order == SPAWN:
            self._spawn(number, socket.socket(fileno=ends[0]))
        elif number in self.workers:
            self.workers[number].deadline = time.monotonic() + (GRACE_S if order == RELEASE else 0.0)

    def _close(self) -> None:
        if self.closing:
            return
        self.closing = True
        self._selector.unregister(self.control)
        for kept in self.workers.values():
            kept.deadline = min(kept.deadline or np.inf, time.monotonic() + GRACE_S)

    def _spawn(self, number: int, connection: socket.socket) -> None:
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_worker(connection, keeper)
        self.workers[number] = Kept(pid, connection)

    def _become_worker(self, connection: socket.socket, keeper: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._selector.close()
            others = [kept.connection for kept in self.workers.values()]
            for end in (self.control, self._wake, self._wake_write, *others):
                end.close()
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            if os.getppid() != keeper:  # it died before the line that asks for a signal then
                os._exit(1)
            np.random.seed()  # else all workers draw alike; Python's own generator is seeded anew by fork
            serve(connection, self.factory)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):  # an environment may have closed them
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status & 0xFF)

    def _bury(self) -> None:
        died = False
        with suppress(ChildProcessError):  # there is none
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                died = True
                number = next((n for n, kept in self.workers.items() if kept.pid == found[0]), None)
                if number is not None:
                    _last_word(self.workers.pop(number).connection, os.waitstatus_to_exitcode(found[1]))
        if died:
            _kill_strays({kept.pid for kept in self.workers.values()})


def _last_word(connection: socket.socket, status: int) -> None:
    with suppress(OSError), connection:  # nobody may listen any more
        connection.send(packed(("died", status)), socket.MSG_DONTWAIT)


def _kill(pid: int) -> None:
    """Kills a worker with its process group. It is a child that nobody else buries, so the number is still its own."""
    with suppress(ProcessLookupError, PermissionError):  # it has not come to setsid() yet
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _kill_strays(known: set[int]) -> None:
    """Kills the children of this process that are no workers: what dead workers have left (a subreaper inherits them).
    What those leave in turn is met when they are buried."""
    for pid in children(os.getpid()) - known:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(parent: int) -> set[int]:
    """The processes whose parent is ``parent``, the dead but not buried included; none where there is no /proc."""
    found = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # gone meanwhile
                if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                    found.add(int(name))
    return found


def prctl(option: int, value: int) -> None:
    """prctl(2) of this process; nothing where the system is another."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(descriptor: int) -> None:
    """The keeper's process. The first message is the pickled factory; the answer says whether it can be loaded here."""
    os.dup2(2, 1)  # what environments print is no output of the command
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    with socket.socket(fileno=descriptor) as control:
        try:
            factory = pickle.loads(receive(control, Inbox()))
            if isinstance(factory, Maker):
                factory.load()
            answer = packed(("gave", None))
        except Exception as error:
            control.sendall(packed(told(error)))
            return
        keeper = Keeper(control, factory)
        control.sendall(answer)
        keeper.run()
