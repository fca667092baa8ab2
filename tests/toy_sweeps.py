"""What the tests of sweeps share: sweeps that are on disk as training leaves them, without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from toy_runs import TINY

from agentrl.config import load
from agentrl.sweep.plan import Plan, Recipe, Run, begin


def write_run(
    run: Run, successes: Sequence[float], after: float = 0.5, greedy: float = 0.75, episodes: int | Sequence[int] = 8
) -> None:
    """A complete run's folder."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.toml").write_text(TINY)
    each = [episodes] * len(successes) if isinstance(episodes, int) else episodes
    lines = [
        {"iteration": place, "episode/success_rate": success, "n_trajectories": n}
        for place, (success, n) in enumerate(zip(successes, each, strict=True))
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluations = {
        name: {"success_rate": one, "n": 4, "greedy": {"success_rate": other, "n": 4}}
        for name, (one, other) in {"before": (0.25, 0.5), "after": (after, greedy)}.items()
    }
    done = {"status": "completed", "seconds": 12.5, "iterations": len(lines), "eval": evaluations}
    (run.folder / "summary.json").write_text(json.dumps(done))


def made_plan(folder: Path, names: Sequence[str] = ("gigpo", "grpo"), n_seeds: int = 2, iterations: int = 4) -> Plan:
    """A sweep's folder before its first run."""
    (folder / "tiny.toml").write_text(TINY)
    config = load(folder / "tiny.toml", [f"run.iterations={iterations}"])
    recipes = []
    for name in names:
        algorithm = config.algorithm.model_copy(update={"credit": {"name": name}})
        recipes.append(Recipe(name, folder / f"{name}.toml", config.model_copy(update={"algorithm": algorithm})))
    return begin(Plan(recipes, list(range(n_seeds)), folder / "sweep"))
