"""Runs that lose a learner and go on by themselves, to the numbers of the run that nobody disturbed."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch.distributed as dist
from toy_runs import assert_same_run, metrics, summary, tiny

import agentrl
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip
from agentrl.config import RunConfig
from agentrl.console import Progress
from agentrl.errors import LearnerLost
from agentrl.learning import ranks
from agentrl.restarting import restarted
from agentrl.rollouts.worker import children
from agentrl.trainer import train

pytestmark = pytest.mark.xdist_group("ranks")


N_LOSSES = 0  # of this process


@dataclass(frozen=True)
class Deadly(PPOClip):
    """$TOY_LOSS = SIGNAL:FILE: the second rank gets the signal (WAIT: waits for ever) while it computes its fourth loss, once for
    each byte of FILE."""

    def __call__(self, inputs: LossInputs) -> Any:
        global N_LOSSES
        name, _, file = os.environ.get("TOY_LOSS", "").partition(":")
        if name and dist.get_rank() == 1:
            left, N_LOSSES = Path(file).read_bytes(), N_LOSSES + 1
            if left and N_LOSSES == 4:
                Path(file).write_bytes(left[1:])
                if name == "WAIT":
                    threading.Event().wait()
                os.kill(os.getpid(), getattr(signal, name))
        return super().__call__(inputs)


def dies_in_updates(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, n: int) -> None:
    (folder / "left").write_bytes(b"x" * n)
    monkeypatch.setenv("TOY_LOSS", f"{name}:{folder / 'left'}")


class Watching(Progress):
    """Keeps the notes, and does something at a place of the run, once."""

    def __init__(self, **at: Callable[[], None]) -> None:
        self.notes: list[str] = []
        self.at = at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def reached(self, place: str) -> None:
        self.at.pop(place, lambda: None)()

    def episode(self, trajectory: Any) -> None:
        self.reached(trajectory.id.partition("/")[0])

    def iteration(self, metrics: Any) -> None:
        self.reached(f"after {metrics['iteration']}")

    @property
    def restarts(self) -> list[str]:
        return [note for note in self.notes if note.startswith("RESTART")]


def kill_ranks() -> None:
    found = [pid for pid in children(os.getpid()) if b"rank_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)


def two(folder: Path, sharding: str, *changes: str) -> RunConfig:
    loss = 'algorithm.loss={name="test_restarts:Deadly"}'
    return tiny(folder, *changes, "resources.learners=2", f"resources.sharding={sharding}", "checkpoint.keep=0", loss)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The undisturbed runs of two learners."""

    @functools.cache
    def of(sharding: str) -> Path:
        folder = tmp_path_factory.mktemp(sharding)
        train(two(folder, sharding), folder / "run", progress=Progress())
        assert summary(folder / "run")["restarts"] == 0
        return folder / "run"

    return of


def assert_same_but_for_restarts(calm: Path, run: Path, n: int) -> None:
    """To the last bit; the summary counts the restarts, and so do the lines of what came after the first."""
    found, lines = summary(run), metrics(run)
    assert found["restarts"] == lines[-1].pop("restarts") == n
    for line in lines:
        line.pop("restarts", None)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "summary.json").write_text(json.dumps({**found, "restarts": 0}))
    assert_same_run(calm, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharding", "deaths", "place"),
    [("ddp", 2, "update"), ("fsdp2", 1, "update"), ("ddp", 1, "eval=before")],
)
def test_a_run_whose_learner_is_killed_gives_the_undisturbed_run(
    sharding: str, deaths: int, place: str, calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its fourth update, one of two in an iteration; before the first checkpoint."""
    progress = Watching(**({} if place == "update" else {place: kill_ranks}))
    if place == "update":
        dies_in_updates(tmp_path, monkeypatch, "SIGKILL", deaths)
    train(two(tmp_path, sharding), tmp_path / "run", progress=progress)
    assert len(progress.restarts) == deaths and "learner 2 (process " in progress.restarts[0]
    assert "died of SIGKILL" in progress.restarts[0] and "RESTART 1 of at most 3" in progress.restarts[0]
    assert_same_but_for_restarts(calm(sharding), tmp_path / "run", deaths)


@pytest.mark.slow
def test_a_learner_that_is_stopped_is_given_up(calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies_in_updates(tmp_path, monkeypatch, "SIGSTOP", 1)
    progress = Watching()
    train(two(tmp_path, "ddp", "resources.learner_timeout_s=4"), tmp_path / "run", progress=progress)
    (said,) = progress.restarts
    assert "learner 2" in said and "showed no sign of life for 4 s and was killed in update" in said
    assert_same_but_for_restarts(calm("ddp"), tmp_path / "run", 1)


@pytest.mark.slow
def test_learners_that_wait_for_one_another_for_ever_are_given_up(
    calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are alive, and one never comes."""
    monkeypatch.setattr(ranks, "COLLECTIVE_S", 5.0)
    monkeypatch.setattr(ranks, "GRACE_S", 1.0)
    dies_in_updates(tmp_path, monkeypatch, "WAIT", 1)
    progress = Watching()
    train(two(tmp_path, "ddp"), tmp_path / "run", progress=progress)
    (said,) = progress.restarts
    assert "learner 2" in said and "did not answer in update" in said
    assert_same_but_for_restarts(calm("ddp"), tmp_path / "run", 1)


@pytest.mark.slow
def test_without_restarts_left_it_is_an_error_and_resume_goes_on(
    calm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_in_updates(tmp_path, monkeypatch, "SIGKILL", 1)
    config = two(tmp_path, "ddp", "resources.restarts=0")
    with pytest.raises(LearnerLost, match=r"died of SIGKILL.*--resume goes on"):
        agentrl.train(config, out=tmp_path / "run")
    assert summary(tmp_path / "run")["status"] == "failed"
    agentrl.train(config, out=tmp_path / "run", resume=True)
    assert_same_run(calm("ddp"), tmp_path / "run")


def test_attempts_are_bounded_and_other_errors_are_no_reason_for_one() -> None:
    told: list[str] = []
    tried: list[int] = []

    def lost(n: int) -> int:
        tried.append(n)
        if n < 2:
            raise LearnerLost(f"learner 2 died {n}")
        return n

    assert restarted(lost, 2, told.append) == 2 and tried == [0, 1, 2]
    assert told[1] == "RESTART 2 of at most 2: learner 2 died 1; the run goes on from its last checkpoint"
    with pytest.raises(LearnerLost, match="died 1") as caught:
        restarted(lost, 1, told.append)
    assert caught.value.__notes__ == ["resources.restarts = 1: it has been started again that often"]
    with pytest.raises(ZeroDivisionError):
        restarted(lambda n: 1 // n, 3, told.append)
    assert len(told) == 3
