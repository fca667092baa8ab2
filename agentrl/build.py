"""From a run file to parts that run: environment, model, agent, policy, methods. Everything that can be wrong with a run file is
found here, before a run folder exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from agentrl import registry
from agentrl.agents import ChatAgent, MessageAgent, View
from agentrl.agents.flow.roles import is_flow
from agentrl.agents.flow.roles import texts_of as flow_texts
from agentrl.agents.prompting import DEFAULT_PROMPT, FREE_PROMPT, default_prompt
from agentrl.algorithms.method import WHOLE, check_columns, columns, scope
from agentrl.chat import ActionFormat, Renderer, VerlAgentFormat, build_tokenizer
from agentrl.config import AgentTable, AlgorithmTable, CriticTable, EnvTable, RunConfig
from agentrl.env import SPLITS, checked_key, checked_reset, environment, hook, make
from agentrl.errors import ConfigError, EnvError, MissingExtra, UserError, did_you_mean
from agentrl.rollouts import EnvPool, Maker, ProcessPool, Rollouts, Seat
from agentrl.types import Sampling, Task

GAMES = "[games]"  # the seat of the panel of real games: no environment can be called so


@dataclass(slots=True)
class Models:
    """A model, its tokenizer, its renderer, and where it came from."""

    model: Any
    tokenizer: Any
    renderer: Renderer


@dataclass(slots=True)
class Methods:
    """An algorithm: the methods of every stage."""

    sampler: Any
    scores: Sequence[Any]
    filters: Sequence[Any]
    rewards: Sequence[Any]
    credit: Sequence[Any]
    token_weights: Sequence[Any]
    loss: Any
    regularizers: Sequence[Any]

    def named(self) -> Iterator[tuple[str, Any]]:
        """Every method with its place in the algorithm table: ("sampler", …), ("filters[0]", …) …"""
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, (list, tuple)):
                yield from ((f"{spec.name}[{place}]", method) for place, method in enumerate(value))
            else:
                yield spec.name, value

    def of_update(self) -> Iterator[Any]:
        """The loss and the regularizers."""
        yield from (self.loss, *self.regularizers)

    def of_turns(self, names: Iterable[str]) -> set[str]:
        """Those of these columns of the turn table that a reward or credit method reads."""
        return {name for method in (*self.rewards, *self.credit) for name in columns(method)} & set(names)

    @property
    def needs_reference(self) -> bool:
        """Whether any method reads the log-probs of the reference policy, or what is measured by them."""
        tokens = (*self.token_weights, self.loss, *self.regularizers)
        return any("logp_ref" in columns(method) for method in tokens) or bool(self.of_turns({"kl"}))


def env_pool(table: EnvTable, **changes: Any) -> EnvPool:
    """A pool of the environments of a run file; ``changes`` override options. The first one is made at once, so a wrong id or
    option is an error here."""
    options = {**table.options, **changes}
    if table.isolation == "process":
        pool = process_pool(Maker(table.id, options), table)
    else:
        pool = EnvPool(lambda: make(table.id, **options))
    with _blaming(table.id):
        pool.put(pool.take())
    return pool


def process_pool(factory: Callable[[], Any], table: EnvTable) -> ProcessPool:
    """A pool of workers with the timeouts of a run file. Raises ConfigError for a factory that cannot be pickled."""
    return ProcessPool(factory, step_timeout_s=table.step_timeout_s, reset_timeout_s=table.reset_timeout_s)


def tasks_of(pool: EnvPool, split: str) -> Sequence[Task]:
    """The tasks of a split. Raises ConfigError for a split that is unknown or empty."""
    if split not in SPLITS:
        raise ConfigError(f"no split is called '{split}'.{did_you_mean(split, SPLITS)}")
    with _borrowed(pool) as env:
        tasks = hook(env, "tasks")
        if tasks is None:
            raise ConfigError(f"{type(env.unwrapped).__name__} has no tasks(split); subclass agentrl.env.TextEnv")
        found = tasks(split)
        n_tasks = len(found)
    if not n_tasks:
        raise ConfigError(f"the environment has no tasks in the split '{split}'")
    return found


def tasks_or_none(pool: EnvPool, split: str) -> Sequence[Task]:
    """The tasks of a split, which may be empty."""
    with _borrowed(pool) as env:
        return env.get_wrapper_attr("tasks")(split)


def find_task(pool: EnvPool, task_id: str) -> Task:
    """The task of that id in any split. Raises GameError or ConfigError where there is none, or no way to find it."""
    with _borrowed(pool) as env:
        find = hook(env, "find_task")
        if find is None:
            raise ConfigError(f"{type(env.unwrapped).__name__} has no find_task(id); subclass agentrl.env.TextEnv")
        return find(task_id)


def first_tasks(pool: EnvPool, split: str, n: int, where: str) -> Sequence[Task]:
    """The first ``n`` tasks of a split (0: all). Raises ConfigError where it has fewer; ``where`` names the setting."""
    tasks = tasks_of(pool, split)
    if n > len(tasks):
        raise ConfigError(
            f"{where} = {n}, but the split '{split}' has {len(tasks)} tasks; ask for {len(tasks)} or fewer"
        )
    return tasks[:n] if n else tasks[:]


def check_tasks(pool: EnvPool, tasks: Sequence[Task]) -> None:
    """Starts each task once, so that a game which cannot be read is an error here, and not a fault in the middle of a run."""
    with _borrowed(pool) as env:
        for task in tasks:
            checked_reset(env, task)


def first_view(pool: EnvPool, task: Task) -> tuple[View, bool]:
    """What an agent sees first on a task, and whether the environment gives state keys."""
    with _borrowed(pool) as env:
        observation, info = checked_reset(env, task)
        state_key = hook(env, "state_key")
        if state_key is not None:
            checked_key(env, state_key())
        tools = hook(env, "tools")
    return View(observation, info, 0, list(tools or ())), state_key is not None


@contextmanager
def _borrowed(pool: EnvPool) -> Iterator[Any]:
    """An environment of the pool. What goes wrong with it in the block is a ConfigError that names it."""
    env, broken = pool.take(), True
    try:
        with _blaming(environment(env)):
            yield env
        broken = False
    finally:
        pool.put(env, broken=broken)


@contextmanager
def _blaming(env_id: str) -> Iterator[None]:
    """What an environment raises in the block becomes a ConfigError of one line."""
    try:
        yield
    except UserError:
        raise
    except EnvError as error:
        raise ConfigError(str(error)) from error
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{env_id} raised {problem}; run `agentrl check`") from error


def context_limit(model: Any) -> int | None:
    """How many positions a model has (``max_position_embeddings``); None where its config does not say."""
    settings = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    limit = getattr(settings, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def chat_agent(table: AgentTable, renderer: Renderer, view: View, limit: int | None = None) -> ChatAgent:
    """The run file's chat agent, its template checked against what the environment shows. ``limit`` is the model's own
    (``context_limit``): the context where the table has none. Raises ConfigError for a context above it."""
    if limit is not None and table.context is not None and table.context > limit:
        raise ConfigError(
            f"agent.context = {table.context}, but the model has {limit} positions; ask for {limit} or fewer"
        )
    context = limit if table.context is None else table.context
    if table.tools == "template":
        renderer = renderer.with_tools(view.tools)
    agent = ChatAgent(renderer=renderer, context=context, earlier_turns=table.earlier_turns, **_prompting(table, view))
    agent.check(view.fields())
    return agent


def message_agent(table: AgentTable, view: View) -> MessageAgent:
    """The run file's chat agent for a model that takes messages; the model's own limit bounds its context."""
    if table.tools == "template":
        raise ConfigError(
            'agent.tools = "template" is for a model whose chat template is here; an endpoint takes "text"'
        )
    agent = MessageAgent(**_prompting(table, view))
    agent.check(view.fields())
    return agent


def _prompting(table: AgentTable, view: View) -> dict[str, Any]:
    free = view.info.get("free_text") is True
    usual = FREE_PROMPT if free else default_prompt(view.fields())
    return {
        "memory": registry.build("memory", table.memory, "agent.memory"),
        "format": VerlAgentFormat()
        if table.projection == "verl_agent"
        else ActionFormat(not free if table.action_tags is None else table.action_tags, table.think_tags),
        "prompt": usual if table.prompt is None else table.prompt,
        "system": table.system,
    }


def methods(table: AlgorithmTable, *, state_keys: bool, critic: bool = False) -> Methods:
    """The methods of an algorithm table, with every column's producer checked. ``critic``: whether there is one, which writes the
    column ``value`` and learns ``returns``."""
    credit = table.credit if isinstance(table.credit, list) else [table.credit]
    found = Methods(
        sampler=registry.build("sampler", table.sampler, "algorithm.sampler"),
        scores=_all("score", table.scores, "algorithm.scores"),
        filters=_all("filter", table.filters, "algorithm.filters"),
        rewards=_all("reward", table.rewards, "algorithm.rewards"),
        credit=_all("credit", credit, "algorithm.credit"),
        token_weights=_all("token_weight", table.token_weights, "algorithm.token_weights"),
        loss=registry.build("loss", table.loss, "algorithm.loss"),
        regularizers=_all("regularizer", table.regularizers, "algorithm.regularizers"),
    )
    order = [*found.rewards, *found.credit, *found.token_weights, found.loss, *found.regularizers]
    check_columns(order, ({"state"} if state_keys else set()) | ({"value"} if critic else set()))
    if critic:
        _check_critic(found)
    _check_filters(found)
    _check_bounds(found)
    if found.token_weights and scope(found.loss) in WHOLE and "coef" not in columns(found.loss):
        raise ConfigError(
            f"algorithm.token_weights scale the losses of tokens, and {type(found.loss).__name__} gives one number for the "
            "whole update: leave the token weights out, or choose another loss"
        )
    return found


def credit_methods(table: AlgorithmTable) -> Methods:
    """The reward and credit methods of an algorithm table alone: all that is needed to compute credit from a record."""
    credit = table.credit if isinstance(table.credit, list) else [table.credit]
    return Methods(
        sampler=None,
        scores=[],
        filters=[],
        rewards=_all("reward", table.rewards, "algorithm.rewards"),
        credit=_all("credit", credit, "algorithm.credit"),
        token_weights=[],
        loss=None,
        regularizers=[],
    )


def _check_filters(found: Methods) -> None:
    """Raises ConfigError for a filter that drops the groups that a credit method is for."""
    for place, method in enumerate(found.filters):
        taught = next((each for each in found.credit if getattr(each, "teaches_equal", False)), None)
        if taught is not None and getattr(method, "drops_equal", False):
            raise ConfigError(
                f"algorithm.filters[{place}] ({type(method).__name__}) drops the groups of equal rewards, which are what "
                f"{type(taught).__name__} is for: take the filter out, or use another credit method"
            )


def _check_bounds(found: Methods) -> None:
    """Raises ConfigError for a credit method that wants rewards between bounds, and a reward method that leaves them none."""
    bounded = next((method for method in found.credit if getattr(method, "bounded", False)), None)
    for place, method in enumerate(found.rewards):
        if bounded is not None and getattr(method, "unbounds", False):
            raise ConfigError(
                f"algorithm.rewards[{place}] ({type(method).__name__}) gives rewards without bounds, and {type(bounded).__name__} "
                "wants them between r_min and r_max: take it out (a regularizer of the loss does not touch rewards), or use "
                "another credit method"
            )


def _check_critic(found: Methods) -> None:
    """Raises ConfigError for a critic that nobody reads, or that is not told what to learn."""
    if not found.of_turns({"value"}):
        raise ConfigError(
            "[critic] is given, and no credit method reads the column 'value' that it writes: take [critic] out, or use "
            'algorithm.credit = { name = "turn_gae" }'
        )
    if not any("returns" in columns(method, "writes") for method in (*found.rewards, *found.credit)):
        raise ConfigError(
            "[critic] learns the column 'returns', and no credit method writes it: have the one that reads 'value' return it "
            "(as turn_gae does)"
        )


def critic_loss(table: CriticTable) -> Any:
    """The loss of a critic. Raises ConfigError for one of policies, and one that wants a whole update at once."""
    loss = registry.build("loss", table.loss, "critic.loss")
    known = {"value", "value_old", "returns", "row", "sequence", "trajectory"}
    if "value" not in columns(loss) or set(columns(loss)) - known or scope(loss) in WHOLE:
        raise ConfigError(
            f"critic.loss = {table.loss.get('name')!r} is no loss of a critic, which reads 'value', and 'value_old' and 'returns' "
            'of each turn; use { name = "value" }'
        )
    return loss


def _all(kind: str, specs: Sequence[dict[str, Any]], where: str) -> list[Any]:
    return [registry.build(kind, spec, f"{where}[{number}]") for number, spec in enumerate(specs)]


def tokenizer(config: RunConfig, pools: Sequence[EnvPool]) -> tuple[Any, Renderer]:
    """The tokenizer of a run file: a checkpoint's, or one made from the environments' vocabularies and the prompts' own words.

    Raises MissingExtra without transformers, CheckpointError for a checkpoint that cannot be read, ConfigError for the rest.
    """
    if config.model.path is not None:
        found = _checkpoints().load_tokenizer(config.model.path)
    elif config.model.config is not None:
        words = [word for pool in pools for word in _vocabulary(pool)]
        found = build_tokenizer([*words, *texts_of(config)])
    else:
        raise ConfigError("model: give a path (a checkpoint folder or a Hugging Face name) or a config to build one")
    return found, Renderer(found, options=config.agent.template_options)


def _vocabulary(pool: EnvPool) -> list[str]:
    with _borrowed(pool) as env:
        vocabulary = hook(env, "vocabulary")
        if vocabulary is not None:
            return list(vocabulary())
        raise ConfigError(
            f"model.config needs an environment with vocabulary(), and {environment(env)} has none; give model.path instead"
        )


def texts_of(config: RunConfig) -> list[str]:
    """What the agents of a run file write into prompts besides what they saw."""
    return [text for table in config.env for text in _texts(config.agent_of(table))]


def _texts(table: AgentTable) -> list[str]:
    if is_flow(table):
        return list(flow_texts(table))
    return [table.prompt or DEFAULT_PROMPT, table.system, *(str(v) for k, v in table.memory.items() if k != "name")]


def models(config: RunConfig, pools: Sequence[EnvPool], tokenizer_path: str | None = None) -> Models:
    """The model of a run file with its tokenizer (``tokenizer_path``: another one, that demonstrations were written with)."""
    checkpoint = _checkpoints()
    made = tokenizer(config, pools)[0] if tokenizer_path is None else checkpoint.load_tokenizer(tokenizer_path)
    if config.model.path is not None:
        model = _adapted(checkpoint.load_model(config.model.path, config.model.dtype), config)
    else:
        model = checkpoint.build_model(dict(config.model.config or {}), made, config.run.seed, config.model.dtype)
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stop_ids = [ends] if isinstance(ends, int) else list(ends or ())
    renderer = Renderer(made, options=config.agent.template_options, stop_ids=stop_ids)
    checkpoint.set_attention(model, config.model.attention)
    return Models(model.to(device(config)), made, renderer)


def _adapted(model: Any, config: RunConfig) -> Any:
    """The model that was read from ``model.path``, with an adapter where the run file wants one and without where it does not."""
    from agentrl.learning import lora

    table, path = config.model.lora, str(config.model.path)
    if table is None:
        return lora.merged(model) if lora.has_adapter(model) else model
    if lora.has_adapter(model):
        lora.check_adapter(model, rank=table.rank, alpha=table.alpha, path=path)
        return model
    shape = {"rank": table.rank, "alpha": table.alpha, "targets": table.targets}
    return lora.add_adapter(model, **shape, base=path, seed=config.run.seed)


def optimizer_fields(config: RunConfig) -> dict[str, Any]:
    """What the optimiser is told: ``[optimizer]`` without what only bounds memory."""
    return config.optimizer.model_dump(exclude={"token_budget", "logit_chunk", "packing"})


def memory_fields(config: RunConfig) -> dict[str, Any]:
    """What the learner is told about memory; none of it changes the gradient."""
    return {
        "token_budget": config.optimizer.token_budget,
        "chunk": config.optimizer.logit_chunk,
        "packing": config.optimizer.packing,
        "gradient_checkpointing": config.model.gradient_checkpointing,
    }


def _checkpoints() -> Any:
    try:
        from agentrl.learning import checkpoint
    except ImportError as error:
        raise MissingExtra("train", "a model") from error
    return checkpoint


def device(config: RunConfig) -> str:
    """ "cpu" or "cuda"; also sets torch's threads. Raises ConfigError where CUDA is asked for and absent."""
    import agentrl.policies.transformers as engine

    return engine.prepare_device(config.resources.device, threads(config))


