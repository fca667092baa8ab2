"""The models of a run file: strict, with the defaults that a newcomer would choose.

    config = load("configs/quickstart.toml", ["run.seed=1", "algorithm.credit.gamma=0.9"])

Every key is known or refused (with the nearest known one); methods are tables with a ``name`` whose other keys are checked
by the method itself. Nothing is read from anywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
)

from agentrl.errors import ConfigError, did_you_mean
from agentrl.overrides import overridden
from agentrl.registry import first_problem
from agentrl.run_files import find as find
from agentrl.run_files import holds_model as holds_model
from agentrl.run_files import model_beside, read

Spec = dict[str, Any]  # {"name": …, parameters}
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    """A table of a run file. Unknown keys are refused; nothing is coerced from text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class EnvTable(Table):
    """Which tasks are played. ``max_turns`` bounds an episode (absent: the task's own, else 50). ``isolation = "process"``
    gives each environment a process of its own; only there can timeouts be enforced (absent: 60 s a step, 300 s a reset).

    A run with several environments has several ``[[env]]``: ``weight`` is the share of each in the tasks that are drawn (exact
    over an epoch), ``name`` tells two of the same id apart (absent: the id's own name), ``agent`` holds the keys of ``[agent]``
    that differ here.
    """

    id: str
    options: Spec = {}
    split: str = "train"
    max_turns: Positive | None = None
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    agent: Spec = {}
    isolation: Literal["inline", "process"] = "inline"
    step_timeout_s: Annotated[float, Field(gt=0)] | None = None
    reset_timeout_s: Annotated[float, Field(gt=0)] | None = None

    @property
    def title(self) -> str:
        """``name``, or what the id is called without its namespace: "Household-v0"."""
        return self.name or self.id.rpartition(":")[2].rpartition("/")[2]


