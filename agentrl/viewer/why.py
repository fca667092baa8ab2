"""Why turns have their advantages, worked out ahead: the formulas of ``agentrl.explain`` for the last iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentrl.algorithms.terms import Term
from agentrl.errors import AgentRLError
from agentrl.explain import Recomputed, recompute
from agentrl.viewer.scripts import short

Json = Any
MOST_TURNS = 3000  # of an iteration: about two milliseconds each
MOST_COMPARED = 40  # turns that one comparison lists


@dataclass(frozen=True, slots=True)
class Reasons:
    """Of an iteration: by trajectory what each of its turns is told. ``problem`` says why there is nothing."""

    by_trajectory: Mapping[str, list[Json]] = field(default_factory=dict)
    problem: str = ""


def reasons(run: Path, iteration: int) -> Reasons:
    """The formulas of an iteration's turns, group by group, of the first ``MOST_TURNS`` turns."""
    try:
        found = recompute(run, iteration)
    except (AgentRLError, ImportError) as error:  # a method of the user's own that is not importable here
        return Reasons(problem=str(error))
    if found.problem:
        return Reasons(problem=found.problem)
    by_trajectory: dict[str, list[Json]] = {}
    row = 0
    for member in found.members:
        if row >= MOST_TURNS:
            break
        by_trajectory[member.id] = [_turn(found, row + number) for number in range(member.n_turns)]
        row += member.n_turns
    return Reasons(by_trajectory)


def _turn(found: Recomputed, row: int) -> list[Json]:
    """Of each credit method: its name, what it gave, the advantage after it and its formula."""
    said = []
    for step in found.steps:
        if step.gave is None:
            continue
        term = step.method.explain(step.given, row, *step.state) if hasattr(step.method, "explain") else None
        said.append(
            {
                "name": type(step.method).__name__,
                "formula": getattr(step.method, "formula", ""),
                "gave": short(float(step.gave[row])),
                "after": short(float(step.advantages[row])),
                "changes": step.changes,
                "term": None if term is None else _term(found, term),
            }
        )
    return said


def _term(found: Recomputed, term: Term) -> dict[str, Json]:
    shown: dict[str, Json] = {
        "symbol": term.symbol,
        "value": short(term.value),
        "formula": term.formula,
        "filled": term.filled(),
        "note": term.note,
        "parts": [_term(found, part) for part in term.parts],
    }
    if (among := term.among) is not None:
        shown["among"] = {"name": among.name, "n": len(among.rows), "units": among.n_units, "unit": among.unit}
        if among.listed and among.name != "group":
            rows: Sequence[int] = among.rows[:MOST_COMPARED].tolist()
            values = among.values[:MOST_COMPARED].tolist()
            shown["among"]["of"] = among.symbol
            shown["among"]["members"] = [[*_place(found, row), short(v)] for row, v in zip(rows, values, strict=True)]
    return shown


def _place(found: Recomputed, row: int) -> tuple[str, int]:
    member = found.member(row)
    return member["trajectory"], member["turn"]
