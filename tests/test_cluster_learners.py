"""Learners as Ray actors: what one learner learns, and a new start when one of them is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("ray", reason="Ray is not installed (the extra 'ray')")

from safetensors.torch import load_file
from test_ranks import pair, updated
from test_restarts import Watching, dies_in_updates, two
from toy_cases import gpt2
from toy_runs import metrics, summary, without_clocks

from agentrl.cluster.learners import team_on_ray
from agentrl.console import Progress
from agentrl.errors import LearnerLost
from agentrl.learning.ranks import Ranks
from agentrl.run_tables import ResourcesTable
from agentrl.trainer import train

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def team(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    table = ResourcesTable(backend="ray", learners=2, sharding=request.param, device="cpu", learner_timeout_s=10.0)
    with team_on_ray(table, device="cpu", threads=2) as made:
        yield made
    import ray

    assert not ray.is_initialized()


def test_float64_updates_are_those_of_one_learner_and_a_stopped_actor_is_given_up(team: Ranks) -> None:
    alone, together = pair(team, gpt2("float64"))
    expected, moments = updated(alone, n=2)
    found, other = updated(together, n=2)
    assert np.abs(moments).max() > 1e-3
    np.testing.assert_allclose(other, moments, rtol=0, atol=1e-9)
    assert found == pytest.approx(expected, abs=1e-9)
    link: Any = team._others[0].link
    assert link.alive() and " on " in link.name
    os.kill(int(link.name.split("process ")[1].split()[0]), signal.SIGSTOP)
    with pytest.raises(LearnerLost, match=r"learner 2 \(process .* showed no sign of life for 10 s and was killed"):
        updated(together)


def test_a_run_on_ray_whose_learner_is_killed_gives_the_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of two processes without Ray; two workers play, and a learner's actor dies in the middle of an update."""
    config, calm = two(tmp_path, "ddp"), tmp_path / "calm"
    train(config, calm, progress=Progress())
    dies_in_updates(tmp_path, monkeypatch, "SIGKILL", 1)
    progress, run = Watching(), tmp_path / "run"
    train(two(tmp_path, "ddp", "resources.backend=ray", "resources.rollout_workers=2"), run, progress=progress)
    (said,) = progress.restarts
    assert "learner 2 (process" in said and "died (" in said
    assert summary(run)["restarts"] == metrics(run)[-1]["restarts"] == 1
    for expected, found in zip(metrics(calm), metrics(run), strict=True):
        expected = without_clocks(expected)
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)
    first, second = (load_file(each / "checkpoints" / "latest" / "model.safetensors") for each in (calm, run))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-3
