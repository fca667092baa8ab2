"""How far the policy has moved on a task since its last visit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from gymnasium.envs.registration import EnvSpec
from test_learner import MOVING
from toy_cases import Case, case, gpt2
from toy_runs import assert_same_run, cut, metrics, tiny

from agentrl.algorithms.losses import PPOClip
from agentrl.console import Progress
from agentrl.errors import CheckpointError
from agentrl.learning.learner import Learner
from agentrl.learning.responses import LastResponses
from agentrl.learning.samples import make_samples
from agentrl.trainer import train
from agentrl.types import Task


def visits() -> Case:
    """Two trajectories of each of the tasks "even" and "odd", and one that is visited once."""
    given = case()
    for index, trajectory in enumerate(given.trajectories[:4]):
        trajectory.task = Task(("even", "odd")[index % 2])
    given.trajectories[4].task = Task("once")
    return given


def test_it_is_the_mean_over_the_tokens_of_the_last_visit() -> None:
    given = visits()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(high=10.0), settings=MOVING)
    responses = LastResponses(learner)
    data = learner.prepare(given.samples, given.advantages, given.table)
    learner.update(given.samples, data, given.table)
    assert responses.moved(given.trajectories) == {}  # first visits
    assert responses.moved(given.trajectories[:2]) == pytest.approx({"even": 0, "odd": 0}, abs=1e-6)  # it stood still
    first, second = make_samples(given.trajectories[:1]), make_samples(given.trajectories[1:2])
    then = [learner.logprobs(each, learner.prepare(each, np.ones(9), None))[0] for each in (first, second)]
    for _ in range(3):
        learner.update(given.samples, data, given.table)
    now = [learner.logprobs(each, learner.prepare(each, np.ones(9), None))[0] for each in (first, second)]
    expected = [float(np.abs(a - b).mean()) for a, b in zip(then, now, strict=True)]
    found = responses.moved([given.trajectories[2], given.trajectories[1]])  # what is played now does not matter
    assert found == pytest.approx(dict(zip(("even", "odd"), expected, strict=True)), rel=1e-4) and min(expected) > 1e-3


def test_a_checkpoint_keeps_it() -> None:
    given = visits()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(high=10.0), settings=MOVING)
    responses, again = LastResponses(learner), LastResponses(learner)
    responses.moved(given.trajectories)
    file = io.BytesIO()
    torch.save(responses.state_dict(), file)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    learner.update(given.samples, learner.prepare(given.samples, given.advantages, given.table), given.table)
    found = responses.moved(given.trajectories)
    assert again.moved(given.trajectories) == found and set(found) == {"even", "odd", "once"}
    with pytest.raises(CheckpointError, match="last responses cannot be read"):
        again.load_state_dict({"even": [{"token_ids": torch.zeros(3)}]})


@pytest.mark.slow
def test_spo_forgets_by_it_and_a_resume_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EnvSpec("toy/Stateless-v0", entry_point="toy_runs:Stateless")
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    changes = ("env.id=toy/Stateless-v0", "env.options={}", 'agent.prompt="{goal}"', "run.iterations=4")
    changes += ('algorithm.sampler={name="uniform", tasks=4, group_size=1}', "checkpoint.keep=0")
    changes += ('algorithm.credit={name="spo", r_max=2.0, d_half=0.5, rho_min=0.0}', "evaluation.episodes=0")
    for name in ("undisturbed", "torn"):
        train(tiny(tmp_path, *changes), tmp_path / name, progress=Progress())
    lines = metrics(tmp_path / "undisturbed")
    assert len(lines) == 4 and all("kl/sampled" not in line for line in lines)
    cut(tmp_path / "torn", 2)
    train(tiny(tmp_path, *changes), tmp_path / "torn", progress=Progress(), resume=True)
    assert_same_run(tmp_path / "undisturbed", tmp_path / "torn")
    state = json.loads((tmp_path / "torn" / "checkpoints" / "latest" / "state.json").read_text())
    kept = [sum(counts) for counts in state["states"]["credit[0]"].values()]
    assert len(kept) == 8 and all(1 < n < (1 * 0.96 + 1) * 0.96 + 1 for n in kept) and len(set(kept)) > 1
