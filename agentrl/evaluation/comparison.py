"""A comparison's numbers for people: tables of texts for the screen and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from agentrl.evaluation.tables import Shown, markdown_page

IDS_SHOWN = 20
SHORT = 8  # letters that may as well be repeated


def title(other: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Which two are compared."""
    return f"{other['name']} against {result['baseline']['name']}"


def tables(other: Mapping[str, Any], result: Mapping[str, Any]) -> list[Shown]:
    """The metrics of both and their differences; success by type of task and why episodes failed, where that is told."""
    headings = ("baseline", "this one", "difference")
    metrics = [(name, *_sides(found)) for name, found in other["metrics"].items()]
    types = [(name, str(found["n_tasks"]), *_sides(found)) for name, found in other["by_type"].items()]
    kinds = [(kind, str(one), str(this), f"{this - one:+d}") for kind, (one, this) in other["failures"].items()]
    found = [
        Shown(title(other, result), ("metric", *headings), metrics),
        Shown("success by task type", ("type", "tasks", *headings), types),
        Shown("episodes that failed", ("kind", *headings), kinds),
    ]
    return [table for table in found if table.rows]


def _sides(found: Mapping[str, Any]) -> tuple[str, str, str]:
    interval = found["ci95"]
    shown = "(one task)" if interval is None else f"[{interval[0]:+.4g}, {interval[1]:+.4g}]"
    return f"{found['baseline']:.4g}", f"{found['other']:.4g}", f"{found['value']:+.4g} {shown}"


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
            yield f"solved {who}: {listed(ids)}"


def listed(ids: Sequence[str]) -> str:
    """The first of some ids, what all of them begin with told once.

    >>> listed(["house-easy-3", "house-easy-14", "house-easy-9"]), listed(["door", "house"])
    ('house-easy-{3, 14, 9}', 'door, house')
    """
    first = ids[:IDS_SHOWN]
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    same = "".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(min(first), max(first), strict=False)))
    same = same[: max(same.rfind(sign) for sign in "-_/=+:") + 1]
    if len(ids) < 2 or len(same) < SHORT:
        return ", ".join(first) + more
    return f"{same}{{{', '.join(name[len(same) :] for name in first)}}}{more}"


def comparison_markdown(result: Mapping[str, Any]) -> str:
    """A section for each evaluation that is compared with the first."""
    sections = []
    for other in result["others"]:
        sections.append(markdown_page(title(other, result), ". ".join(notes(other)) + ".", tables(other, result)))
    return "\n".join(sections)
