"""Evaluation by name: an environment id and a policy spec.

random | oracle | expert | expert:noise=0.2      agents that need no model
checkpoint:PATH                                  a run folder, or a checkpoint; its run file says how it is prompted
openai:URL#MODEL,concurrency=8,price_in=0.5 …    a model behind an API (``policies.openai.Endpoint`` lists the options)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
from rich.console import Console
from rich.table import Table

from agentrl import build, registry, seating
from agentrl import config as configs
from agentrl.agents import Agent
from agentrl.agents.flow.roles import is_flow
from agentrl.config import AgentTable, EnvTable, RunConfig
from agentrl.console import Progress, print_table, rate
from agentrl.env import environment
from agentrl.errors import CheckpointError, ConfigError, TooManyFaults, did_you_mean
from agentrl.evaluation.details import details
from agentrl.evaluation.record import Record, added
from agentrl.overrides import parse_parameters
from agentrl.policies import ChatModel
from agentrl.rollouts import EnvPool, Limits, Rollouts, Seat
from agentrl.trainer import run_panel
from agentrl.types import Task, Trajectory
from agentrl.viewer import report_or_reason

PLAIN = ("random", "oracle", "expert")
MODELS = {"checkpoint": "checkpoint:PATH", "openai": "openai:URL#MODEL"}

EnvSource = str | Callable[[], gymnasium.Env[str, str]]


@dataclass(frozen=True, slots=True)
class Players:
    """An agent that can be seated in an environment: what ``seated`` makes of an environment id and a policy spec."""

    settings: RunConfig
    rollouts: Rollouts
    env_id: str
    policy: str

    def tasks(self, n: int) -> Sequence[Task]:
        """The first ``n`` tasks of the split (0, or more than there are: all), each looked at where it is a file."""
        split = self.settings.only_env.split
        available = len(build.tasks_of(self.rollouts.pool, split))
        if n > available:
            print(
                f"note: the split '{split}' has {available} tasks, so {available} episodes are played", file=sys.stderr
            )
        tasks = build.first_tasks(self.rollouts.pool, split, min(n, available), "episodes")
        if "games" in self.settings.only_env.options:
            build.check_tasks(self.rollouts.pool, tasks)
        return tasks


@contextmanager
def seated(
    env: EnvSource,
    policy: str | Agent | ChatModel,
    *,
    config: str | Path | None = None,
    split: str = "valid_seen",
    seed: int = 0,
    temperature: float = 1.0,
    max_turns: int | None = None,
    options: Mapping[str, Any] | None = None,
    isolation: Literal["inline", "process"] | None = None,
    step_timeout_s: float | None = None,
    reset_timeout_s: float | None = None,
) -> Iterator[Players]:
    """The agent that ``policy`` names (or is), ready to play in ``env`` (an id, or a callable that makes one).

    ``config`` is a run file (or a run folder, or the name of a shipped file) whose table [agent] says how a model behind an API
    is prompted (absent: the default prompt, of what the environment shows), and its rollout.max_tokens how long an answer may
    be (absent: ``policies.openai.MAX_TOKENS``; max_tokens of the policy comes before both). A checkpoint that plays its own
    environment without ``options`` takes them, and ``max_turns``, from its run file; ``max_turns`` is the task's
    own otherwise, else 50. ``isolation`` and the timeouts are those of ``[env]``, with the same defaults.

    Raises ConfigError or CheckpointError for what cannot be played.
    """
    if (max_turns is not None and max_turns < 1) or temperature < 0:
        raise ConfigError(
            f"wanted a temperature of at least 0 and max_turns of at least 1; got {temperature}, {max_turns}"
        )
    kind, _, rest = policy.partition(":") if isinstance(policy, str) else (_kind_of(policy), "", "")
    if isinstance(policy, str) and kind not in (*PLAIN, *MODELS):
        known = did_you_mean(kind, [*PLAIN, *MODELS])
        raise ConfigError(f"no policy is called '{kind}'.{known} A model is written {' or '.join(MODELS.values())}.")
    if config is not None and kind != "openai":
        raise ConfigError(f"config says how a model behind an API is prompted, and '{kind}' is none; leave it out")
    chat_model = policy if isinstance(policy, ChatModel) else _endpoint(rest, seed) if kind == "openai" else None
    saved, model = saved_model(rest) if kind == "checkpoint" else (None, Path())
    times = {"step_timeout_s": step_timeout_s, "reset_timeout_s": reset_timeout_s}
    pool, table = _place(env, saved, {"isolation": isolation, **times}, max_turns, options)
    table = table.model_copy(update={"split": split})
    pool = pool or build.env_pool(table)
    rollouts: Rollouts | None = None
    try:
        name = policy if isinstance(policy, str) else type(policy).__name__
        if saved is not None:
            settings, rollouts = _from_checkpoint(saved, table, pool, model, seed, temperature)
        elif chat_model is not None:
            settings, rollouts = _from_chat_model(chat_model, name, config, table, pool, seed, temperature)
        else:
            settings = _seeded(RunConfig(env=(table,)), seed, temperature or 1.0)
            assert not isinstance(policy, ChatModel)
            agent = _plain_agent(kind, rest) if isinstance(policy, str) else policy
            seat = Seat(pool, agent, Limits(max_turns=table.max_turns))
            rollouts = build.rollouts(settings, {"": seat}, None)
        yield Players(settings, rollouts, table.id, name)
    finally:
        pool.close()
        if saved is not None and rollouts is not None:
            made: Any = rollouts.policy  # a checkpoint's is one of build.policy
            made.close()


def _place(
    env: EnvSource,
    saved: RunConfig | None,
    isolation: Mapping[str, Any],
    max_turns: int | None,
    options: Mapping[str, Any] | None,
) -> tuple[EnvPool | None, EnvTable]:
    """The table of an environment, with what a checkpoint's run file says of its own, and the pool of a callable."""
    known = saved.env if saved is not None else ()
    table = _isolation(next((each for each in known if each.id == env), None), **isolation)
    pool = _pool_of(env, table) if callable(env) else None
    env_id = env if isinstance(env, str) else _id_of(pool)
    own = next((each for each in known if each.id == env_id), None)
    played: dict[str, Any] = {"id": env_id, "options": dict(options or {}), "max_turns": max_turns}
    if saved is not None and own is not None:
        played["agent"] = own.agent
        if not options:
            turns = max_turns or saved.evaluation.max_turns or own.max_turns
            played |= {"options": own.options, "max_turns": turns}
    return pool, table.model_copy(update=played)


