"""Whole runs of a tiny model: what they leave on disk, that they repeat to the last bit, and what goes wrong on purpose."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from rich.console import Console
from rich.table import Table
from toy_runs import assert_same_run, cut, metrics, run_file, summary, tiny, trajectories, weights

from agentrl.algorithms import TurnTable
from agentrl.cli import main
from agentrl.config import AlgorithmTable, load
from agentrl.console import LineProgress, LiveProgress, Progress, print_table
from agentrl.errors import CheckpointError, ConfigError
from agentrl.lessons import n_updates
from agentrl.store import free_folder, read_trajectories
from agentrl.trainer import Trainer, train

pytest.importorskip("transformers", reason="training needs the extra 'train'")

import torch

QUIET = Progress()


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_runs.CALLS.clear()
    monkeypatch.chdir(tmp_path)


def run(folder: Path, *overrides: str, out: str = "run", resume: bool = False) -> Path:
    train(tiny(folder, *overrides), folder / out, progress=QUIET, resume=resume)
    return folder / out


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with all its checkpoints."""
    return run(tmp_path_factory.mktemp("kept"), "checkpoint.keep=0")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of the tiny file, as it stands."""
    return run(tmp_path_factory.mktemp("plain"))


# ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_summary_has_the_keys_that_are_promised(plain: Path) -> None:
    found = summary(plain)
    assert found["status"] == "completed" and found["seconds"] > 0 and found["iterations"] == 3
    assert list(found["eval"]) == ["before", "after", "difference"]
    for name in ("before", "after"):
        for result in (found["eval"][name], found["eval"][name]["greedy"]):
            assert result["n"] == 4 and 0 <= result["success_rate"] <= 1
            low, high = result["ci95"]
            assert 0 <= low <= result["success_rate"] <= high <= 1
    for difference in (found["eval"]["difference"], found["eval"]["difference"]["greedy"]):
        low, high = difference["ci95"]
        assert low <= difference["value"] <= high
    assert "successes" not in json.dumps(found)


def test_every_iteration_has_a_line_of_named_metrics(plain: Path) -> None:
    lines = metrics(plain)
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    wanted = """episode/success_rate episode/valid_action_ratio episode/turns reward/mean reward/std entropy
        clip_ratio/low clip_ratio/high completions/mean_length loss grad_norm lr n_updates n_trained_tokens
        time/rollout time/generation time/environment time/credit time/training time/storage time/iteration
        perf/tokens_per_second sampler_gap/max credit/anchor_size_mean advantage/zero_fraction filtered_groups
        credit/signal_share credit/advantage_within_share credit/advantage_turn_0"""
    for line in lines:
        assert not set(wanted.split()) - set(line)
        assert line["n_trajectories"] == 8 and line["n_turns"] <= 32
        assert line["sampler_gap/max"] < 1e-4  # rule 6: what was sampled is what is trained
        assert line["grad_norm"] > 0 and line["reward/std"] > 0  # the toy reward teaches
    assert [line["n_updates"] for line in lines] == [2, 4, 6]


def test_trajectories_are_on_disk_and_readable(plain: Path) -> None:
    files = sorted((plain / "trajectories").glob("*.jsonl.zst"))
    names = [file.name.removesuffix(".jsonl.zst") for file in files]
    evaluations = [f"eval_{when}_{panel}" for when in ("after", "before") for panel in ("greedy", "sampled")]
    assert names == [*evaluations, "iteration_000000", "iteration_000001", "iteration_000002"]
    for file in files:
        members = list(read_trajectories(file))
        assert len(members) == (4 if file.name.startswith("eval") else 8)
        for member in members:
            assert member.id in str(member) and "> " in str(member) and "[1]" in str(member)
            assert all(call.completion_ids and call.logprobs for call in member.calls())
    first = next(iter(read_trajectories(files[-1])))
    assert first.id.startswith("iteration=2/task=") and first.id.endswith("/member=0") and first.rewards


def test_checkpoints_are_hugging_face_folders(plain: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoints = plain / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_2", "step_3"]  # keep = 2
    assert os.readlink(checkpoints / "latest") == "step_3"
    model = AutoModelForCausalLM.from_pretrained(checkpoints / "latest", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "latest", local_files_only=True)
    assert model.config.vocab_size == len(tokenizer) and model.num_parameters() == summary(plain)["n_parameters"]


def test_the_run_file_in_the_folder_is_the_run(plain: Path, tmp_path: Path) -> None:
    assert load(plain / "config.toml") == tiny(tmp_path)
    train(load(plain / "config.toml"), tmp_path / "again", progress=QUIET)
    assert_same_run(plain, tmp_path / "again")


# ── the same numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_file_and_seed_give_the_same_run_and_another_seed_another(plain: Path, tmp_path: Path) -> None:
    assert_same_run(plain, run(tmp_path))
    other = run(tmp_path, "run.seed=1", out="other")
    assert trajectories(other) != trajectories(plain) and weights(other) != weights(plain)


def test_what_should_not_matter_does_not(plain: Path, tmp_path: Path) -> None:
    """Names, the number of kept checkpoints, where it runs, how many episodes are live, how results are shown."""
    changes = ("run.name=other", "checkpoint.keep=0", "rollout.attempts=7")
    assert_same_run(plain, run(tmp_path, *changes))


def test_two_threads_sample_the_same_ids(plain: Path, tmp_path: Path) -> None:
    two = run(tmp_path, "resources.threads=2", "run.iterations=1")
    one, other = trajectories(plain)["iteration_000000.jsonl.zst"], trajectories(two)["iteration_000000.jsonl.zst"]
    ids = [[call["completion_ids"] for t in members for turn in t["turns"] for call in turn["calls"]]
           for members in (one, other)]  # fmt: skip
    assert ids[0] == ids[1]


# ── algorithms ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grpo_and_gigpo_are_different_algorithms(plain: Path, tmp_path: Path) -> None:
    grpo = run(tmp_path, 'algorithm.credit={name="grpo"}')
    assert summary(grpo)["status"] == "completed" and weights(grpo) != weights(plain)
    first = "iteration_000000.jsonl.zst"
    pairs = list(zip(trajectories(grpo)[first], trajectories(plain)[first], strict=True))
    advantages = [[[turn.pop("advantage") for turn in one["turns"]] for one in pair] for pair in pairs]
    assert all(one == other for one, other in pairs)  # the same episodes, credited differently
    assert any(one != other for one, other in advantages)
    assert "credit/anchor_size_mean" not in metrics(grpo)[0]


@pytest.mark.slow
def test_a_kl_regularizer_measures_the_distance_from_the_model_at_the_start(plain: Path, tmp_path: Path) -> None:
    kl = run(tmp_path, 'algorithm.regularizers=[{name="kl", coef=10.0}]')
    lines = metrics(kl)
    assert lines[0]["kl"] < lines[-1]["kl"] and lines[-1]["kl"] > 1e-6
    free = run(tmp_path, 'algorithm.regularizers=[{name="kl", coef=0.0}]', out="free")
    assert lines[-1]["kl"] < metrics(free)[-1]["kl"]  # it holds the policy back
    assert weights(free) == weights(plain)  # and with coefficient 0 it only measures


def test_a_kl_in_the_reward_is_measured_and_steers_its_coefficient(tmp_path: Path) -> None:
    coef = '{start=1.0, target=1e-9, horizon=8.0, rule="proportional"}'
    made = run(tmp_path, f'algorithm.rewards=[{{name="kl", coef={coef}}}]', "evaluation.episodes=0")
    first, second, third = metrics(made)
    assert first["kl/sampled"] == pytest.approx(0, abs=1e-6)  # the reference is the policy at the start
    assert abs(second["kl/sampled"]) > 1e-6 and abs(third["kl/sampled"]) > 1e-6
    latest = json.loads((made / "checkpoints" / "latest" / "state.json").read_text())
    expected = 1.0
    for line in (first, second, third):
        expected *= 1 + min(0.2, max(-0.2, line["kl/sampled"] / 1e-9 - 1))
    assert latest["states"]["rewards[0]"]["value"] == pytest.approx(expected)


def test_a_turn_is_charged_for_its_own_tokens(tmp_path: Path, plain: Path) -> None:
    trainer = Trainer(tiny(tmp_path, 'algorithm.rewards=[{name="kl", coef=0.5}]'), QUIET, time.time())
    members = list(read_trajectories(plain / "trajectories" / "iteration_000000.jsonl.zst"))
    head = trainer.models.model.get_output_embeddings().weight
    with torch.no_grad():
        head += 0.1 * torch.sin(torch.arange(head.numel())).reshape(head.shape)  # away from the reference
    lesson = trainer.lessons.credit({}, members)
    data = trainer.learner.prepare(lesson.samples, lesson.advantages, lesson.table)
    assert data.logp_old is not None and data.logp_ref is not None
    expected = [float((data.logp_old - data.logp_ref)[data.row == row].sum()) for row in range(len(lesson.table))]
    assert lesson.table["kl"] == pytest.approx(expected) and np.abs(expected).min() > 1e-4
    raw = TurnTable.from_trajectories(members)["reward"]
    assert lesson.table["reward"] == pytest.approx(raw - 0.5 * np.array(expected))


def test_credit_methods_sum_and_later_ones_modulate(plain: Path, tmp_path: Path) -> None:
    def advantages(credit: str) -> Any:
        trainer = Trainer(tiny(tmp_path, f"algorithm.credit={credit}"), QUIET, time.time())
        return trainer.lessons.credit({}, list(read_trajectories(file))).advantages

    file = plain / "trajectories" / "iteration_000000.jsonl.zst"
    grpo = advantages('{name="grpo"}')
    assert (advantages('[{name="grpo"}, {name="toy_runs:Ones"}]') == grpo + 1).all()
    assert (advantages('[{name="grpo"}, {name="toy_runs:Ones"}, {name="toy_runs:Halve"}]') == (grpo + 1) / 2).all()
    assert (advantages('[{name="grpo"}, {name="toy_runs:Halve"}, {name="toy_runs:Ones"}]') == grpo / 2 + 1).all()
    with pytest.raises(ConfigError, match="advantage"):
        advantages('[{name="toy_runs:Halve"}, {name="grpo"}]')
    with pytest.raises(ConfigError, match="advantage"):
        advantages("[]")


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_filter_that_always_asks_again_stays_within_the_bound(rounds: int, tmp_path: Path) -> None:
    made = run(
        tmp_path,
        'algorithm.filters=[{name="toy_runs:AskAgain"}]',
        'algorithm.sampler={name="uniform", tasks=5, group_size=2}',
        f"algorithm.refill_rounds={rounds}",
        "run.iterations=1",
        "evaluation.episodes=0",
    )
    assert len(toy_runs.CALLS) == rounds + 1
    found = list(read_trajectories(made / "trajectories" / "iteration_000000.jsonl.zst"))
    assert len(found) == 2 * sum(5 - number for number in range(rounds + 1))
    assert len({t.id for t in found}) == len(found)
    assert any("/refill=1/" in t.id for t in found) == (rounds > 0)
    (line,) = metrics(made)
    assert line["filtered_groups"] == pytest.approx(1 - (rounds + 1) / (len(found) / 2))


def test_a_score_method_that_faults_is_tried_again(tmp_path: Path) -> None:
    made = run(tmp_path, 'algorithm.scores=[{name="toy_runs:Faulting", failures=2}]', "run.iterations=1")
    assert len(toy_runs.CALLS) == 3
    assert metrics(made)[0]["n_trajectories"] == 8 and metrics(made)[0]["reward/mean"] == 0.5


def test_a_score_method_that_goes_on_faulting_drops_its_trajectories(tmp_path: Path) -> None:
    made = run(tmp_path, 'algorithm.scores=[{name="toy_runs:Faulting", failures=3}]', "run.iterations=2")
    lost, kept = metrics(made)
    assert lost["n_trajectories"] == 0 and "loss" not in lost and lost["filtered_groups"] in (0, 1)
    assert kept["n_trajectories"] == 8 and kept["n_updates"] == 2  # none in the first iteration


def test_two_score_methods_of_one_class_both_count(tmp_path: Path) -> None:
    once = run(tmp_path, "run.iterations=1")
    twice = run(
        tmp_path, 'algorithm.scores=[{name="toy_runs:Parity"}, {name="toy_runs:Parity"}]', "run.iterations=1", out="two"
    )
    assert metrics(twice)[0]["reward/mean"] == 2 * metrics(once)[0]["reward/mean"] > 0


def test_scores_work_inside_a_running_event_loop(tmp_path: Path) -> None:
    """A notebook has one."""

    async def notebook() -> Path:
        return run(tmp_path, "run.iterations=1", "evaluation.episodes=0")

    assert summary(asyncio.run(notebook()))["status"] == "completed"


def test_an_iteration_without_a_lesson_skips_the_update(tmp_path: Path) -> None:
    made = run(
        tmp_path, 'algorithm.scores=[{name="toy_runs:Zero"}]', 'algorithm.filters=[{name="degenerate"}]', "env.max_turns=1"
    )  # fmt: skip
    lines = metrics(made)
    assert len(lines) == 3 and summary(made)["status"] == "completed" and summary(made)["n_updates"] == 0
    assert all(line["filtered_groups"] == 1 and "loss" not in line and line["n_trajectories"] == 8 for line in lines)


def test_episodes_whose_first_prompt_does_not_fit_teach_nothing_and_break_nothing(tmp_path: Path) -> None:
    made = run(tmp_path, "agent.context=3", "run.iterations=1")
    (line,) = metrics(made)
    assert line["n_turns"] == 0 and "loss" not in line
    (members,) = (v for k, v in trajectories(made).items() if k.startswith("iteration"))
    assert {t["outcome"] for t in members} == {"max_tokens"}


def test_append_memory_trains_too(tmp_path: Path) -> None:
    made = run(tmp_path, 'agent.memory={name="append", next="{observation}"}', "run.iterations=1")
    assert metrics(made)[0]["sampler_gap/max"] < 1e-4 and metrics(made)[0]["grad_norm"] > 0


@pytest.mark.parametrize(("bound", "updates"), [(1, 8), (3, 3), (8, 1), (100, 1)])
def test_the_number_of_updates_follows_the_number_of_samples(bound: int, updates: int) -> None:
    table = AlgorithmTable(samples_per_update=bound)
    assert n_updates(8, table) == updates
    assert n_updates(8, AlgorithmTable(updates_per_iteration=bound)) == min(bound, 8)


def test_updates_of_a_bounded_number_of_samples_train(tmp_path: Path) -> None:
    train(
        tiny(tmp_path, "run.iterations=1", "algorithm.updates_per_iteration=1", "algorithm.samples_per_update=9"),
        tmp_path / "run",
    )
    (line,) = metrics(tmp_path / "run")
    assert line["n_updates"] == -(-line["n_turns"] // 9) > 1
    assert line["samples/per_episode"] == line["n_turns"] / line["n_trajectories"]


def test_a_run_tells_what_the_chat_template_was_found_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(tmp_path, "run.iterations=1", 'agent.memory={name="append"}', "evaluation.episodes=0")
    told = train(settings, tmp_path / "run", progress=LineProgress(Console()))["chat_template"]
    assert told.startswith(
        "chat template: keeps earlier turns as they are; earlier turns are shown as they were sampled"
    )
    assert told in capsys.readouterr().out
    (line,) = metrics(tmp_path / "run")
    assert line["samples/per_episode"] == 1


def test_evaluation_every_and_checkpoint_keep(tmp_path: Path) -> None:
    made = run(tmp_path, "run.iterations=5", "evaluation.every=2", "checkpoint.every=2", "checkpoint.keep=0")
    assert list(summary(made)["eval"]) == ["before", "iteration_2", "iteration_4", "after", "difference"]
    assert "greedy" not in summary(made)["eval"]["iteration_2"]
    names = sorted(path.name for path in (made / "checkpoints").iterdir())
    assert names == ["best", "latest", "step_0", "step_2", "step_4", "step_5"]


def test_a_run_without_iterations_or_evaluation_is_a_run(tmp_path: Path) -> None:
    found = summary(run(tmp_path, "run.iterations=0", "evaluation.episodes=0"))
    assert found["status"] == "completed" and found["eval"] == {"before": {}, "after": {}, "difference": {}}


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_exception_leaves_the_status_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, 'algorithm.filters=[{name="toy_runs:Broken"}]')
    found = summary(tmp_path / "run")
    assert found["status"] == "failed" and found["error"] == "ZeroDivisionError: a bug"
    assert found["eval"]["before"]["n"] == 4


def test_a_loss_that_is_no_number_is_one_line_and_status_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(run_file(tmp_path)), 'algorithm.loss={name="toy_runs:Exploding"}', "--out", "run"]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert "update 0: loss nan" in error and len(error.splitlines()) == 1
    assert summary(tmp_path / "run")["status"] == "failed"


def test_an_interrupt_leaves_the_status_interrupted_and_can_be_continued(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filters = 'algorithm.filters=[{name="toy_runs:Interrupting"}]'
    assert main(["train", str(run_file(tmp_path)), filters, "--out", "run"]) == 130
    assert capsys.readouterr().err == "agentrl: interrupted; continue with --resume\n"
    assert summary(tmp_path / "run")["status"] == "interrupted"
    run(tmp_path, filters, resume=True)
    assert_same_run(plain, tmp_path / "run")


def test_a_disk_that_is_full_is_one_line_and_status_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr("agentrl.store.RunFolder.add_metrics", full)
    assert main(["train", str(run_file(tmp_path)), "--out", "run"]) == 1
    error = capsys.readouterr().err.strip()
    assert "No space left on device" in error and len(error.splitlines()) == 1
    assert summary(tmp_path / "run")["status"] == "failed"


def test_two_runs_of_one_name_get_two_folders(tmp_path: Path) -> None:
    for _ in range(2):
        train(tiny(tmp_path, "run.iterations=0", "evaluation.episodes=0"), progress=QUIET)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]
    first, second = free_folder("race"), free_folder("race")  # whoever asks first has it
    assert first != second


def test_a_folder_that_holds_something_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_kill_before_the_run_file_was_written_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.toml.123.tmp").write_text("[en")
    assert summary(run(tmp_path, "run.iterations=0"))["status"] == "completed"


# ── resume ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_torn_folder_resumes_to_the_same_numbers(at: int, kept: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(kept, tmp_path / "run", symlinks=True))
    cut(made, at)
    run(tmp_path, "checkpoint.keep=0", resume=True)
    assert_same_run(kept, made)
    assert not list(made.rglob("*.tmp"))


@pytest.mark.slow
def test_a_resume_keeps_the_reference_and_the_evaluations(tmp_path: Path) -> None:
    changes = ('algorithm.regularizers=[{name="kl", coef=0.1}]', "checkpoint.keep=0", "evaluation.every=1")
    changes += ("optimizer.schedule=cosine", "optimizer.warmup=2", "algorithm.epochs=2")
    undisturbed, torn = run(tmp_path, *changes), run(tmp_path, *changes, out="torn")
    cut(torn, 2)
    run(tmp_path, *changes, out="torn", resume=True)
    assert_same_run(undisturbed, torn)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(plain: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(plain, tmp_path / "run", symlinks=True))
    run(tmp_path, resume=True)
    assert_same_run(plain, made)


def test_a_resume_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    made = run(tmp_path, "run.iterations=1")
    before = {path: path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()}
    for change, words in [
        ("run.seed=5", "run.seed = 0, now 5"),
        ("algorithm.credit.gamma=0.5", "algorithm.credit.gamma"),
        ("model.config.hidden_size=32", "model.config.hidden_size = 16, now 32"),
        ("model.config.num_hidden_layers=2", "num_hidden_layers"),
    ]:
        with pytest.raises(CheckpointError, match=words) as caught:
            run(tmp_path, change, resume=True)
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()} == before


def test_a_checkpoint_that_is_no_runs_or_is_broken_is_refused(tmp_path: Path) -> None:
    made = run(tmp_path, "run.iterations=1")
    latest = made / "checkpoints" / "latest"
    state = (latest / "state.json").read_text()
    for file, content in [("state.json", "{}"), ("state.json", state[:20]), ("training.pt", "nonsense")]:
        kept = (latest / file).read_bytes()
        (latest / file).write_text(content)
        with pytest.raises(CheckpointError, match="cannot be resumed from"):
            run(tmp_path, resume=True)
        (latest / file).write_bytes(kept)


def test_there_must_be_a_run_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("none", "empty"):
        assert main(["train", str(run_file(tmp_path)), "--resume", "--out", folder]) == 2
        assert "there is no run to continue" in capsys.readouterr().err
    assert not (tmp_path / "none").exists() and not list((tmp_path / "empty").iterdir())


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the run ended by itself: {process.stderr.read() if process.stderr else ''}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])  # this checkout, whichever is installed
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "agentrl.cli", "train", str(run_file(folder)), *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell leaves it ignored
    )


def latest_step(run: Path) -> int:
    link = run / "checkpoints" / "latest"
    return int(os.readlink(link).removeprefix("step_")) if link.is_symlink() else -1


LONG = ("run.iterations=12", "checkpoint.every=2", "evaluation.every=5")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in the middle of an iteration", "at any time", "before the first checkpoint"])
def test_a_killed_run_resumes_to_the_same_numbers(moment: str, tmp_path: Path) -> None:
    """Every process here is a real one, and it is killed by a real SIGKILL."""
    made = tmp_path / "killed"
    changes = ["run.iterations=2", "evaluation.episodes=100"] if moment.startswith("before") else list(LONG)
    stall = f"{tmp_path / 'stalled'}:6" if moment.startswith("in the middle") else ""
    process = start(tmp_path, *changes, "--out", "killed", TOY_STALL=stall)
    if stall:
        wait_for((tmp_path / "stalled").exists, process)
    elif moment == "at any time":
        wait_for(lambda: latest_step(made) >= 4, process)
    else:
        wait_for((made / "config.toml").exists, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert latest_step(made) == (-1 if moment.startswith("before") else pytest.approx(4, abs=4))
    assert not (made / "summary.json").exists() or summary(made)["status"] == "running"
    resumed = start(tmp_path, *changes, "--out", "killed", "--resume")
    undisturbed = run(tmp_path, *changes, out="undisturbed")
    assert resumed.wait(timeout=300) == 0
    assert_same_run(undisturbed, made)


@pytest.mark.slow
def test_ctrl_c_stops_a_real_process_at_once_and_it_can_be_continued(tmp_path: Path) -> None:
    made = tmp_path / "stopped"
    process = start(tmp_path, *LONG, "run.iterations=60", "--out", "stopped")
    wait_for(lambda: latest_step(made) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        "agentrl: interrupted; continue with --resume" in error.decode().splitlines()
    )  # asyncio may add a line of its own
    assert summary(made)["status"] == "interrupted"
    run(tmp_path, *LONG, "run.iterations=60", out="stopped", resume=True)
    assert_same_run(run(tmp_path, *LONG, "run.iterations=60", out="undisturbed"), made)


@pytest.mark.slow
def test_a_termination_is_an_interrupt(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, "run.iterations=60", "--out", "stopped")
    wait_for(lambda: latest_step(tmp_path / "stopped") >= 0, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143
    assert (
        "agentrl: interrupted; continue with --resume" in error.decode().splitlines()
    )  # asyncio may add a line of its own
    assert summary(tmp_path / "stopped")["status"] == "interrupted"


def test_a_run_folder_is_shown_as_it_is_called(tmp_path: Path) -> None:
    file = io.StringIO()
    progress = LineProgress(Console(file=file, width=200))
    train(tiny(tmp_path, "run.iterations=0", "evaluation.episodes=0"), tmp_path / "[a]b[", progress=progress)
    assert file.getvalue().count("[a]b[") == 3  # when it begins, when it ends, and in the command that shows it


# ── what a person sees ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("live", [False, True])
def test_progress_shows_the_run(live: bool, tmp_path: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=live, width=160)
    progress = (LiveProgress if live else LineProgress)(console)
    train(tiny(tmp_path, "run.iterations=2", "evaluation.every=1"), tmp_path / "run", progress=progress)
    shown = file.getvalue()
    for word in ("success", "reward", "valid", "entropy", "tokens/s", "rollout s", "training s", "left", "completed"):
        assert word in shown, word
    for word in ("evaluation before/sampled", "evaluation after/greedy", "evaluation iteration_1", "greedy (n = 4)"):
        assert word in shown, word


def test_a_time_limit_that_ends_the_run_is_told(tmp_path: Path) -> None:
    file = io.StringIO()
    settings = tiny(tmp_path, "run.iterations=2", "run.time_limit_s=0.01", "evaluation.episodes=0")
    train(settings, tmp_path / "run", progress=LineProgress(Console(file=file)))
    assert "run.time_limit_s = 0.01 ends the run after 0 of 2 iterations" in file.getvalue()
    assert "completed in 0:0" in file.getvalue() and "panel" not in file.getvalue()  # nothing was evaluated


@pytest.mark.parametrize(
    ("seconds", "limit", "left"),
    [(0.0, None, 100.0), (0.0, 3600.0, 100.0), (3570.0, 3600.0, 30.0), (9999.0, 3600.0, 0.0)],
)
def test_the_time_left_counts_iterations_and_heeds_the_limit(
    seconds: float, limit: float | None, left: float, tmp_path: Path
) -> None:
    progress = LineProgress(Console(file=io.StringIO()))
    progress.started -= 500  # an evaluation before the first iteration, which no later iteration repeats
    config = tiny(tmp_path, "run.iterations=8")
    config = config.model_copy(update={"run": config.run.model_copy(update={"time_limit_s": limit})})
    with progress.run(tmp_path, config, 3, seconds):
        assert progress.left({"iteration": 3, "time/iteration": 25.0}) == pytest.approx(left, abs=1)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_is_fitted_to_a_terminal_alone(terminal: bool) -> None:
    file = io.StringIO()
    table = Table("name", "formula")
    table.add_row("[bold]", "x" + " x" * 59)
    print_table(Console(file=file, force_terminal=terminal, width=60), table)
    assert (("x" + " x" * 59) in file.getvalue()) is not terminal
    assert "[bold]" in file.getvalue()
