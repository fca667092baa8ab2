"""How a policy serves many episodes, and for how long it was asked. One that answers in batches: in rounds, or whenever it is free.

``Rounds``: every live episode asks, then one batch answers them all. Which requests share a batch depends only on which
episodes are alive, never on timing: the same run file and seed give the same token ids. ``FreeBatches``: nobody waits for an
episode whose environment is slow. ``InFlight``: an engine that batches by itself.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from agentrl.agents.base import Generate
from agentrl.errors import PolicyFault
from agentrl.policies.base import BatchPolicy, Request
from agentrl.rollouts.episode import Busy
from agentrl.types import Completion, Sampling


class Rounds:
    """Turns a ``BatchPolicy`` into the ``generate`` of many episodes. ``live`` counts the players that
    ask one request at a time and have not left; when all of them wait, one batch answers them."""

    def __init__(self, policy: BatchPolicy, live: int) -> None:
        self.policy = policy
        self.live = live
        self.seconds = 0.0
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []

    def close(self) -> None:
        """Nothing is held."""

    def leave(self) -> None:
        """One of the ``live`` asks no more."""
        self.live -= 1
        self._answer_if_complete()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        """Waits for the round. Raises PolicyFault where the engine failed."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((Request(request_id, prompt_ids, sampling), future))
        self._answer_if_complete()
        return await future

    def _answer_if_complete(self) -> None:
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]  # a cancelled one asks no more
        if not self._waiting or len(self._waiting) < self.live:
            return
        waiting = sorted(self._waiting, key=lambda entry: entry[0].id)
        self._waiting = []
        started = time.perf_counter()
        try:
            completions = self.policy.generate_batch([request for request, _ in waiting])
        except (PolicyFault, RuntimeError) as error:  # what engines raise: out of memory, a kernel that failed
            for _, future in waiting:
                future.set_exception(PolicyFault(f"the engine failed: {error}"))
            return
        self.seconds += time.perf_counter() - started
        for (_, future), completion in zip(waiting, completions, strict=True):
            future.set_result(completion)


class FreeBatches:
    """Turns a ``BatchPolicy`` into the ``generate`` of many episodes without a barrier: whenever the engine is free, a batch
    answers those who wait, in a thread of its own, so environments and other episodes go on meanwhile.

    Who shares a batch depends on timing; tokens do not, unless a batch of another shape rounds a log-prob to the other side.
    """

    def __init__(self, policy: BatchPolicy) -> None:
        self.policy = policy
        self.seconds = 0.0
        self._most = getattr(policy, "batch_size", sys.maxsize)
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._server: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """Nobody waits for the others here."""

    def close(self) -> None:
        """Waits for a batch that is being answered."""
        self._thread.shutdown()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        """Waits for its batch. Raises PolicyFault where the engine failed."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((Request(request_id, prompt_ids, sampling), future))
        if self._server is None:
            self._server = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        """Answers until nobody waits."""
        try:
            await asyncio.sleep(0)  # whoever is ready asks first
            while waiting := [entry for entry in self._waiting if not entry[1].done()]:
                batch, self._waiting = waiting[: self._most], waiting[self._most :]
                await self._answer(batch)
        finally:
            self._server = None

    async def _answer(self, batch: list[tuple[Request, asyncio.Future[Completion]]]) -> None:
        started = time.perf_counter()
        requests = [request for request, _ in batch]
        try:
            completions = await asyncio.get_running_loop().run_in_executor(
                self._thread, self.policy.generate_batch, requests
            )
        except Exception as error:
            fault = isinstance(error, (PolicyFault, RuntimeError))  # what engines raise
            failure = PolicyFault(f"the engine failed: {error}") if fault else error
            for _, future in batch:
                if not future.done():
                    future.set_exception(failure)
            return
        self.seconds += time.perf_counter() - started
        for (_, future), completion in zip(batch, completions, strict=True):
            if not future.done():  # cancelled meanwhile
                future.set_result(completion)


class InFlight:
    """The ``generate`` of a policy that takes requests one by one. ``seconds``: those in which it held at least one."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._busy = Busy()

    @property
    def seconds(self) -> float:
        return self._busy.until_now()

    def leave(self) -> None:
        """Nobody waits for the others here."""

    def close(self) -> None:
        """Nothing is held."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        """What the policy answers or raises."""
        with self._busy:
            return await self._generate(prompt_ids, sampling, request_id)


Batches = Rounds | FreeBatches | InFlight
