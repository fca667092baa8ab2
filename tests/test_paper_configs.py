"""The run files of papers: found by name, with the paper's numbers, and each trains with a tiny model in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_runs import metrics

from agentrl import config as configs
from agentrl.config import RunConfig

pytest.importorskip("transformers", reason="training needs the extra 'train'")

from agentrl.trainer import train

NAMES = ["paper/gigpo_alfworld", "paper/grpo_alfworld"]
TINY_MODEL = (
    "model.path=",
    "model.config={model_type='qwen2', hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, "
    "num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=true}",
)
SMALL = (
    "env.options.difficulty=tiny",
    "env.max_turns=4",
    "algorithm.sampler.tasks=2",
    "algorithm.sampler.group_size=3",
    "algorithm.samples_per_update=9",
    "rollout.max_tokens=8",
    "evaluation.episodes=2",
    "evaluation.every=1",
    "run.iterations=1",
    "resources.device=cpu",
    "resources.threads=1",
)


def load(name: str, *overrides: str) -> RunConfig:
    return configs.load(configs.find(name), overrides)


@pytest.mark.parametrize("name", NAMES)
def test_a_papers_run_file_has_the_numbers_of_the_released_code(name: str) -> None:
    config = load(name)
    algorithm, optimizer = config.algorithm, config.optimizer
    assert config.only_env.max_turns == 50 and config.only_env.options == {"difficulty": "full", "reward_scale": 10.0}
    assert algorithm.sampler == {"name": "uniform", "tasks": 16, "group_size": 8}
    assert (algorithm.samples_per_update, algorithm.epochs, algorithm.old_logprobs) == (256, 1, "learner")
    assert algorithm.rewards == [{"name": "invalid_action", "coef": 0.1}] and algorithm.scores == []
    assert algorithm.loss == {
        "name": "ppo_clip", "low": 0.2, "high": 0.2, "dual_clip": 3.0, "aggregate": "token_mean",
    }  # fmt: skip
    assert algorithm.regularizers == [
        {"name": "kl", "estimator": "k3", "coef": 0.01, "clamp": 10.0},
        {"name": "entropy", "coef": 0.001},
    ]
    assert config.model.dtype == "bfloat16" and config.model.gradient_checkpointing
    assert (optimizer.betas, optimizer.warmup) == ((0.9, 0.999), 0)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.max_grad_norm, optimizer.schedule) == (
        1e-6,
        0.01,
        1.0,
        "constant",
    )
    assert (config.rollout.max_tokens, config.rollout.temperature) == (512, 1.0)
    assert (config.evaluation.episodes, config.evaluation.every, config.evaluation.temperature) == (128, 5, 0.4)
    assert config.run.iterations == 150 and config.agent.context == 2048 + 512
    assert isinstance(algorithm.credit, dict)
    shared = {"normalize": "mean_std", "unit": "turn", "singleton": "raw", "eps": 1e-6, "ddof": 1}
    gigpo = {"name": "gigpo", "gamma": 0.95, "step_weight": 1.0, "key": "observation", **shared}
    assert algorithm.credit == (gigpo if "gigpo" in name else {"name": "grpo", **shared})


def test_the_two_differ_in_credit_alone() -> None:
    one, other = (configs.flat(load(name).model_dump()) for name in NAMES)
    differing = {key for key in {*one, *other} if one.get(key) != other.get(key)}
    assert {key for key in differing if not key.startswith("algorithm.credit.")} == {"run.name"}


def test_the_entropy_bonus_lowers_the_loss() -> None:
    """The released code subtracts it: loss = policy loss - 0.001 H + 0.01 KL."""
    torch = pytest.importorskip("torch")
    from agentrl import build
    from agentrl.algorithms.inputs import LossInputs

    kl, bonus = build.methods(load(NAMES[0]).algorithm, state_keys=True).regularizers
    zeros, entropy = torch.zeros(2), torch.tensor([0.5, 2.0])
    numbers = torch.zeros(2, dtype=torch.long)
    inputs = LossInputs(
        logp=zeros, advantage=zeros, coef=zeros, row=numbers, sequence=numbers, trajectory=numbers, group=numbers,
        logp_ref=zeros - 1.0, entropy=entropy,
    )  # fmt: skip
    torch.testing.assert_close(bonus(inputs), -0.001 * entropy)
    assert (kl(inputs) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_papers_run_file_trains(name: str, tmp_path: Path) -> None:
    summary = train(load(name, *TINY_MODEL, *SMALL), tmp_path / "run")
    assert summary["status"] == "completed" and summary["iterations"] == 1
    (line,) = metrics(tmp_path / "run")
    assert line["n_trajectories"] == 6 and line["n_updates"] == -(-line["n_turns"] // 9)
    assert {"kl", "entropy", "clip_ratio/dual"} <= set(line)


@pytest.mark.parametrize("turns", [0, 2])
def test_the_prompt_shows_the_last_k_turns(turns: int) -> None:
    from agentrl import build
    from agentrl.agents import View
    from agentrl.scenes import Scenes

    config = load("paper/gigpo_alfworld", *TINY_MODEL, *SMALL, f"agent.memory.turns={turns}")
    scenes = Scenes.of(config)
    _, renderer = build.tokenizer(config, scenes.pools)
    scene = scenes.all[0]
    agent = build.chat_agent(config.agent_of(scene.table), renderer, scene.view, 4096)
    past = [("On it you see nothing.", f"go to drawer {number}") for number in range(1, 4)]
    view = View("You arrive.", scene.view.info, 3)
    (message,) = agent.messages(view, past)
    text = str(message["content"])
    actions = scene.view.info["admissible_actions"]
    assert f"Your task is to: {scene.view.info['goal']}" in text and "\n".join(actions) in text
    assert "turn 4" in text and "What you see now: You arrive." in text
    assert text.index("<think>") < text.index("<action>")
    shown = [number for number in range(1, 4) if f"Action {number}: 'go to drawer {number}'" in text]
    assert shown == [2, 3][:turns] and ("taken 3 turns" in text) == (turns > 0)


def test_a_folder_of_papers_run_files_ships() -> None:
    shipped = {path.stem for path in (Path(configs.__file__).parent / "configs" / "paper").glob("*.toml")}
    assert {f"paper/{name}" for name in shipped} == {*NAMES, "paper/s_grpo"}
