"""The best checkpoint: which it is, that it stays, survives a resume, and can be named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_runs import assert_same_run, cut, summary, tiny

from agentrl import trainer
from agentrl.cli import main
from agentrl.console import Progress, print_summary
from agentrl.watch import best_of

# ── which it is ──────────────────────────────────────────────────────────────────────────────────────────────────────


def panel(rate: float, n: int = 10) -> dict[str, Any]:
    return {"sampled": {"success_rate": rate, "ci95": [0.0, 1.0], "n": n}, "greedy": {"success_rate": 1 - rate, "n": n}}


def step(results: Mapping[str, Any], iteration: int = 9, there: set[int] | None = None) -> int | None:
    found = best_of(results, iteration, set(range(99)) if there is None else there)
    return None if found is None else found.step


def test_the_best_is_that_of_the_highest_success_on_the_sampled_panel() -> None:
    results = {"before": panel(0.1), "iteration_2": panel(0.6), "iteration_4": panel(0.5), "after": panel(0.4)}
    assert step(results) == 2
    assert step({**results, "after": panel(0.7)}) == 9
    assert step({**results, "before": panel(0.8)}) == 0  # training can make it worse


def test_of_equals_the_latest_is_the_best() -> None:
    assert step({"before": panel(0.5), "iteration_2": panel(0.5), "iteration_4": panel(0.5)}) == 4


def test_only_what_is_there_and_was_played_counts() -> None:
    results = {"before": panel(0.1), "iteration_2": panel(0.9), "iteration_4": panel(0.5)}
    assert step(results, there={0, 4}) == 4
    assert step({**results, "iteration_2": panel(0.0, n=0)}) == 4  # nothing but faults
    assert step({"before": {}, "difference": {"sampled": {"value": 0.3}}, "iteration_x": panel(1.0)}) is None


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), max_size=8, unique_by=lambda one: one[0]))
def test_no_panel_that_was_played_is_better_than_the_best(found: list[tuple[int, float]]) -> None:
    results = {f"iteration_{number}": panel(rate) for number, rate in sorted(found)}
    best = best_of(results, 99, {number for number, _ in found})
    if best is None:
        assert not found
    else:
        assert best.success_rate == max(rate for _, rate in found)
        assert best.step == max(number for number, rate in found if rate == best.success_rate)


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES = ("run.iterations=5", "evaluation.every=1", "evaluation.greedy=false", "checkpoint.every=2")
SUCCESSES = {"before": 1, "iteration_1": 3, "iteration_2": 0, "iteration_3": 2, "iteration_4": 1, "after": 2}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many of the four episodes of each panel succeed; to be changed."""
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    successes, played = dict(SUCCESSES), trainer.run_panel

    def panel_of(rollouts: Any, tasks: Any, name: str, *args: Any) -> Any:
        found = played(rollouts, tasks, name, *args)
        for number, trajectory in enumerate(found.trajectories):
            trajectory.success = number < successes.get(name.partition("/")[0], 0)
        return found

    monkeypatch.setattr(trainer, "run_panel", panel_of)
    return successes


def run(folder: Path, *changes: str, resume: bool = False) -> Path:
    trainer.train(tiny(folder, *CHANGES, *changes), folder / "run", progress=Progress(), resume=resume)
    return folder / "run"


def checkpoints(made: Path) -> list[str]:
    return sorted(path.name for path in (made / "checkpoints").iterdir())


def best(made: Path) -> str:
    return os.readlink(made / "checkpoints" / "best")


def test_the_best_checkpoint_is_never_removed(scripted: dict[str, int], tmp_path: Path) -> None:
    made = run(tmp_path, "checkpoint.keep=1")
    assert checkpoints(made) == ["best", "latest", "step_1", "step_5"]  # step_1 was no checkpoint that was due
    assert best(made) == "step_1" and os.readlink(made / "checkpoints" / "latest") == "step_5"
    found = summary(made)["best"]
    assert {key: found[key] for key in ("step", "evaluation", "success_rate", "n")} == {
        "step": 1, "evaluation": "iteration_1", "success_rate": 0.75, "n": 4,
    }  # fmt: skip
    assert json.loads((made / "checkpoints" / "best" / "state.json").read_text())["iteration"] == 1


def test_a_better_one_at_the_end_takes_its_place(scripted: dict[str, int], tmp_path: Path) -> None:
    scripted["after"] = 4
    made = run(tmp_path, "checkpoint.keep=1")
    assert checkpoints(made) == ["best", "latest", "step_5"] and best(made) == "step_5"
    assert summary(made)["best"]["evaluation"] == "after"


def test_a_run_that_never_succeeds_ends_with_its_newest(scripted: dict[str, int], tmp_path: Path) -> None:
    scripted.update(dict.fromkeys(scripted, 0))
    assert best(run(tmp_path)) == "step_5"


def test_without_panels_on_the_way_there_is_none(scripted: dict[str, int], tmp_path: Path) -> None:
    made = run(tmp_path, "evaluation.every=0", "run.iterations=1")
    assert checkpoints(made) == ["latest", "step_0", "step_1"] and summary(made)["best"] is None


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_a_resume_keeps_the_best(at: int, scripted: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = run(tmp_path / "whole", "checkpoint.keep=0")
    made = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    if at < 5:
        cut(made, at)
    run(tmp_path, "checkpoint.keep=0", resume=True)
    assert best(made) == best(whole) == "step_1"
    assert summary(made)["best"] == summary(whole)["best"]
    assert_same_run(whole, made)


def test_a_resume_from_before_the_best_does_not_point_to_nothing(scripted: dict[str, int], tmp_path: Path) -> None:
    made = run(tmp_path, "checkpoint.keep=0")
    cut(made, 0)  # an older checkpoint; step_1, which was the best, is no more
    scripted["iteration_1"] = 0
    run(tmp_path, "checkpoint.keep=0", resume=True)
    assert best(made) == "step_5" and summary(made)["best"]["success_rate"] == 0.5  # of two the latest


def test_the_best_can_be_named(
    scripted: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = ["eval", "agentrl/Household-v0", "--episodes", "2", "--json"]
    assert main([*asked, "--policy", "checkpoint:run/checkpoints/best"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*asked, "--policy", "checkpoint:run/checkpoints/step_1"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert [row["score"] for row in found["episodes"]] == [row["score"] for row in same["episodes"]]
    assert main(["export-model", "run/checkpoints/best", "exported"]) == 0
    weights = [path / "model.safetensors" for path in (tmp_path / "exported", made / "checkpoints" / "step_1")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_last_words_name_the_best(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    file = io.StringIO()
    found = best_of({"iteration_2": panel(0.6)}, 9, {2})
    assert found is not None
    print_summary(
        Console(file=file), {"status": "completed", "seconds": 1, "eval": {}, "best": found.to_dict()}, tmp_path
    )
    assert "best checkpoint: step 2, success 0.600 [0.000, 1.000]" in file.getvalue()
