"""The policy of a run whose episodes are played by rollout workers: it hands them weights, they ask policies of their own.

policy = ClusterPolicy(model, functools.partial(parts_of, config), config.resources)
rollouts = Rollouts(..., policy=policy, workers=policy.workers)
n_bytes = policy.update(model, version=1)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from agentrl.cluster import placement
from agentrl.cluster.plugins import collect
from agentrl.cluster.weights import pack
from agentrl.cluster.worker import Parts, setup
from agentrl.cluster.workers import Workers
from agentrl.run_tables import ResourcesTable


class ClusterPolicy:
    """``make`` builds a worker's parts and can be named to another process. ``model`` gives the first weights. ``note`` is told of
    every worker that is replaced.

    Raises MissingExtra without Ray, ConfigError where it cannot be had, and what a worker finds wrong with the run.
    """

    capabilities: frozenset[str] = frozenset({"logprobs", "trainable", "workers"})

    def __init__(
        self,
        model: Any,
        make: Callable[[], Parts],
        resources: ResourcesTable,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.version = 0
        self._sync_s = 0.0
        self._cluster = placement.enter(resources)
        try:
            folder = "" if "working_dir" in resources.runtime_env else os.getcwd()
            self.workers = Workers(self._cluster, setup(make, collect(folder)), pack(model), note=note)
        except BaseException:
            self._cluster.leave()
            raise
        self._closed = False

    def update(self, model: Any, version: int) -> int:
        """When this returns, every worker has answered that it samples with these weights. Returns how many bytes they are in Ray's
        store. Raises AgentRLError where one does not take them."""
        weights = pack(model)
        self._sync_s = self.workers.update(weights, version)
        self.version = version
        return weights.n_bytes

    def metrics(self) -> dict[str, float]:
        """``cluster/…``: workers, how many were replaced so far and how many tries they had, seconds of the last handing-over."""
        return {
            "cluster/workers": len(self.workers),
            "cluster/workers_replaced": self.workers.n_replaced,
            "cluster/tries_moved": self.workers.n_moved,
            "cluster/sync_s": round(self._sync_s, 4),
        }

    def sleep(self) -> None:
        """The workers' policies sleep."""
        self.workers.sleep()

    def close(self) -> None:
        """Ends the workers, and Ray where it is this run's own and nobody else uses it; twice is once."""
        if not self._closed:
            self._closed = True
            self.workers.close()
            self._cluster.leave()
