"""What ``agentrl study`` does: run a study, and write it down."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agentrl.errors import ConfigError, did_you_mean
from agentrl.store import write_atomic
from agentrl.study import credit, plot, report

STUDIES = ("credit",)


def study(name: str, groups: int, seed: int, group_size: int, out: Path | None) -> credit.Study:
    """Runs a study, for ``write`` to write down in the folder ``out``, which is made first; tells on standard error how far it is.
    Raises ConfigError for another name, for numbers that cannot be used, and where ``out`` is no folder."""
    if name not in STUDIES:
        raise ConfigError(f"there is no study '{name}'.{did_you_mean(name, STUDIES)}")
    credit.check(groups, group_size)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; give a folder for the results")
        out.mkdir(parents=True, exist_ok=True)
    return credit.run(groups, seed, group_size, _tell)


def _tell(name: str, number: int, total: int) -> None:
    print(f"study: {name}, {number} of {total}", file=sys.stderr, flush=True)


def write(result: credit.Study, out: Path) -> None:
    """Writes credit.md, credit.json and credit.png, each whole or not at all. Raises MissingExtra without matplotlib, when the
    other two are written."""
    write_atomic(out / "credit.md", report.markdown(result).encode())
    write_atomic(out / "credit.json", (json.dumps(report.as_dict(result), allow_nan=False) + "\n").encode())
    write_atomic(out / "credit.png", plot.png(result))
