"""What runs in the processes of the other ranks: they do what the first one tells them. See ``ranks``."""

from __future__ import annotations

import io
import os
import pickle
import select
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agentrl.learning.team import Team
from agentrl.policies.transformers import prepare_device
from agentrl.registry import load_plugins


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


def meeting_place(port: int, size: int, *, first: bool, limit_s: float) -> Any:
    """Where the ranks of this machine find one another; the first one opens it (port 0: any that is free)."""
    limit = timedelta(seconds=limit_s)
    return dist.TCPStore("127.0.0.1", port, size, is_master=first, timeout=limit, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]


def join(store: Any, *, rank: int, size: int, device: str, limit_s: float) -> None:
    """Meets the other ranks. gloo carries what is on the CPU, NCCL what is on CUDA devices."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    # The name of this machine may resolve to an address that it does not have.
    name, before = "GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME")
    if before is None and Path("/sys/class/net/lo").exists():
        os.environ[name] = "lo"
    limit = timedelta(seconds=limit_s)
    kind = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    try:
        dist.init_process_group(kind, store=store, rank=rank, world_size=size, timeout=limit)
    finally:
        if before is None:
            os.environ.pop(name, None)


def main(handle: int, rank: int, threads: int, device: str) -> None:
    """Answers until the first rank is gone."""
    connection = Connection(handle)
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    load_plugins()
    prepare_device(device, threads)
    _send(connection, ("ready",))
    worker = _Worker(rank)
    while True:
        try:
            message = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        _send(connection, worker.answer(message))


def _end_with(handle: int) -> None:
    """Ends this process as soon as the other end of the connection is gone, whatever it is doing."""
    poll = select.poll()
    poll.register(handle, 0)  # POLLHUP comes unasked
    poll.poll()
    os._exit(0)


def _send(connection: Any, answer: tuple[Any, ...]) -> None:
    with suppress(OSError):  # the first rank is gone, and this process with it
        connection.send_bytes(pickle.dumps(answer))


class _Worker:
    """A rank's parts."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.team = Team()
        self.device = "cpu"
        self.parts: dict[int, Any] = {}
        self.known: dict[int, Any] = {}

    def answer(self, message: tuple[Any, ...]) -> tuple[Any, ...]:
        """Does as told; an exception is an answer."""
        try:
            getattr(self, f"_{message[0]}")(*message[1:])
        except Exception as error:
            return "raised", told(error), traceback.format_exc()
        return ("done",)

    def _join(self, settings: dict[str, Any], sharding: Any) -> None:
        device, size, limit_s = settings["device"], settings["size"], settings["limit_s"]
        store = meeting_place(settings["port"], size, first=False, limit_s=limit_s)
        join(store, rank=self.rank, size=size, device=device, limit_s=limit_s)
        self.team = Team(self.rank, size, sharding)
        self.device = f"cuda:{self.rank}" if device == "cuda" else "cpu"

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
