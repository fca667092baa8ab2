"""What a person sees while agentrl works: live in a terminal, plain lines elsewhere (a log file, CI)."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
COLUMNS = (  # metric, heading, format
    ("episode/success_rate", "success", "{:.3f}"),
    ("reward/mean", "reward", "{:.3f}"),
    ("episode/valid_action_ratio", "valid", "{:.3f}"),
    ("episode/turns", "turns", "{:.1f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("grad_norm", "grad", "{:.2f}"),
    ("perf/tokens_per_second", "tokens/s", "{:.0f}"),
    ("time/rollout", "rollout s", "{:.2f}"),
    ("time/training", "training s", "{:.2f}"),
)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The last values as bars, 0 to 1.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    return "".join(_BARS[min(7, max(0, int(value * 8)))] for value in values[-width:])


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Silent; the base of the others, and what tests and notebooks get."""

    @staticmethod
    def for_terminal() -> Progress:
        """Live where standard output is a terminal, plain lines elsewhere."""
        console = Console()
        return LiveProgress(console) if console.is_terminal else LineProgress(console)

    @contextmanager
    def run(self, folder: Path, config: Any, iteration: int, seconds: float = 0.0) -> Iterator[None]:
        """Wraps a whole run, from ``iteration`` on; ``seconds`` of its time are over."""
        yield

    def note(self, text: str) -> None:
        """One line that should not be missed."""

    def panel(self, name: str, n: int, max_turns: int = 0) -> None:
        """An evaluation of ``n`` episodes, each of at most ``max_turns`` turns (0: not known), begins."""

    def turn(self) -> None:
        """A turn was played."""

    def episode(self, trajectory: Any) -> None:
        """An episode ended."""

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """An iteration ended."""

    def evaluated(self, name: str, result: Mapping[str, Any]) -> None:
        """An evaluation ended."""

    def update(self, number: int, total: int, metrics: Mapping[str, Any]) -> None:
        """A supervised update ended."""

    def finished(self, summary: Mapping[str, Any], folder: Path) -> None:
        """The run is complete."""


class LineProgress(Progress):
    """One line an iteration."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.perf_counter()
        self.learning = 0.0  # when the first iteration began
        self.first = self.total = 0
        self.ends = math.inf

    @contextmanager
    def run(self, folder: Path, config: Any, iteration: int, seconds: float = 0.0) -> Iterator[None]:
        self.first, self.total = iteration, config.run.iterations
        self.ends = time.perf_counter() + (config.run.time_limit_s or math.inf) - seconds
        self.say(f"run folder: {folder}")
        yield

    def note(self, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
        sys.stdout.flush()

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        shown = "  ".join(f"{head} {form.format(metrics[name])}" for name, head, form in COLUMNS if name in metrics)
        number = metrics["iteration"]
        left = self.left(metrics)
        faults = metrics.get("episode/faults", 0)
        shown += f"  FAULTS {faults}" if faults else ""
        shown += f"  {metrics['binds']}" if "binds" in metrics else ""
        self.say(f"{number + 1:4d}/{self.total}  {shown}  left {clock(left)}")

    def left(self, metrics: Mapping[str, Any]) -> float:
        """Seconds until the last iteration ends, if all take as long as those of this process; no more than the run's time
        limit leaves. ``metrics`` are the newest iteration's."""
        now, done = time.perf_counter(), metrics["iteration"] + 1 - self.first
        if done == 1:
            self.learning = now - metrics["time/iteration"]
        rest = (now - self.learning) / done * (self.total - self.first - done)
        return max(0.0, min(rest, self.ends - now))

    def evaluated(self, name: str, result: Mapping[str, Any]) -> None:
        low, high = result["ci95"]
        self.say(
            f"evaluation {name}: success {result['success_rate']:.3f} [{low:.3f}, {high:.3f}]  n {result['n']}  "
            f"turns {result['mean_turns']:.1f}  valid {result['valid_action_ratio']:.3f}  {result['seconds']:.1f} s"
        )

    def update(self, number: int, total: int, metrics: Mapping[str, Any]) -> None:
        if (number + 1) % 50 == 0 or number + 1 == total:
            elapsed = time.perf_counter() - self.started
            left = elapsed / (number + 1) * (total - number - 1)
            self.say(f"update {number + 1}/{total}  loss {metrics['loss']:.4f}  {clock(elapsed)}  left {clock(left)}")

    def finished(self, summary: Mapping[str, Any], folder: Path) -> None:
        print_summary(self.console, summary, folder)


