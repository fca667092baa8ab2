"""Generation in rounds: every live episode asks, then one batch answers them all.

Which requests share a batch depends only on which episodes are alive, never on timing: the same run file and seed give
the same token ids. (The barrier-free scheduler is another choice, with another policy.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from agentrl.errors import PolicyFault
from agentrl.policies.base import BatchPolicy, Request
from agentrl.types import Completion, Sampling


class Rounds:
    """Turns a ``BatchPolicy`` into the ``generate`` of many episodes. ``live`` counts the players that
    ask one request at a time and have not left; when all of them wait, one batch answers them."""

    def __init__(self, policy: BatchPolicy, live: int) -> None:
        self.policy = policy
        self.live = live
        self.seconds = 0.0
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []

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
