"""A run file, read and checked: its tables are the models of ``agentrl.run_tables``.

    config = load("configs/quickstart.toml", ["run.seed=1", "algorithm.credit.gamma=0.9"])

Every key is known or refused (with the nearest known one); methods are tables with a ``name`` whose other keys are checked
by the method itself. Nothing is read from anywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from agentrl.errors import ConfigError, did_you_mean
from agentrl.overrides import overridden
from agentrl.registry import first_problem
from agentrl.run_files import find as find
from agentrl.run_files import holds_model as holds_model
from agentrl.run_files import model_beside, read
from agentrl.run_tables import AgentTable as AgentTable
from agentrl.run_tables import AlgorithmTable as AlgorithmTable
from agentrl.run_tables import CriticTable as CriticTable
from agentrl.run_tables import EnvTable as EnvTable
from agentrl.run_tables import ResourcesTable, Table
from agentrl.run_tables import RunConfig as RunConfig
from agentrl.run_tables import SftTable as SftTable

RUNTIME_ENV = (  # the fields of Ray's runtime environments
    "conda", "config", "container", "env_vars", "excludes", "image_uri", "java_jars", "pip", "py_executable", "py_modules", "uv",
    "worker_process_setup_hook", "working_dir",
)  # fmt: skip


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run file at ``path`` with ``dotted.key=value`` overrides. Raises ConfigError with the key at fault."""
    config = parse(overridden(read(path), overrides))
    wanted = config.model.path
    if wanted and (found := model_beside(wanted, Path(path).parent)) != wanted:
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": found})})
    return config


def config_difference(old: RunConfig, new: RunConfig) -> str:
    """The keys that decide the numbers of a run and differ, as one line; "" where none does.

    Length (at a constant learning rate), checkpoints and resources may change between the parts of a run; what is played,
    learnt and compared may not.
    """
    free = (
        "run.name",
        "run.time_limit_s",
        "run.report",
        "run.trackio",
        "evaluation.every",
        "checkpoint.",
        "alarms.",
        "resources.",
        "demos.",
        "sft.",
        "rollout.vllm.",
    )
    if new.optimizer.schedule == "constant":
        free = (*free, "run.iterations")  # a schedule runs over the whole length
    before, after = (flat(_inline(config).model_dump()) for config in (old, new))
    for config, table in ((old, before), (new, after)):
        table["rollout.max_live"] = config.rollout.live(config.env)
        if (path := table.get("model.path")) and os.path.exists(path):
            table["model.path"] = os.path.realpath(path)
    found = [
        f"{key} = {before.get(key)!r}, now {after.get(key)!r}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not key.startswith(free)
    ]
    return "; ".join(found)


def _inline(config: RunConfig) -> RunConfig:
    """Without what decides in which process an environment lives: that changes no number."""
    plain = {"isolation": "inline", "step_timeout_s": None, "reset_timeout_s": None}
    return config.model_copy(update={"env": tuple(table.model_copy(update=plain) for table in config.env)})


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables by dotted keys.

    >>> flat({"run": {"seed": 1}})
    {'run.seed': 1}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def parse(data: Mapping[str, Any]) -> RunConfig:
    """A checked configuration. Raises ConfigError: unknown key (with the nearest known), wrong type, value out of range,
    impossible combination."""
    one_env = isinstance(data, Mapping) and isinstance(data.get("env"), Mapping)
    if one_env:
        data = {**data, "env": [data["env"]]}
    try:
        _check_keys(RunConfig, data, "")
        config = RunConfig.model_validate(_tuples(RunConfig, data))
    except ConfigError as error:
        raise ConfigError(_without_index(str(error), one_env)) from error
    except ValidationError as error:
        raise ConfigError(_without_index(first_problem(error, ""), one_env)) from error
    _check_combinations(config)
    return config


def _without_index(message: str, one_env: bool) -> str:
    """A key as the user wrote it: a run file with one ``[env]`` has no ``env.0``."""
    return message.replace("env.0", "env", 1) if one_env else message


