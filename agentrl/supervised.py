"""Demonstrations and the warm start, from a run file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tomli_w

from agentrl import build, seating
from agentrl.config import RunConfig, SftTable
from agentrl.console import Progress
from agentrl.errors import CheckpointError, ConfigError
from agentrl.evaluation import Evaluation
from agentrl.scenes import Scenes
from agentrl.store import RunFolder, free_folder, numbered, read_trajectories, without_none, write_atomic
from agentrl.types import RolloutRequest, Trajectory

CHUNK = 500  # episodes a file


def make_demos(config: RunConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Plays the tasks of ``[demos]`` with its agent and writes the trajectories, each turn with the ids that the chat agent would
    have seen and sampled, and the tokenizer. Returns what ``summary.json`` holds."""
    progress = progress or Progress.for_terminal()
    started = time.time()
    table = config.demos
    scenes = Scenes.of(config)
    tasks = scenes.tasks
    if table.first + table.episodes > len(tasks):
        raise ConfigError(
            f"demos.first + demos.episodes = {table.first + table.episodes}, but there are "
            f"{len(tasks)} tasks in {', '.join(f'{each.title} {each.split}' for each in config.env)}"
        )
    tokenizer, renderer = build.tokenizer(config, scenes.pools)
    seats = scenes.seats(config, renderer, None, lambda agent: seating.demonstrator(config, agent))
    rollouts = build.rollouts(config, seats, None)
    folder = RunFolder.create(out, config.model_dump(mode="python"))
    tokenizer.save_pretrained(out / "tokenizer")
    played: list[Trajectory] = []
    progress.panel("demonstrations", table.episodes)
    for start in range(0, table.episodes, CHUNK):
        chosen = tasks[table.first + start : table.first + min(start + CHUNK, table.episodes)]
        with folder.or_nothing():
            groups = rollouts.run([RolloutRequest(task, 1) for task in chosen], ("demos", start), progress.episode)
        kept = [t for (t,) in groups if not t.outcome.is_fault and (t.success or not table.only_success)]
        folder.add_trajectories(f"demos_{start:06d}", kept)
        played += [t for (t,) in groups]
    result = Evaluation(played, time.time() - started).to_dict()
    summary = {"status": "completed", "seconds": round(time.time() - started, 1), "demos": result}
    folder.write_summary(summary)
    progress.evaluated("demonstrations", result)
    scenes.close()
    return summary


def read_demos(folder: Path, table: SftTable | None = None) -> list[Trajectory]:
    """All demonstrations of a folder that ``make_demos`` wrote, or what a training run itself did, as ``table`` chooses
    (``only_success``, ``first_iteration``). Raises CheckpointError where there are none."""
    table = table or SftTable()
    demos, iterations = list(numbered(folder, "demos").values()), numbered(folder, "iteration")
    if not demos and not iterations:
        raise CheckpointError(
            f"{folder} holds no demonstrations; make them with `agentrl demos CONFIG --out {folder}`, or give a training run"
        )
    chosen = demos or [file for number, file in iterations.items() if number >= table.first_iteration]
    found = [trajectory for file in chosen for trajectory in read_trajectories(file)]
    if not demos:
        found = [t for t in found if not t.outcome.is_fault and (t.success or not table.only_success)]
    if not any(trajectory.turns for trajectory in found):
        raise CheckpointError(f"{folder} holds no turn to learn from; was any episode kept, did any succeed?")
    return found


def _tokenizer_of(folder: Path) -> str:
    """Where the tokenizer lies that the trajectories of a folder were written with."""
    places = [folder / "tokenizer", folder / "checkpoints" / "latest"]
    found = next((place for place in places if (place / "tokenizer.json").is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder} has no tokenizer, neither in tokenizer/ nor in checkpoints/latest/")
    return str(found)


def write_export(saved: Path, out: Path, config: RunConfig, *, merge: bool = True) -> None:
    """Model, tokenizer and run file (how it is prompted) of a checkpoint, alone, into the folder ``out``. An adapter is merged into
    the weights below it where ``merge``; the run file then has no ``[model.lora]``. Raises CheckpointError where the checkpoint
    cannot be read."""
    from agentrl.learning import checkpoint

    checkpoint.export(saved, out, config.model.dtype, merge=merge)
    kept = config.model.lora is not None and not merge
    table = config.model.model_copy(update={"lora": config.model.lora if kept else None})
    written = without_none(config.model_copy(update={"model": table}).model_dump(mode="python"))
    write_atomic(out / "config.toml", tomli_w.dumps(written).encode())


def run_sft(
    config: RunConfig,
    demos: Path,
    out: Path | None = None,
    *,
    export: Path | None = None,
    progress: Progress | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Teaches the run file's model to imitate the demonstrations (or a training run's own successes), evaluates it, and writes a
    checkpoint. Returns the summary."""
    from agentrl.algorithms.losses import NLL
    from agentrl.learning import checkpoint, sft
    from agentrl.learning.learner import Learner, OptimizerSettings
    from agentrl.trainer import panels, run_panel

    progress, started = progress or Progress.for_terminal(), started or time.time()
    trajectories = read_demos(demos, config.sft)
    scenes = Scenes.of(config)
    models = build.models(config, scenes.pools, tokenizer_path=_tokenizer_of(demos))
    seats = scenes.seats(config, models.renderer, build.context_limit(models.model))
    settings = OptimizerSettings(**build.optimizer_fields(config), total=config.sft.updates)
    team = build.team(config)
    learner = team.make(Learner, model=models.model, loss=NLL(), settings=settings, **build.memory_fields(config))
    policy = build.policy(config, models.model)
    found = panels(config, scenes, build.rollouts(config, seats, policy))
    folder = RunFolder.create(out or free_folder(config.run.name), config.model_dump(mode="python"))

    def on_update(number: int, metrics: dict[str, float]) -> None:
        folder.add_metrics({"iteration": number, **metrics})
        progress.update(number, config.sft.updates, metrics)

    sft.supervise(
        learner,
        trajectories,
        updates=config.sft.updates,
        batch_size=config.sft.batch_size,
        balance=config.sft.balance,
        context_weight=config.sft.context_weight,
        seed=config.run.seed,
        on_update=on_update,
    )
    learner.gather()
    policy.update(models.model, config.sft.updates)
    parts = {"model": models.model, "tokenizer": models.tokenizer}  # kept before the evaluation, which may fail
    saved = checkpoint.save(folder.checkpoints, config.sft.updates, **parts, training=learner.state_dict(), state={})
    results: dict[str, Any] = {}
    for name, (rollouts, tasks) in found.items():
        with folder.keeping(f"eval_after_{name}"):
            result = run_panel(rollouts, tasks, name)
        results[name] = result.to_dict()
        progress.evaluated(name, results[name])
        folder.add_trajectories(f"eval_after_{name}", result.trajectories)
    if export is not None:
        write_export(saved, export, config)
    summary = {"status": "completed", "seconds": round(time.time() - started, 1), "eval": {"after": results}}
    folder.write_summary(summary)
    scenes.close()
    policy.close()
    team.close()
    return summary
