"""Which runs a sweep consists of, found to be possible before any of them begins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from agentrl import config as configs
from agentrl.config import RunConfig
from agentrl.errors import CheckpointError, ConfigError
from agentrl.store import RunFolder, free_folder, without_none, write_atomic

OWN = {  # keys that are the sweep's to set
    "run.seed": "--seeds and --first-seed",
    "resources.threads": "--threads",
}
FREE = ("run.name", "run.seed", "resources.", "checkpoint.", "demos.", "sft.")  # they change no result
BUDGET = ("run.iterations", "run.time_limit_s", "evaluation.")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run file of a sweep. ``source`` is where it was read, ``name`` what it is called here."""

    name: str
    source: Path
    config: RunConfig


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe with a seed."""

    recipe: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.recipe}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its process printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def begun(self) -> bool:
        """Whether there is a run folder that ``agentrl train --resume`` accepts."""
        return (self.folder / "config.toml").is_file()

    def summary(self) -> dict[str, Any]:
        """Its ``summary.json``; empty where it has none yet. Raises CheckpointError for one that cannot be read."""
        path = self.folder / "summary.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """A line an iteration."""
        return RunFolder(self.folder).metrics()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained. The first recipe is the one that the others are compared with."""

    recipes: Sequence[Recipe]
    seeds: Sequence[int]
    folder: Path
    threads: int | None = None  # of each run; another number gives other roundings

    def runs(self) -> list[Run]:
        """Seed by seed, so that what is finished can be compared early."""
        return [self.run(recipe, seed) for seed in self.seeds for recipe in self.recipes]

    def run(self, recipe: Recipe, seed: int) -> Run:
        """One of them."""
        return Run(recipe.name, seed, self.folder / recipe.name / f"seed_{seed}")

    def run_file(self, name: str) -> Path:
        """The resolved run file of a recipe, which its processes read."""
        return self.folder / name / "recipe.toml"


def make_plan(
    recipes: Sequence[str], seeds: Sequence[int], overrides: Sequence[str] = (), out: Path | None = None
) -> Plan:
    """The plan of a new sweep; nothing is written. Raises ConfigError for a recipe that cannot be used, for recipes of different
    budgets or evaluations, and for a folder that is taken."""
    if not recipes:
        raise ConfigError("a sweep needs run files, as in agentrl sweep recipes/gigpo recipes/grpo --seeds 8")
    if not seeds:
        raise ConfigError("a sweep needs at least one seed; give --seeds N")
    _check_overrides(overrides)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already; continue it with --resume or choose another folder with --out")
    files = [configs.find(recipe) for recipe in recipes]
    loaded = [configs.load(file, [*overrides, f"run.seed={seeds[0]}"]) for file in files]
    found = [
        Recipe(name, file, config) for name, file, config in zip(distinct_names(files), files, loaded, strict=True)
    ]
    _check_comparable(found)
    return Plan(found, list(seeds), out or Path("runs") / "sweep")


def distinct_names(files: Sequence[Path]) -> list[str]:
    """What each file is called: its name without the ending, with as many of the folders above it as tell it from others.
    Raises ConfigError for a file that is given twice.

    >>> distinct_names([Path("/a/grpo.toml"), Path("/b/grpo.toml"), Path("/b/rloo.toml")])
    ['a-grpo', 'b-grpo', 'rloo']
    """
    parts = [file.resolve().with_suffix("").parts for file in files]
    for place, file in enumerate(parts):
        if file in parts[:place]:
            raise ConfigError(f"{files[place]} is given twice; a sweep compares different run files")
    names = []
    for file in parts:
        depth = 1
        while sum(other[-depth:] == file[-depth:] for other in parts) > 1:
            depth += 1
        names.append("-".join(part.strip("/\\:") for part in file[-depth:]))
    return names


def begin(plan: Plan, threads: int | None = None) -> Plan:
    """Makes the folder of a new sweep and writes the recipes into it. Raises ConfigError where it cannot be written."""
    folder = plan.folder if plan.folder != Path("runs") / "sweep" else free_folder("sweep")
    plan = Plan(plan.recipes, plan.seeds, folder, threads)
    try:
        for recipe in plan.recipes:
            file = plan.run_file(recipe.name)
            file.parent.mkdir(parents=True)
            write_atomic(file, tomli_w.dumps(_dump(recipe.config)).encode())
        write_plan(plan)
    except OSError as error:
        raise ConfigError(
            f"the sweep's folder {folder} cannot be written: {error.strerror}; choose another with --out"
        ) from error
    return plan


