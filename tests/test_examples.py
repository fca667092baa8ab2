"""Every example runs as its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SMALLER = {  # what takes minutes as it stands
    "07_grpo_from_scratch": ["--iterations", "1", "--tasks", "2", "--group-size", "4", "--houses", "4"],
}


def test_what_is_of_ones_own_takes_less_than_forty_lines() -> None:
    own = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES if "your_own" in path.name}
    assert len(own) >= 3 and max(own.values()) < 40, own


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_runs_and_prints(path: Path) -> None:
    command = [sys.executable, str(path), *SMALLER.get(path.stem, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
