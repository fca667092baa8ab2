"""One nursery of drivers for the tests of a process, and the undisturbed run that the others are compared with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import Nursery

pytest.importorskip("transformers", reason="training needs the extra 'train'")

RUN = """
[env]
id = "faulty:faults/Household-v0"
max_turns = 4

[rollout]
policy = "faulty:Engine"
attempts = 12
"""


def run_file(folder: Path) -> Path:
    """The tiny run file, on a household and an engine that fail where they are told to. At 9 % a step a try of four turns fails
    with 0.31, and twelve of them in a row with less than 1e-6."""
    from toy_runs import TINY

    plain = TINY.replace('[env]\nid = "agentrl/Household-v0"\noptions = { difficulty = "tiny" }\nmax_turns = 4\n', "")
    path = folder / "run.toml"
    env, rollout = RUN.split("[rollout]")
    path.write_text(env + plain.replace("[rollout]", "[rollout]" + rollout.rstrip()))
    return path


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    if sys.platform != "linux":
        pytest.skip("finds processes through /proc")
    with Nursery() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run file, in which the test works."""
    run_file(tmp_path)
    (tmp_path / "faults").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def calm(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("calm")
    run_file(folder)
    faults = {"run": str(folder / "run"), "log": str(folder / "operations")}
    driver = nursery.train(folder, "checkpoint.keep=0", "--out", str(folder / "run"), **faults)
    assert driver.wait() == 0, driver.said()
    return folder / "run"
