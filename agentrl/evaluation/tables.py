"""An evaluation's numbers for people: tables of texts, and the tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

FAILED_SHOWN = 200  # rows of the last table; eval.json has all

RATES = ("n", "success", "score", "turns", "valid actions")


class Shown(NamedTuple):
    """A table of texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def heading(result: Mapping[str, Any]) -> str:
    """What was evaluated, in a line."""
    return f"{result['policy']} on {result['env']}, {result['split']}"


def remarks(result: Mapping[str, Any]) -> str:
    """How to read the tables."""
    several = result["samples"] > 1
    interval = "Wilson's at the effective number of episodes, clustered by task" if several else "Wilson's"
    tasks = f"{result['n_tasks']} tasks, {result['samples']} episodes each" if several else f"{result['n_tasks']} tasks"
    return (
        f"{tasks}, seed {result['seed']}, {result['seconds']:.1f} s. Intervals are 95 %: {interval}. "
        f"{result['faults']} episodes ended by a fault of the machinery and are part of no rate."
    )


def tables(result: Mapping[str, Any]) -> list[Shown]:
    """Rates by type and difficulty, pass@k, failures, costs, ends, the episodes that failed; empty ones are left out."""
    found = [
        Shown("task types", ("type", *RATES), [*_rate_rows(result["by_type"]), ("all", *_rates(result))]),
        Shown("difficulty", ("difficulty", *RATES), list(_rate_rows(result.get("by_difficulty", {})))),
        Shown(
            "several episodes a task",
            ("k", "pass@k: one of k succeeds", "pass^k: all of k succeed", "tasks"),
            list(_pass_rows(result)) if result["samples"] > 1 else [],
        ),
        Shown("failures", ("kind", "episodes"), [(kind, str(n)) for kind, n in result["failures"].items() if n]),
        Shown("costs", ("what", "an episode"), list(_cost_rows(result))),
        Shown("how episodes ended", ("outcome", "episodes"), [(k, str(n)) for k, n in result["outcomes"].items()]),
        _failed(result["episodes"]),
    ]
    return [table for table in found if table.rows]


def _rate_rows(by: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name, row in by.items():
        if name != "all":
            yield name or "-", *_rates(row)


def _rates(row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["ci95"]
    return (
        str(row["n"]),
        f"{row['success_rate']:.3f} [{low:.3f}, {high:.3f}]",
        f"{row['score']:.3f}",
        f"{row['mean_turns']:.1f}",
        f"{row['valid_action_ratio']:.3f}",
    )


def _pass_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for k, one in result["pass_at_k"].items():
        cells = [f"{p['value']:.3f} [{p['ci95'][0]:.3f}, {p['ci95'][1]:.3f}]" for p in (one, result["pass_hat_k"][k])]
        yield k, *cells, str(one["n_tasks"])


def _cost_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "turns", f"{result['mean_turns']:.1f}"
    for name, value in result.get("tokens_per_episode", {}).items():
        yield f"{name} tokens", "not known" if value is None else f"{value:,.0f}"
    yield "seconds waiting for actions", f"{result['time']['sampling_per_episode_s']:.3f}"
    yield "seconds in the environment", f"{result['time']['environment_per_episode_s']:.3f}"
    if result.get("cost") is not None and result["n"]:
        yield "price", f"{result['cost'] / result['n']:.6g}"


def _failed(rows: Sequence[Mapping[str, Any]]) -> Shown:
    failed = [row for row in rows if row["failure"]]
    more = f", the first {FAILED_SHOWN} of {len(failed)}" if len(failed) > FAILED_SHOWN else ""
    return Shown(
        f"episodes that failed{more}",
        ("episode", "type", "failure", "turns", "invalid actions"),
        [
            (row["id"], row["type"] or "-", row["failure"], str(row["turns"]), str(row["invalid"]))
            for row in failed[:FAILED_SHOWN]
        ],
    )


def markdown(result: Mapping[str, Any]) -> str:
    """``eval.md``."""
    return markdown_page(heading(result), remarks(result), tables(result))


def markdown_page(title: str, text: str, found: Sequence[Shown]) -> str:
    """A title, a paragraph and tables. What names contain is shown as it is, also pipes, line ends and HTML."""
    parts = [f"# {escaped(title)}", escaped(text)]
    for table in found:
        lines = [[escaped(cell) for cell in line] for line in (table.headings, *table.rows)]
        lines.insert(1, ["---"] * len(table.headings))
        parts += [f"## {escaped(table.title[0].upper() + table.title[1:])}",
                  "\n".join("| " + " | ".join(line) + " |" for line in lines)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, on one line. An underscore within a word and brackets around numbers mean nothing to it
    and stay readable in the source."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*|#~]|(?<!\w)_|_(?!\w)|\[(?![-+]?\d)|(?<=\])[(\[:]", r"\\\g<0>", line)
