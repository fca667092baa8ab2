"""Learners as Ray actors: each has its place in the run's placement group (``placement``), on this machine or another.

    team = team_on_ray(config.resources, device="cuda", threads=8)      as agentrl.learning.ranks.Ranks on this machine

The training process is the first rank and no actor. On a cluster it is what `ray job submit` starts, on a machine of the cluster,
and ``--entrypoint-num-gpus 1`` keeps a device for it. Orders and answers go through Ray, gradients between the ranks directly
(gloo, NCCL).
"""

from __future__ import annotations

import os
import queue
import signal
import time
from contextlib import suppress
from typing import Any

from agentrl.cluster.placement import enter
from agentrl.errors import ConfigError
from agentrl.learning.links import BEAT_S
from agentrl.learning.rank_worker import Worker
from agentrl.learning.ranks import GRACE_S, Ranks
from agentrl.run_tables import ResourcesTable


def team_on_ray(table: ResourcesTable, *, device: str, threads: int) -> Ranks:
    """The learners of ``[resources]``. ``threads``: torch's in this process; of another one they are its ``learner_cpus``. Raises
    ConfigError where Ray, or what the learners want of it, cannot be had."""
    cluster = enter(table)
    try:
        import ray

        if device == "cuda" and not cluster.wanted.learner.get("GPU"):
            raise ConfigError(
                "resources.learner_gpus = 0, and the training process uses CUDA: each learner needs its own"
            )
        return Ranks(
            table.learners,
            table.sharding,
            device=device,
            # A Ray of our own is on this machine, whose cores all of them share.
            threads=threads if cluster.own else threads * table.learners,
            timeout_s=table.learner_timeout_s,
            start=lambda rank, _, kind: RayLink(table, rank, kind),
            host=ray.util.get_node_ip_address(),
        )
    finally:
        cluster.leave()  # each link is a user of its own


class Learner:
    """What lives in the actor."""

    def __init__(self, rank: int, threads: int, device: str) -> None:
        self.worker = Worker(rank, threads, device)

    def do(self, order: bytes) -> bytes:
        """See ``rank_worker.Worker.answer``."""
        return self.worker.answer(order)

    def beat(self) -> tuple[str, int]:
        """A sign of life, from a thread of its own: the machine's address and the process's number."""
        import ray

        return ray.util.get_node_ip_address(), os.getpid()


class RayLink:
    """An actor in the place of its rank."""

    index = 0  # Ray shows an actor no other devices than its own

    def __init__(self, table: ResourcesTable, rank: int, device: str) -> None:
        import ray

        self.name = f"learner {rank + 1} (Ray actor)"
        self._here = ray.util.get_node_ip_address()
        self._place: tuple[str, int] | None = None  # address and process
        self._orders: queue.Queue[Any] = queue.Queue()
        self._problem = "ended"
        self._cluster = enter(table)
        try:
            options = self._cluster.learner(rank)
            remote: Any = ray.remote  # whose types know no groups
            made = remote(concurrency_groups={"life": 1})(Learner)
            self._actor: Any = made.options(**options).remote(rank, max(1, int(table.learner_cpus)), device)
        except BaseException:
            self._cluster.leave()
            raise

    def send(self, message: bytes) -> None:
        self._orders.put(self._actor.do.remote(message))

    def receive(self, limit_s: float) -> bytes:
        import ray
        from ray.exceptions import RayError

        order = self._orders.get()
        if order is None:
            raise EOFError("it was closed")
        heard, beat = time.monotonic(), self._beat()
        try:
            while True:
                ready, _ = ray.wait([order, beat], timeout=max(0.1, heard + limit_s - time.monotonic()))
                if not ready:  # the wait also ends where this process itself was stopped for so long
                    ready, _ = ray.wait([order, beat], timeout=GRACE_S)
                if not ready:
                    raise TimeoutError(f"{self.name} showed no sign of life for {limit_s:g} s")
                if beat in ready:
                    self._met(ray.get(beat))
                if order in ready or ray.wait([order], timeout=BEAT_S)[0]:
                    return ray.get(order)
                heard, beat = time.monotonic(), self._beat()
        except RayError as error:
            self._problem = f"died ({str(error).strip().splitlines()[0]})"
            raise EOFError(self._problem) from error

    def alive(self) -> bool:
        import ray
        from ray.exceptions import RayError

        try:
            ray.get(self._beat(), timeout=5 * BEAT_S)
        except RayError:
            return False
        return True

    def kill(self) -> None:
        import ray

        if self._place is not None and self._place[0] == self._here:
            with suppress(ProcessLookupError):  # a process that is stopped does not hear Ray
                os.kill(self._place[1], signal.SIGKILL)
        if ray.is_initialized():
            ray.kill(self._actor)

    def hang_up(self) -> None:
        self._orders.put(None)
        self.kill()

    def end(self, grace_s: float) -> None:
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):  # it is dead
            ray.get(self._beat(), timeout=grace_s)
        self._cluster.leave()

    def how(self) -> str:
        return self._problem

    def _beat(self) -> Any:
        return self._actor.beat.options(concurrency_group="life").remote()

    def _met(self, place: tuple[str, int]) -> None:
        if self._place is None:
            self._place = place
            self.name = f"{self.name.removesuffix(' (Ray actor)')} (process {place[1]} on {place[0]})"
