"""A sweep's numbers for people: tables on the screen and as Markdown, and how it goes on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentrl.console import clock, print_table
from agentrl.store import write_atomic
from agentrl.sweep.plan import Plan, Run
from agentrl.sweep.results import PANELS

QUIET_S = 30.0  # between two lines about what runs, where there is no terminal


class Shown(NamedTuple):
    """A table of texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(result: Mapping[str, Any]) -> list[Shown]:
    """Success by recipe, paired differences, lengths, what is missing, what differs in the run files; empty ones are left out."""
    found = [
        Shown(
            "success",
            ("recipe", "panel", "before", "after training", "runs"),
            [row for recipe in result["recipes"] for row in _success_rows(recipe)],
        ),
        Shown(
            f"difference to {result['recipes'][0]['name']}, seed by seed",
            ("recipe", "panel", "difference", "seeds", "better", "worse", "equal"),
            [row for found in result["differences"] for row in _difference_rows(found)],
        ),
        Shown(
            "length of a run",
            ("recipe", "iterations", "episodes", "seconds"),
            [_length_row(recipe) for recipe in result["recipes"] if recipe["n"]],
        ),
        Shown(
            "not among the means",
            ("recipe", "seed", "status", "reason"),
            [
                (row["recipe"], str(row["seed"]), row["status"], row["reason"])
                for row in result["runs"]
                if row["status"] != "completed"
            ],
        ),
        Shown(
            "what differs in the run files",
            ("recipe", "key", f"in {result['recipes'][0]['name']}", "in the recipe"),
            [
                (name, key, _value(one), _value(other))
                for name, keys in result["differing_keys"].items()
                for key, (one, other) in keys.items()
            ],
        ),
    ]
    return [table for table in found if table.rows]


def remarks(result: Mapping[str, Any]) -> str:
    """How to read the tables."""
    budget, panel = result["budget"], result["panel"]
    cut = sum(row["status"] == "completed" and row["iterations"] < budget["iterations"] for row in result["runs"])
    early = f" {cut} of the runs ended early, by their time limit." if cut else ""
    limit = "" if budget["time_limit_s"] is None else f", at most {budget['time_limit_s']:g} s"
    return (
        f"Means over complete runs with their intervals ({result['interval']}); a run's success is that on the first "
        f"{panel['episodes']} tasks of {panel['split']}. Budget of a run: {budget['iterations']} iterations{limit}.{early}"
    )


