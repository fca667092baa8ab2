"""Where actors live: a Ray of this run's own on this machine, or a cluster that is there, and in it a placement group with a place
for every rollout worker and every further learner.

    cluster = enter(config.resources)        # the first user starts or joins Ray, the others get the same
    actor = ray.remote(Thing).options(**cluster.worker(0)).remote()
    cluster.leave()                          # with the last one the places are given back, and a Ray of our own ends

The training process is no actor: it is learner 1 and has no place here.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from agentrl.errors import AgentRLError, ConfigError, MissingExtra
from agentrl.run_tables import ResourcesTable

OWN_WAIT_S = 60.0  # for places in a Ray of our own, where nothing else can take them
JOINED_WAIT_S = 600.0  # in a cluster, which others use, or which first has to start machines
NICENESS = ("RAY_worker_niceness", "0")  # Ray's own is 15; a worker does half of the run's work

_lock = threading.Lock()
_cluster: Cluster | None = None  # the process's: Ray knows one


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run asks of Ray: ``workers`` and ``learners`` (those besides the training process) with the CPUs and GPUs of each."""

    workers: int
    learners: int
    worker: Mapping[str, float]
    learner: Mapping[str, float]
    strategy: str = "PACK"

    @classmethod
    def of(cls, table: ResourcesTable, *, gpus: bool) -> Wanted:
        """What the table asks for. ``gpus``: whether there are any, for the keys that say nothing."""

        def place(n_cpus: float, n_gpus: float | None) -> dict[str, float]:
            n_gpus = float(gpus and table.device != "cpu") if n_gpus is None else n_gpus
            return {"CPU": n_cpus} | ({"GPU": n_gpus} if n_gpus else {})

        worker = place(table.worker_cpus, table.worker_gpus)
        learner = place(table.learner_cpus, table.learner_gpus)
        return cls(table.rollout_workers, table.learners - 1, worker, learner, table.placement.upper())

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The workers' first, then the learners'."""
        return [*(dict(self.worker) for _ in range(self.workers)), *(dict(self.learner) for _ in range(self.learners))]

    @property
    def total(self) -> dict[str, float]:
        """CPUs and GPUs of all."""
        bundles = self.bundles
        return {name: sum(b.get(name, 0.0) for b in bundles) for name in sorted({key for b in bundles for key in b})}

    def __str__(self) -> str:
        parts = [f"{_plural(self.workers, 'rollout worker')} with {_amounts(self.worker)} each"]
        if self.learners:
            parts.append(f"{_plural(self.learners, 'further learner')} with {_amounts(self.learner)} each")
        return f"{' and '.join(parts)} ({_amounts(self.total)} in all, placement {self.strategy.lower()})"


class Cluster:
    """The process's connection to Ray, and the places of its actors. Made by ``enter``."""

    def __init__(self, table: ResourcesTable) -> None:
        """Raises ConfigError where Ray, or what the run wants of it, cannot be had."""
        import ray

        self.table = table
        self.own = table.address is None
        self.users = 0
        self._group: Any = None
        if ray.is_initialized():
            raise ConfigError(
                'resources.backend = "ray" starts or joins Ray by itself, and this process is connected to one already; call '
                "ray.shutdown() first, and give its address as resources.address"
            )
        check_runtime_env(table)
        try:
            self._connect(ray)
            self.wanted = Wanted.of(table, gpus=ray.cluster_resources().get("GPU", 0) > 0)
            self._place(ray)
        except BaseException:
            self.close()
            raise

    def worker(self, index: int) -> dict[str, Any]:
        """Options of the actor that is rollout worker ``index``."""
        return self._options(index, self.wanted.worker)

    def learner(self, rank: int) -> dict[str, Any]:
        """Options of the actor that is the learner of this rank, from 1 on: the training process is rank 0."""
        if not 1 <= rank <= self.wanted.learners:
            raise ValueError(f"ranks 1 to {self.wanted.learners} have places, and {rank} does not")
        return self._options(self.wanted.workers + rank - 1, self.wanted.learner)

    def leave(self) -> None:
        """One user less; the last one closes it."""
        global _cluster
        with _lock:
            self.users -= 1
            if self.users > 0:
                return
            if _cluster is self:
                _cluster = None
        self.close()

    def close(self) -> None:
        """Gives the places back, which ends whatever lives in them, and the connection; a Ray of our own ends with it. Twice is
        once."""
        import ray

        if ray.is_initialized():
            if self._group is not None and not self.own:
                ray.util.remove_placement_group(self._group)
            ray.shutdown()
        self._group = None

    # ── Ray ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self, ray: Any) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault(*NICENESS)
        given: dict[str, Any] = {
            "runtime_env": runtime_env(self.table),
            "log_to_driver": False,
            "logging_level": "ERROR",
        }
        if self.own:
            needed = Wanted.of(self.table, gpus=False).total.get("CPU", 0.0)
            # Cores of one machine are shared anyway, as those of `learners` and processes without Ray are.
            n_cpus = max(len(os.sched_getaffinity(0)), int(-(-needed // 1)))
            given |= {"address": "local", "include_dashboard": False, "num_cpus": n_cpus}
        else:
            given |= {"address": self.table.address}
        try:
            with _first_device_kept(self.table, alone=self.own), _handlers_kept(), _whole_or_gone(own=self.own):
                ray.init(**given)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            where = "on this machine" if self.own else f"at resources.address = {self.table.address!r}"
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = (
                "" if self.own else "; one that asks for a token wants it in RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
            )
            raise ConfigError(f'resources.backend = "ray" finds no Ray {where}: {first}{remedy}') from error

    def _place(self, ray: Any) -> None:
        has = ray.cluster_resources()
        if self.own and any(has.get(name, 0.0) < amount for name, amount in self.wanted.total.items()):
            raise ConfigError(self._too_much(ray))  # nobody will bring more
        self._group = ray.util.placement_group(self.wanted.bundles, strategy=self.wanted.strategy, name="agentrl")
        if not self._group.wait(OWN_WAIT_S if self.own else JOINED_WAIT_S):
            raise ConfigError(self._too_much(ray))

    def _too_much(self, ray: Any) -> str:
        names = sorted(self.wanted.total)
        has, free = ray.cluster_resources(), ray.available_resources()
        n_nodes = sum(node["Alive"] for node in ray.nodes())
        return (
            f'resources.backend = "ray" wants {self.wanted}; {"this machine" if self.own else "the cluster"} has '
            f"{_amounts({name: has.get(name, 0.0) for name in names})} on {_plural(n_nodes, 'node')}, "
            f"{_amounts({name: free.get(name, 0.0) for name in names})} of it free; lower resources.rollout_workers, learners, "
            "worker_cpus, worker_gpus (parts of a GPU can be shared), or add machines"
        )

    def _options(self, bundle: int, place: Mapping[str, float]) -> dict[str, Any]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self._group is None:
            raise AgentRLError("this Ray was closed")
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
        return {
            "num_cpus": place.get("CPU", 0.0),
            "num_gpus": place.get("GPU", 0.0),
            "scheduling_strategy": strategy,
            "max_restarts": 0,  # whoever uses the actor replaces it, since it has to be told things again
        }


def enter(table: ResourcesTable) -> Cluster:
    """The process's cluster, with one user more. Raises MissingExtra without Ray, and ConfigError where it, or what the table
    wants of it, cannot be had, or where another table opened it."""
    global _cluster
    check_installed()
    with _lock:
        if _cluster is None:
            _cluster = Cluster(table)
        elif _cluster.table != table:
            raise ConfigError("this process has a Ray for a run with other [resources]; end that run first")
        _cluster.users += 1
        return _cluster


def check_installed() -> None:
    """Raises MissingExtra where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("ray", 'resources.backend = "ray"')


def check_runtime_env(table: ResourcesTable) -> None:
    """Raises ConfigError where Ray does not take ``resources.runtime_env``: a folder that is not there, pip beside conda."""
    from ray.runtime_env import RuntimeEnv

    try:
        RuntimeEnv(**table.runtime_env)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"resources.runtime_env: {str(error).strip().splitlines()[0]}") from error


def runtime_env(table: ResourcesTable) -> dict[str, Any]:
    """What every worker process of the run gets: the training process's import path, so that what can be imported here can be
    imported there (on this machine, or where machines share folders), and what ``resources.runtime_env`` adds."""
    given = dict(table.runtime_env)
    path = [os.path.abspath(entry) for entry in sys.path if not entry.endswith(".zip")]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = list(dict.fromkeys([*path, *filter(None, inherited)]))
    own = {
        "PYTHONPATH": os.pathsep.join(path),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a GPU sees none
        "OMP_WAIT_POLICY": "PASSIVE",  # as the command line sets it for this process
        NICENESS[0]: os.environ.get(*NICENESS),
        **{name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_HOME", "AGENTRL_SHARED") if name in os.environ},
    }
    return {**given, "env_vars": own | given.get("env_vars", {})}


@contextmanager
def _first_device_kept(table: ResourcesTable, *, alone: bool) -> Iterator[None]:
    """Of several CUDA devices of this machine a Ray of our own gets all but the first, on which this process trains."""
    name = "CUDA_VISIBLE_DEVICES"
    devices = _devices() if alone and table.device != "cpu" else []
    if len(devices) < 2:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = ",".join(devices[1:])
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _whole_or_gone(*, own: bool) -> Iterator[None]:
    """A start of our own Ray that is broken off leaves no process behind: Ray ends those that it knows by then, and agents of a
    raylet that dies while they start outlive it."""
    if not own:
        yield
        return
    import psutil

    this = psutil.Process()
    before = set(this.children(recursive=True))
    try:
        yield
    except BaseException:
        for process in set(this.children()) - before:
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # so that it starts no other while they are counted
        started = set(this.children(recursive=True)) - before
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started, timeout=10)
        raise


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; who handled it before goes on doing so."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGTERM, before)


def _devices() -> list[str]:
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(n) for n in range(torch.cuda.device_count())] if shown is None else shown.split(",")


def _plural(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _amounts(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items()) or "nothing"
