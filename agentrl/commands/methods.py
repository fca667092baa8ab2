"""Commands that look at methods and measure: explain, study, list, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentrl.commands.words import Bound, Flag, Folder, app, as_json


@app.command
def explain(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    trajectory: Annotated[Positional[str], arg(metavar="[TRAJECTORY]", help_behavior_hint="")] = "",
    turn: Annotated[Positional[int | None], arg(metavar="[TURN]", help_behavior_hint="")] = None,
    /,
    iteration: Bound = None,
    list: Flag = False,
    json: Flag = False,
) -> None:
    """Say why a turn has its advantage: its group, each formula with its numbers, and whether the sum is what was recorded; exit
    status 1 where it is not.

    Args:
        run: The folder of a training run.
        trajectory: The id of a trajectory, or a part of it that no other has, as in place=0/member=3; without it, all trajectories
            of the iteration are listed.
        turn: The number of a turn, from 0; without it, all turns are shown in a table.
        iteration: The iteration (default: that of the id, else the last).
        list: List the trajectories of the iteration with their outcomes and advantages.
        json: Print JSON, with all numbers and everything that was compared.
    """
    from agentrl import explain as explaining
    from agentrl.explain_text import print_explanation, print_overview

    overview = list or not trajectory
    found = explaining.overview(run, iteration) if overview else explaining.explain(run, trajectory, turn, iteration)
    if json:
        print(as_json(found))
    else:
        print_overview(found) if overview else print_explanation(found)
    if not found["equal"]:
        raise SystemExit(1)


@app.command
def study(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    /,
    groups: int = 4000,
    group_size: int = 8,
    seed: int = 0,
    out: Folder = None,
    json: Flag = False,
) -> None:
    """Study the methods where the truth is known: bias and variance of every credit method in decision trees small enough for
    dynamic programming. About fifteen seconds of a core.

    Args:
        name: credit.
        groups: How many groups of episodes in each tree, a multiple of 8.
        group_size: How many episodes a group has.
        seed: Draws the episodes; the same seed gives the same numbers.
        out: Also write credit.md, credit.json and credit.png (which needs the extra plots) to this folder.
        json: Print the JSON instead of the hypotheses and the overview.
    """
    from agentrl.study import command, report

    result = command.study(name, groups, seed, group_size, out)
    print(as_json(report.as_dict(result)) if json else report.summary(result))
    if out is not None:
        command.write(result, out)


@app.command(name="list")
def list_(
    what: Annotated[Positional[str], arg(metavar="[WHAT]")] = "all", /, json: Flag = False, markdown: Flag = False
) -> None:
    """List the environments, tools and methods that there are, or the keys of a run file.

    Args:
        what: envs, tools, methods, keys (of a run file), or all, which is the first three.
        json: Print JSON; of methods it also has the parameters with defaults, columns read and written, and the source.
        markdown: Print the reference page of envs, tools, methods or keys.
    """
    from agentrl import reference
    from agentrl.listing import listing, print_listing

    if markdown:
        print(reference.page(what), end="")
        return
    found = listing(what)
    print(as_json(found)) if json else print_listing(found)


@app.command
def bench(name: Annotated[Positional[str], arg(metavar="NAME")], /, json: Flag = False) -> None:
    """Measure the speed of a part against its reference (needs a checkout: tests/benchmarks).

    Args:
        name: household, credit, retriever … or all; another word lists those there are.
        json: Print JSON: rows of name, value, unit, against (what it is measured against), ratio and bound_ratio.
    """
    from agentrl.listing import benchmarks, print_rows

    rows = benchmarks(name)
    print(as_json(rows)) if json else print_rows(rows)
