"""The study of credit as Markdown and as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentrl.study.credit import Result, Study
from agentrl.study.estimators import ESTIMATORS, GROUPS_PER_UPDATE
from agentrl.study.hypotheses import ERROR, Hypothesis, hypotheses
from agentrl.study.measure import Estimate, angle

NUMBERS = (
    "scale",
    "gradient_bias_raw",
    "direction_bias",
    "bias_raw",
    "bias",
    "offset",
    "action_bias",
    "noise",
    "groups",
)
READING = """How to read it. The truth comes from dynamic programming over the tree. ĝ is the policy gradient that an estimator's
advantages induce, g the true one.

- angle: between E[ĝ] and g, and its cosine. 0° is unbiased in direction; an asterisk marks a bias beyond its interval.
- groups: the variance of ĝ of one group over (c |g|)², with c the scale: after so many groups the noise is as long as the
  signal. Fewer is better.
- scale c: the slope of E[ĝ] on g. A step size takes it up; it is (G-1)/G where a trajectory is in its own baseline, and
  about 1/std where a std divides.
- bias: the rms of E[Â|s,a]/c - A(s,a) over the rms of A; raw: without the scale. Its parts: what it moves at all actions of a
  state alike (offset; no gradient comes of it, but noise does), and the rest (of actions), which is what turns the gradient.
- noise: the rms of Â/c around E[Â|s,a]/c, over the rms of A.

Intervals hold 95 %, from resampled updates; about one in twenty of the asterisks of unbiased estimators is chance. The
mean gradient is sharpened by control variates of known expectation."""


def summary(study: Study) -> str:
    """The hypotheses and a table of all estimators, as Markdown."""
    parts = [
        f"# Bias and variance of credit\n\n{_setting(study)}\n\n{READING}",
        f"## Overview: angle / groups\n\n{overview(study)}",
        hypotheses_text(hypotheses(study.results)),
    ]
    return "\n\n".join(parts)


def markdown(study: Study) -> str:
    """The summary, and a table for each scenario."""
    parts = [
        summary(study),
        *(f"## {name}\n\n{each.scenario.question}\n\n{_details(study, each)}" for name, each in study.results.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(study: Study) -> str:
    text = (
        f"`agentrl study credit --groups {study.groups} --group-size {study.group_size} --seed {study.seed}`: "
        f"{study.groups} groups of {study.group_size} episodes in each scenario, {GROUPS_PER_UPDATE} groups an update, "
        "credited by the methods themselves."
    )
    if study.not_studied:
        text += f" Registered, but not in this study: {', '.join(study.not_studied)}."
    return text


def labels(study: Study) -> dict[str, str]:
    """The estimators that are shown -> how they are called, with those that gave the same everywhere."""
    shown = {each.label: each.label for each in ESTIMATORS if each.label not in study.same}
    for label, first in study.same.items():
        shown[first] += f" = {label}"
    return shown


def overview(study: Study) -> str:
    """A table: a row an estimator, a column a scenario."""
    rows = []
    for label, name in labels(study).items():
        cells = []
        for result in study.results.values():
            measured = result.measured[label]
            star = "*" if measured.direction_bias.interval()[0] > 0 else ""
            cells.append(f"{angle(measured.direction_bias.value):.1f}°{star} / {_short(measured.groups.value)}")
        rows.append([name, *cells])
    return _table(["estimator", *study.results], rows)


def hypotheses_text(found: list[Hypothesis]) -> str:
    """Expected, measured, verdict."""
    parts = [
        f"## Hypotheses\n\nIntervals of {100 * found[0].level:.2f} % for each claim, {100 * (1 - ERROR):.0f} % for all together."
    ]
    for number, each in enumerate(found, start=1):
        lines = [
            f"### {number}. {each.title}: {each.verdict}",
            "",
            f"Expected: {each.expected}",
            "",
        ]
        lines += [f"- {claim.text}: {claim.shown(each.level)}: {claim.judge(each.level)}" for claim in each.claims]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _details(study: Study, result: Result) -> str:
    rows = []
    for label, name in labels(study).items():
        each = result.measured[label]
        value, low, high = each.cosine
        numbers = [each.bias_raw, each.bias, each.offset, each.action_bias, each.noise]
        cells = [f"{value:.4f} [{low:.4f}, {high:.4f}]", *(_short(number.value) for number in numbers)]
        rows.append([name, _short(each.scale.value), *cells, _with_interval(each.groups)])
    head = ["estimator", "scale", "cosine", "bias, raw", "bias", "offset", "of actions", "noise", "groups"]
    return _table(head, rows)


def _short(number: float) -> str:
    return "∞" if np.isinf(number) else f"{number:.0f}" if abs(number) >= 100 else f"{number:.2f}"


def _with_interval(estimate: Estimate) -> str:
    return f"{_short(estimate.value)} [{', '.join(_short(end) for end in estimate.interval())}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_dict(study: Study) -> dict[str, Any]:
    """For JSON: the same numbers, each with its interval; null for an infinite one."""
    scenarios = {}
    for name, result in study.results.items():
        measured = {
            label: {
                **{number: getattr(each, number).as_dict() for number in NUMBERS},
                "cosine": dict(zip(("value", "low", "high"), each.cosine, strict=True)),
                "mean_advantage": each.mean[0].tolist(),
            }
            for label, each in result.measured.items()
        }
        tree, exact = result.scenario.tree, result.exact
        truth = {
            "nodes": tree.names,
            "actions": tree.actions,
            "policy": tree.policy.tolist(),
            "objective": exact.objective,
            **{key: getattr(exact, key).tolist() for key in ("value", "advantage", "visits", "gradient")},
        }
        scenarios[name] = {"question": result.scenario.question, "truth": truth, "estimators": measured}
    return {
        "groups": study.groups,
        "group_size": study.group_size,
        "seed": study.seed,
        "hypotheses": [each.as_dict() for each in hypotheses(study.results)],
        "same": study.same,
        "not_studied": study.not_studied,
        "scenarios": scenarios,
    }