def write_plan(plan: Plan) -> None:
    """The recipes' names and sources, the seeds, and the threads of a run."""
    recipes = [{"name": recipe.name, "source": str(recipe.source.resolve())} for recipe in plan.recipes]
    data = {"recipes": recipes, "seeds": list(plan.seeds), "threads": plan.threads}
    write_atomic(plan.folder / "plan.json", (json.dumps(data, indent=2) + "\n").encode())


def reopened(
    folder: Path, recipes: Sequence[str] = (), seeds: Sequence[int] = (), overrides: Sequence[str] = ()
) -> Plan:
    """The plan of a sweep that was begun, with further seeds where they are given. Recipes and overrides need not be given again;
    where they are, they must be those that it began with. Raises CheckpointError where there is no sweep, or another one."""
    try:
        stored = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        named = [(item["name"], Path(item["source"])) for item in stored["recipes"]]
        known = [int(seed) for seed in stored["seeds"]]
        threads = stored.get("threads")
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no sweep to continue in {folder}; start it without --resume") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'plan.json'} cannot be read: {error!r}") from error
    kept = [Recipe(name, source, configs.load(folder / name / "recipe.toml")) for name, source in named]
    plan = Plan(kept, sorted({*known, *seeds}), folder, threads)
    if overrides and not recipes:
        raise ConfigError(
            f"a sweep goes on with the values that it began with; leave {' '.join(overrides)} out, or start anew without --resume"
        )
    if recipes:
        _check_same(plan, make_plan(recipes, plan.seeds, overrides, folder / "none"))
    return plan


def _check_same(old: Plan, new: Plan) -> None:
    names, others = ([recipe.name for recipe in plan.recipes] for plan in (old, new))
    if names != others:
        raise CheckpointError(
            f"{old.folder} was started with {', '.join(names)}, and not with {', '.join(others)}; start anew without --resume"
        )
    for before, after in zip(old.recipes, new.recipes, strict=True):
        if changed := differences(before.config, after.config):
            shown = "; ".join(f"{key} = {one!r}, now {other!r}" for key, (one, other) in changed.items())
            raise CheckpointError(
                f"{old.folder} was started with another {before.name}: {shown}; start anew without --resume"
            )


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The keys that may change a result and differ, with both values."""
    before, after = (configs.flat(_dump(config)) for config in (one, other))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not key.startswith(FREE)
    }


def _dump(config: RunConfig) -> dict[str, Any]:
    """The tables of a configuration, with a model's folder that is seen from anywhere."""
    tables: dict[str, Any] = without_none(config.model_dump(mode="python"))
    path = tables["model"].get("path")
    if path and os.path.exists(path):
        tables["model"]["path"] = os.path.realpath(path)
    return tables


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in OWN:
            raise ConfigError(f"{key} is the sweep's to set; use {OWN[key]}")


def _check_comparable(recipes: Sequence[Recipe]) -> None:
    first = recipes[0]
    for recipe in recipes:
        if not recipe.config.evaluation.episodes:
            raise ConfigError(
                f"a sweep compares evaluations, and {recipe.name} has none: evaluation.episodes is 0; give "
                "evaluation.episodes=200"
            )
        for key, (one, other) in differences(first.config, recipe.config).items():
            if key.startswith(BUDGET) and key != "evaluation.every":
                raise ConfigError(
                    f"a sweep compares under one budget and one evaluation: {key} is {_shown(one)} in {first.name} and "
                    f"{_shown(other)} in {recipe.name}; give {key}=VALUE"
                )


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def tables_of(plan: Plan) -> Mapping[str, Mapping[str, Any]]:
    """In which keys each recipe differs from the first, as [the first's value, its own]."""
    first = plan.recipes[0].config
    return {
        recipe.name: {key: list(pair) for key, pair in differences(first, recipe.config).items()}
        for recipe in plan.recipes
    }
