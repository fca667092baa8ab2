"""The study of credit as a picture: for each scenario, how far each estimator points astray and how noisy it is."""

from __future__ import annotations

import io
import textwrap
from typing import Any

import numpy as np

from agentrl.errors import MissingExtra
from agentrl.study.credit import Study
from agentrl.study.measure import Estimate, angle, log_ratio
from agentrl.study.report import labels

ASTRAY, STRAIGHT, NOISE, LINE = "#c8500a", "#1f6fb4", "#444444", "#dddddd"
LINEAR_TO = 0.3  # degrees; the axis is logarithmic from there on
LOWEST, HIGHEST = 0.05, 20.0  # of the axis of noise


def png(study: Study) -> bytes:
    """The picture. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plots", "the picture of the study (credit.png)") from error
    rows = labels(study)
    n_rows, n_columns = len(rows), len(study.results)
    figure = Figure(figsize=(3.3 + 2.6 * n_columns, 1.8 + 0.42 * n_rows), layout="constrained")
    axes: Any = figure.subplots(2, n_columns, sharey=True, sharex="row")
    for column, (name, result) in enumerate(study.results.items()):
        measured = [result.measured[label] for label in rows]
        reference = result.measured["rloo"].groups
        _angles(axes[0, column], [each.direction_bias for each in measured])
        _noise(axes[1, column], [log_ratio(each.groups, reference) for each in measured])
        question = "\n".join(textwrap.wrap(result.scenario.question, 34))
        axes[0, column].set_title(f"$\\bf{{{name}}}$\n{question}", fontsize=8.5, verticalalignment="bottom")
        axes[1, column].set_title(f"rloo needs {reference.value:.2g} groups", fontsize=8.5)
    for row in axes:
        row[0].set_yticks(range(n_rows), list(rows.values()), fontsize=8)
        row[0].set_ylim(n_rows - 0.4, -0.6)
    figure.supxlabel(
        f"{study.groups} groups of {study.group_size} episodes a scenario; bars are 95 % intervals. Above: the angle between the "
        "mean estimate and the true gradient, orange where it is beyond chance.\nBelow: how many groups it takes until the "
        "noise of the gradient is as long as its signal, relative to rloo; a triangle lies beyond the axis.",
        fontsize=9,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": ""})
    return buffer.getvalue()


def _angles(axis: Any, astray: list[Estimate]) -> None:
    for place, each in enumerate(astray):
        low, high = each.interval()
        colour = ASTRAY if low > 0 else STRAIGHT
        axis.plot([angle(low), angle(high)], [place, place], color=colour, linewidth=1.4, alpha=0.6)
        axis.plot([angle(each.value)], [place], "o", color=colour, markersize=4.5)
    axis.set_xscale("symlog", linthresh=LINEAR_TO, linscale=0.6)
    axis.set_xlim(-0.03, 180)
    axis.set_xticks([0, 1, 10, 90], ["0°", "1°", "10°", "90°"])
    axis.minorticks_off()
    axis.set_xlabel("angle to the true gradient", fontsize=8)
    _grid(axis, len(astray))


def _noise(axis: Any, ratios: list[Estimate]) -> None:
    axis.axvline(1, color=STRAIGHT, linewidth=1, linestyle=":")
    for place, each in enumerate(ratios):
        value = np.exp(each.value)
        if not LOWEST < value < HIGHEST:
            end, marker = (LOWEST * 1.15, "<") if value < 1 else (HIGHEST / 1.15, ">")
            axis.plot([end], [place], marker, color=NOISE, markersize=5)
            continue
        low, high = np.exp(each.interval()).clip(LOWEST, HIGHEST)
        axis.plot([low, high], [place, place], color=NOISE, linewidth=1.4, alpha=0.6)
        axis.plot([value], [place], "o", color=NOISE, markersize=4.5)
    axis.set_xscale("log")
    axis.set_xlim(LOWEST, HIGHEST)
    axis.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    axis.minorticks_off()
    axis.set_xlabel("groups until noise = signal, over rloo's", fontsize=8)
    _grid(axis, len(ratios))


def _grid(axis: Any, n_rows: int) -> None:
    axis.tick_params(axis="x", labelsize=8, length=2)
    axis.tick_params(axis="y", length=0)
    axis.set_axisbelow(True)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    for place in range(0, n_rows, 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#f5f5f5", zorder=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
