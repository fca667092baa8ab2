"""``curves.png``: success in training against iterations or episodes, and the last evaluations, for each recipe over its seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl.errors import MissingExtra
from agentrl.evaluation import student_t
from agentrl.store import write_atomic
from agentrl.sweep.plan import Plan

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito: told apart by all
METRIC = "episode/success_rate"
POINTS = 200  # of a curve over episodes


def draw(plan: Plan, result: Mapping[str, Any]) -> bool:
    """Writes ``curves.png``; False where no run is complete. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plots", "curves.png") from error

    complete = {(row["recipe"], row["seed"]) for row in result["runs"] if row["status"] == "completed"}
    if not complete:
        return False
    found = {
        recipe.name: [plan.run(recipe, seed).metrics() for seed in plan.seeds if (recipe.name, seed) in complete]
        for recipe in plan.recipes
    }
    many = 0.3 * len(plan.recipes)
    figure = Figure(figsize=(10 + many, 4.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.8, 0.5 + many], sharey=True)
    _curves(left, found, result)
    _evaluations(right, result)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomic(plan.folder / "curves.png", image.getvalue())
    return True


def curve(
    runs: Sequence[Sequence[Mapping[str, Any]]], window: int, *, by_episodes: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x [P], mean [P], half width of the 95 % interval [P]) of success over runs, up to where the shortest run ends.

    Success at an iteration is the mean over it and the ``window`` - 1 before it, weighted by their episodes. x counts iterations
    from 1, or episodes; then runs are interpolated between iterations. The half width is 0 for a single run.
    """
    xs, ys = zip(*(_one(run, window, by_episodes=by_episodes) for run in runs), strict=True)
    if by_episodes:
        grid = np.linspace(max(x[0] for x in xs), min(x[-1] for x in xs), POINTS)
        values = np.stack([np.interp(grid, x, y) for x, y in zip(xs, ys, strict=True)])
    else:
        grid = xs[0][: min(len(x) for x in xs)]
        values = np.stack([y[: len(grid)] for y in ys])
    n = len(runs)
    half = student_t(n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(grid))
    return grid, values.mean(axis=0), half


def _one(run: Sequence[Mapping[str, Any]], window: int, *, by_episodes: bool) -> tuple[np.ndarray, np.ndarray]:
    episodes = np.array([line["n_trajectories"] for line in run], dtype=float)
    won = np.array([line[METRIC] * line["n_trajectories"] for line in run])
    x = np.cumsum(episodes) if by_episodes else np.arange(1.0, len(run) + 1)
    return x, _trailing(won, window) / np.maximum(_trailing(episodes, window), 1.0)


def _trailing(values: np.ndarray, window: int) -> np.ndarray:
    """Sums over each value and the ``window`` - 1 before it, fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    return sums[last] - sums[np.maximum(0, last - window)]


def _curves(axes: Any, found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], result: Mapping[str, Any]) -> None:
    trained = {name: [run for run in runs if run] for name, runs in found.items()}
    lengths = [len(run) for runs in trained.values() for run in runs]
    sizes = {run[0]["n_trajectories"] for runs in trained.values() for run in runs}
    sizes |= {line["n_trajectories"] for runs in trained.values() for run in runs for line in run}
    by_episodes = len(sizes) > 1  # an iteration of one is no iteration of another
    window = max(1, round(max(lengths, default=1) / 16))
    for (name, runs), colour in zip(trained.items(), _cycled(len(trained)), strict=True):
        if not runs:
            continue
        x, mean, half = curve(runs, window, by_episodes=by_episodes)
        wanted = next(recipe["wanted"] for recipe in result["recipes"] if recipe["name"] == name)
        label = f"{name} (n = {len(runs)})" if len(runs) == wanted else f"{name} (n = {len(runs)} of {wanted})"
        axes.plot(x, mean, color=colour, linewidth=2, label=label)
        axes.fill_between(
            x, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1), color=colour, alpha=0.18, linewidth=0
        )
    axes.set_xlabel("episodes" if by_episodes else "iteration")
    axes.set_ylabel("success")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    over = f", mean of {window} iterations" if window > 1 else ""
    _styled(axes, f"in training{over}; band: 95 % over seeds")
    if lengths:
        axes.set_xlim(left=0)
        _legend(axes, n_columns=3)


def _evaluations(axes: Any, result: Mapping[str, Any]) -> None:
    recipes = result["recipes"]
    for place, (recipe, colour) in enumerate(zip(recipes, _cycled(len(recipes)), strict=True)):
        for panel, shift, marker in (("sampled", -0.12, "o"), ("greedy", 0.28, "D")):
            if panel not in recipe:
                continue
            values, mean, interval = (recipe[panel][key] for key in ("values", "mean", "ci95"))
            low, high = interval or (mean, mean)
            x = place + shift
            axes.hlines(recipe["before"][panel], x - 0.18, x + 0.08, color="0.45", linestyle=":", linewidth=1.8)
            axes.scatter([x - 0.13] * len(values), list(values.values()), s=14, color=colour, alpha=0.45, linewidths=0)
            axes.errorbar(
                x, mean, yerr=[[mean - low], [high - mean]], color=colour, marker=marker, markersize=7, capsize=4, linewidth=1.8,
                markerfacecolor=colour if panel == "sampled" else "white", zorder=3,
            )  # fmt: skip
    axes.set_xticks(range(len(recipes)), [_wrapped(recipe["name"]) for recipe in recipes])
    axes.set_xlim(-0.6, len(recipes) - 0.4)
    panel = result["panel"]
    _styled(axes, f"after training, {panel['episodes']} tasks of {panel['split']}")
    axes.plot([], [], "o", color="0.3", label="sampled")
    if any("greedy" in recipe for recipe in recipes):
        axes.plot([], [], "D", color="0.3", markerfacecolor="white", label="greedy")
    axes.plot([], [], ":", color="0.45", label="before")
    _legend(axes, n_columns=3)


def _legend(axes: Any, n_columns: int) -> None:
    """Below the axes, where it hides nothing."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
    axes.legend(frameon=False, ncols=n_columns, fontsize=9, columnspacing=1.2, handletextpad=0.5, **place)


def _styled(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _cycled(n: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(n)]


def _wrapped(name: str) -> str:
    return name if len(name) <= 8 else name.replace("_", "_\n").replace("-", "-\n")
