"""Sweeps: what is refused before anything is trained, and what is made of the runs that are there and of those that are not."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from toy_runs import TINY
from toy_sweeps import made_plan, write_run

from agentrl.cli import main
from agentrl.errors import CheckpointError, ConfigError
from agentrl.evaluation import mean_interval, student_t
from agentrl.overrides import overrides_first
from agentrl.sweep import curves, processes, results
from agentrl.sweep.plan import Run, begin, distinct_names, make_plan, reopened, write_plan
from agentrl.sweep.report import Progress, print_result, tables, write_markdown

# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("degrees", "inside", "t"),  # the tables of every textbook
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (7, 0.95, 2.365), (30, 0.95, 2.042), (9, 0.99, 3.250)],
)
def test_student(degrees: int, inside: float, t: float) -> None:
    assert student_t(degrees, inside) == pytest.approx(t, abs=6e-4)


def test_student_becomes_normal_and_wants_a_degree_of_freedom() -> None:
    assert student_t(100_000) == pytest.approx(1.96, abs=1e-3)
    with pytest.raises(ValueError, match="at least one degree"):
        student_t(0)


def test_an_interval_of_a_mean_by_hand() -> None:
    mean, interval = mean_interval([0.4, 0.5, 0.6])
    half = student_t(2) * 0.1 / math.sqrt(3)
    assert mean == pytest.approx(0.5) and interval == pytest.approx((0.5 - half, 0.5 + half))
    assert mean_interval([0.5]) == (0.5, None)
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, (0.5, 0.5))
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])


@pytest.mark.parametrize("n", [2, 3, 8])
def test_an_interval_holds_the_truth_nineteen_times_in_twenty(n: int) -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.1, (2000, n))
    found = [mean_interval(list(draw))[1] for draw in draws]
    held = sum(interval is not None and interval[0] <= 0.3 <= interval[1] for interval in found)
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(-1, 1))
def test_an_interval_moves_with_its_values(values: list[float], by: float) -> None:
    mean, interval = mean_interval(values)
    moved, other = mean_interval([value + by for value in values])
    assert interval is not None and other is not None and interval[0] <= mean <= interval[1]
    assert moved == pytest.approx(mean + by, abs=1e-12)
    assert other == pytest.approx((interval[0] + by, interval[1] + by), abs=1e-9)


# ── differences seed by seed ─────────────────────────────────────────────────────────────────────────────────────────


def test_differences_are_between_runs_of_one_seed() -> None:
    found = results.paired({0: 0.75, 1: 0.5, 2: 0.25, 3: 0.9}, {0: 0.5, 1: 0.5, 2: 0.5, 9: 0.0})
    assert found["values"] == {0: 0.25, 1: 0.0, 2: -0.25}
    assert (found["value"], found["n"], found["better"], found["worse"], found["equal"]) == (0.0, 3, 1, 1, 1)
    half = student_t(2) * 0.25 / math.sqrt(3)
    assert found["ci95"] == pytest.approx([-half, half])


def test_a_difference_of_one_seed_has_no_interval_and_of_none_no_value() -> None:
    assert results.paired({0: 0.75}, {0: 0.5})["ci95"] is None
    nothing = results.paired({0: 0.75}, {1: 0.5})
    assert (nothing["value"], nothing["ci95"], nothing["n"]) == (None, None, 0)


@given(st.dictionaries(st.integers(0, 9), st.floats(0, 1)), st.dictionaries(st.integers(0, 9), st.floats(0, 1)))
def test_a_difference_the_other_way_round_is_its_opposite(one: dict[int, float], other: dict[int, float]) -> None:
    there, back = results.paired(one, other), results.paired(other, one)
    assert (there["better"], there["worse"], there["n"]) == (back["worse"], back["better"], back["n"])
    assert there["better"] + there["worse"] + there["equal"] == there["n"] == len(one.keys() & other.keys())
    if there["n"]:
        assert there["value"] == pytest.approx(-back["value"], abs=1e-12)


def test_a_rate_stays_between_zero_and_one() -> None:
    assert results.over_seeds({0: 0.0, 1: 0.1})["ci95"][0] == 0.0
    assert results.over_seeds({0: 1.0, 1: 0.9})["ci95"][1] == 1.0


# ── what a folder holds ──────────────────────────────────────────────────────────────────────────────────────────────


def partly(tmp_path: Path) -> Any:
    """gigpo has both seeds; of grpo seed 0 was killed, seed 1 is complete; of rloo one stopped and one never began."""
    plan = made_plan(tmp_path, ("gigpo", "grpo", "rloo"))
    gigpo, grpo, rloo = plan.recipes
    write_run(plan.run(gigpo, 0), [0.1, 0.2], after=0.4, greedy=0.5)
    write_run(plan.run(gigpo, 1), [0.1, 0.2], after=0.6, greedy=0.5)
    write_run(plan.run(grpo, 1), [0.1, 0.3], after=0.5, greedy=0.5)
    for run in (plan.run(grpo, 0), plan.run(rloo, 0)):
        write_run(run, [0.9], after=0.9)
        done = json.loads((run.folder / "summary.json").read_text())
        (run.folder / "summary.json").write_text(json.dumps({**done, "status": "running"}))
    return plan, {plan.run(grpo, 0): "its process was killed (SIGKILL)"}


def test_what_is_missing_is_told_and_part_of_no_mean(tmp_path: Path) -> None:
    plan, reasons = partly(tmp_path)
    result = results.collect(plan, reasons)
    assert result["status"] == "incomplete"
    gigpo, grpo, rloo = result["recipes"]
    assert (gigpo["n"], grpo["n"], rloo["n"]) == (2, 1, 0) and gigpo["wanted"] == grpo["wanted"] == rloo["wanted"] == 2
    assert gigpo["sampled"]["values"] == {0: 0.4, 1: 0.6} and gigpo["sampled"]["mean"] == pytest.approx(0.5)
    assert grpo["sampled"] == {"mean": 0.5, "ci95": None, "n": 1, "values": {1: 0.5}}
    assert "sampled" not in rloo and rloo["seconds"] is None
    assert grpo["missing"] == [{"seed": 0, "status": "failed", "reason": "its process was killed (SIGKILL)"}]
    assert [missing["status"] for missing in rloo["missing"]] == ["unfinished", "not started"]
    first, second = result["differences"]
    assert (first["sampled"]["n"], first["sampled"]["values"]) == (1, {1: pytest.approx(-0.1)})
    assert (second["sampled"]["n"], second["sampled"]["value"]) == (0, None)
    assert gigpo["before"] == {"sampled": 0.25, "greedy": 0.5} and gigpo["episodes"] == 16


def test_the_tables_state_every_n_and_every_reason(tmp_path: Path) -> None:
    plan, reasons = partly(tmp_path)
    result = results.collect(plan, reasons)
    success, differences, lengths, missing, keys = tables(result)
    assert success.rows == [
        ("gigpo", "sampled", "0.250", "0.500 [0.000, 1.000]", "2 of 2"),
        ("gigpo", "greedy", "0.500", "0.500 [0.500, 0.500]", "2 of 2"),
        ("grpo", "sampled", "0.250", "0.500 (one seed)", "1 of 2"),
        ("grpo", "greedy", "0.500", "0.500 (one seed)", "1 of 2"),
        ("rloo", "-", "-", "-", "0 of 2"),
    ]
    assert lengths.rows == [("gigpo", "2", "16", "12"), ("grpo", "2", "16", "12")]
    assert ("grpo", "sampled", "-0.100 (one seed)", "1", "0", "1", "0") in differences.rows
    assert ("rloo", "sampled", "no common seed", "0", "0", "0", "0") in differences.rows
    assert ("grpo", "0", "failed", "its process was killed (SIGKILL)") in missing.rows
    assert ("grpo", "algorithm.credit.name", "gigpo", "grpo") in keys.rows
    shown = io.StringIO()
    print_result(Console(file=shown, width=80), plan, result)
    write_markdown(plan, result)
    for text in (shown.getvalue(), (plan.folder / "sweep.md").read_text()):
        assert "3 of the runs ended early, by their time limit" in " ".join(text.split())
        assert "incomplete" in text and "its process was killed (SIGKILL)" in text and "Student's t" in text
        assert all(cell in text for table in tables(result) for line in table.rows for cell in line)


def test_a_sweep_on_disk_is_numbers_json_can_hold(tmp_path: Path) -> None:
    plan, reasons = partly(tmp_path)
    result = results.collect(plan, reasons)
    results.write(plan, result)
    assert json.loads((plan.folder / "sweep.json").read_text()) == json.loads(json.dumps(result))


def test_a_log_tells_why_a_run_failed(tmp_path: Path) -> None:
    run = Run("grpo", 0, tmp_path / "seed_0")
    run.log.write_text("agentrl: of an earlier process\n")
    logged = run.log.stat().st_size
    assert processes.reason(run, 1, logged) == "its process ended with status 1"
    assert processes.reason(run, -9, logged) == "its process was killed (SIGKILL)"
    with run.log.open("a") as log:
        log.write("Traceback (most recent call last):\n  File x\nZeroDivisionError: a bug\n")
    assert processes.reason(run, 1, logged) == "ZeroDivisionError: a bug"
    with run.log.open("a") as log:
        log.write("agentrl: the disk is full\nasyncio says something\n")
    assert processes.reason(run, 1, logged) == "the disk is full"


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(successes: list[float], episodes: list[int]) -> list[dict[str, Any]]:
    return [
        {"episode/success_rate": success, "n_trajectories": n} for success, n in zip(successes, episodes, strict=True)
    ]


def test_a_curve_is_the_mean_over_runs_up_to_where_the_shortest_ends() -> None:
    runs = [lines([0.0, 0.5, 1.0], [8, 8, 8]), lines([0.5, 0.5], [8, 8])]
    x, mean, half = curves.curve(runs, 1, by_episodes=False)
    assert x.tolist() == [1, 2] and mean.tolist() == [0.25, 0.5]
    assert half == pytest.approx([student_t(1) * math.sqrt(0.125) / math.sqrt(2), 0.0])


def test_a_curve_weighs_iterations_by_their_episodes() -> None:
    x, mean, half = curves.curve([lines([0.0, 1.0, 1.0], [30, 10, 10])], 2, by_episodes=False)
    assert mean.tolist() == [0.0, 0.25, 1.0] and half.tolist() == [0, 0, 0] and x.tolist() == [1, 2, 3]


def test_a_curve_over_episodes_is_compared_at_equal_episodes() -> None:
    runs = [lines([0.0, 1.0], [10, 10]), lines([0.0, 0.0, 1.0], [5, 5, 20])]
    x, mean, _ = curves.curve(runs, 1, by_episodes=True)
    assert (x[0], x[-1]) == (10, 20)
    assert mean[0] == 0.0 and mean[-1] == pytest.approx((1.0 + 0.5) / 2)


def pixels(path: Path) -> np.ndarray:
    """The bytes of a PNG's lines, [height, 1 + 4 width], each of which begins with its filter; raises for what is no PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (depth, colour) == (8, 6)  # RGBA
    place, packed = 8, b""
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0]
        packed += body if kind == b"IDAT" else b""
        place += 12 + length
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 4 * width)


