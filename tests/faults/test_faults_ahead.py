"""Rollouts that run ahead of training, under faults and kills: no episode is lost, none is trained on twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from drivers import Nursery, until
from toy_runs import metrics, summary, trajectories

TIS = 'algorithm.token_weights=[{name = "tis"}]'
AHEAD = ("env.isolation=process", "env.step_timeout_s=1.0", "rollout.staleness=1", TIS)


def tasks(run: Path, n: int) -> list[list[str]]:
    """By iteration, the task of each episode. Also checks that each was played whole, once."""
    files = trajectories(run)
    played = [files[f"iteration_{number:06d}.jsonl.zst"] for number in range(n)]
    ids = [trajectory["id"] for members in played for trajectory in members]
    assert len(set(ids)) == len(ids) == 8 * n
    for number, members in enumerate(played):
        assert all(trajectory["id"].startswith(f"iteration={number}/") for trajectory in members)
        assert not {trajectory["outcome"] for trajectory in members} & {"env_fault", "env_timeout", "policy_fault"}
    return [sorted(trajectory["task"]["id"] for trajectory in members) for members in played]


@pytest.mark.slow
def test_nothing_is_lost_or_played_twice_and_a_killed_run_goes_on(nursery: Nursery, calm: Path, place: Path) -> None:
    faults = {"dir": str(place / "faults"), "seed": 4, "raise": 0.05, "hang": 0.02, "kill": 0.02, "engine": 0.1}
    run, line = place / "run", (*AHEAD, "run.iterations=5", "--out", "run")
    driver = nursery.train(place, *line, **faults)
    until(lambda: (run / "checkpoints" / "step_2").exists() or driver.gone(), "a run that stalls")
    assert driver.kill() == -9, driver.said()
    assert driver.nothing_left()
    driver = nursery.train(place, *line, "--resume", **faults)
    assert driver.wait() == 0, driver.said()
    assert driver.nothing_left()
    assert tasks(run, 5)[:3] == tasks(calm, 3)
    rows = metrics(run)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3, 4]
    assert all((row["n_trajectories"], row["episode/faults"]) == (8, 0) for row in rows)
    assert [row["n_updates"] for row in rows] == [2, 4, 6, 8, 10]
    assert max(row["staleness/max"] for row in rows) <= 1 and summary(run)["status"] == "completed"
    assert list((place / "faults").glob("* *"))
