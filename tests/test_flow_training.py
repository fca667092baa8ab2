"""What a flow is trained on: Flow-GRPO's objective against a slow reference, demonstrations, the recipes."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="training a flow needs the extra 'train'")
pytest.importorskip("bm25s", reason="training a flow on questions needs the extra 'search'")

import torch
from toy_cases import gradient_of
from toy_flows import Voice, agentflow, plan, play, renderer, says
from toy_runs import metrics
from toys import tiny_model

from agentrl import cli
from agentrl.agents.flow import TokenSpeaker
from agentrl.algorithms.credit import FlowGRPO
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.table import TurnTable
from agentrl.config import find, flat, load
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.learning.samples import make_samples
from agentrl.types import Sampling, Trajectory

RECIPES = ("search-flow", "search-flow-released")
SHOWN = renderer()


def group() -> list[Trajectory]:
    """Three rollouts of one question with one, three and two planned steps, a frozen verifier of token ids beside them."""
    found: list[Trajectory] = []
    for member, (steps, answer) in enumerate([(1, "Oslo"), (3, "Bergen"), (2, "Oslo")]):
        frozen = Voice(SHOWN, *['{"stop": false}'] * (steps - 1), '{"stop": true}')
        speaker = TokenSpeaker(SHOWN, trained=False, generate=frozen.generate, sampling=Sampling(0.0, max_tokens=20))
        policy = Voice(SHOWN, plan("search", "Mara"), plan("search", "Otto"), "Mara Otto")
        [one] = play(agentflow(SHOWN, verifier=speaker, generator=says({"answer": answer})), policy)
        one.id, one.group = f"m{member}", "g"
        found.append(one)
    return found


def slow_objective(trajectories: list[Trajectory], logp: list[torch.Tensor], *, paper: bool) -> torch.Tensor:
    """Equation 5 by loops: J = 1/G Σ_i 1/T_i Σ_t 1/|a| Σ_j min(ρ A, clip(ρ) A), T_i the planner's turns; or as released: the
    statistics over rows, one a turn, and the mean over all tokens. ``logp``: of each planner call, in order."""
    wins = [float(trajectory.success) for trajectory in trajectories]
    planned = [[call for call in one.calls() if call.role == "planner"] for one in trajectories]
    rows = wins if paper else [win for win, calls in zip(wins, planned, strict=True) for _ in calls]
    mean = sum(rows) / len(rows)
    std = math.sqrt(sum((row - mean) ** 2 for row in rows) / (len(rows) - 1))
    total, n_tokens, place = torch.zeros(()), 0, 0
    for win, calls in zip(wins, planned, strict=True):
        for call in calls:
            advantage = (win - mean) / (std + 1e-6)
            ratio = (logp[place] - torch.tensor(call.logprobs)).exp()
            terms = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.3) * advantage)
            n_tokens += len(terms)
            total = total + (terms.mean() / len(calls) / len(trajectories) if paper else terms.sum())
            place += 1
    return total if paper else total / n_tokens


@pytest.mark.parametrize("paper", [True, False])
def test_the_gradient_of_a_flow_is_that_of_the_objective_written_out(paper: bool) -> None:
    trajectories = group()
    assert [t.success for t in trajectories] == [True, False, True] and [t.n_turns for t in trajectories] == [2, 4, 3]
    model = tiny_model(SHOWN.tokenizer)
    with torch.no_grad():  # as sampled by another policy, so that some ratios are clipped
        for number, sample in enumerate(make_samples(trajectories)):
            for call in sample.calls:
                noise = torch.linspace(-0.4, 0.4, len(call.completion_ids)) * (-1) ** number
                call.logprobs = (log_probs(model, call) + noise).tolist()
    other = copy.deepcopy(model)
    calls = [call for trajectory in trajectories for call in trajectory.calls() if call.role == "planner"]
    (-slow_objective(trajectories, [log_probs(other, call) for call in calls], paper=paper)).backward()
    wanted = gradient_of(other)

    table = TurnTable.from_trajectories(trajectories)
    credit = FlowGRPO(outcome="success") if paper else FlowGRPO(outcome="success", unit="turn", singleton="raw")
    loss = PPOClip(low=0.2, high=0.3, aggregate="trajectory_turn_mean" if paper else "token_mean")
    still = OptimizerSettings(lr=0.0, max_grad_norm=1e9)
    learner = Learner(model=model, loss=loss, settings=still, old_logprobs="sampler")
    samples = make_samples(trajectories)
    learner.update(samples, learner.prepare(samples, credit(table), table), table)
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(gradient_of(learner.model), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def log_probs(model: torch.nn.Module, call: object) -> torch.Tensor:
    """[C] of what was sampled, with a gradient."""
    ids = torch.tensor([[*call.prompt_ids, *call.completion_ids]])  # type: ignore[attr-defined]
    n = len(call.completion_ids)  # type: ignore[attr-defined]
    logits = model(input_ids=ids).logits[0, -n - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[0, -n:].unsqueeze(1)).squeeze(1)


# ── the recipes ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_finds_the_recipe_possible(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.main(["train", name, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f'name = "{name}"' in shown and "flow-warmstart" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_released_variant_differs_in_statistics_and_averaging_alone() -> None:
    paper, released = (flat(load(find(name)).model_dump()) for name in RECIPES)
    differing = {key for key in {*paper, *released} if paper.get(key) != released.get(key)}
    assert differing == {
        "run.name", "algorithm.credit.unit", "algorithm.credit.singleton", "algorithm.loss.aggregate",
    }  # fmt: skip
    assert paper["algorithm.loss.aggregate"] == "trajectory_turn_mean" and released["algorithm.credit.unit"] == "turn"


def test_the_start_was_taught_the_agent_that_the_recipes_play_and_other_tasks() -> None:
    taught, played = load(find("flow-warmstart")), load(find("search-flow"))
    assert taught.agent == played.agent and taught.only_env.options == played.only_env.options
    assert played.algorithm.sampler["tasks"] * played.run.iterations <= taught.demos.first
    kept = load(Path(played.model.path or "") / "config.toml")  # of the export
    assert kept.agent == played.agent and kept.demos == taught.demos and kept.sft == taught.sft


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains_the_planner_alone(name: str, tmp_path: Path) -> None:
    from agentrl.store import read_trajectories
    from agentrl.trainer import train

    small = [
        "algorithm.sampler.tasks=4", "evaluation.episodes=4", "run.iterations=1", "resources.device=cpu",
        "resources.threads=1",
    ]  # fmt: skip
    summary = train(load(find(name), small), tmp_path / "run")
    assert summary["status"] == "completed" and summary["n_updates"] > 0
    (line,) = metrics(tmp_path / "run")
    assert line["n_trajectories"] == 32 and line["grad_norm"] > 0 and line["completions/mean_length"] > 10
    played = list(read_trajectories(next((tmp_path / "run" / "trajectories").glob("iteration_*"))))
    assert {call.role for one in played for call in one.calls() if call.trainable} == {"planner"}
    assert any(call.learner_logprobs is None and call.role == "verifier" for one in played for call in one.calls())


@pytest.mark.slow
def test_a_flow_gives_the_same_numbers_in_processes_and_resumed_in_the_middle(tmp_path: Path) -> None:
    """With a frozen checkpoint in a role, and limits."""
    from agentrl.store import read_trajectories
    from agentrl.trainer import train

    small = [
        "algorithm.sampler.tasks=2", "algorithm.sampler.group_size=4", "evaluation.episodes=0", "checkpoint.every=1",
        "resources.device=cpu", "resources.threads=1", "agent.limits.seconds=600.0", "agent.limits.tokens=4000",
        "agent.roles.verifier=checkpoint:flow-warmstart",
    ]  # fmt: skip

    def sampled(name: str, *more: str, resume: bool = False) -> list[object]:
        train(load(find("search-flow"), [*small, *more]), tmp_path / name, resume=resume)
        files = sorted((tmp_path / name / "trajectories").glob("iteration_*"))
        return [
            (one.id, [[(call.role, call.trainable, tuple(call.completion_ids)) for call in turn.calls] for turn in one.turns])
            for file in files for one in read_trajectories(file)
        ]  # fmt: skip

    plain = sampled("plain", "run.iterations=2")
    assert len(plain) == 16 and sampled("processes", "run.iterations=2", "env.isolation=process") == plain
    assert sampled("cut", "run.iterations=1") == plain[:8]
    assert sampled("cut", "run.iterations=2", resume=True) == plain


@pytest.mark.slow
def test_demonstrations_of_a_flow_teach_its_trained_role(tmp_path: Path) -> None:
    small = [
        "demos.episodes=20", "sft.updates=3", "sft.batch_size=8", "evaluation.episodes=2", "model.config.num_hidden_layers=1",
        "resources.device=cpu", "resources.threads=1",
    ]  # fmt: skip
    config = load(find("flow-warmstart"), small)
    from agentrl.errors import ConfigError
    from agentrl.supervised import make_demos, read_demos, run_sft

    made = make_demos(config, tmp_path / "demos")
    assert made["demos"]["n"] == 20
    calls = [call for one in read_demos(tmp_path / "demos") for call in one.calls()]
    assert {(call.role, call.source) for call in calls if call.trainable} == {("planner", "demo")}
    assert run_sft(config, tmp_path / "demos", tmp_path / "sft")["status"] == "completed"
    for roles, problem in (
        ({}, "says nothing for 'planner'"),
        ({"verifier": "rule:first_result"}, "demos.roles.verifier"),
    ):
        wrong = config.model_copy(update={"demos": config.demos.model_copy(update={"roles": roles})})
        with pytest.raises(ConfigError, match=problem):
            make_demos(wrong, tmp_path / "none")
