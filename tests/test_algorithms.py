"""Algorithms in whole runs of a tiny model: refills, losses of groups, coefficients that move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import toy_runs
from toy_runs import assert_same_run, cut, metrics, summary, tiny

from agentrl.console import Progress
from agentrl.store import read_trajectories
from agentrl.trainer import train

pytest.importorskip("transformers", reason="training needs the extra 'train'")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    toy_runs.CALLS.clear()


def run(folder: Path, *overrides: str, out: str = "run", resume: bool = False) -> Path:
    train(tiny(folder, *overrides), folder / out, progress=Progress(), resume=resume)
    return folder / out


DAPO = ('algorithm.filters=[{name="dapo", groups=3}]', 'algorithm.sampler={name="uniform", tasks=3, group_size=2}')


def advantages_by_group(run: Path, iteration: int) -> dict[str, set[bool]]:
    """Whether the turns of each group were trained on."""
    found: dict[str, set[bool]] = {}
    for t in read_trajectories(run / "trajectories" / f"iteration_{iteration:06d}.jsonl.zst"):
        found.setdefault(t.group, set()).update(turn.advantage is not None for turn in t.turns)
    return found


def test_dapo_fills_up_with_fresh_tasks(tmp_path: Path) -> None:
    """The toy reward makes about half of the groups of two degenerate."""
    made = run(tmp_path, *DAPO, "algorithm.refill_rounds=9", "evaluation.episodes=0", "checkpoint.keep=0")
    lines = metrics(made)
    assert max(line["rollout/rounds"] for line in lines) > 1
    seen: list[str] = []
    for number, line in enumerate(lines):
        groups = advantages_by_group(made, number)
        assert line["n_trajectories"] == 2 * len(groups) and line["filter/missing"] == line["filter/trimmed"] == 0
        assert sum(trained == {True} for trained in groups.values()) == 3
        assert line["filtered_groups"] == pytest.approx(1 - 3 / len(groups))
        assert any("/refill=1/" in group for group in groups) == (line["rollout/rounds"] > 1)
        seen += [group.partition("/task=")[2].partition("/place=")[0] for group in groups]
    assert len(seen) == len(set(seen))  # a later iteration goes on behind the refills, within an epoch
    state = json.loads((made / "checkpoints" / "latest" / "state.json").read_text())
    assert state["proposals"] > 3

    cut(made, 2)
    before = run(
        tmp_path, *DAPO, "algorithm.refill_rounds=9", "evaluation.episodes=0", "checkpoint.keep=0", out="again"
    )
    run(tmp_path, *DAPO, "algorithm.refill_rounds=9", "evaluation.episodes=0", "checkpoint.keep=0", resume=True)
    assert_same_run(before, made)


def test_dapo_stops_at_its_bound_and_trims(tmp_path: Path) -> None:
    hopeless = run(
        tmp_path, *DAPO, 'algorithm.scores=[{name="toy_runs:Zero"}]', "env.max_turns=1", "run.iterations=1",
        "algorithm.refill_rounds=2", "evaluation.episodes=0",
    )  # fmt: skip
    (line,) = metrics(hopeless)
    assert line["rollout/rounds"] == 3 and line["filter/missing"] == 3 and line["n_trajectories"] == 18
    assert "loss" not in line
    rich = run(
        tmp_path, 'algorithm.filters=[{name="dapo", groups=1}]', "run.iterations=1", "evaluation.episodes=0",
        'algorithm.sampler={name="uniform", tasks=4, group_size=4}', out="rich",
    )  # fmt: skip
    (line,) = metrics(rich)
    assert line["rollout/rounds"] == 1 and line["filter/trimmed"] > 0
    assert sum(trained == {True} for trained in advantages_by_group(rich, 0).values()) == 1


def test_a_loss_of_groups_sees_whole_groups(tmp_path: Path) -> None:
    made = run(
        tmp_path, 'algorithm.loss={name="toy_runs:Grouped"}', "run.iterations=2", "evaluation.episodes=0",
        'algorithm.sampler={name="uniform", tasks=5, group_size=3}',
    )  # fmt: skip
    by_update = [dict(part.split(":") for part in call.split()) for call in toy_runs.CALLS]
    assert len(by_update) == 4 and sorted(map(len, by_update)) == [2, 2, 3, 3]
    for update in by_update:
        assert set(update.values()) == {"3"}
    assert summary(made)["n_updates"] == 4


def test_disco_trains(tmp_path: Path) -> None:
    made = run(tmp_path, 'algorithm.loss={name="disco", outcome="won"}', 'algorithm.rewards=[{name="toy_runs:Won"}]',
               "run.iterations=2", "evaluation.episodes=0")  # fmt: skip
    lines = metrics(made)
    assert all(line["grad_norm"] > 0 and "disco/kl" in line for line in lines)


def test_a_steered_coefficient_moves_and_survives_a_resume(tmp_path: Path) -> None:
    kl = '{name="kl", coef={rule="proportional", start=0.5, target=1e-9, horizon=40.0}}'
    entropy = '{name="entropy", coef={rule="linear", start=0.1, end=0.0, over=2}}'
    changes = (f"algorithm.regularizers=[{kl}, {entropy}]", "evaluation.episodes=0", "checkpoint.keep=0")
    made = run(tmp_path, *changes)
    lines = metrics(made)
    assert [line["kl/coef"] for line in lines] == pytest.approx([0.5, 0.52, 0.5408])  # 8 of 40, 20 % at most
    assert [line["entropy/coef"] for line in lines] == pytest.approx([0.1, 0.05, 0.0])
    torn = Path(shutil.copytree(made, tmp_path / "torn", symlinks=True))
    cut(torn, 1)
    run(tmp_path, *changes, out="torn", resume=True)
    assert_same_run(made, torn)