def threads(config: RunConfig) -> int:
    """Torch's threads on the CPU: the run file's, else the cores that this process may use."""
    return config.resources.threads or len(os.sched_getaffinity(0))


def team(config: RunConfig) -> Any:
    """Those that train: this process alone, or with others that are started here. Raises ConfigError for more than there are
    devices."""
    from agentrl.learning.team import Team

    if config.resources.learners == 1:
        return Team()
    table = config.resources
    if table.backend == "ray":
        from agentrl.cluster.learners import team_on_ray

        return team_on_ray(table, device=device(config), threads=threads(config))
    from agentrl.learning.ranks import Ranks

    return Ranks(
        table.learners,
        table.sharding,
        device=device(config),
        threads=threads(config),
        timeout_s=table.learner_timeout_s,
    )


def rollouts(config: RunConfig, seats: Mapping[str, Seat], policy: Any) -> Rollouts:
    """Rollouts as a run file wants them; the first seat is that of tasks that name no environment. A policy that has ``workers``
    has its episodes played by them."""
    first = next(iter(seats.values()))
    return Rollouts(
        pool=first.pool,
        agent=first.agent,
        limits=first.limits,
        policy=policy,
        seats=seats,
        sampling=Sampling(temperature=config.rollout.temperature, max_tokens=config.rollout.max_tokens),
        root_seed=config.run.seed,
        attempts=config.rollout.attempts,
        max_live=config.rollout.live(config.env),
        free=config.rollout.free,
        workers=getattr(policy, "workers", None),
    )


