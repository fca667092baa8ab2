"""The run files that train on agentrl/Browser-v0: possible, one with the shipped start, and learning from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_runs import metrics

from agentrl.config import find, load
from agentrl.env import SPLITS

pytest.importorskip("transformers", reason="training needs the extra 'train'")


def test_the_start_was_taught_the_prompts_that_the_recipe_shows_and_other_tasks() -> None:
    taught, played = load(find("browser-warmstart")), load(find("browser-grpo"))
    assert taught.agent == played.agent and taught.only_env.options == played.only_env.options
    assert played.algorithm.sampler["tasks"] * played.run.iterations <= taught.demos.first
    kept = load(Path(played.model.path or "") / "config.toml")  # of the export
    assert kept.agent == played.agent and kept.demos == taught.demos and kept.sft == taught.sft


@pytest.mark.slow  # it loads transformers
def test_the_start_knows_every_word_of_its_pages() -> None:
    from transformers import AutoTokenizer

    from agentrl.envs.browser.env import BrowserEnv

    tokenizer = AutoTokenizer.from_pretrained(load(find("browser-grpo")).model.path)
    env = BrowserEnv("tiny")
    for split in SPLITS:
        for task in env.tasks(split)[:44]:
            text, info = env.reset(options={"task": task})
            said = [f"{text}\n{info['goal']}", *env.oracle()]
            assert all(tokenizer.unk_token_id not in tokenizer(each)["input_ids"] for each in said)


@pytest.mark.slow
def test_the_recipe_trains(tmp_path: Path) -> None:
    from agentrl.trainer import train

    small = [
        "algorithm.sampler.tasks=4", "evaluation.episodes=4", "run.iterations=1", "resources.device=cpu",
        "resources.threads=1",
    ]  # fmt: skip
    summary = train(load(find("browser-grpo"), small), tmp_path / "run")
    assert summary["status"] == "completed" and summary["n_updates"] > 0
    (line,) = metrics(tmp_path / "run")
    assert line["n_trajectories"] == 32 and line["grad_norm"] > 0