def _success_rows(recipe: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    runs = f"{recipe['n']} of {recipe['wanted']}"
    for panel in PANELS:
        if panel in recipe:
            after = _interval(recipe[panel]["mean"], recipe[panel]["ci95"])
            yield recipe["name"], panel, f"{recipe['before'][panel]:.3f}", after, runs
    if not recipe["n"]:
        yield recipe["name"], "-", "-", "-", runs


def _length_row(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    return recipe["name"], *(f"{recipe[key]:,.0f}" for key in ("iterations", "episodes", "seconds"))


def _difference_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for panel in PANELS:
        if panel in found:
            difference = found[panel]
            counts = (str(difference[key]) for key in ("n", "better", "worse", "equal"))
            yield found["recipe"], panel, _interval(difference["value"], difference["ci95"], "+.3f"), *counts


def _interval(mean: float | None, interval: Sequence[float] | None, form: str = ".3f") -> str:
    if mean is None:
        return "no common seed"
    if interval is None:
        return f"{mean:{form}} (one seed)"
    return f"{mean:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _value(value: Any) -> str:
    return "" if value is None else str(value)


def write_markdown(plan: Plan, result: Mapping[str, Any]) -> None:
    """``sweep.md``."""
    parts = [f"# {', '.join(recipe.name for recipe in plan.recipes)}: {result['status']}", remarks(result)]
    for table in tables(result):
        lines = [table.headings, ["---"] * len(table.headings), *table.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts += [f"## {table.title[0].upper()}{table.title[1:]}", body]
    if (plan.folder / "curves.png").exists():
        parts.append("![success](curves.png)")
    write_atomic(plan.folder / "sweep.md", ("\n\n".join(parts) + "\n").encode())


def print_result(console: Console, plan: Plan, result: Mapping[str, Any]) -> None:
    """The tables, and where everything is."""
    for table in tables(result):
        shown = Table(title=table.title, title_justify="left", box=None, padding=(0, 1))
        for heading in table.headings:
            shown.add_column(heading, overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        print_table(console, shown)
        console.print()
    console.print(f"{remarks(result)}", highlight=False, markup=False)
    console.print(f"{result['status']}: everything is in {plan.folder}", highlight=False, markup=False, soft_wrap=True)


class Progress:
    """How the runs go on: a table in a terminal, else a line for each that begins or ends and one every so often."""

    def __init__(self, console: Console, plan: Plan, done: int) -> None:
        self.console = console
        self.live: Live | None = None
        self.iterations = max(1, plan.recipes[0].config.run.iterations)
        self.total, self.done = len(plan.runs()), done
        self.failed = 0
        self.took: list[float] = []
        self.begun: dict[Run, float] = {}
        self.before: dict[Run, int] = {}  # iterations that earlier processes of a run have done
        self.said = self.started = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draws in the block. Nothing is drawn by a thread of its own: children are started in between."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self.live:
            yield
        self.live = None

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.console.file.flush()

    def began(self, run: Run) -> None:
        """A run's process was started."""
        self.begun[run] = time.monotonic()
        self.before[run] = len(run.metrics()) if run.begun else 0
        self.say(f"{run}: {'goes on' if run.begun else 'begins'} ({run.folder})")

    def ended(self, run: Run, reason: str) -> None:
        """A run's process has ended."""
        seconds = time.monotonic() - self.begun.pop(run)
        if reason:
            self.failed += 1
            self.say(f"{run}: FAILED after {clock(seconds)}: {reason}; see {run.log}")
            return
        self.done += 1
        self.took.append(seconds)
        after = run.summary()["eval"]["after"]
        greedy = f", greedy {after['greedy']['success_rate']:.3f}" if "greedy" in after else ""
        self.say(f"{run}: success {after['success_rate']:.3f}{greedy}, {clock(seconds)}")

    def look(self, running: Sequence[Run], waiting: Sequence[Run]) -> None:
        """Shows the runs that are under way: iteration and success of the last one, and the time left for all."""
        rows = [self._row(run) for run in running]
        if self.live is not None:
            self.live.update(Group(*self._table(rows, len(waiting))), refresh=True)
        elif time.monotonic() - self.said > QUIET_S:
            self.said = time.monotonic()
            shown = "; ".join(
                f"{run} {iteration}/{self.iterations} {success}".strip() for run, iteration, success in rows
            )
            self.say(f"{self._head(rows, len(waiting))}  {shown}")

    def _row(self, run: Run) -> tuple[Run, int, str]:
        metrics = run.metrics() if run.begun else []
        return run, len(metrics), f"{metrics[-1]['episode/success_rate']:.3f}" if metrics else ""

    def _head(self, rows: Sequence[tuple[Run, int, str]], waiting: int) -> str:
        left = self.left([(run, iteration) for run, iteration, _ in rows], waiting)
        failed = f", {self.failed} failed" if self.failed else ""
        after = "" if left is None else f", left about {clock(left)}"
        return (
            f"{self.done}/{self.total} runs complete{failed}, elapsed {clock(time.monotonic() - self.started)}{after}"
        )

    def left(self, running: Sequence[tuple[Run, int]], waiting: int) -> float | None:
        """Seconds until all runs end, from what the finished ones took and else from how far the others are; None where nothing
        tells."""
        now = time.monotonic()
        shares = {run: min(1.0, iteration / self.iterations) for run, iteration in running}
        passed = {run: iteration - self.before[run] for run, iteration in running}
        whole = [(now - self.begun[run]) / passed[run] * self.iterations for run in shares if passed[run] > 0]
        known = self.took or whole
        if not known:
            return None
        mean = sum(known) / len(known)
        return mean * (waiting + sum(1 - share for share in shares.values())) / max(1, len(shares))

    def _table(self, rows: Sequence[tuple[Run, int, str]], waiting: int) -> Iterator[Any]:
        table = Table(box=None, padding=(0, 1))
        for heading in ("recipe", "seed", "iteration", "success", "elapsed"):
            table.add_column(heading, justify="left" if heading == "recipe" else "right")
        for run, iteration, success in rows:
            elapsed = clock(time.monotonic() - self.begun[run])
            table.add_row(Text(run.recipe), str(run.seed), f"{iteration}/{self.iterations}", success, elapsed)
        yield table
        yield Text(self._head(rows, waiting), style="bold")
