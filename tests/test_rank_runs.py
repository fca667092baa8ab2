"""Whole runs with several learners, and what happens when one of them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch.distributed as dist
from safetensors.torch import load_file
from toy_runs import metrics, tiny, without_clocks

from agentrl.config import load
from agentrl.console import Progress
from agentrl.errors import AgentRLError
from agentrl.learning import ranks
from agentrl.learning.ranks import Ranks
from agentrl.learning.team import Team, everywhere
from agentrl.trainer import Trainer, train

pytestmark = pytest.mark.xdist_group("ranks")

QUIET = Progress()


# ── one that is gone ─────────────────────────────────────────────────────────────────────────────────────────────────


class Trouble:
    """A part in which the second rank never comes to the meeting."""

    def __init__(self, team: Team) -> None:
        self.team = team

    @everywhere
    def die(self) -> None:
        if self.team.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.team.sum(np.zeros(1))

    @everywhere
    def fail(self) -> None:
        if self.team.rank == 1:
            raise MemoryError("no room on this device")
        self.team.sum(np.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "problem"),
    [("die", "died of SIGKILL .* in die"), ("fail", "raised MemoryError: no room on this device in")],
)
def test_a_rank_that_is_gone_is_an_error_and_not_a_wait(
    method: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "GRACE_S", 1.0)
    team = Ranks(2, "ddp", device="cpu", threads=2)
    part: Any = team.make(Trouble)
    started = time.monotonic()
    with pytest.raises(AgentRLError, match=f"learner 2 .*{problem}.*--resume"):
        getattr(part, method)()
    assert time.monotonic() - started < 20
    assert not team._others[0].link.alive() and not dist.is_initialized()
    with pytest.raises(AgentRLError, match="cannot be asked any more"):
        part.die()


@pytest.mark.slow
def test_ranks_end_with_the_training_process() -> None:
    code = """if True:
        import os, signal
        from agentrl.learning.ranks import Ranks
        team = Ranks(2, "ddp", device="cpu", threads=2)
        print(team._others[0].link.process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL
    place = Path(f"/proc/{int(done.stdout)}")
    ends = time.monotonic() + 20
    while place.exists() and "\nState:\tZ" not in (place / "status").read_text() and time.monotonic() < ends:
        time.sleep(0.05)
    assert time.monotonic() < ends


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(tiny(folder), folder / "run", progress=QUIET)
    return folder / "run"


def assert_same_curve(one: Path, other: Path) -> None:
    """Metrics and weights, but for rounding and what several copy."""
    for expected, found in zip(metrics(one), metrics(other), strict=True):
        found = {key: value for key, value in found.items() if key != "sync/bytes"}
        assert without_clocks(found) == pytest.approx(without_clocks(expected), rel=1e-3, abs=1e-4)
    first, second = (load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-3


class Killing(Progress):
    """Kills a rank after the first iteration."""

    trainer: Trainer

    def iteration(self, metrics: Any) -> None:
        if not metrics["iteration"]:
            self.trainer.lessons.team._others[0].link.process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_a_run_with_two_learners_one_of_which_is_killed_gives_the_curve_of_one(
    sharding: str, alone: Path, tmp_path: Path
) -> None:
    config = tiny(tmp_path, "resources.learners=2", f"resources.sharding={sharding}")
    killing = Killing()
    killing.trainer = Trainer(config, killing, time.time())
    killing.trainer.open(tmp_path / "run")
    with pytest.raises(AgentRLError, match=r"learner 2 .*died of SIGKILL.*--resume goes on"):
        killing.trainer.run()
    train(config, tmp_path / "run", progress=QUIET, resume=True)
    assert_same_curve(alone, tmp_path / "run")
    line = metrics(tmp_path / "run")[-1]
    assert ("sync/bytes" in line) == (sharding == "fsdp2") and "time/sync" in line


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_learners(alone: Path, tmp_path: Path) -> None:
    train(tiny(tmp_path, "run.iterations=1"), tmp_path / "run", progress=QUIET)
    two = tiny(tmp_path, "run.iterations=2", "resources.learners=2", "resources.sharding=fsdp2")
    train(two, tmp_path / "run", progress=QUIET, resume=True)
    train(tiny(tmp_path), tmp_path / "run", progress=QUIET, resume=True)
    assert_same_curve(alone, tmp_path / "run")
    assert load(tmp_path / "run" / "config.toml").resources.learners == 1
