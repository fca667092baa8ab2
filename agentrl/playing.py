"""Where a run's episodes are played: in this process, or by rollout workers on Ray that are made of the same run file.

policy = policy_of(config, model)
rollouts = build.rollouts(config, seats, policy)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentrl import build
from agentrl.config import RunConfig
from agentrl.rollouts import Seat
from agentrl.scenes import Scenes

if TYPE_CHECKING:
    from agentrl.cluster.worker import Parts


def policy_of(config: RunConfig, model: Any, note: Callable[[str], None] = lambda text: None) -> Any:
    """The policy that samples from the learner's model, here or in workers; ``note`` is told of each that is replaced. Raises
    ConfigError for one that cannot, MissingExtra where Ray is wanted and not installed."""
    if config.resources.backend == "local":
        return build.policy(config, model)
    build.policy_class(config)
    from agentrl.cluster.policy import ClusterPolicy

    return ClusterPolicy(model, functools.partial(parts_of, for_worker(config)), config.resources, note)


def for_worker(config: RunConfig) -> RunConfig:
    """The run file as a rollout worker reads it: its own cores, and engines that start no further actors."""
    table = config.resources
    threads = table.threads or max(1, int(table.worker_cpus))
    extra = config.rollout.vllm.extra
    if config.rollout.vllm.tensor_parallel > 1:
        extra = {"distributed_executor_backend": "mp"} | extra
    vllm = config.rollout.vllm.model_copy(update={"extra": extra})
    changes = {
        "resources": table.model_copy(update={"backend": "local", "threads": threads, "learners": 1}),
        "rollout": config.rollout.model_copy(update={"vllm": vllm}),
    }
    return config.model_copy(update=changes)


def parts_of(config: RunConfig) -> Parts:
    """What a rollout worker plays with: the environments and agents of a run file by their names, those of the panel of games
    under ``build.GAMES``; a model and a policy of its own. Raises what the constructor of a local run does."""
    from agentrl.cluster.worker import Parts

    scenes = Scenes.of(config)
    models = build.models(config, scenes.pools)
    seats = scenes.seats(config, models.renderer, build.context_limit(models.model))
    if config.evaluation.games is not None:
        first = next(iter(seats.values()))
        seats[build.GAMES] = Seat(build.env_pool(config.env[0], games=config.evaluation.games), first.agent)
    seats.setdefault("", next(iter(seats.values())))
    return Parts(seats, build.policy(config, models.model), models.model)
