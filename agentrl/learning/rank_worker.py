"""What runs in the processes of the other ranks: they do what the first one tells them. See ``ranks``."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from agentrl.learning.links import Answering
from agentrl.learning.team import Team
from agentrl.policies.transformers import prepare_device
from agentrl.registry import load_plugins

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SIOCGIFADDR = 0x8915  # the address of an interface, on Linux


@dataclass(frozen=True, slots=True)
class New:
    """An argument that will come again, under a number; ``forgotten`` are the numbers of those that will not."""

    number: int
    value: Any
    forgotten: list[int]


@dataclass(frozen=True, slots=True)
class Known:
    """An argument that came before."""

    number: int


def told(error: BaseException) -> str:
    """An error in a line, the same in every process that meets it."""
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where and how ranks find one another: the address of the first one's store, how many come, "cpu" or "cuda", and how
    long they wait for one another."""

    host: str
    port: int
    size: int
    device: str
    limit_s: float


def meeting_place(host: str, port: int, size: int, *, first: bool, limit_s: float) -> Any:
    """The store through which ranks find one another; the first one opens it (port 0: any that is free)."""
    limit = timedelta(seconds=limit_s)
    return dist.TCPStore(host, port, size, is_master=first, timeout=limit, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]


def join(store: Any, meeting: Meeting, *, rank: int, index: int) -> None:
    """Meets the other ranks. gloo carries what is on the CPU, NCCL what is on CUDA devices; ``index`` is this rank's device."""
    if meeting.device == "cuda":
        torch.cuda.set_device(index)
    # The name of this machine may resolve to an address that it does not have.
    name, before = "GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME")
    if before is None and (interface := interface_to(meeting.host, meeting.port)):
        os.environ[name] = interface
    limit = timedelta(seconds=meeting.limit_s)
    kind = "cpu:gloo,cuda:nccl" if meeting.device == "cuda" else "gloo"
    try:
        dist.init_process_group(kind, store=store, rank=rank, world_size=meeting.size, timeout=limit)
    finally:
        if before is None:
            os.environ.pop(name, None)


def interface_to(host: str, port: int) -> str:
    """The network interface of this machine that leads to an address; "" where that cannot be found out."""
    if fcntl is None:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port or 1))  # of datagrams: nothing is sent
            own = probe.getsockname()[0]
        except OSError:
            return ""
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # one without an address
                found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(found[20:24]) == own:
                    return name
    return ""


def main(handle: int, rank: int, threads: int, device: str) -> None:
    """Answers until the first rank is gone."""
    first = Answering(handle)
    worker = Worker(rank, threads, device)
    while True:
        try:
            order = first.receive()
        except (EOFError, OSError):
            return
        first.send(worker.answer(order))


class Worker:
    """A rank's parts. All orders come in one thread: torch counts its threads and chooses its device by thread."""

    def __init__(self, rank: int, threads: int, device: str) -> None:
        self.rank = rank
        self.threads, self.kind = threads, device
        self.team = Team()
        self.device = "cpu"
        self.parts: dict[int, Any] = {}
        self.known: dict[int, Any] = {}

    def answer(self, order: bytes) -> bytes:
        """Does as told; an exception is an answer."""
        try:
            message = pickle.loads(order)
            getattr(self, f"_{message[0]}")(*message[1:])
        except Exception as error:
            return pickle.dumps(("raised", told(error), traceback.format_exc()))
        return pickle.dumps(("done",))

    def _prepare(self) -> None:
        load_plugins()
        prepare_device(self.kind, self.threads)

    def _join(self, meeting: Meeting, sharding: Any, index: int) -> None:
        store = meeting_place(meeting.host, meeting.port, meeting.size, first=False, limit_s=meeting.limit_s)
        join(store, meeting, rank=self.rank, index=index)
        self.team = Team(self.rank, meeting.size, sharding)
        self.device = f"cuda:{index}" if meeting.device == "cuda" else "cpu"

    def _make(self, number: int, made: bytes) -> None:
        kind, fields = torch.load(io.BytesIO(made), map_location=self.device, weights_only=False)
        self.parts[number] = kind(**fields, team=self.team)

    def _call(self, number: int, method: str, args: list[Any], kwargs: dict[str, Any], states: Any) -> None:
        part = self.parts[number]
        if states is not None:
            part.states = states
        given = [self._value(value) for value in args]
        getattr(part, method)(*given, **{key: self._value(value) for key, value in kwargs.items()})

    def _value(self, value: Any) -> Any:
        if isinstance(value, New):
            for number in value.forgotten:
                del self.known[number]
            self.known[value.number] = value.value
            return value.value
        return self.known[value.number] if isinstance(value, Known) else value