def policy(config: RunConfig, model: Any) -> Any:
    """The policy that samples from the learner's model, in this process. Raises ConfigError for one that cannot."""
    cls = policy_class(config)
    given: dict[str, Any] = {"root_seed": config.run.seed, "batch_size": config.rollout.batch_size}
    if "kv_cache" in cls.capabilities:
        given["kv_cache_bytes"] = kv_cache_bytes(config)
    if "engine" in cls.capabilities:
        given |= engine_fields(config)
    elif config.rollout.staleness and "shares_weights" in cls.capabilities:
        given["own_weights"] = True
    return cls(model, **given)


def policy_class(config: RunConfig) -> Any:
    """The class of the run file's policy. Raises ConfigError for one that cannot sample from the learner's model."""
    cls = registry.get("policy", config.rollout.policy)
    if "trainable" not in getattr(cls, "capabilities", ()):
        raise ConfigError(
            f'rollout.policy = \'{config.rollout.policy}\' does not sample from the trained model; use "transformers" or "vllm"'
        )
    return cls


def engine_fields(config: RunConfig) -> dict[str, Any]:
    """What an engine in a process of its own is told beside the model."""
    table = config.rollout.vllm
    return {
        **table.model_dump(),
        "context": table.context or config.agent.context,
        "device": config.resources.device,
        "threads": threads(config),
        "prefix_caching": config.rollout.kv_cache,
        "kv_cache_bytes": int(config.rollout.kv_cache_gib * 2**30),
    }


def kv_cache_bytes(config: RunConfig) -> int:
    """The bound of the keys and values that are kept between turns; 0 where prompts do not grow, because that only costs."""
    names = [config.agent_of(table).memory.get("name") for table in config.env]
    kept = config.rollout.kv_cache and any(registry.get("memory", str(name)).appends for name in names)
    return int(config.rollout.kv_cache_gib * 2**30) if kept else 0
