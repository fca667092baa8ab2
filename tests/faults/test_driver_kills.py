"""The training process itself is killed by SIGKILL: before a file operation that chance chooses, or at a moment. It goes on to the
numbers of the run that nobody disturbed, and leaves neither processes nor half files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from drivers import Driver, Nursery, until
from toy_runs import assert_same_run

from agentrl import seeding
from agentrl.learning.checkpoint import check_whole
from agentrl.store import RunFolder, read_trajectories

IN_CI = (0, 1, 2)
SEEDS = [pytest.param(seed, marks=pytest.mark.slow if seed in IN_CI else pytest.mark.sweep) for seed in range(20)]
PROCESS = ("env.isolation=process", "env.step_timeout_s=20.0")


def assert_whole(run: Path) -> None:
    """Every file can be read, and none is left of those that were never finished."""
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    for step in (run / "checkpoints").glob("step_*"):
        check_whole(step)
        assert (step / "SHA256SUMS").is_file()
    for file in (run / "trajectories").iterdir():
        assert list(read_trajectories(file))
    assert [line["iteration"] for line in RunFolder(run).metrics()] == [0, 1, 2]
    assert json.loads((run / "summary.json").read_text())["status"] == "completed"


def n_records(run: Path) -> int:
    return len(list((run / "trajectories").glob("*.zst"))) + len(list((run / "checkpoints").glob("step_*")))


def start(nursery: Nursery, place: Path, *changes: str, **faults: object) -> Driver:
    """As a person would: with --resume where there is a run."""
    run = place / "run"
    resume = ["--resume"] if (run / "config.toml").is_file() else []
    return nursery.train(place, *changes, "--out", str(run), *resume, run=str(run), **faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_driver_goes_on_to_the_same_numbers(seed: int, nursery: Nursery, calm: Path, place: Path) -> None:
    """One seed in three is killed at a moment, its environments in processes of their own; the others before one of their file
    operations, of which a run has about ninety, and again in the middle of the resume."""
    rng = seeding.stream(seed, "driver kills")
    n_operations = int((calm.parent / "operations").read_text())
    assert n_operations > 60
    at_a_moment = seed % 3 == 1
    changes = PROCESS if at_a_moment else ()
    for _ in range(2):
        if at_a_moment:
            driver, seen = start(nursery, place, *changes), int(rng.integers(1, 9))
            until(lambda d=driver, n=seen: n_records(place / "run") >= n or d.gone(), "a run that stalls")
            time.sleep(float(rng.uniform(0, 0.3)))  # the moment itself is what chance chooses
            driver.kill()
        else:
            driver = start(nursery, place, *changes, files=int(rng.integers(1, n_operations + 1)))
            assert driver.wait() in (-9, 0), driver.said()
        assert driver.nothing_left()
    last = start(nursery, place, *changes)
    assert last.wait() == 0, last.said()
    assert last.nothing_left()
    assert_same_run(calm, place / "run")
    assert_whole(place / "run")


@pytest.mark.sweep
def test_a_finished_run_that_is_resumed_may_be_killed_before_each_of_its_file_operations(
    nursery: Nursery, calm: Path, place: Path
) -> None:
    """It writes its last checkpoint over the one that ``latest`` points to."""
    assert start(nursery, place).wait() == 0
    number, status = 0, -9
    while status:
        number += 1
        driver = start(nursery, place, files=number)
        status = driver.wait()
        assert status in (-9, 0), f"operation {number}: {driver.said()}"
    assert number > 20
    assert_same_run(calm, place / "run")
    assert_whole(place / "run")