@pytest.mark.parametrize("by_episodes", [False, True])
def test_the_curves_are_an_image(tmp_path: Path, by_episodes: bool) -> None:
    pytest.importorskip("matplotlib", reason="curves need the extra 'plots'")
    plan = made_plan(tmp_path, n_seeds=3)
    for run in plan.runs():
        each = [8, 24, 16, 8] if by_episodes and run.recipe == "grpo" else 8
        write_run(run, [0.2, 0.3, 0.4, 0.3 + 0.1 * run.seed], after=0.4 + 0.1 * run.seed, episodes=each)
    assert curves.draw(plan, results.collect(plan, {}))
    image = pixels(plan.folder / "curves.png")
    assert image.shape[0] > 600 and image.shape[1] > 4 * 1200
    assert len(np.unique(image)) > 50


def test_without_a_complete_run_there_are_no_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need the extra 'plots'")
    plan = made_plan(tmp_path)
    assert not curves.draw(plan, results.collect(plan, {}))
    assert not (plan.folder / "curves.png").exists()


def test_runs_without_an_iteration_have_evaluations_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need the extra 'plots'")
    plan = made_plan(tmp_path, iterations=0)
    for run in plan.runs():
        write_run(run, [])
    assert curves.draw(plan, results.collect(plan, {})) and pixels(plan.folder / "curves.png").any()