class LiveProgress(LineProgress):
    """The newest iterations as a table, the success rate as a line of bars, the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.live: Live | None = None
        self.rows: list[Mapping[str, Any]] = []
        self.remaining = 0.0
        self.now = ""
        self.episodes = 0

    @contextmanager
    def run(self, folder: Path, config: Any, iteration: int, seconds: float = 0.0) -> Iterator[None]:
        told = super().run(folder, config, iteration, seconds)
        with told, Live(console=self.console, refresh_per_second=4) as self.live:
            yield
        self.live = None

    def panel(self, name: str, n: int, max_turns: int = 0) -> None:
        self.now, self.episodes = f"evaluating {name} ({n} episodes)", 0
        self._draw()

    def episode(self, trajectory: Any) -> None:
        self.episodes += 1
        if self.episodes % 8 == 0:
            self._draw()

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        self.rows.append(metrics)
        self.remaining = self.left(metrics)
        self.now, self.episodes = "", 0
        self._draw()

    def _draw(self) -> None:
        if self.live is not None:
            self.live.update(Group(*self._lines()))

    def _lines(self) -> Iterator[Any]:
        elapsed = time.perf_counter() - self.started
        if self.rows:
            table = Table(box=None, collapse_padding=True, pad_edge=False)  # 80 columns wide, also with 1000/1000
            for heading in ("", *(head for _, head, _ in COLUMNS)):
                table.add_column(heading, justify="right")
            for row in self.rows[-8:]:
                cells = [form.format(row[name]) if name in row else "" for name, _, form in COLUMNS]
                table.add_row(f"{row['iteration'] + 1}/{self.total}", *cells)
            yield table
            line = sparkline([row["episode/success_rate"] for row in self.rows])
            yield Text(f"what binds: {self.rows[-1].get('binds', 'not known')}", style="dim")
            yield Text(f"success {line}   elapsed {clock(elapsed)}   left about {clock(self.remaining)}", style="bold")
        if self.now or self.episodes:
            yield Text(f"{self.now or 'rolling out'}: {self.episodes} episodes done", style="dim")


class PanelProgress(Progress):
    """How far one evaluation has come, on standard error, which leaves standard output to the results: a line that is drawn
    again in a terminal, a new line every ``every`` seconds elsewhere."""

    def __init__(self, console: Console | None = None, every: float = 10.0) -> None:
        self.console = console or Console(stderr=True)
        self.every = every
        self.started = self.told = time.perf_counter()
        self.n = self.max_turns = self.turns = self.ended = self.successes = self.turns_of_ended = 0

    @contextmanager
    def run(self, folder: Path, config: Any, iteration: int, seconds: float = 0.0) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, get_renderable=lambda: Text(self.line()), transient=True, refresh_per_second=2):
            yield

    def panel(self, name: str, n: int, max_turns: int = 0) -> None:
        self.started = self.told = time.perf_counter()
        self.n, self.max_turns = n, max_turns

    def turn(self) -> None:
        self.turns += 1
        self._tell()

    def episode(self, trajectory: Any) -> None:
        self.ended += 1
        self.successes += bool(trajectory.success)
        self.turns_of_ended += len(trajectory.turns)
        self._tell()

    def line(self) -> str:
        """Turns, episodes that ended, successes, and the most time that is left if turns take as long as until now."""
        elapsed = time.perf_counter() - self.started
        text = f"evaluating: {self.turns} turns, {self.ended}/{self.n} episodes, {self.successes} successes, {clock(elapsed)}"
        most = self.turns_of_ended + (self.n - self.ended) * self.max_turns
        if not self.turns or most < self.turns:
            return text
        return f"{text}, at most {clock(elapsed / self.turns * (most - self.turns))} left"

    def _tell(self) -> None:
        now = time.perf_counter()
        if now - self.told >= self.every and not self.console.is_terminal:
            self.told = now
            self.console.print(self.line(), highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_summary(console: Console, summary: Mapping[str, Any], folder: Path) -> None:
    """Before, after and the difference of every panel."""
    table = Table(title=f"{summary['status']} in {clock(summary['seconds'])}", title_justify="left", box=None)
    for heading in ("panel", "before", "after", "difference"):
        table.add_column(heading)
    results = summary["eval"]
    names = [("sampled", results.get("before", {}), results.get("after", {}), results.get("difference", {}))]
    for name in ("greedy", "games"):
        if name in results.get("before", {}):
            names.append((name, results["before"][name], results["after"][name], results["difference"][name]))
    for name, before, after, difference in names:
        if "n" in before:
            table.add_row(f"{name} (n = {before['n']})", rate(before), rate(after), gain(difference))
    if table.row_count:
        print_table(console, table)
    else:
        console.print(table.title, highlight=False, markup=False, emoji=False)
    if found := summary.get("time"):
        shown = f"what bound the iterations: {found['binds']}; to change: {found['setting']}"
        console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if best := summary.get("best"):
        shown = (
            f"best checkpoint: step {best['step']}, success {rate(best)} by '{best['evaluation']}' (checkpoints/best)"
        )
        console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)
    standing = [alarm["name"] for alarm in summary.get("alarms", ()) if alarm["cleared"] is None]
    if standing:
        shown = f"alarms that stand at the end: {', '.join(standing)} (alarms.jsonl)"
        console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)
    shown = f"everything is in {folder}: agentrl view {shlex.quote(str(folder))}"
    console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """A table whose texts are data, fitted to a terminal. A file or a pipe has no width: no cell is cut or folded there."""
    if not console.is_terminal:
        wide = console.options.update(max_width=10_000, markup=False)
        table.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table, markup=False, emoji=False, crop=False)


def rate(result: Mapping[str, Any]) -> str:
    """A success rate with its interval."""
    return f"{result['success_rate']:.3f} [{result['ci95'][0]:.3f}, {result['ci95'][1]:.3f}]"


def gain(result: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    return f"{result['value']:+.3f} [{result['ci95'][0]:+.3f}, {result['ci95'][1]:+.3f}]"
