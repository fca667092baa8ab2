"""The command that shows what a run recorded: as a page, or in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentrl.commands.words import Bound, Flag, app


@app.command
def view(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    worst: Bound = None,
    best: Bound = None,
    id: Annotated[str | None, arg(metavar="ID", help_behavior_hint="")] = None,
    text: Flag = False,
    single_file: Flag = False,
    formulas: Annotated[int, arg(metavar="N")] = 1,
    no_open: Flag = False,
) -> None:
    """Write RUN/report.html anew and open it: curves, episodes, the tokens of each turn and why it has its advantage. Or print
    episodes.

    Args:
        run: The folder of a training run, an evaluation (`agentrl eval --out`), demonstrations or recorded games.
        worst: Print the N worst episodes instead: failures first, then by return, longer and newer ones first.
        best: Print the N best ones: successes first, then by return, shorter and newer ones first.
        id: Print the trajectory whose id this is, or which alone contains it, as in iteration=12/task=ID/place=0/member=3.
        text: Print how many episodes each phase has and how many were solved.
        single_file: Put all episodes into report.html itself, to send it to somebody; for runs of up to 200 MiB.
        formulas: For how many of the last iterations the page holds each advantage's formula with its numbers (two milliseconds a
            turn).
        no_open: Write the page and do not open it.
    """
    from rich.console import Console

    from agentrl.errors import ConfigError

    if worst is not None or best is not None or id is not None or text:
        from agentrl.viewer.transcripts import chosen, print_phases, print_transcript

        for name, number in (("worst", worst), ("best", best)):
            if number is not None and number < 1:
                raise ConfigError(f"--{name} wants a number of at least 1; got {number}")
        if id == "":
            raise ConfigError("--id wants an id, or a part of one; got none")
        console = Console(markup=False, emoji=False, highlight=False)
        if text:
            print_phases(console, run)
        if worst is None and best is None and id is None:
            return
        for place, trajectory in enumerate(chosen(run, worst=worst or 0, best=best or 0, wanted=id or "")):
            if place or text:
                console.print()
            print_transcript(console, trajectory)
        return
    from agentrl.viewer import write_report
    from agentrl.viewer.opening import open_page

    if formulas < 0:
        raise ConfigError(f"--formulas wants a number of at least 0; got {formulas}")
    written = write_report(run, single_file=single_file, formulas=formulas)
    size = f"{written.n_bytes / 1e6:.1f} MB"
    print(f"{written.page}: {written.n_episodes} episodes, {size}")
    for note in written.notes:
        print(f"note: {note}")
    if not no_open and not open_page(written.page):
        print("open it in a browser: there is none that this terminal could start")