@pytest.mark.parametrize("plots", [True, False])
def test_a_complete_sweep_is_told_again_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plots: bool
) -> None:
    if plots:
        pytest.importorskip("matplotlib", reason="curves need the extra 'plots'")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plan = made_plan(tmp_path)
    for run in plan.runs():
        write_run(run, [0.2, 0.3, 0.4, 0.5], after=0.5 if run.recipe == "gigpo" else 0.25 + 0.25 * run.seed)
    assert main(["sweep", "--resume", "--out", str(plan.folder)]) == 0
    shown = capsys.readouterr().out
    assert "-0.125 [" in shown and "completed: everything is in" in shown
    assert (plan.folder / "curves.png").exists() == plots
    assert ("curves.png needs the extra 'plots': pip install" in shown) != plots
    assert ("curves.png" in (plan.folder / "sweep.md").read_text()) == plots
    assert json.loads((plan.folder / "sweep.json").read_text())["status"] == "completed"


# ── what is refused before anything is trained ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two run files that differ in their credit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(TINY)
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n[algorithm]\ncredit = { name = "grpo" }\n')
    (tmp_path / "long.toml").write_text('extends = "a.toml"\n[run]\niterations = 9\n')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.toml").write_text('extends = "../b.toml"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--seeds 2", "a sweep needs run files"),
        ("a.toml b.toml", "give --seeds N"),
        ("a.toml none.toml --seeds 2", "none.toml cannot be read"),
        ("a.toml ./a.toml --seeds 2", "given twice"),
        ("a.toml b.toml --seeds 2 run.sead=1", "unknown key 'run.sead'"),
        ("a.toml b.toml --seeds 2 run.seed=1", "use --seeds and --first-seed"),
        ("a.toml b.toml --seeds 2 resources.threads=1", "use --threads"),
        ("a.toml long.toml --seeds 2", "run.iterations is 3 in a and 9 in long; give run.iterations=VALUE"),
        ("a.toml b.toml --seeds 2 evaluation.episodes=0", "evaluation.episodes is 0"),
        ("a.toml b.toml --seeds 2 --out other", "other exists already"),
        ("a.toml b.toml --seeds 2 --jobs 0", "--jobs"),
        ("a.toml b.toml --seeds 2 --threads -1", "--threads"),
        ("a.toml b.toml --seeds -2", "give --seeds N"),
        ("a.toml b.toml --seeds 2 --first-seed -1", "run.seed"),
        ("--resume", "there is no sweep to continue in runs/sweep"),
        ("a.toml --seeds 2 --resume --out other", "there is no sweep to continue in other"),
    ],
)
def test_what_cannot_be_swept(
    arguments: str, words: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.subprocess, "Popen", None)  # nothing is started
    before = sorted(files.rglob("*"))
    assert main(["sweep", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and error.startswith("agentrl: ")
    assert sorted(files.rglob("*")) == before


def test_run_files_of_one_name_are_told_apart(files: Path) -> None:
    plan = make_plan(["a.toml", "other/a.toml", "b.toml"], [0])
    assert [recipe.name for recipe in plan.recipes] == [f"{files.name}-a", "other-a", "b"]
    assert len({run.folder for run in plan.runs()}) == 3
    assert distinct_names([Path("/x/y/a.toml"), Path("/z/y/a.toml")]) == ["x-y-a", "z-y-a"]
    assert distinct_names([Path("/a.toml"), Path("/z/a.toml")])[1] == "z-a"
    with pytest.raises(ConfigError, match="given twice"):
        distinct_names([Path("/x/a.toml"), Path("/x/../x/a.toml")])


def test_seeds_are_paired_and_come_one_after_the_other(files: Path) -> None:
    runs = make_plan(["a.toml", "b.toml"], [3, 4]).runs()
    assert [(run.recipe, run.seed) for run in runs] == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_goes_on_as_it_began(files: Path) -> None:
    plan = begin(make_plan(["a.toml", "b.toml"], [0, 1], ["run.iterations=5"], files / "out"))
    again = reopened(plan.folder)
    assert [recipe.name for recipe in again.recipes] == ["a", "b"] and list(again.seeds) == [0, 1]
    assert [recipe.config.run.iterations for recipe in again.recipes] == [5, 5]
    more = reopened(plan.folder, ["a.toml", "b.toml"], [1, 2], ["run.iterations=5", "checkpoint.every=7"])
    assert list(more.seeds) == [0, 1, 2]
    write_plan(more)
    assert list(reopened(plan.folder).seeds) == [0, 1, 2]
    with pytest.raises(CheckpointError, match=r"another a: run.iterations = 5, now 6"):
        reopened(plan.folder, ["a.toml", "b.toml"], [], ["run.iterations=6"])
    with pytest.raises(CheckpointError, match="was started with a, b, and not with b"):
        reopened(plan.folder, ["b.toml"], [], ["run.iterations=5"])
    with pytest.raises(ConfigError, match=r"leave run.iterations=5 out"):
        reopened(plan.folder, [], [], ["run.iterations=5"])
    (plan.folder / "plan.json").write_text('{"recipes": 3}')
    with pytest.raises(CheckpointError, match=r"plan.json cannot be read"):
        reopened(plan.folder)


def test_a_sweep_needs_no_working_folder_to_find_its_model(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "start").mkdir()
    (files / "start" / "config.json").write_text("{}")
    (files / "model.toml").write_text('[env]\nid = "agentrl/Household-v0"\n[model]\npath = "start"\n')
    plan = begin(make_plan(["model.toml"], [0], [], files / "out"))
    monkeypatch.chdir("/")
    assert reopened(plan.folder).recipes[0].config.model.path == str((files / "start").resolve())


# ── how much at a time ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("jobs", "threads", "wanted"),
    [
        (None, None, (8, 1)),
        (None, 4, (2, 4)),
        (2, None, (2, 4)),
        (3, None, (3, 2)),
        (16, None, (16, 1)),
        (None, 9, (1, 9)),
    ],
)
def test_the_cores_are_shared_out(
    jobs: int | None, threads: int | None, wanted: tuple[int, int], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentrl.config import load

    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(8)))
    config = load("a.toml")
    assert processes.shares(16, config, jobs, threads) == wanted
    assert processes.shares(3, config, None, None) == (3, 2)
    assert processes.shares(0, config, None, None) == (1, 8)
    monkeypatch.setattr(processes, "GPUS", files)
    on_gpu = load("a.toml", ["resources.device=auto"])
    assert processes.shares(16, on_gpu, None, None) == (1, 8)
    assert processes.shares(16, config, None, None) == (8, 1)  # device = "cpu"


