"""Files that are damaged behind the back of a run: one error that names the file and what to do, and what it says works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drivers import Nursery
from toy_runs import assert_same_run

from agentrl import seeding
from agentrl.errors import CheckpointError
from agentrl.learning import checkpoint
from agentrl.store import RunFolder, read_ids, read_states, read_trajectories

Damage = Callable[[Path, np.random.Generator], None]


def cut(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes()[: int(rng.integers(0, file.stat().st_size))])


def flip(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def remove(file: Path, rng: np.random.Generator) -> None:
    file.unlink()


@pytest.fixture
def copied(calm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calm, tmp_path / "run", symlinks=True))


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_every_damaged_file_of_a_checkpoint_is_named_with_what_to_do(damage: Damage, copied: Path) -> None:
    latest, rng = copied / "checkpoints" / "latest", seeding.stream(0, "damage", damage.__name__)
    checkpoint.load_state(latest)
    files = sorted(file.name for file in latest.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.pt", "state.json"} <= set(files)
    for name in files:
        for _ in range(3):
            if (damage, name) == (remove, "SHA256SUMS"):
                continue  # as in checkpoints of older versions
            kept = (latest / name).read_bytes()
            damage(latest / name, rng)
            with pytest.raises(CheckpointError, match="latest cannot be resumed from") as caught:
                checkpoint.load_state(latest)
            said = str(caught.value)
            assert name in said and "\n" not in said
            assert f"; step_2 beside it is whole: to go on from there, run `ln -sfn step_2 {latest}` and resume" in said
            (latest / name).write_bytes(kept)
    checkpoint.load_state(latest)


def test_the_newest_whole_checkpoint_is_offered_and_none_where_there_is_none(copied: Path) -> None:
    latest, rng = copied / "checkpoints" / "latest", seeding.stream(0, "damage")
    for step, offered in ((3, "step_2"), (2, "step_1"), (1, "step_0"), (0, "no other checkpoint beside it is whole")):
        cut(copied / "checkpoints" / f"step_{step}" / "training.pt", rng)
        with pytest.raises(CheckpointError, match=rf"training\.pt is damaged .*; {offered}"):
            checkpoint.load_state(latest)


def test_without_sums_what_cannot_be_read_is_named_all_the_same(copied: Path) -> None:
    latest, rng = copied / "checkpoints" / "latest", seeding.stream(1, "damage")
    (latest / "SHA256SUMS").unlink()
    for name in ("training.pt", "state.json"):
        kept = (latest / name).read_bytes()
        for _ in range(3):
            cut(latest / name, rng)
            with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.*; step_2 beside it is whole"):
                checkpoint.load_state(latest)
        (latest / name).write_bytes(kept)
    (latest / "state.json").write_text("5")
    with pytest.raises(CheckpointError, match=r"state\.json holds no table"):
        checkpoint.load_state(latest)


def test_other_tools_can_check_a_checkpoint(copied: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    command, latest = ["sha256sum", "--check", "--strict", "SHA256SUMS"], copied / "checkpoints" / "latest"
    assert subprocess.run(command, cwd=latest, capture_output=True).returncode == 0
    flip(latest / "model.safetensors", seeding.stream(0, "flip"))
    assert b"model.safetensors: FAILED" in subprocess.run(command, cwd=latest, capture_output=True).stdout


def test_a_checkpoint_that_a_kill_caught_while_it_was_replaced_is_put_back(copied: Path) -> None:
    checkpoints = copied / "checkpoints"
    (checkpoints / "step_3").rename(checkpoints / ".step_3.77.old.tmp")
    checkpoint.recover(checkpoints)
    checkpoint.load_state(checkpoints / "latest")
    checkpoint.recover(checkpoints)  # nothing to do
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_0", "step_1", "step_2", "step_3"]


def test_the_first_checkpoint_is_found_where_a_kill_came_before_latest_pointed_to_it(copied: Path) -> None:
    checkpoints = copied / "checkpoints"
    (checkpoints / "latest").unlink()
    checkpoint.recover(checkpoints)
    assert not (checkpoints / "latest").exists()  # of several the user chooses
    for step in (1, 2, 3):
        shutil.rmtree(checkpoints / f"step_{step}")
    kept = (checkpoints / "step_0" / "training.pt").read_bytes()
    cut(checkpoints / "step_0" / "training.pt", seeding.stream(0, "damage"))
    checkpoint.recover(checkpoints)
    assert not (checkpoints / "latest").exists()
    (checkpoints / "step_0" / "training.pt").write_bytes(kept)
    checkpoint.recover(checkpoints)
    checkpoint.load_state(checkpoints / "latest")


@pytest.mark.slow
def test_what_the_error_says_brings_the_run_to_its_undisturbed_end(nursery: Nursery, calm: Path, place: Path) -> None:
    """The newest checkpoint, record, line of metrics and summary are damaged, all at once."""
    run, rng = Path(shutil.copytree(calm, place / "run", symlinks=True)), seeding.stream(2, "damage")
    damaged = ("checkpoints/step_3/model.safetensors", "trajectories/iteration_000002.jsonl.zst", "summary.json")
    for name in (*damaged, "trajectories/eval_after_sampled.jsonl.zst"):
        cut(run / name, rng)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[: -int(rng.integers(5, 50))])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = ("checkpoint.keep=0", "--out", "run", "--resume")
    refused = nursery.train(place, *line)
    assert refused.wait() == 2
    said = refused.said().strip()
    assert "model.safetensors is damaged" in said and len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (command,) = re.findall(r"run `(.*)`", said)
    subprocess.run(shlex.split(command), cwd=place, check=True)
    again = nursery.train(place, *line)
    assert again.wait() == 0, again.said()
    assert_same_run(calm, run)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (b'{"iteration": 1, "rew', "line 2 cannot be read"),
        (b"\xff\xfe\x00", "line 2 cannot be read"),
        (b"5", "line 2 cannot be read"),
        (b'{"reward": 1.0}', "line 2 cannot be read: KeyError.'iteration'"),
        (b'{"iteration": 0}', "one line of each iteration before the checkpoint's, 3, and does not of 0, 1;"),
        (None, "one line of each iteration before the checkpoint's, 3, and does not of 1;"),
    ],
)
def test_a_damaged_line_of_metrics_is_named_with_what_to_do(broken: bytes | None, words: str, copied: Path) -> None:
    file = copied / "metrics.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"".join(line + b"\n" for line in (lines[0], broken, lines[2]) if line is not None))
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=re.escape(str(file))) as caught:
        RunFolder.reopen(copied, 3)
    assert words in str(caught.value) or re.search(words, str(caught.value))
    assert file.read_bytes() == before
    (remedy,) = re.findall(r"write (\{.*\}) in place of the line", str(caught.value))
    assert json.loads(remedy)["iteration"] in (0, 1)
    file.write_bytes(b"\n".join([lines[0], b'{"iteration": 1}', lines[2], b""]))
    RunFolder.reopen(copied, 3)
    assert [line["iteration"] for line in RunFolder(copied).metrics()] == [0, 1, 2]


def test_a_file_of_metrics_that_was_cut_is_no_shorter_run(copied: Path) -> None:
    file = copied / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-9])  # as a kill would, but the checkpoint was written after this line
    with pytest.raises(CheckpointError, match=r"does not of 2; point checkpoints/latest to a step_N of at most 2"):
        RunFolder.reopen(copied, 3)
    RunFolder.reopen(copied, 2)


def test_what_comes_again_is_removed_first(copied: Path) -> None:
    """A shorter run must not end with the records of a longer one."""
    trajectories = copied / "trajectories"
    (copied / "states").mkdir()
    for number in (1, 2):
        (copied / "states" / f"iteration_00000{number}.json.zst").touch()
    for number in (2, 3):
        (trajectories / f"eval_iteration_{number}_sampled.jsonl.zst").touch()
    RunFolder.reopen(copied, 2)
    names = {file.name.partition(".")[0] for file in trajectories.iterdir()}
    evaluations = {f"eval_{when}_{panel}" for when in ("before", "after") for panel in ("sampled", "greedy")}
    assert names == {*evaluations, "iteration_000000", "iteration_000001", "eval_iteration_2_sampled"}
    assert [file.name for file in (copied / "states").iterdir()] == ["iteration_000001.json.zst"]


# ── trajectories ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_changed_bit_and_no_cut_of_a_trajectory_file_goes_unnoticed(copied: Path) -> None:
    """It is read as it was written, or not at all. Without a checksum nearly half of these changes would be read."""
    file = copied / "trajectories" / "iteration_000000.jsonl.zst"
    whole, data, rng = list(read_trajectories(file)), file.read_bytes(), seeding.stream(0, "bits")
    noticed = 0
    for damage in [flip] * 150 + [cut] * 20:
        damage(file, rng)
        try:
            assert list(read_trajectories(file)) == whole  # a bit that means nothing
        except CheckpointError as error:
            assert str(file) in str(error)
            noticed += 1
        file.write_bytes(data)
    assert noticed > 160
    file.write_bytes(data + b"more")
    with pytest.raises(CheckpointError, match="iteration_000000"):
        read_ids(file)


def test_damaged_states_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_states(3, {"credit[0]": {"numbers": list(range(200))}})
    file = tmp_path / "states" / "iteration_000003.json.zst"
    data, rng = file.read_bytes(), seeding.stream(0, "states")
    known: Any = read_states(tmp_path, 3)
    for _ in range(50):
        flip(file, rng)
        try:
            assert read_states(tmp_path, 3) == known
        except CheckpointError as error:
            assert str(file) in str(error)
        file.write_bytes(data)