def _isolation(own: EnvTable | None, **given: Any) -> EnvTable:
    """A table that says only how the environment is isolated: what was given, else what a checkpoint's own table says."""
    if own is not None and given["isolation"] is None:
        given = {key: getattr(own, key) if value is None else value for key, value in given.items()}
    return configs.env_table({"id": "", **{key: value for key, value in given.items() if value is not None}})


def _pool_of(factory: Callable[[], gymnasium.Env[str, str]], table: EnvTable) -> EnvPool:
    return EnvPool(factory) if table.isolation == "inline" else build.process_pool(factory, table)


def _id_of(pool: EnvPool | None) -> str:
    assert pool is not None
    env = pool.take()
    pool.put(env)
    return environment(env)


def _plain_agent(kind: str, parameters: str) -> Agent:
    fields = parse_parameters(parameters, "expert:noise=0.2")
    return registry.build("agent", {"name": kind, **fields}, f"policy {kind}")


def _kind_of(policy: Agent | ChatModel) -> str:
    return "openai" if isinstance(policy, ChatModel) else "agent"


def _endpoint(spec: str, seed: int) -> ChatModel:
    from agentrl.policies.openai import OpenAIChat, parse_endpoint

    return OpenAIChat(parse_endpoint(spec), root_seed=seed)


def _prompting(file: str | Path, env_id: str) -> tuple[AgentTable, int | None]:
    """How a run file, which needs to hold nothing else, or that of a run folder, prompts in an environment, and the most tokens of
    a completion, where it says so."""
    own_file = Path(file) / "config.toml"
    tables = configs.read(own_file if own_file.is_file() else configs.find(str(file)))
    settings = configs.parse({"env": {"id": env_id}, **tables})
    own = next((table for table in settings.env if table.id == env_id), None)
    found = settings.agent if own is None else settings.agent_of(own)
    if found.context is not None:
        print(
            "note: agent.context is not used: the endpoint itself says when a conversation is too long", file=sys.stderr
        )
    return found, settings.rollout.max_tokens if "max_tokens" in tables.get("rollout", {}) else None


