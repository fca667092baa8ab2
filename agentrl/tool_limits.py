"""What bounds a tool's calls: threads that can be abandoned, and places of which there are only so many."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """The function's result from a thread of its own. Daemonic: one that is abandoned must not keep the program alive,
    nor take a place in a pool."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.done():  # given up meanwhile
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def work() -> None:
        value, caught = None, None
        try:
            value = function()
        except StopIteration as error:  # no future takes one
            caught = RuntimeError(f"StopIteration: {error}")
        except BaseException as error:  # it is raised again in the caller
            caught = error
        if not loop.is_closed():
            try:
                loop.call_soon_threadsafe(settle, value, caught)
            except RuntimeError:  # closed between the two lines: nobody waits any more
                return

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="agentrl-tool", daemon=True).start()
    return await done


class Places:
    """So many at a time, whatever event loops and threads they run in; first come, first served."""

    def __init__(self, n: int) -> None:
        self._free = n
        self._lock = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Holds a place; waits for one where none is free."""
        await self._take()
        try:
            yield
        finally:
            self._give()

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, turn))
        try:
            await turn
        except asyncio.CancelledError:
            with self._lock:
                waited = (loop, turn) in self._waiting
                if waited:
                    self._waiting.remove((loop, turn))
            if not waited:  # the place was handed over just now
                self._give()
            raise

    def _give(self) -> None:
        with self._lock:
            while self._waiting:
                loop, turn = self._waiting.popleft()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_let, turn)
                    return
            self._free += 1


def _let(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # cancelled meanwhile: ``_take`` hands the place on
        turn.set_result(None)
