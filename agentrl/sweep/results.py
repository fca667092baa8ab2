"""What a sweep's folder holds, as numbers: success of each recipe over its seeds, and differences seed by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentrl.evaluation import mean_interval
from agentrl.store import write_atomic
from agentrl.sweep.plan import Plan, Run, tables_of

PANELS = ("sampled", "greedy", "games")
INTERVAL = "95 %, Student's t over seeds"


def collect(plan: Plan, reasons: Mapping[Run, str], status: str = "") -> dict[str, Any]:
    """What ``sweep.json`` holds. ``reasons``: why runs failed. Means are over complete runs; ``n`` says how many these are and
    ``missing`` which are not among them.

    ``status`` is "completed" where every run is, else "incomplete", unless it is given.
    """
    runs = [measured(run, reasons.get(run, "")) for run in plan.runs()]
    recipes = [_recipe(recipe.name, [row for row in runs if row["recipe"] == recipe.name]) for recipe in plan.recipes]
    complete = all(row["status"] == "completed" for row in runs)
    config = plan.recipes[0].config
    return {
        "status": status or ("completed" if complete else "incomplete"),
        "seeds": list(plan.seeds),
        "budget": {"iterations": config.run.iterations, "time_limit_s": config.run.time_limit_s},
        "panel": {"split": config.evaluation.split, "episodes": config.evaluation.episodes},
        "interval": INTERVAL,
        "recipes": recipes,
        "differences": [_against(recipes[0], recipe) for recipe in recipes[1:]],
        "differing_keys": tables_of(plan),
        "runs": runs,
    }


def write(plan: Plan, result: Mapping[str, Any]) -> None:
    """``sweep.json``."""
    write_atomic(plan.folder / "sweep.json", (json.dumps(result, indent=2) + "\n").encode())


def measured(run: Run, reason: str = "") -> dict[str, Any]:
    """One run's row: its status (completed, failed, unfinished, not started), length, and success by panel before and after."""
    summary = run.summary()
    if summary.get("status") == "completed":
        status, reason = "completed", ""
    elif reason or summary.get("status") == "failed":
        status, reason = "failed", reason or summary.get("error", "")
    else:
        status = "unfinished" if run.begun else "not started"
    metrics = run.metrics() if run.begun else []
    return {
        "recipe": run.recipe,
        "seed": run.seed,
        "folder": str(run.folder),
        "status": status,
        "reason": reason,
        "seconds": summary.get("seconds", 0.0),
        "iterations": len(metrics),
        "episodes": sum(line["n_trajectories"] for line in metrics),
        "before": rates(summary.get("eval", {}).get("before", {})),
        "after": rates(summary.get("eval", {}).get("after", {})) if status == "completed" else {},
    }


def rates(result: Mapping[str, Any]) -> dict[str, float]:
    """Success by panel, of an evaluation as ``summary.json`` has it: the sampled panel's numbers beside the other panels."""
    panels = {"sampled": result, **result}
    return {name: panels[name]["success_rate"] for name in PANELS if "success_rate" in panels.get(name, {})}


def _recipe(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    complete = [row for row in rows if row["status"] == "completed"]
    panels = [panel for panel in PANELS if any(panel in row["after"] for row in complete)]
    return {
        "name": name,
        "n": len(complete),
        "wanted": len(rows),
        "missing": [{key: row[key] for key in ("seed", "status", "reason")} for row in rows if row not in complete],
        **{panel: over_seeds({row["seed"]: row["after"][panel] for row in complete}) for panel in panels},
        "before": {
            panel: over_seeds({row["seed"]: row["before"][panel] for row in complete})["mean"] for panel in panels
        },
        **{key: _mean([row[key] for row in complete]) for key in ("iterations", "episodes", "seconds")},
    }


def over_seeds(values: Mapping[int, float]) -> dict[str, Any]:
    """Mean of success rates with its interval (None for fewer than two seeds), cut to what a rate can be.

    >>> over_seeds({0: 0.5, 1: 0.5})
    {'mean': 0.5, 'ci95': [0.5, 0.5], 'n': 2, 'values': {0: 0.5, 1: 0.5}}
    """
    mean, interval = mean_interval(list(values.values()))
    cut = None if interval is None else [max(0.0, interval[0]), min(1.0, interval[1])]
    return {"mean": mean, "ci95": cut, "n": len(values), "values": dict(values)}


def paired(values: Mapping[int, float], against: Mapping[int, float]) -> dict[str, Any]:
    """``values`` - ``against`` over the seeds that both have: mean, interval, and in how many seeds it is above and below 0.
    ``value`` is None where they share no seed.

    >>> paired({0: 0.75, 1: 0.5, 2: 0.5}, {0: 0.5, 1: 0.5})["better"]
    1
    """
    found = {seed: values[seed] - against[seed] for seed in sorted(values) if seed in against}
    mean, interval = mean_interval(list(found.values())) if found else (None, None)
    return {
        "value": mean,
        "ci95": None if interval is None else list(interval),
        "n": len(found),
        "better": sum(value > 0 for value in found.values()),
        "worse": sum(value < 0 for value in found.values()),
        "equal": sum(value == 0 for value in found.values()),
        "values": found,
    }


def _against(first: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    panels = [panel for panel in PANELS if panel in first or panel in recipe]
    nothing: dict[str, Any] = {"values": {}}
    return {
        "recipe": recipe["name"],
        "against": first["name"],
        **{
            panel: paired(recipe.get(panel, nothing)["values"], first.get(panel, nothing)["values"]) for panel in panels
        },
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
