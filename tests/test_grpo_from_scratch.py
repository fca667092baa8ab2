"""The example that writes GRPO out: the same numbers as the library's parts, and a model that learns."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import agentrl
from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip

torch = pytest.importorskip("torch", reason="training needs the extra 'train'")

PATH = Path(__file__).parents[1] / "examples" / "07_grpo_from_scratch.py"


@pytest.fixture(scope="module")
def scratch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpo_from_scratch", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def start(scratch: ModuleType) -> tuple[Any, Any]:
    model = scratch.AutoModelForCausalLM.from_pretrained(scratch.WARM_START, dtype=torch.float32)
    return model, scratch.PreTrainedTokenizerFast.from_pretrained(scratch.WARM_START)


def test_it_is_one_short_file_without_the_library() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 260
    assert {*re.findall(r"^(?:import|from) (agentrl\S*)", text, re.MULTILINE)} == {"agentrl.configs", "agentrl.envs"}


def test_advantages_are_those_of_the_library(scratch: ModuleType) -> None:
    rewards = np.random.default_rng(0).integers(0, 2, (6, 4)).astype(float)
    rewards[0], rewards[1] = 1.0, 0.0
    place = np.arange(24)
    table = TurnTable(group=place // 4, trajectory=place, turn=np.zeros(24, dtype=int), reward=rewards.ravel())
    np.testing.assert_allclose(scratch.group_advantages(rewards).ravel(), GRPO()(table), atol=1e-12)
    assert not scratch.group_advantages(rewards)[:2].any()


def test_the_loss_is_that_of_the_library(scratch: ModuleType) -> None:
    old, change, advantage = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logp, places = old + change, torch.arange(50)
    inputs = LossInputs(
        logp=logp, logp_old=old, advantage=advantage, coef=torch.ones(50), row=places, sequence=places,
        trajectory=places, group=places,
    )  # fmt: skip
    expected = PPOClip(low=scratch.LOW, high=scratch.HIGH)(inputs)
    torch.testing.assert_close(scratch.clipped_loss(logp, old, advantage), expected)


@pytest.mark.slow
def test_prompts_and_actions_are_those_of_the_quick_start(scratch: ModuleType, start: tuple[Any, Any]) -> None:
    options = {"difficulty": "tiny", "task_types": scratch.TASK_TYPES}
    played = agentrl.rollout(
        "agentrl/Household-v0", f"checkpoint:{scratch.WARM_START}", n=3, options=options, max_turns=scratch.MAX_TURNS
    )
    for trajectory in played:
        episode = scratch.Episode.of(trajectory.task)
        for turn in trajectory.turns:
            assert start[1](episode.prompt()).input_ids == list(turn.calls[0].prompt_ids)
            episode.take(start[1].decode(turn.calls[0].completion_ids))
            assert episode.actions[-1] == turn.action
        assert episode.done and episode.reward == trajectory.reward


@pytest.mark.slow
def test_the_log_probs_of_sampling_are_those_of_a_plain_forward_pass(
    scratch: ModuleType, start: tuple[Any, Any]
) -> None:
    model, tokenizer = start
    prompts = [
        tokenizer(f"<|user|>{text}<|end|><|assistant|>").input_ids for text in ("put a mug", "go to the bed 1 now")
    ]
    drawn = scratch.sample(model, prompts, tokenizer.convert_tokens_to_ids("<|end|>"), torch.Generator().manual_seed(1))
    for prompt, (completion, logps) in zip(prompts, drawn, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_update_makes_the_better_completion_likelier_whatever_its_parts(
    scratch: ModuleType, start: tuple[Any, Any]
) -> None:
    tokenizer = start[1]
    prompt = tokenizer("<|user|>put a mug<|end|><|assistant|>").input_ids
    good, bad = (tokenizer(f"<action>{text}</action><|end|>").input_ids for text in ("go to shelf 1", "look"))

    def logp(model: Any, completion: list[int]) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()

    before = logp(start[0], good), logp(start[0], bad)
    samples = [(prompt, good, before[0], 1.0), (prompt, bad, before[1], -1.0)]
    after = []
    for times in (1, 100):  # a hundred times the same: two parts, and the same mean
        model = scratch.AutoModelForCausalLM.from_pretrained(scratch.WARM_START, dtype=torch.float32)
        scratch.update(model, torch.optim.SGD(model.parameters(), lr=0.01), samples * times)
        after.append(logp(model, good) + logp(model, bad))
        assert sum(logp(model, good)) > sum(before[0])
        assert sum(logp(model, bad)) < sum(before[1])
    np.testing.assert_allclose(after[0], after[1], atol=1e-4)


@pytest.mark.sweep
def test_success_rises() -> None:
    command = [sys.executable, str(PATH), "--iterations", "25", "--houses", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=True)
    after, before = re.findall(r"after:  success (\S+), before (\S+);", done.stdout)[0]
    assert float(after) - float(before) > 0.1
