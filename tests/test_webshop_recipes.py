"""The run files that train in the shop: possible, equal but for what they compare, and learning from the shipped start."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_runs import metrics

from agentrl import cli
from agentrl.config import find, flat, load

pytest.importorskip("transformers", reason="training needs the extra 'train'")

RECIPES = ("webshop-grpo", "webshop-gigpo")


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_finds_the_recipe_possible(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.main(["train", name, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f'name = "{name}"' in shown and "webshop-warmstart" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_two_recipes_differ_in_the_credit_alone() -> None:
    grpo, gigpo = (flat(load(find(name)).model_dump()) for name in RECIPES)
    differing = {key for key in {*grpo, *gigpo} if grpo.get(key) != gigpo.get(key)}
    assert {key for key in differing if not key.startswith("algorithm.credit")} == {"run.name"}


def test_the_start_was_taught_the_prompts_that_the_recipes_show_and_other_tasks() -> None:
    taught, played = load(find("webshop-warmstart")), load(find("webshop-grpo"))
    assert taught.agent == played.agent and taught.only_env.options == played.only_env.options
    assert played.algorithm.sampler["tasks"] * played.run.iterations <= taught.demos.first
    kept = load(Path(played.model.path or "") / "config.toml")  # of the export
    assert kept.agent == played.agent and kept.demos == taught.demos and kept.sft == taught.sft


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains(name: str, tmp_path: Path) -> None:
    from agentrl.trainer import train

    small = [
        "algorithm.sampler.tasks=4", "evaluation.episodes=4", "run.iterations=1", "resources.device=cpu",
        "resources.threads=1",
    ]  # fmt: skip
    summary = train(load(find(name), small), tmp_path / "run")
    assert summary["status"] == "completed" and summary["n_updates"] > 0
    (line,) = metrics(tmp_path / "run")
    assert line["n_trajectories"] == 32 and line["grad_norm"] > 0
