"""The command that compares evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from agentrl.commands.words import Flag, app, as_json


@app.command
def compare(
    evaluations: Annotated[Positional[tuple[str, ...]], arg(metavar="A B [...]", help_behavior_hint="")] = (),
    /,
    fail_if: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="CONDITION", help_behavior_hint="")] = (),
    markdown: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None,
    json: Flag = False,
) -> None:
    """Compare evaluations with the first of them, paired by task and sample; exit status 1 where a --fail-if condition is met.

    Args:
        evaluations: Folders of `agentrl eval --out`, or files of `agentrl eval --json`.
        fail_if: METRIC drops|rises by NUMBER, as in "success_rate drops by 0.05"; repeat it for more. Metrics: those of the table.
        markdown: Write the comparison to this file, too.
        json: Print one JSON object instead of tables.
    """
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from agentrl.console import print_table
    from agentrl.evaluation.compare import Condition
    from agentrl.evaluation.compare import compare as compared
    from agentrl.evaluation.comparison import comparison_markdown, notes, tables
    from agentrl.store import write_atomic

    conditions = [Condition.parse(text) for text in fail_if]
    result = compared(evaluations)
    met = [line for condition in conditions for line in condition.met(result)]
    if markdown is not None:
        write_atomic(markdown, comparison_markdown(result).encode())
    if json:
        print(as_json(result | {"failed": met}))
    else:
        console = Console(markup=False, emoji=False, highlight=False)  # names are data
        for other in result["others"]:
            for shown in tables(other, result):
                drawn = Table(title=Text(shown.title), title_justify="left", box=None)
                for heading in shown.headings:
                    drawn.add_column(heading)
                for row in shown.rows:
                    drawn.add_row(*map(Text, row))
                print_table(console, drawn)
            for line in notes(other):
                console.print(line, soft_wrap=True)
            console.print()
    for line in met:
        print(f"agentrl: failed: {line}", file=sys.stderr)
    if met:
        raise SystemExit(1)
