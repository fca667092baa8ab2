"""Episodes for a terminal: a table of what a run holds, and readable transcripts of the worst, the best or a named one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrl.console import print_table
from agentrl.errors import ConfigError
from agentrl.store import find_trajectory, read_trajectories
from agentrl.terminal import inert
from agentrl.types import Trajectory
from agentrl.viewer.sources import open_run

STYLES = {True: "bold green", False: "bold red"}


def chosen(run: Path, *, worst: int = 0, best: int = 0, wanted: str = "") -> list[Trajectory]:
    """The ``worst`` or the ``best`` episodes of a folder without faults, or the one whose id is, or alone contains, ``wanted``.

    Worst: failures first, then by reward, then the longer ones, then the newer ones. Raises CheckpointError for what is not there,
    ConfigError where more than one of the three is asked for.
    """
    if sum(map(bool, (worst, best, wanted))) > 1 or worst < 0 or best < 0:
        raise ConfigError("wanted one of --worst N, --best N and --id ID, N of at least 1; give one of them")
    if wanted:
        return [find_trajectory(run, wanted)]
    kept: list[Trajectory] = []
    for trajectory in _newest_first(run):
        kept.append(trajectory)
        if len(kept) >= 4 * max(worst, best, 64):  # so that no more than that are in memory
            kept = _first(kept, worst, best)
    return _first(kept, worst, best)


def _first(episodes: list[Trajectory], worst: int, best: int) -> list[Trajectory]:
    def rank(one: Trajectory) -> tuple[bool, float, int]:
        return (one.success, one.reward, -one.n_turns)

    if best:  # not reversed: of equals the newer one stays first
        return sorted(episodes, key=lambda one: (not one.success, -one.reward, one.n_turns))[:best]
    return sorted(episodes, key=rank)[:worst]


def _newest_first(run: Path) -> Iterator[Trajectory]:
    for source in reversed(open_run(run).sources):
        yield from (each for each in reversed(list(read_trajectories(source.path))) if not each.outcome.is_fault)


def print_transcript(console: Console, trajectory: Trajectory) -> None:
    """One episode, turn by turn, with what credit each got."""
    head = Text()
    head.append(inert(trajectory.id), style="bold")
    head.append(f"\n{inert(trajectory.task.type or trajectory.env)} · ", style="dim")
    head.append("solved" if trajectory.success else str(trajectory.outcome), style=STYLES[trajectory.success])
    head.append(f" · return {trajectory.reward:g} · {trajectory.n_turns} turns", style="dim")
    console.print(head, soft_wrap=True)
    for number, turn in enumerate(trajectory.turns):
        console.print()
        console.print(Text(f"{number:>3}  ", style="dim").append(_indented(turn.observation), style="dim"))
        line = Text("   ❯ ", style="cyan").append(_indented(turn.action) or "(no action)", style="bold")
        if not turn.valid:
            line.append("   invalid", style="bold yellow")
        if turn.reward:
            line.append(f"   reward {turn.reward:+g}", style=STYLES[turn.reward > 0])
        if turn.penalty:
            line.append(f"   penalty {turn.penalty:g}", style="yellow")
        if turn.advantage is not None:
            line.append(f"   advantage {turn.advantage:+.3f}", style="blue" if turn.advantage >= 0 else "magenta")
        console.print(line)
    if trajectory.last_observation:
        console.print()
        console.print(Text("end  ", style="dim").append(_indented(trajectory.last_observation), style="dim"))
    if trajectory.error:
        console.print(Text(f"     {_indented(trajectory.error)}", style="red"))


def print_phases(console: Console, run: Path) -> None:
    """What a folder holds: episodes and success of each phase; of training the newest iterations alone."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("phase", "episodes", "solved", "return", "turns", "faults"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    sources = open_run(run).sources
    numbers = [source.iteration for source in sources if source.iteration is not None]
    shown = [source for source in sources if source.iteration is None or source.iteration in numbers[-8:]]
    for source in shown:
        found = list(read_trajectories(source.path))
        scored = [each for each in found if not each.outcome.is_fault]
        n = max(1, len(scored))
        name = source.phase if source.iteration is None else f"iteration {source.iteration}"
        rates = (sum(each.success for each in scored) / n, sum(each.reward for each in scored) / n)
        turns = sum(each.n_turns for each in scored) / n
        cells = (
            name,
            str(len(found)),
            f"{rates[0]:.3f}",
            f"{rates[1]:.3f}",
            f"{turns:.1f}",
            str(len(found) - len(scored)),
        )
        table.add_row(*(Text(inert(cell)) for cell in cells))
    if len(shown) < len(sources):
        table.title, table.title_justify = f"the newest {len(numbers[-8:])} of {len(numbers)} iterations", "left"
    print_table(console, table)


def _indented(text: str) -> str:
    return inert(text.strip()).replace("\n", "\n     ")