# ── what a person sees ───────────────────────────────────────────────────────────────────────────────────────────────


def test_values_may_stand_after_options() -> None:
    for typed, wanted in [
        ("sweep a b --seeds 3 run.iterations=1 x.y=2", "sweep a b run.iterations=1 x.y=2 --seeds 3"),
        ("sweep a --resume run.name=x --out d b=1", "sweep a run.name=x b=1 --resume --out d"),
        ("train a --out x.y=1", "train a --out x.y=1"),
        ("train a run.seed=1", "train a run.seed=1"),
        ("eval e --option difficulty=easy", "eval e --option difficulty=easy"),
        ("--version", "--version"),
    ]:
        assert overrides_first(typed.split()) == wanted.split()
    assert overrides_first([]) == []


def test_progress_tells_what_runs_what_ended_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = made_plan(tmp_path, iterations=4)
    first, second, *waiting = plan.runs()
    shown = io.StringIO()
    now = [100.0]
    monkeypatch.setattr("agentrl.sweep.report.time.monotonic", lambda: now[0])
    progress = Progress(Console(file=shown, width=80), plan, done=0)
    progress.began(first)
    progress.began(second)
    assert progress.left([(first, 0), (second, 0)], 2) is None
    write_run(first, [0.125, 0.25], after=0.5, greedy=0.75)
    now[0] += 40.0
    progress.look([first, second], waiting)
    # 2 of 4 iterations in 40 s: 80 s a run; 0.5 + 1 + 2 runs are left, two at a time
    assert (
        "0/4 runs complete, elapsed 0:40, left about 2:20  gigpo, seed 0 2/4 0.250; grpo, seed 0 0/4"
        in shown.getvalue()
    )
    progress.ended(first, "")
    progress.ended(second, "its process was killed (SIGKILL)")
    progress.look(waiting[:0], waiting)
    text = shown.getvalue()
    assert "gigpo, seed 0: success 0.500, greedy 0.750, 0:40" in text
    assert "grpo, seed 0: FAILED after 0:40: its process was killed (SIGKILL); see " in text
    assert (progress.done, progress.failed) == (1, 1)


def test_progress_is_a_table_in_a_terminal(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, iterations=4)
    first, *waiting = plan.runs()
    write_run(first, [0.125, 0.25])
    shown = io.StringIO()
    progress = Progress(Console(file=shown, width=80, force_terminal=True), plan, done=1)
    with progress.shown():
        progress.began(first)
        progress.look([first], waiting)
    text = shown.getvalue()
    assert "goes on" in text and "2/4" in text and "0.250" in text and "1/4 runs complete" in text
