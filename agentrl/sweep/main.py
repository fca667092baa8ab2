"""A sweep from its plan to its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agentrl.errors import MissingExtra
from agentrl.store import lock
from agentrl.sweep import curves, results
from agentrl.sweep.plan import Plan, Run, begin, make_plan, reopened, write_plan
from agentrl.sweep.processes import Workers, check, shares, train_all
from agentrl.sweep.report import Progress, print_result, write_markdown


def sweep(
    recipes: Sequence[str],
    *,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains each recipe with each seed and returns what ``sweep.json`` holds; "status" is "completed" where every run is.

    ``jobs`` runs at a time with ``threads`` threads each. ``resume`` goes on with the folder ``out`` (default: ``runs/sweep``):
    complete runs are kept, the others continue from their last checkpoints, and further seeds are added. Raises ConfigError and
    CheckpointError for what cannot be run, before anything is written; a run that fails meanwhile is part of the result.
    """
    console = console or Console()
    if resume:
        plan = reopened(out or Path("runs") / "sweep", recipes, seeds, overrides)
        lock(plan.folder)
        left = [run for run in plan.runs() if run.summary().get("status") != "completed"]
        jobs, threads = shares(len(left), plan.recipes[0].config, jobs, threads or plan.threads)
        write_plan(plan)
    else:
        plan = make_plan(recipes, seeds, overrides, out)
        jobs, threads = shares(len(plan.runs()), plan.recipes[0].config, jobs, threads)
        console.print(f"checking {len(recipes)} run files", highlight=False)
        files = {recipe.name: [str(recipe.source), *overrides] for recipe in plan.recipes}
        check(files, plan.seeds[0], min(jobs, len(files)), threads)
        plan = begin(plan, threads)
        lock(plan.folder)
        left = plan.runs()
    return _train(plan, left, jobs, threads, console)


def _train(plan: Plan, left: Sequence[Run], jobs: int, threads: int, console: Console) -> dict[str, Any]:
    reasons: dict[Run, str] = {}
    progress = Progress(console, plan, len(plan.runs()) - len(left))
    each = "1 thread" if threads == 1 else f"{threads} threads"
    progress.say(f"{len(left)} of {len(plan.runs())} runs to train, {jobs} at a time with {each} each: {plan.folder}")
    results.write(plan, results.collect(plan, reasons, "running"))
    try:
        with progress.shown(), Workers(plan, threads) as workers:
            train_all(workers, left, jobs, progress, reasons)
    except BaseException:
        results.write(plan, results.collect(plan, reasons, "interrupted"))
        raise
    result = results.collect(plan, reasons)
    results.write(plan, result)
    try:
        curves.draw(plan, result)
    except MissingExtra as error:
        progress.say(f"note: {error}")
    write_markdown(plan, result)
    print_result(console, plan, result)
    return result