def evaluate(
    env: EnvSource,
    policy: str | Agent | ChatModel = "random",
    n: int = 100,
    *,
    samples: int = 1,
    out: Path | None = None,
    resume: bool = False,
    report: bool = True,
    progress: Progress | None = None,
    **seating: Any,
) -> dict[str, Any]:
    """Plays ``samples`` episodes on each of the first ``n`` tasks of a split (0, or more than there are: all).

    Returns success_rate, n (episodes), ci95 (Wilson's; of several samples clustered by task), by_type, mean_turns,
    valid_action_ratio, faults, outcomes and seconds; pass_at_k, pass_hat_k, failures, episodes … (``evaluation.details``); of a
    model behind an API also calls, retries, tokens and cost (``OpenAIChat.account``). ``seating``: config, split, seed,
    temperature, max_turns, options, isolation …, as in ``seated``; ``out`` is a folder for results and trajectories
    (``evaluation.record``) and, where ``report``, report.html; ``resume`` continues it. ``progress`` hears of turns and
    episodes (None: nobody does).
    """
    if n < 0 or samples < 1:
        raise ConfigError(f"wanted at least 0 episodes (tasks) and at least 1 sample of each; got {n} and {samples}")
    if resume and out is None:
        raise ConfigError("resume continues a folder; give it with --out")
    with seated(env, policy, **seating) as players:
        tasks = players.tasks(n)
        record = None if out is None else _record(out, players, tasks, samples, resume)
        result = _play(players, tasks, samples, record, progress or Progress())
    if out is not None and report and (problem := report_or_reason(out)):
        print(f"note: {problem}", file=sys.stderr)
    return result


def _record(out: Path, players: Players, tasks: Sequence[Task], samples: int, resume: bool) -> Record:
    model = players.settings.model.path
    request = {
        "policy": players.policy,
        "model": os.path.realpath(model) if model and os.path.exists(model) else "",
        "samples": samples,
        "tasks": [task.id for task in tasks],
    }
    record = (Record.reopen if resume else Record.create)(out, players.settings, request)
    if resume:
        total = len(tasks) * samples
        print(f"note: {record.n_done} of {total} episodes are there already: {out}", file=sys.stderr)
    return record


def _play(
    players: Players, tasks: Sequence[Task], samples: int, record: Record | None, progress: Progress
) -> dict[str, Any]:
    settings, rollouts = players.settings, players.rollouts
    split, model = settings.only_env.split, rollouts.policy
    if samples > 1 and model is not None and not settings.rollout.temperature:
        print("note: at temperature 0 the samples of a task are alike; give --temperature", file=sys.stderr)

    def account() -> Mapping[str, Any] | None:
        return model.account() if isinstance(model, ChatModel) else None

    bounds = {Limits(settings.only_env.max_turns).turns(task) for task in tasks}
    folder, n_done = (Path(), 0) if record is None else (record.folder.path, record.n_done)
    known = {} if record is None else record.known
    writing = nullcontext(None) if record is None else record.writing(account)
    keeping = _telling() if record is None else record.folder.keeping("eval")
    with writing as write, progress.run(folder, settings, 0), keeping:
        progress.panel(split, len(tasks) * samples - n_done, max(bounds, default=0))

        def ended(trajectory: Trajectory) -> None:
            if write is not None:
                write(trajectory)
            progress.episode(trajectory)

        found = run_panel(rollouts, tasks, split, ended, progress.turn, samples, known)
    if record is not None:
        found = replace(found, seconds=found.seconds + record.seconds)
    heading = {"env": players.env_id, "policy": players.policy, "split": split, "seed": settings.run.seed}
    table = settings.only_env
    heading |= {
        "temperature": settings.rollout.temperature,
        "max_turns": bounds.pop() if len(bounds) == 1 else table.max_turns,  # None: each task's own, and they differ
        "options": dict(table.options),
    }
    used = added(None if record is None else record.account, account()) or {}
    result = {**heading, "samples": samples, **found.to_dict(), **details(found), **used}
    if record is not None:
        record.finish(found, result)
    return result


@contextmanager
def _telling() -> Iterator[None]:
    """Where faults stop an evaluation that keeps nothing, the error says how to look at one."""
    try:
        yield
    except TooManyFaults as error:
        remedy = "with --out FOLDER they are kept, and `agentrl replay FOLDER ID` plays one again"
        raise TooManyFaults(f"{error}; {remedy}", error.episodes) from error


def saved_model(path: str) -> tuple[RunConfig, Path]:
    """The run file of a checkpoint, and the folder of the model."""
    place = Path(path)
    if not path or not place.is_dir():
        raise CheckpointError(
            f"there is no checkpoint at '{path}'; write checkpoint:PATH with a run folder or a checkpoint"
        )
    model = place if configs.holds_model(place) else place / "checkpoints" / "latest"
    run_file = next(
        (p / "config.toml" for p in (place, *model.resolve().parents[:2]) if (p / "config.toml").is_file()), None
    )
    if run_file is None:
        raise CheckpointError(
            f"{path} has no config.toml beside it, which says how the model is prompted; give the run folder"
        )
    return configs.load(run_file), model


