"""Run folders and checkpoints: whole or absent, and one clear error for what cannot be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentrl import store
from agentrl.errors import AgentRLError, CheckpointError, ConfigError
from agentrl.store import RunFolder, numbered, read_trajectories, write_atomic, write_trajectories
from agentrl.types import Call, Outcome, Task, Trajectory, Turn


def trajectory(name: str = "iteration=1/task=a/member=0") -> Trajectory:
    call = Call("agent", [5, 6], [7, 2], [-0.1, -0.2], {"temperature": 1.0}, "length", 3, source="demo")
    turn = Turn("a «door»\u2028\n", "s", [call], "open", False, 0.5, 0.1, {"goal": "out"}, {"sampling": 0.1})
    task = Task("a", seed=3, type="look", options={"deep": [1, {"x": None}]}, hints=("h",), max_turns=4)
    return Trajectory(name, "toy/Door-v0", task, "g", 3, [turn], "end", {"judge": 0.5}, True, Outcome.MAX_TURNS, "e")


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, killed)
            with pytest.raises(KeyboardInterrupt):
                write_atomic(path, b"torn")
        assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".tmp")] == ["a.json"]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_trajectories_come_back_as_they_were(tmp_path: Path, n: int) -> None:
    written = [trajectory(f"t{index}") for index in range(n)]
    write_trajectories(tmp_path / "t.jsonl.zst", written)
    assert list(read_trajectories(tmp_path / "t.jsonl.zst")) == written


def test_every_cut_file_of_trajectories_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.zst"
    write_trajectories(path, [trajectory(), trajectory("u")])
    whole = path.read_bytes()
    for size in (0, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"t\.jsonl\.zst holds no trajectories"):
            list(read_trajectories(path))


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"task": {}}', '{"task": {"id": "a"}, "outcome": "won", "turns": []}']
)
def test_other_files_are_no_trajectories(tmp_path: Path, line: str) -> None:
    import zstandard

    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(line.encode()))
    with pytest.raises(CheckpointError, match="holds no trajectories"):
        list(read_trajectories(path))
    with pytest.raises(CheckpointError, match="holds no trajectories"):
        list(read_trajectories(tmp_path / "absent"))


# ---- run folders ----------------------------------------------------------------------------------------------------


def test_a_run_folder(tmp_path: Path) -> None:
    config = {"run": {"seed": 0, "name": None}, "list": [{"x": None, "y": 1}]}
    folder = RunFolder.create(tmp_path / "run", config)
    assert (tmp_path / "run/config.toml").read_text() == "list = [\n    { y = 1 },\n]\n\n[run]\nseed = 0\n"
    folder.add_trajectories("iteration_000001", [trajectory()])
    folder.write_summary({"status": "running"})
    assert list(read_trajectories(folder.trajectories / "iteration_000001.jsonl.zst")) == [trajectory()]
    assert json.loads((tmp_path / "run/summary.json").read_text()) == {"status": "running"}
    with pytest.raises(ConfigError, match="exists already"):
        RunFolder.create(tmp_path / "run", config)


def test_free_folder_counts_up(tmp_path: Path) -> None:
    assert store.free_folder("a", tmp_path) == tmp_path / "a"
    (tmp_path / "a-2").mkdir()
    assert store.free_folder("a", tmp_path) == tmp_path / "a-3"


def test_metrics_of_later_iterations_are_taken_out_on_reopen(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    assert folder.metrics() == []
    for iteration in range(5):
        folder.add_metrics({"iteration": iteration, "reward/mean": iteration / 3})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 5, "rew')  # killed while it wrote
    assert [line["iteration"] for line in folder.metrics()] == [0, 1, 2, 3, 4]
    before = folder.metrics()[:3]
    folder = RunFolder.reopen(tmp_path / "run", 3)
    assert folder.metrics() == before
    folder.add_metrics({"iteration": 3})
    assert [line["iteration"] for line in folder.metrics()] == [0, 1, 2, 3]


def test_a_broken_line_in_the_middle_of_the_metrics_is_an_error(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    (folder.path / "metrics.jsonl").write_text('{"iteration": 0}\n{"iter\n{"iteration": 2}\n')
    with pytest.raises(CheckpointError, match="line 2 cannot be read"):
        folder.metrics()


def test_reopen_clears_what_a_kill_left_behind(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    (folder.path / ".summary.json.77.tmp").write_text("{")
    (folder.trajectories / ".x.jsonl.zst.77.tmp").write_text("")
    half = folder.checkpoints / ".step_3.77.tmp"
    half.mkdir()
    (half / ".inner.77.tmp").write_text("")
    (folder.checkpoints / ".latest.77.tmp").symlink_to(".step_3.77.tmp")
    RunFolder.reopen(folder.path, 0)
    assert not list(folder.path.rglob("*.tmp"))
    assert (folder.path / "config.toml").exists()


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint() -> Any:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from agentrl.learning import checkpoint

    return checkpoint


@pytest.fixture
def parts(checkpoint: Any) -> dict[str, Any]:
    from toys import tiny_model, tokenizer

    made = tokenizer()
    return {"model": tiny_model(made), "tokenizer": made, "training": {"n_updates": 2}, "state": {"iteration": 1}}


def test_a_checkpoint_comes_back(checkpoint: Any, parts: Any, tmp_path: Path) -> None:
    import torch

    path = checkpoint.save(tmp_path, 12, **parts)
    assert path == tmp_path / "step_12"
    assert os.readlink(tmp_path / "latest") == "step_12"
    model = checkpoint.load_model(str(tmp_path / "latest"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parts["model"].parameters(), strict=True))
    made = checkpoint.load_tokenizer(str(tmp_path / "latest"))
    assert made.get_vocab() == parts["tokenizer"].get_vocab()
    assert made.chat_template == parts["tokenizer"].chat_template
    assert checkpoint.load_state(path) == ({"n_updates": 2}, {"iteration": 1})
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_model_whose_file_was_changed_is_not_loaded(checkpoint: Any, parts: Any, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, **parts)
    (path / "training.pt").write_bytes(b"of no use to who wants the model alone")
    assert checkpoint.load_model(str(path)) is not None
    weights = bytearray((path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (path / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged \(SHA256SUMS .* or remove SHA256SUMS if"):
        checkpoint.load_model(str(path))
    (path / "SHA256SUMS").write_text("0" * 64 + " *model.safetensors\n")
    assert checkpoint.load_model(str(path)) is not None, "a list of another program's"


@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_a_disk_that_fills_up_costs_one_checkpoint_and_no_room(
    limit: int, checkpoint: Any, parts: Any, tmp_path: Path
) -> None:
    """The weights meet the smaller limit, the training state the larger one."""
    resource = pytest.importorskip("resource", reason="only POSIX can bound the size of a file")
    import torch

    checkpoint.save(tmp_path, 1, **parts)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(AgentRLError, match=r"step_2 cannot be written"):
            checkpoint.save(tmp_path, 2, **{**parts, "training": {"moments": torch.zeros(10**6)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_1"]
    assert checkpoint.load_state(tmp_path / "latest") == ({"n_updates": 2}, {"iteration": 1})


def test_the_newest_are_kept(checkpoint: Any, parts: Any, tmp_path: Path) -> None:
    for step in (2, 10, 9, 11):
        checkpoint.save(tmp_path, step, **parts, keep=2)
        assert os.readlink(tmp_path / "latest") == f"step_{step}"
    assert checkpoint.steps(tmp_path) == [10, 11]
    checkpoint.save(tmp_path, 12, **parts, keep=1)
    assert checkpoint.steps(tmp_path) == [12]
    for step in (13, 14, 15):
        checkpoint.save(tmp_path, step, **parts)
    assert checkpoint.steps(tmp_path) == [12, 13, 14, 15]


def test_what_was_just_saved_is_never_removed(checkpoint: Any, parts: Any, tmp_path: Path) -> None:
    """A run that goes on from step 3 although 20 and 30 exist."""
    for step in (20, 30, 4):
        checkpoint.save(tmp_path, step, **parts, keep=2)
    assert checkpoint.steps(tmp_path) == [4, 30]
    assert (tmp_path / "latest/config.json").is_file()


def test_a_step_can_be_saved_again(checkpoint: Any, parts: Any, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, **parts)
    checkpoint.save(tmp_path, 1, **{**parts, "state": {"iteration": 7}})
    assert checkpoint.load_state(tmp_path / "latest")[1] == {"iteration": 7}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_1"]


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_while_saving_leaves_the_checkpoint_before(
    checkpoint: Any, parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    checkpoint.save(tmp_path, 1, **parts)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 1 if again else 2, **parts)
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.load_state(tmp_path / "latest") == ({"n_updates": 2}, {"iteration": 1})


@pytest.mark.parametrize("content", [None, b"", b"garbage", "half"])
@pytest.mark.parametrize("name", ["training.pt", "state.json", "model.safetensors", "config.json", "tokenizer.json"])
def test_a_broken_checkpoint_is_one_clear_error(
    checkpoint: Any, parts: Any, tmp_path: Path, name: str, content: Any
) -> None:
    path = checkpoint.save(tmp_path, 1, **parts)
    file = path / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(CheckpointError, match=str(path)):
        if name == "model.safetensors" or name == "config.json":
            checkpoint.load_model(str(path))
        elif name == "tokenizer.json":
            checkpoint.load_tokenizer(str(path))
        else:
            checkpoint.load_state(path)


def test_a_checkpoint_that_is_not_there(checkpoint: Any, tmp_path: Path) -> None:
    for load in (checkpoint.load_model, checkpoint.load_tokenizer):
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*/step_3"):
            load(str(tmp_path / "step_3"))
        with pytest.raises(
            CheckpointError, match=r"no such folder, and no model of that name .*; nothing is downloaded"
        ):
            load("nobody/has-this-model")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "needs model_type"),
        ({"model_type": "qwen99"}, "cannot be built"),
        ({"model_type": "qwen2", "num_attention_heads": 0}, "cannot be built"),
        ({"model_type": "qwen2", "hidden_size": "wide"}, "cannot be built: .*expected int, got str"),
    ],
)
def test_a_model_that_cannot_be_built(checkpoint: Any, config: dict[str, Any], problem: str) -> None:
    from toys import tokenizer

    with pytest.raises(ConfigError, match=problem):
        checkpoint.build_model(config, tokenizer(), 0)


def test_a_built_model_depends_on_the_seed_only(checkpoint: Any) -> None:
    import torch
    from toys import tiny_model, tokenizer

    first, same, other = (tiny_model(tokenizer(), seed=seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert first.shape[0] == len(tokenizer())


# ---- locks ----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from agentrl.store import RunFolder
RunFolder.create(Path("run"), {})
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_folder_is_one_processs_until_that_ends(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="run is in use by another process"):
            RunFolder.reopen(tmp_path / "run", 0)
        other.kill()
    RunFolder.reopen(tmp_path / "run", 0)
    RunFolder.reopen(tmp_path / "run", 0)  # its own process may


def test_a_folder_that_only_holds_a_lock_is_empty(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ConfigError, match="not this"), folder.or_nothing():
        raise ConfigError("not this")
    assert not folder.path.exists()
    folder.path.mkdir()
    (folder.path / ".lock").touch()
    assert RunFolder.create(folder.path, {}).trajectories.is_dir()


def test_files_of_other_names_are_no_part_of_the_record(tmp_path: Path) -> None:
    folder = tmp_path / "trajectories"
    folder.mkdir()
    for name in ("iteration_000010", "iteration_000002", "iteration_abc", "eval_before", "play_000000"):
        (folder / f"{name}.jsonl.zst").touch()
    assert [(number, path.name[:16]) for number, path in numbered(tmp_path, "iteration").items()] == [
        (2, "iteration_000002"),
        (10, "iteration_000010"),
    ]
    assert list(numbered(tmp_path, "play")) == [0] and numbered(tmp_path / "nowhere", "play") == {}
