"""Supervised learning: what is imitated, how often, and with which weight; the vocabulary that it is written in."""

from __future__ import annotations

import gzip
import json
import tomllib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.distributed as dist
from safetensors.torch import load_file
from toy_runs import TINY, metrics
from toys import tiny_model, tokenizer

import agentrl
import agentrl.env
from agentrl.agents import ChatAgent, DemonstratorAgent, ExpertAgent, Window
from agentrl.algorithms.losses import NLL
from agentrl.chat import Renderer, build_tokenizer
from agentrl.config import parse
from agentrl.env import shared_folder
from agentrl.errors import CheckpointError, TooManyFaults
from agentrl.learning import sft
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.learning.samples import Sample, make_samples
from agentrl.rollouts import EnvPool, Limits, Rollouts, play
from agentrl.store import read_trajectories
from agentrl.types import Call, Outcome, Task, Trajectory, Turn

TABLES = tomllib.loads(TINY)
PROMPT = "{places}\n{history}You hold {held}\n{observation}\n{goal}"


def household() -> EnvPool:
    return EnvPool(lambda: agentrl.env.make("agentrl/Household-v0", difficulty="tiny"))


def word_tokenizer():
    return build_tokenizer([*household().take().get_wrapper_attr("vocabulary")(), PROMPT, "; "])


def demonstrations(noise: float, imitate_noise: bool = False, n: int = 6) -> list[Trajectory]:
    pool = household()
    chat = ChatAgent(Renderer(word_tokenizer()), Window(turns=8, item="{action}; "), prompt=PROMPT)
    agent = DemonstratorAgent(chat, ExpertAgent(noise=noise), imitate_noise)
    tasks = pool.take().get_wrapper_attr("tasks")("train")[:n]
    return play(Rollouts(pool, agent, limits=Limits(max_turns=20)), tasks)


def test_noise_is_shown_but_not_imitated() -> None:
    shown = demonstrations(noise=0.5)
    trained = [call.trainable for trajectory in shown for call in trajectory.calls()]
    assert 0.2 < np.mean(trained) < 0.8
    assert len(make_samples(shown)) == sum(trained)
    assert all(call.trainable for trajectory in demonstrations(0.5, imitate_noise=True) for call in trajectory.calls())
    assert all(call.trainable for trajectory in demonstrations(0.0) for call in trajectory.calls())


def test_rare_verbs_are_drawn_more_often() -> None:
    actions = ["go to a"] * 9 + ["take b"]
    turns = [Turn("o", calls=[Call("agent", [1], [2])], action=action) for action in actions]
    trajectories = [Trajectory("t", "e", Task("x"), turns=turns)]
    weights = sft.verb_weights(make_samples(trajectories), trajectories)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] / weights[0] == pytest.approx(3)
    turns[0].info["noise"] = True
    weights = sft.verb_weights(make_samples(trajectories), trajectories)
    assert weights[0] == pytest.approx(0.1)


def test_weights_of_the_context_leave_a_demonstrated_token_its_share() -> None:
    batch = [Sample.of([1, 2, 3, 4], first=2, row=0), Sample.of([5, 6, 7], first=1, row=1)]
    data = sft._targets(batch, 2, 0.25)
    demonstrated = np.array([False, True, True, True, True])
    shares = data.advantage / len(demonstrated)  # token_mean: one over the number of tokens
    np.testing.assert_allclose(shares, np.where(demonstrated, 1.0, 0.25) / 4)
    assert data.row.tolist() == [0, 0, 0, 1, 1]
    assert sft._targets(batch, 2, 0.0).advantage.tolist() == [1.0] * 4