def _from_checkpoint(
    saved: RunConfig, table: EnvTable, pool: EnvPool, model: Path, seed: int, temperature: float
) -> tuple[RunConfig, Rollouts]:
    """The settings and rollouts of a checkpoint, prompted as its run file says."""
    data = saved.model_dump(mode="python", exclude_none=True)
    data |= {"env": table.model_dump(exclude_none=True), "model": {**data["model"], "path": str(model)}}
    data["model"].pop("config", None)
    if table.isolation not in {each.isolation for each in saved.env}:
        data["rollout"].pop("max_live", None)  # what suits environments of the other kind
    settings = _seeded(configs.parse(data), seed, temperature)
    view, _ = build.first_view(pool, build.tasks_of(pool, table.split)[0])
    models = build.models(settings, [pool])
    agent = seating.agent(settings, settings.agent_of(table), models.renderer, view, build.context_limit(models.model))
    seat = Seat(pool, agent, Limits(max_turns=table.max_turns))
    return settings, build.rollouts(settings, {"": seat}, build.policy(settings, models.model))


def _from_chat_model(
    model: ChatModel,
    name: str,
    config: str | Path | None,
    table: EnvTable,
    pool: EnvPool,
    seed: int,
    temperature: float,
) -> tuple[RunConfig, Rollouts]:
    """The settings and rollouts of a model behind an API. No more episodes are live than it answers at a time."""
    from agentrl.policies.openai import MAX_TOKENS

    prompting, most = (AgentTable(), None) if config is None else _prompting(config, table.id)
    settings = _seeded(RunConfig(env=(table,), agent=prompting), seed, temperature)
    endpoint = getattr(model, "endpoint", None)
    changes: dict[str, Any] = {"policy": name}
    if endpoint is not None:
        changes |= {"max_tokens": endpoint.max_tokens or most or MAX_TOKENS, "max_live": endpoint.concurrency}
    settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update=changes)})
    view, _ = build.first_view(pool, build.tasks_of(pool, table.split)[0])
    made = (
        seating.agent(settings, prompting, None, view) if is_flow(prompting) else build.message_agent(prompting, view)
    )
    seat = Seat(pool, made, Limits(max_turns=table.max_turns))
    return settings, build.rollouts(settings, {"": seat}, model)


def _seeded(settings: RunConfig, seed: int, temperature: float) -> RunConfig:
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"seed": seed}),
            "rollout": settings.rollout.model_copy(update={"temperature": temperature}),
        }
    )


def print_evaluation(result: Mapping[str, Any]) -> None:
    """A table by task type, one by difficulty where tasks have several, pass@k of several samples, failures."""
    console = Console(markup=False, emoji=False)  # names are data
    title = f"{result['env']}  {result['policy']}  {result['split']}"
    types = [*(item for item in result["by_type"].items() if item[0] != "all"), ("all", result)]
    print_table(console, _rate_table(title, "task type", types))
    if len(by := result.get("by_difficulty", {})) > 1:
        print_table(console, _rate_table("", "difficulty", list(by.items())))
    if result.get("samples", 1) > 1:
        table = Table(box=None)
        for heading in ("k", "pass@k", "pass^k"):
            table.add_column(heading, justify="right")
        for k, one in result["pass_at_k"].items():
            table.add_row(
                k, *(rate({**found, "success_rate": found["value"]}) for found in (one, result["pass_hat_k"][k]))
            )
        print_table(console, table)
    ends = ", ".join(f"{n} {outcome}" for outcome, n in result["outcomes"].items())
    console.print(f"{result['seconds']:.1f} s, {result['faults']} faults; episodes ended by: {ends}", highlight=False)
    if failed := ", ".join(f"{n} {kind}" for kind, n in result.get("failures", {}).items() if n):
        console.print(f"failed by: {failed}", highlight=False)
    if "max_tokens" in result["outcomes"]:
        console.print("max_tokens: the prompt no longer fitted the model's context (agent.context)", highlight=False)
    if "tokens" in result:
        console.print(_account_line(result), highlight=False)


def _rate_table(title: str, first: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    table = Table(title=title or None, title_justify="left", box=None)
    for heading in (first, "n", "success", "turns", "valid actions"):
        table.add_column(heading, justify="left" if heading == first else "right")
    for name, row in rows:
        cells = [str(row["n"]), rate(row), f"{row['mean_turns']:.1f}", f"{row['valid_action_ratio']:.3f}"]
        table.add_row(name, *cells)
    return table


def _account_line(result: Mapping[str, Any]) -> str:
    tokens = result["tokens"]
    parts = [f"{result['calls']} calls, {result['retries']} retries"]
    parts.append(
        f"{tokens['prompt']} prompt tokens ({tokens['cached']} cached), {tokens['completion']} completion tokens"
    )
    parts.append("no prices given" if result["cost"] is None else f"cost {result['cost']:.6g}")
    if result["calls_without_usage"]:
        parts.append(f"{result['calls_without_usage']} calls without token counts")
    return "; ".join(parts)