class LoraTable(Table):
    """A low-rank adapter: only it is trained, and checkpoints hold only it. Its output is scaled by ``alpha`` / ``rank``.
    ``targets``: "all-linear" (all linear layers but the head) or names of layers. It wants a learning rate about ten times that
    of all weights. ``dropout`` is named to be refused: updates train the distribution that was sampled, which has none."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ModelTable(Table):
    """``path``: a checkpoint folder or a Hugging Face name that is at hand. ``config``: build a model with random weights
    (transformers' ``model_type`` and its keys); the tokenizer is then made from the environment's vocabulary. ``dtype``: of the
    weights that compute; bfloat16 is trained through float32 master weights, float16 plays only. ``gradient_checkpointing``
    computes each layer twice and keeps a layer's input only: slower, less memory, the same gradient. An empty path is none: the
    override ``model.path=`` makes room for a ``config``."""

    path: str | None = None
    config: Spec | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora: LoraTable | None = None
    gradient_checkpointing: bool = False

    @field_validator("path")
    @classmethod
    def _empty_is_none(cls, path: str | None) -> str | None:
        return path or None


class AgentTable(Table):
    """How observations become prompts, and completions actions. ``context`` bounds prompt + completion in tokens.

    ``projection``: "strict" plays only what has the wanted form, and calls an action that the environment does not list
    invalid; "verl_agent" reads completions as that project's code does (``chat.VerlAgentFormat``). ``earlier_turns``: how a memory
    that appends shows the model's own turns (``agents.ChatAgent``). ``template_options``: further variables of the chat template.

    ``action_tags``: whether an action stands in ``<action>`` tags (absent: unless the environment takes the model's whole
    reply). ``tools`` = "template": the model's chat template is given the environment's tools (whose own text then should not
    describe them: ``options = { describe = "none" }``).
    """

    memory: Spec = {"name": "window", "turns": 4}
    prompt: str | None = None
    system: str = ""
    action_tags: bool | None = None
    tools: Literal["text", "template"] = "text"
    think_tags: bool = False
    projection: Literal["strict", "verl_agent"] = "strict"
    earlier_turns: Literal["auto", "as_sampled", "as_template"] = "auto"
    template_options: Spec = {}
    context: Positive | None = None


class VllmTable(Table):
    """The engine of ``rollout.policy = "vllm"``. ``context`` bounds prompt + completion (absent: ``agent.context``, else the
    model's own), ``max_requests`` what the engine holds at a time, ``timeout_s`` the time of one request, ``restarts`` how often
    an engine that died or hangs is started again between two updates. ``lora``: whether updates of an adapted model send the
    adapter or whole weights. ``sleep``: the engine's memory is the learner's while it trains (CUDA). ``extra``: further
    AsyncEngineArgs of vLLM."""

    context: Positive | None = None
    tensor_parallel: Positive = 1
    eager: bool | None = None
    max_requests: Positive = 1024
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    restarts: Annotated[int, Field(ge=0)] = 3
    lora: Literal["adapter", "merged"] = "adapter"
    sleep: bool = False
    extra: Spec = {}


class RolloutTable(Table):
    """``batch_size`` bounds the rows of a forward pass, ``max_live`` the episodes that run at a time (absent: 1024; 32 where each
    is a process), ``attempts`` the tries of an episode that the machinery fails. ``kv_cache``: where the memory appends, a turn's
    prompt is computed from where the last turn ended; ``kv_cache_gib`` bounds what is kept for that between turns (of vLLM: the
    keys and values of all sequences)."""

    policy: str = "transformers"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 64
    batch_size: Positive = 256
    max_live: Positive | None = None
    attempts: Positive = 3
    kv_cache: bool = True
    kv_cache_gib: Annotated[float, Field(gt=0)] = 4.0
    vllm: VllmTable = VllmTable()

    def live(self, envs: Iterable[EnvTable]) -> int:
        """How many episodes run at a time in these environments."""
        return self.max_live or (32 if any(table.isolation == "process" for table in envs) else 1024)


class AlgorithmTable(Table):
    """One method a stage. ``updates_per_iteration`` splits an iteration's samples, ``samples_per_update`` bounds the part of an
    update instead (the number of updates then follows the number of samples); ``epochs`` goes over them again."""

    sampler: Spec = {"name": "uniform"}
    scores: list[Spec] = []
    filters: list[Spec] = []
    rewards: list[Spec] = [{"name": "invalid_action"}]
    credit: Spec | list[Spec] = {"name": "gigpo"}
    token_weights: list[Spec] = []
    loss: Spec = {"name": "ppo_clip"}
    regularizers: list[Spec] = []
    updates_per_iteration: Positive = 1
    samples_per_update: Positive | None = None
    epochs: Positive = 1
    refill_rounds: Annotated[int, Field(ge=0)] = 2
    old_logprobs: Literal["sampler", "learner"] = "learner"


class OptimizerTable(Table):
    """AdamW. ``warmup`` counts updates. ``token_budget`` bounds a micro-batch, padding included, ``logit_chunk`` the trained tokens
    whose logits exist at a time (absent: as many as make 256 MiB of them): they change memory and speed, never the gradient."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    floor: Fraction = 0.0
    token_budget: Positive = 16384
    logit_chunk: Positive | None = None


class CriticTable(Table):
    """A critic, for credit that reads ``value``: a second model, made of the policy as it is at the start, with a learning rate of
    its own. ``epochs`` over the turns of an iteration (absent: ``algorithm.epochs``), each in ``updates_per_iteration`` updates
    (absent: as many as the policy's); ``warmup`` counts updates, then the rate is constant. Betas, weight decay and memory are
    those of ``[optimizer]``."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    loss: Spec = {"name": "value"}
    epochs: Positive | None = None
    updates_per_iteration: Positive | None = None
    warmup: Annotated[int, Field(ge=0)] = 0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class EvaluationTable(Table):
    """A fixed panel: the first ``episodes`` tasks of ``split``. ``every`` counts iterations (0: only before and after).
    ``games`` is a folder of real games, evaluated before and after (ALFWorld's layout)."""

    split: str = "valid_seen"
    episodes: Annotated[int, Field(ge=0)] = 200
    every: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0)] = 1.0
    greedy: bool = True
    games: str | None = None
    max_turns: Positive | None = None
    games_max_turns: Positive = 50


class CheckpointTable(Table):
    """``every`` counts iterations; ``keep`` is how many of the latest stay (0: all)."""

    every: Positive = 10
    keep: Annotated[int, Field(ge=0)] = 2


class ResourcesTable(Table):
    """``threads``: torch's threads on the CPU (absent: the cores this process may use)."""

    backend: Literal["local"] = "local"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None


class RunTable(Table):
    """``name`` names the folder under ``runs/``: letters, digits and some signs, no path. ``time_limit_s`` ends the iterations
    early, so that the last evaluation still fits into it, counted from the start of the process."""

    name: Annotated[str, Field(pattern=r"^\w[\w .,+=@-]*$")] = "run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    iterations: Annotated[int, Field(ge=0)] = 100
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class DemosTable(Table):
    """How demonstrations are made: ``agent`` plays ``episodes`` tasks of the split from the ``first`` on; only episodes that
    succeed are kept where ``only_success``; turns that were noise are learnt from where ``imitate_noise``."""

    agent: Spec = {"name": "expert"}
    episodes: Positive = 1000
    first: Annotated[int, Field(ge=0)] = 0
    only_success: bool = False
    imitate_noise: bool = False


class SftTable(Table):
    """Supervised learning. ``balance``: draw samples by 1/√(count of the action's first word) ("verb") or evenly ("none").
    ``context_weight`` also trains the prompt's tokens, at that weight against 1 for a demonstrated token.

    From a training run's own trajectories: ``only_success`` leaves the failures out, ``first_iteration`` the earlier iterations
    (of demonstrations, ``[demos]`` decided when they were made)."""

    updates: Positive = 1000
    batch_size: Positive = 128
    balance: Literal["verb", "none"] = "verb"
    context_weight: Fraction = 0.0
    only_success: bool = True
    first_iteration: Annotated[int, Field(ge=0)] = 0


class RunConfig(Table):
    """A whole run file. ``env`` is one table, or an array of them."""

    env: Annotated[tuple[EnvTable, ...], Field(min_length=1)]
    model: ModelTable = ModelTable()
    agent: AgentTable = AgentTable()
    rollout: RolloutTable = RolloutTable()
    algorithm: AlgorithmTable = AlgorithmTable()
    optimizer: OptimizerTable = OptimizerTable()
    critic: CriticTable | None = None
    evaluation: EvaluationTable = EvaluationTable()
    checkpoint: CheckpointTable = CheckpointTable()
    resources: ResourcesTable = ResourcesTable()
    run: RunTable = RunTable()
    demos: DemosTable = DemosTable()
    sft: SftTable = SftTable()

    @field_serializer("env", mode="wrap")
    def _one_or_more(self, tables: Any, dump: SerializerFunctionWrapHandler) -> Any:
        first, *further = dump(tables)
        return [first, *further] if further else first

    @property
    def only_env(self) -> EnvTable:
        """The environment of a run file that has one. Raises ConfigError where it has several."""
        if len(self.env) > 1:
            titles = ", ".join(table.title for table in self.env)
            raise ConfigError(f"wanted a run file with one environment; this one has {titles}; leave one [[env]]")
        return next(iter(self.env))

    def agent_of(self, table: EnvTable) -> AgentTable:
        """The agent that plays an environment: ``[agent]`` with what the environment's own ``agent`` changes."""
        return AgentTable.model_validate({**self.agent.model_dump(exclude_unset=True), **table.agent})


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
        "evaluation.every",
        "checkpoint.",
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
    algorithm = config.algorithm
    if algorithm.samples_per_update is not None:
        if algorithm.updates_per_iteration != 1:
            raise ConfigError("algorithm.updates_per_iteration and samples_per_update are both given; give one")
        if config.optimizer.schedule != "constant":
            raise ConfigError(
                f"a {config.optimizer.schedule} schedule needs the number of updates, which algorithm.samples_per_update "
                "leaves open; use updates_per_iteration, or a constant schedule"
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
