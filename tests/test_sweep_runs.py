"""Sweeps of real processes: to the end, with a run that is killed, and stopped in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_trainer import wait_for
from toy_runs import TINY, assert_same_run, summary

pytest.importorskip("transformers", reason="training needs the extra 'train'")

from agentrl.cli import main
from agentrl.config import load
from agentrl.rollouts.worker import children
from agentrl.sweep import make_plan, results
from agentrl.sweep.plan import Run, begin, reopened
from agentrl.sweep.processes import Workers, train_all
from agentrl.trainer import train

pytestmark = pytest.mark.slow
SMALL = ("run.iterations=2", "evaluation.episodes=2", "checkpoint.every=1")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gigpo.toml").write_text(TINY)
    (tmp_path / "grpo.toml").write_text('extends = "gigpo.toml"\n[algorithm]\ncredit = { name = "grpo" }\n')
    return tmp_path


def alone(recipe: str, seed: int, out: str) -> Path:
    """The same run without a sweep."""
    train(load(f"{recipe}.toml", [*SMALL, f"run.seed={seed}"]), out)
    return Path(out)


def test_two_recipes_over_two_seeds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "sweep",
        "gigpo.toml",
        "grpo.toml",
        "--seeds",
        "2",
        "--jobs",
        "2",
        "--threads",
        "1",
        "--out",
        "made",
        *SMALL,
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "difference to gigpo, seed by seed" in shown and "completed: everything is in made" in shown
    result = json.loads((files / "made" / "sweep.json").read_text())
    assert result["status"] == "completed" and len(result["runs"]) == 4
    for row in result["runs"]:
        run = summary(Path(row["folder"]))
        assert (run["status"], run["seed"], run["iterations"], run["threads"]) == ("completed", row["seed"], 2, 1)
        assert row["after"]["sampled"] == run["eval"]["after"]["success_rate"]
    assert [recipe["n"] for recipe in result["recipes"]] == [2, 2]
    assert result["differences"][0]["sampled"]["n"] == 2
    assert_same_run(Path("made/grpo/seed_1"), alone("grpo", 1, "alone"))


def test_a_recipe_that_cannot_be_built_is_found_before_the_first_trains(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "typo.toml").write_text('extends = "gigpo.toml"\n[algorithm]\ncredit = { name = "grpo", eqs = 1e-6 }\n')
    assert main(["sweep", "typo.toml", "--seeds", "2", "--out", "made"]) == 2
    error = capsys.readouterr().err
    assert "typo: algorithm.credit[0] has no parameter 'eqs'. Did you mean 'eps'?" in error and error.count("\n") == 1
    assert not Path("made").exists()


class Killer:
    """Watches a sweep, and kills the process that stalls."""

    def __init__(self, workers: Workers, stalled: Path) -> None:
        self.workers = workers
        self.stalled = stalled
        self.killed: list[Run] = []
        self.ends: dict[Run, str] = {}

    def began(self, run: Run) -> None:
        pass

    def ended(self, run: Run, reason: str) -> None:
        self.ends[run] = reason

    def look(self, running: Sequence[Run], waiting: Sequence[Run]) -> None:
        if self.stalled.exists() and not self.killed:
            self.killed = list(running)
            self.workers.processes[running[0]].kill()


def test_runs_that_fail_and_are_killed_are_told_and_leave_the_others_alone(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "broken.toml").write_text('extends = "gigpo.toml"\nalgorithm.filters = [{ name = "toy_runs:Broken" }]\n')
    plan = begin(make_plan(["broken.toml", "gigpo.toml"], [0], SMALL, Path("made")), threads=1)
    monkeypatch.setenv("TOY_STALL", f"{files / 'stalled'}:3")  # the second iteration of the second run
    reasons: dict[Run, str] = {}
    with Workers(plan, 1) as workers:
        killer = Killer(workers, files / "stalled")
        train_all(workers, plan.runs(), 1, killer, reasons)
    monkeypatch.delenv("TOY_STALL")
    broken, killed = plan.runs()
    assert killer.killed == [killed]
    assert killer.ends == reasons == {broken: "ZeroDivisionError: a bug", killed: "its process was killed (SIGKILL)"}
    result = results.collect(plan, reasons)
    assert result["status"] == "incomplete" and [recipe["n"] for recipe in result["recipes"]] == [0, 0]

    with pytest.raises(SystemExit) as status:
        main(["sweep", "--resume", "--out", "made"])
    assert status.value.code == 1
    shown = capsys.readouterr().out
    assert "2 of 2 runs to train" in shown and "gigpo, seed 0: goes on" in shown and "broken, seed 0: FAILED" in shown
    result = json.loads(Path("made/sweep.json").read_text())
    assert [(row["status"], row["reason"]) for row in result["runs"]] == [
        ("failed", "ZeroDivisionError: a bug"),
        ("completed", ""),
    ]
    assert result["differences"][0]["sampled"]["value"] is None and "0 of 1" in Path("made/sweep.md").read_text()
    assert_same_run(killed.folder, alone("gigpo", 0, "alone"))


def ended(process: int) -> bool:
    """Whether a process is no more, or only waits to be buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_no_process_and_a_run_to_continue(number: signal.Signals, files: Path) -> None:
    tests = Path(__file__).parent
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agentrl.cli", "sweep", "gigpo.toml", "--seeds", "1", "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--out", "made", *SMALL, "run.iterations=100000"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell leaves it ignored
    )
    run = Path("made/gigpo/seed_0")
    wait_for((run / "metrics.jsonl").exists, process)
    started = children(process.pid)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert len(started) == 1
    with subprocess.Popen(["sleep", "3600"]) as waiting:
        wait_for(lambda: ended(*started), waiting)
        waiting.kill()
    assert summary(run)["status"] == "interrupted"
    state = json.loads(Path("made/sweep.json").read_text())["status"]
    assert state == ("running" if number == signal.SIGKILL else "interrupted")
    if number == signal.SIGINT:
        assert b"agentrl: interrupted; continue with --resume" in error
    (left,) = reopened(Path("made")).runs()
    assert left.begun