@pytest.mark.parametrize("context_weight", [0.0, 0.1])
def test_a_model_learns_to_imitate(context_weight: float) -> None:
    shown = [
        Trajectory(
            f"t{n}", "e", Task(f"x{n}"), turns=[Turn("o", calls=[Call("a", [11, 12 + n], [13 + n, 2])], action="go")]
        )
        for n in range(3)
    ]
    learner = Learner(tiny_model(tokenizer()), NLL(), settings=OptimizerSettings(lr=0.02))
    losses: list[float] = []
    sft.supervise(
        learner, shown, updates=60, batch_size=4, balance="none", context_weight=context_weight, seed=0,
        on_update=lambda number, metrics: losses.append(metrics["loss"]),
    )  # fmt: skip
    assert len(losses) == 60
    assert losses[-1] < 0.5 * losses[0]


def test_every_word_of_generated_houses_is_known() -> None:
    words, unknown = word_tokenizer(), None
    env = household().take()
    unknown = words.unk_token_id
    for split in agentrl.env.SPLITS:
        for task in islice(env.get_wrapper_attr("tasks")(split), 60):
            text, info = env.reset(options={"task": task})
            for piece in (text, info["places"], info["goal"], *info["admissible_actions"]):
                assert unknown not in words(piece, add_special_tokens=False)["input_ids"], piece


def test_every_word_of_real_games_is_known() -> None:
    path = Path(shared_folder()) / "data" / "alfworld" / "games.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"needs real ALFWorld games at {path}")
    words, env = word_tokenizer(), household().take()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in islice(file, 0, None, 12):
            text, info = env.reset(options={"game": json.loads(line)})
            for piece in (text, *info["admissible_actions"]):
                assert words.unk_token_id not in words(piece, add_special_tokens=False)["input_ids"], piece


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_several_learners_learn_what_one_learns(sharding: str, tmp_path: Path) -> None:
    from agentrl.supervised import run_sft

    agentrl.train(TABLES, "run.iterations=1", "evaluation.episodes=0", out=tmp_path / "run")
    found = []
    for learners in (1, 2):
        own = {
            "sft": {"updates": 3, "only_success": False},
            "resources": {**TABLES["resources"], "learners": learners, "sharding": sharding},
        }
        folder = tmp_path / str(learners)
        run_sft(parse({**TABLES, **own}), tmp_path / "run", folder)
        found.append((metrics(folder), load_file(folder / "checkpoints" / "latest" / "model.safetensors")))
        assert not dist.is_initialized()
    (expected, first), (lines, second) = found
    assert len(lines) == 3 and lines[-1] == pytest.approx(expected[-1], rel=1e-3, abs=1e-4)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-3


def test_a_run_teaches_from_its_own_trajectories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl.supervised import read_demos, run_sft

    run = tmp_path / "run"
    agentrl.train(TABLES, "run.iterations=2", "evaluation.episodes=0", out=run)
    everything = parse({**TABLES, "sft": {"updates": 2, "only_success": False}})
    assert len(read_demos(run, everything.sft)) == 16
    later = everything.sft.model_copy(update={"first_iteration": 1})
    assert {trajectory.id.split("/")[0] for trajectory in read_demos(run, later)} == {"iteration=1"}
    summary = run_sft(everything, run, tmp_path / "sft")
    assert summary["status"] == "completed" and (tmp_path / "sft" / "checkpoints" / "latest").is_dir()

    def stopped(*_: object) -> None:
        raise TooManyFaults("all failed", [fault])

    fault = next(read_trajectories(run / "trajectories" / "iteration_000000.jsonl.zst"))
    fault.outcome = Outcome.ENV_FAULT
    monkeypatch.setattr("agentrl.trainer.run_panel", stopped)
    with pytest.raises(TooManyFaults, match=f"all failed; to play the last one again: agentrl replay {tmp_path}"):
        run_sft(everything, run, tmp_path / "stopped")
    assert (tmp_path / "stopped" / "checkpoints" / "latest" / "model.safetensors").is_file(), "what was learned is kept"
    with pytest.raises(CheckpointError, match="did any succeed"):  # a model with random weights never does
        read_demos(run, parse(TABLES).sft)