def _check_combinations(config: RunConfig) -> None:
    if config.rollout.top_p < 1:
        raise ConfigError(
            f"rollout.top_p = {config.rollout.top_p}: the log-probs of a truncated distribution are not those that are "
            "trained; use 1.0 in training (evaluation may truncate)"
        )
    for place, table in enumerate(config.env):
        _check_isolation(table, f"env.{place}" if len(config.env) > 1 else "env")
    if config.model.path is not None and config.model.config is not None:
        raise ConfigError(
            "model.path and model.config are both given; give one: a checkpoint, or a model to build "
            "(an override model.path= takes the path out)"
        )
    titles = [table.title for table in config.env]
    for place, table in enumerate(config.env):
        if table.title in titles[:place]:
            raise ConfigError(f"two environments are called '{table.title}'; give each [[env]] a name of its own")
        _check_keys(AgentTable, table.agent, f"env.{place}.agent")
        try:
            agent = config.agent_of(table)
        except ValidationError as error:
            raise ConfigError(first_problem(error, f"env.{place}.agent")) from error
        if agent.projection == "verl_agent" and (agent.action_tags is False or not agent.think_tags):
            raise ConfigError('agent.projection = "verl_agent" reads both tags; set action_tags and think_tags to true')
        if agent.template_options != config.agent.template_options:
            raise ConfigError(
                f"env.{place}.agent.template_options: a run has one chat template; write it under [agent]"
            )
    if config.model.lora is not None and config.model.path is None:
        raise ConfigError("model.lora needs model.path: a checkpoint of an adapter names the model that it belongs on")
    if config.model.lora is not None and config.model.lora.dropout:
        raise ConfigError(
            f"model.lora.dropout = {config.model.lora.dropout}: with dropout an update would train another distribution than "
            "the one that was sampled; use 0"
        )
    if config.model.lora is not None and config.resources.learners > 1 and config.resources.sharding == "fsdp2":
        raise ConfigError(
            'resources.sharding = "fsdp2" cuts all weights into parts, and an adapter is switched and saved whole; use "ddp" with '
            "model.lora"
        )
    if config.resources.backend == "ray" and config.rollout.batching == "rounds":
        raise ConfigError(
            'rollout.batching = "rounds" lets all live episodes wait for one batch, and the workers of resources.backend = "ray" '
            "answer theirs by themselves; leave batching out"
        )
    _check_for_ray(config.resources)
    if config.resources.backend == "local" and (unused := _of_ray(config.resources)):
        raise ConfigError(f'resources.{unused} is for resources.backend = "ray", and this run is "local"; leave it out')
    algorithm = config.algorithm
    if algorithm.samples_per_update is not None:
        if algorithm.updates_per_iteration != 1:
            raise ConfigError("algorithm.updates_per_iteration and samples_per_update are both given; give one")
        if config.optimizer.schedule != "constant":
            raise ConfigError(
                f"a {config.optimizer.schedule} schedule needs the number of updates, which algorithm.samples_per_update "
                "leaves open; use updates_per_iteration, or a constant schedule"
            )


def _check_for_ray(table: ResourcesTable) -> None:
    """What Ray would not take. What else is wrong with a runtime environment, it says itself (``cluster.placement``)."""
    for key in ("worker_gpus", "learner_gpus"):
        n_gpus = getattr(table, key)
        if n_gpus is not None and n_gpus > 1 and n_gpus != int(n_gpus):
            raise ConfigError(
                f"resources.{key}: wanted a whole number of GPUs, or a part of one below 1; got {n_gpus:g}"
            )
    if unknown := [key for key in table.runtime_env if key not in RUNTIME_ENV]:
        raise ConfigError(f"resources.runtime_env has no key '{unknown[0]}'.{did_you_mean(unknown[0], RUNTIME_ENV)}")
    variables = table.runtime_env.get("env_vars", {})
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise ConfigError(
            f'resources.runtime_env.env_vars: wanted a table of texts, as in {{ NAME = "1" }}; got {variables!r}'
        )


def _of_ray(table: ResourcesTable) -> str:
    """The first key for Ray alone that differs from its default; "" where none does."""
    fields = ResourcesTable.model_fields
    names = list(fields)[list(fields).index("rollout_workers") :]
    return next(
        (name for name in names if getattr(table, name) != fields[name].get_default(call_default_factory=True)), ""
    )


def _check_isolation(table: EnvTable, where: str) -> None:
    for key in ("step_timeout_s", "reset_timeout_s"):
        if table.isolation == "inline" and (limit := getattr(table, key)) is not None:
            raise ConfigError(
                f"{where}.{key} = {limit:g}, but an environment in this process cannot be stopped; "
                f'use {where}.isolation = "process"'
            )


def env_table(data: Mapping[str, Any]) -> EnvTable:
    """The table ``[env]`` alone. Raises ConfigError as ``parse`` does."""
    _check_keys(EnvTable, data, "env")
    try:
        table = EnvTable.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(first_problem(error, "env")) from error
    _check_isolation(table, "env")
    return table


def _check_keys(model: type[BaseModel], data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the run file'} must be a table, got {data!r}")
    for key, value in data.items():
        field = model.model_fields.get(key)
        place = f"{where}.{key}".strip(".")
        if field is None:
            raise ConfigError(f"unknown key '{place}'.{did_you_mean(key, model.model_fields)}")
        inner, several = _table_in(field.annotation)
        if inner is not None and several and isinstance(value, list):
            for number, item in enumerate(value):
                _check_keys(inner, item, f"{place}.{number}")
        elif inner is not None:
            _check_keys(inner, value, place)


def _table_in(annotation: Any) -> tuple[type[Table] | None, bool]:
    """The model of a table, and whether the key holds an array of them."""
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        return (inner, True) if isinstance(inner, type) and issubclass(inner, Table) else (None, False)
    kinds = [annotation, *get_args(annotation)]  # a table that may be absent is one of two
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None), False


def _tuples(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's arrays as the tuples that strict models want."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        annotation = model.model_fields[key].annotation
        inner, several = _table_in(annotation)
        if inner is not None and several and isinstance(value, list):
            result[key] = tuple(_tuples(inner, item) for item in value)
        elif inner is not None and not several:
            result[key] = _tuples(inner, value)
        elif isinstance(value, list) and get_origin(annotation) is tuple:
            result[key] = tuple(value)
        else:
            result[key] = value
    return result
