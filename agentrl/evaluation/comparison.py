"""A comparison's numbers for people: tables of texts for the screen and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentrl.evaluation.tables import Shown, markdown_page

IDS_SHOWN = 20


def title(other: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Which two are compared."""
    return f"{other['name']} against {result['baseline']['name']}"


def table(other: Mapping[str, Any], result: Mapping[str, Any]) -> Shown:
    """The metrics of both and their differences."""
    rows = []
    for name, found in other["metrics"].items():
        interval = found["ci95"]
        shown = "(one task)" if interval is None else f"[{interval[0]:+.4g}, {interval[1]:+.4g}]"
        rows.append((name, f"{found['baseline']:.4g}", f"{found['other']:.4g}", f"{found['value']:+.4g} {shown}"))
    return Shown(title(other, result), ("metric", "baseline", "this one", "difference"), rows)


def notes(other: Mapping[str, Any]) -> Iterator[str]:
    """What stands below the table: how many pairs, what was left out, the exact test, where they differ."""
    yield f"{other['n']} pairs of {other['n_tasks']} tasks; 95 % intervals by the paired bootstrap over tasks"
    left_out = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in other["left_out"].items() if n)
    if left_out:
        yield f"left out: {left_out}"
    for key, (one, this) in other["differs"].items():
        yield f"evaluated otherwise: {key} = {one}, here {this}"
    if (test := other["mcnemar"]) is not None:
        low, high = test["ci95"]
        yield (
            f"McNemar's exact test: {test['gained']} gained, {test['lost']} lost, p = {test['p']:.3g}; difference of success "
            f"by Agresti and Min [{low:+.3f}, {high:+.3f}]"
        )
    for which, who in (("gained", "only here"), ("lost", "only in the baseline")):
        if ids := other[which]:
            more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
            yield f"solved {who}: {', '.join(ids[:IDS_SHOWN])}{more}"


def comparison_markdown(result: Mapping[str, Any]) -> str:
    """A section for each evaluation that is compared with the first."""
    sections = []
    for other in result["others"]:
        sections.append(markdown_page(title(other, result), ". ".join(notes(other)) + ".", [table(other, result)]))
    return "\n".join(sections)
