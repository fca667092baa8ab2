"""Training while the next episodes go on: how old the weights may be, what is refused, and that nothing is left over."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from toy_runs import assert_same_run, metrics, summary, tiny, trajectories

from agentrl.collecting import check_staleness
from agentrl.console import Progress
from agentrl.errors import ConfigError
from agentrl.policies.transformers import TransformersPolicy
from agentrl.trainer import Trainer, train

TIS = 'algorithm.token_weights=[{name = "tis"}]'


@pytest.mark.parametrize("n", [1, 2])
def test_no_token_is_older_than_the_file_allows(n: int, tmp_path: Path) -> None:
    """A version counts updates, two an iteration here: what iteration i trains on was sampled by version 2 (i - n) or later."""
    config = tiny(tmp_path, f"rollout.staleness={n}", TIS, "run.iterations=5")
    train(config, tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert len(rows) == 5 and summary(tmp_path / "run")["status"] == "completed"
    assert rows[0]["staleness/max"] == 0
    assert 0 < max(row["staleness/max"] for row in rows) <= n
    for number, played in enumerate(trajectories(tmp_path / "run")[f"iteration_{i:06d}.jsonl.zst"] for i in range(5)):
        versions = {call["policy_version"] for t in played for turn in t["turns"] for call in turn["calls"]}
        assert min(versions) >= 2 * (number - n) and max(versions) <= 2 * number
        assert len(played) == 8, "every episode that was asked for"


def test_the_first_iteration_does_not_depend_on_what_runs_ahead(tmp_path: Path) -> None:
    """It is sampled by the weights of the start either way; floating point may differ in a batch of another shape."""
    for name, *overrides in (("plain",), ("ahead", "rollout.staleness=1", TIS)):
        train(tiny(tmp_path, *overrides, "run.iterations=1", "evaluation.episodes=0"), tmp_path / name)
    first = "iteration_000000.jsonl.zst"
    actions = [
        [[turn["action"] for turn in t["turns"]] for t in trajectories(tmp_path / name)[first]]
        for name in ("plain", "ahead")
    ]
    assert actions[0] == actions[1]


def test_free_batches_without_staleness_train_on_fresh_tokens(tmp_path: Path) -> None:
    train(tiny(tmp_path, 'rollout.batching="free"', "run.iterations=2"), tmp_path / "run")
    assert all("staleness/max" not in row for row in metrics(tmp_path / "run"))


def test_old_weights_without_a_correction_are_refused(tmp_path: Path) -> None:
    trainer = Trainer(tiny(tmp_path), Progress(), 0.0)
    for overrides, said in (
        (["rollout.staleness=1"], 'token_weights = \\[{ name = "tis" }\\]'),
        (["rollout.staleness=1", TIS, 'rollout.batching="rounds"'], "lets none wait"),
    ):
        with pytest.raises(ConfigError, match=said):
            Trainer(tiny(tmp_path, *overrides), Progress(), 0.0)
    check_staleness(tiny(tmp_path, "rollout.staleness=1", 'algorithm.old_logprobs="sampler"'), trainer.methods)


def test_a_resumed_run_goes_on_with_the_tasks_that_were_not_trained_on(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, n in ((whole, 4), (cut, 2)):
        train(tiny(tmp_path, "rollout.staleness=1", TIS, f"run.iterations={n}"), folder)
    train(tiny(tmp_path, "rollout.staleness=1", TIS, "run.iterations=4"), cut, resume=True)

    def tasks(run: Path) -> list[set[str]]:
        files = trajectories(run)
        return [{t["task"]["id"] for t in files[f"iteration_{i:06d}.jsonl.zst"]} for i in range(4)]

    assert tasks(whole) == tasks(cut)


def test_nothing_runs_on_after_the_end(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    config = tiny(tmp_path, "rollout.staleness=3", TIS, "run.iterations=50", "run.time_limit_s=0.001")
    train(config, tmp_path / "run")
    assert set(threading.enumerate()) <= before


def test_a_policy_with_its_own_weights_takes_over_those_of_an_update(tmp_path: Path) -> None:
    import torch

    model = Trainer(tiny(tmp_path), Progress(), 0.0).models.model
    own, shared = TransformersPolicy(model, own_weights=True), TransformersPolicy(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    mine, theirs = next(own.model.parameters()), next(model.parameters())
    assert not torch.equal(mine, theirs)
    assert own.update(model, 3) == sum(p.nbytes for p in model.parameters())
    assert torch.equal(mine, theirs) and own.version == 3
    assert shared.update(model, 3) == 0 and shared.model is model


def test_a_synchronous_run_is_the_same_with_and_without_the_keys(tmp_path: Path) -> None:
    train(tiny(tmp_path), tmp_path / "one")
    train(tiny(tmp_path, "rollout.staleness=0", 'rollout.batching="rounds"'), tmp_path / "other")
    assert_same_run(tmp_path / "one", tmp_path / "other")
