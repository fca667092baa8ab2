"""Environments that raise, hang and die, engines that fail, workers and keepers that are killed: the run is the undisturbed one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from drivers import Driver, Nursery, until
from toy_runs import assert_same_run, metrics

PROCESS = ("env.isolation=process", "env.step_timeout_s=1.0")


def n_retries(run: Path) -> int:
    return int(sum(line["rollout/retries"] for line in metrics(run)))


def assert_same_but_for_retries(calm: Path, run: Path) -> None:
    """To the last bit; of the faults only their number is seen."""
    lines = metrics(run)
    assert all(line["episode/faults"] == 0 for line in lines)
    text = "".join(json.dumps({**line, "rollout/retries": 0}) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    assert_same_run(calm, run)


def ended(driver: Driver) -> Path:
    assert driver.wait() == 0, driver.said()
    assert driver.nothing_left()
    return driver.err.parent / "run"


@pytest.mark.slow
def test_exceptions_hangs_and_deaths_of_environments_change_nothing(nursery: Nursery, calm: Path, place: Path) -> None:
    """5 % of the steps raise, 2 % hang until they are stopped, 2 % kill their process."""
    faults = {"dir": str(place / "faults"), "seed": 1, "raise": 0.05, "hang": 0.02, "kill": 0.02}
    run = ended(nursery.train(place, *PROCESS, "checkpoint.keep=0", "--out", "run", **faults))
    assert n_retries(run) >= 3
    happened = [file.name.partition(" ")[0] for file in (place / "faults").glob("* *")]
    assert set(happened) == {"raise", "hang", "kill"} and len(happened) >= 8
    assert_same_but_for_retries(calm, run)


@pytest.mark.slow
def test_errors_of_the_engine_change_nothing(nursery: Nursery, calm: Path, place: Path) -> None:
    """A quarter of the batches fail, before or after the work, each for every live episode."""
    faults = {"dir": str(place / "faults"), "seed": 2, "engine": 0.25}
    run = ended(nursery.train(place, "checkpoint.keep=0", "--out", "run", **faults))
    assert n_retries(run) >= 8
    assert_same_but_for_retries(calm, run)


@pytest.mark.slow
def test_workers_and_the_keeper_that_are_killed_from_outside_change_nothing(
    nursery: Nursery, calm: Path, place: Path
) -> None:
    """When an iteration begins, half of the workers are killed in what they do then; once it is the keeper, with which all of
    them die."""
    driver = nursery.train(place, *PROCESS, "checkpoint.keep=0", "--out", "run")
    killed = 0
    for number in range(3):
        saved = place / "run" / "checkpoints" / f"step_{number}"
        until(lambda saved=saved: saved.exists() or driver.gone(), "a run that stalls")
        living = sorted(driver.started())
        for pid in living[:1] if number == 1 else living[1::2]:  # the keeper was started first
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
    run = ended(driver)
    assert killed >= 3
    assert_same_but_for_retries(calm, run)
