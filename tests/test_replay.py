"""Records played again: equal, different, and found by their ids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_runs import run_file
from toys import ACTIONS, Corridor

import agentrl
from agentrl import agents, store
from agentrl.cli import main
from agentrl.config import parse
from agentrl.env import make
from agentrl.errors import CheckpointError
from agentrl.replay import Difference, compare
from agentrl.rollouts import EnvPool, Limits, Rollouts, play
from agentrl.store import find_trajectory, read_trajectories, write_trajectories
from agentrl.types import Outcome, Task, Trajectory, Turn

HOUSEHOLD = "agentrl/Household-v0"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(agent: Any = None, env: Callable[..., Corridor] = Corridor, **changes: Any) -> Trajectory:
    rollouts = Rollouts(EnvPool(env), agent or agents.OracleAgent(), **changes)
    return play(rollouts, Corridor().tasks("train")[2:3])[0]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "found"
    agentrl.evaluate(HOUSEHOLD, "expert:noise=0.3", n=4, out=folder, options={"difficulty": "tiny"}, max_turns=12)
    return folder


# ── what is compared ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "trajectory",
    [
        recorded(),
        recorded(agents.RandomAgent(), limits=Limits(max_turns=3)),
        recorded(env=lambda: Corridor(truncate_at=2)),
    ],
    ids=["terminated", "max_turns", "truncated"],
)
def test_a_true_record_is_equal(trajectory: Trajectory) -> None:
    env = Corridor(truncate_at=2 if trajectory.outcome is Outcome.TRUNCATED else 0)
    told: list[int] = []
    result = compare(env, trajectory, lambda number, turn: told.append(number))
    assert result.difference is None and result.n_equal == trajectory.n_turns
    assert told == list(range(1, trajectory.n_turns + 1))


def changed(turn: int, **fields: Any) -> Trajectory:
    trajectory = recorded()
    trajectory.turns[turn] = replace(trajectory.turns[turn], **fields)
    return trajectory


@pytest.mark.parametrize(
    ("trajectory", "n_equal", "difference"),
    [
        (changed(1, observation="A wall."), 1, Difference(2, "observation", "A wall.", recorded().turns[1].observation)),
        (changed(2, state_key="place=9"), 2, Difference(3, "state key", "place=9", "place=2")),
        (changed(2, state_key=None), 2, Difference(3, "state key", None, "place=2")),
        (changed(0, reward=0.5), 0, Difference(1, "reward", 0.5, 0.0)),
        (changed(1, info={"success": True}), 1, Difference(2, "success", True, False)),
        (replace(recorded(), outcome=Outcome.TRUNCATED), 3, Difference(4, "end", "truncated", "terminated")),
        (replace(recorded(), outcome=Outcome.MAX_TURNS), 3, Difference(4, "end", "goes on", "terminated")),
        (replace(recorded(), turns=recorded().turns[:2]), 1, Difference(2, "end", "terminated", "goes on")),
        (replace(recorded(), last_observation="You won."), 4,
         Difference(5, "observation", "You won.", recorded().last_observation)),
        (replace(recorded(), success=False), 4, Difference(5, "success", False, True)),
    ],
)  # fmt: skip
def test_the_first_difference_is_found(trajectory: Trajectory, n_equal: int, difference: Difference) -> None:
    result = compare(Corridor(), trajectory)
    assert (result.n_equal, result.difference) == (n_equal, difference)


def test_the_recorded_seed_is_used() -> None:
    texts = {Corridor().reset(seed=seed, options={"task": Corridor().tasks("train")[2]})[0] for seed in range(20)}
    assert len(texts) == 2  # the toy's texts depend on the seed
    trajectory = recorded()
    results = [compare(Corridor(), replace(trajectory, seed=seed)).difference for seed in range(20)]
    assert any(found is None for found in results)
    assert any(found is not None and (found.turn, found.what) == (1, "observation") for found in results)


def test_an_error_of_the_environment_is_a_difference() -> None:
    result = compare(Corridor(failing=(3,)), recorded())
    assert (result.n_equal, result.difference) == (2, Difference(3, "error", None, "OSError: the server is gone"))


def test_a_record_that_a_fault_cut_off_is_compared_as_far_as_it_goes() -> None:
    trajectory = recorded()
    last = replace(trajectory.turns[1], seconds={"sampling": 0.1}, reward=0.0)  # without "environment": no reply came
    cut = replace(trajectory, turns=[trajectory.turns[0], last], outcome=Outcome.ENV_FAULT, last_observation="")
    result = compare(Corridor(), replace(cut, success=False, error="the server is gone"))
    assert (result.n_equal, result.difference) == (1, None)
    answered = replace(cut, turns=trajectory.turns[:2], outcome=Outcome.POLICY_FAULT, success=False)
    result = compare(Corridor(), answered)
    assert (result.n_equal, result.difference) == (2, None)
    assert compare(Corridor(), replace(answered, outcome=Outcome.CANCELLED)).difference is not None


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_episode_of_an_evaluation_is_equal(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trajectories = list(read_trajectories(evaluation / "trajectories" / "eval.jsonl.zst"))
    for trajectory in trajectories:
        for wanted in (trajectory.id, trajectory.task.id):
            assert main(["replay", str(evaluation), wanted]) == 0
            out = capsys.readouterr().out
            assert f"equal: {trajectory.n_turns} of {trajectory.n_turns} turns" in out and trajectory.id in out
    assert main(["replay", str(evaluation), trajectories[0].id, "--show"]) == 0
    out = capsys.readouterr().out
    assert all(f"  > {turn.action}   reward" in out for turn in trajectories[0].turns)


def test_a_difference_is_shown_side_by_side_with_status_one(
    evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trajectory = next(iter(read_trajectories(evaluation / "trajectories" / "eval.jsonl.zst")))
    trajectory.turns[1].observation = "[/red] You see\x1b[2J a dragon 1."
    (tmp_path / "run" / "trajectories").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text((evaluation / "config.toml").read_text())
    write_trajectories(tmp_path / "run" / "trajectories" / "eval.jsonl.zst", [trajectory])
    with pytest.raises(SystemExit) as caught:
        main(["replay", "run", "eval"])
    assert caught.value.code == 1
    out = capsys.readouterr().out
    assert "turn 2: the observation differs, after 1 equal turn\n" in out
    assert "recorded" in out and "now" in out and "[/red] You see␛[2J a" in out and "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "x"], "nothing has no config.toml"),
        (["RUN", "valid_sen"], "no trajectory's id contains 'valid_sen'; ids here are like eval=valid_seen/task="),
        (["RUN", "eval"], "4 ids contain 'eval'; write more of one of them: eval=valid_seen/task="),
        (["RUN", ""], "4 ids contain ''"),
        (["empty", "x"], "empty holds no trajectories"),
    ],
)
def test_what_cannot_be_replayed(
    arguments: list[str], words: str, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.toml").write_text((evaluation / "config.toml").read_text())
    folder, wanted = arguments
    assert main(["replay", str(evaluation) if folder == "RUN" else folder, wanted]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_an_environment_or_task_that_is_gone_is_the_users_to_mend(
    evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = (evaluation / "config.toml").read_text()
    trajectory = next(iter(read_trajectories(evaluation / "trajectories" / "eval.jsonl.zst")))
    gone = replace(trajectory, task=Task("gone", options={"game": "/no/such/game"}))
    (tmp_path / "run" / "trajectories").mkdir(parents=True)
    write_trajectories(tmp_path / "run" / "trajectories" / "eval.jsonl.zst", [gone])
    for text, words in [(run_file, "/no/such/game"), (run_file.replace("Household", "Houshold"), "Did you mean")]:
        (tmp_path / "run" / "config.toml").write_text(text)
        assert main(["replay", "run", trajectory.id]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_run_is_replayed_by_the_process(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    agentrl.train(run_file(tmp_path), "run.iterations=1", "evaluation.episodes=1", out=tmp_path / "run")
    files = sorted((tmp_path / "run" / "trajectories").iterdir())
    assert {file.name.partition(".")[0] for file in files} == {
        "eval_after_greedy", "eval_after_sampled", "eval_before_greedy", "eval_before_sampled", "iteration_000000"
    }  # fmt: skip
    chosen = [list(read_trajectories(file))[-1] for file in files]
    for trajectory in chosen:
        assert main(["replay", str(tmp_path / "run"), trajectory.id]) == 0
    code = [sys.executable, "-m", "agentrl.cli", "replay", str(tmp_path / "run"), "iteration=0/"]
    done = subprocess.run(code, capture_output=True, text=True, check=False, cwd=Path(agents.__file__).parents[2])
    assert done.returncode == 2 and "8 ids contain 'iteration=0/'" in done.stderr


def test_the_panel_of_games_is_replayed_in_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl import build
    from agentrl.config import load
    from agentrl.replay import replay

    made: list[dict[str, Any]] = []

    def fake(env_id: str, **options: Any) -> Any:
        made.append(options)
        return Corridor()

    monkeypatch.setattr(build, "make", fake)
    settings = load(run_file(tmp_path), ["evaluation.games=some/games"])
    folder = store.RunFolder.create(tmp_path / "run", settings.model_dump(mode="python"))
    trajectory = recorded()
    for name in ("games", "sampled"):
        identity = f"eval=before/{name}/task=train-2/place=0/member=0"
        folder.add_trajectories(f"eval_before_{name}", [replace(trajectory, id=identity)])
        assert replay(folder.path, f"before/{name}").difference is None
    assert made == [{"difficulty": "tiny", "games": "some/games"}, {"difficulty": "tiny"}]


def test_a_record_of_one_of_several_environments_is_replayed_in_that_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [{"id": HOUSEHOLD, "name": name, "options": {"dialect": name}} for name in ("move", "put")]
    folder = store.RunFolder.create(tmp_path / "run", parse({"env": tables}).model_dump(mode="python"))
    records = []
    for name in ("move", "put"):
        (played,) = agentrl.rollout(HOUSEHOLD, "oracle", n=1, options={"dialect": name})
        assert any(turn.action.startswith(f"{name} ") for turn in played.turns)
        records += [replace(played, id=f"of={scene}/as={name}", task=replace(played.task, env=scene)) for scene in
                    ("move", "put", "pull")]  # fmt: skip
    folder.add_trajectories("eval", records)
    assert main(["replay", "run", "of=move/as=move"]) == main(["replay", "run", "of=put/as=put"]) == 0
    for wanted in ("of=move/as=put", "of=put/as=move"):
        with pytest.raises(SystemExit):
            main(["replay", "run", wanted])
    assert main(["replay", "run", "of=pull/as=put"]) == 2
    assert "the run file has no environment 'pull', where of=pull/as=put was played." in capsys.readouterr().err


# ── finding an id ────────────────────────────────────────────────────────────────────────────────────────────────────


def run_with(folder: Path, **files: list[str]) -> Path:
    """Files of trajectories with these ids; a file without ids cannot be read."""
    (folder / "trajectories").mkdir(parents=True)
    for name, ids in files.items():
        path = folder / "trajectories" / f"{name}.jsonl.zst"
        if ids:
            write_trajectories(path, [Trajectory(i, "e", Task("t"), turns=[Turn(ACTIONS[0])]) for i in ids])
        else:
            path.write_bytes(b"not zstd")
    return folder


def test_an_id_that_says_where_it_is_opens_no_other_file(tmp_path: Path) -> None:
    one, two = (f"iteration=12/task=a/member={member}" for member in (1, 2))
    files = {f"iteration_{number:06d}": [] for number in range(1, 20)} | {"eval_before_sampled": []}
    run = run_with(tmp_path, **(files | {"iteration_000012": [one, two, "iteration=12/refill=1/task=b/member=0"]}))
    assert find_trajectory(run, two).id == two
    assert find_trajectory(run, "iteration=12/refill=1/task=b").id.endswith("b/member=0")
    with pytest.raises(CheckpointError, match="3 ids contain 'iteration=12'"):
        find_trajectory(run, "iteration=12")  # not those of other iterations that begin with 12
    with pytest.raises(CheckpointError, match="ids here are like iteration=12/task=a/member="):
        find_trajectory(run, "iteration=12/task=a/member=3")
    with pytest.raises(
        CheckpointError, match=r"no iteration_000021.jsonl.zst, .* iteration_000001.* to iteration_000019"
    ):
        find_trajectory(run, "iteration=21/task=a")
    with pytest.raises(CheckpointError, match="no trajectories that can be read"):
        find_trajectory(run, "member=1")  # this could be anywhere


def test_evaluations_are_looked_for_among_evaluations(tmp_path: Path) -> None:
    ids = ["eval=before/sampled/task=a/member=0", "eval=before/sampled/task=ab/member=0"]
    run = run_with(tmp_path, iteration_000000=[], eval_before_sampled=ids, eval=["eval=valid_seen/task=a/member=0"])
    assert find_trajectory(run, ids[0]).id == ids[0]
    assert find_trajectory(run, "eval=valid_seen/task=a").id == "eval=valid_seen/task=a/member=0"


def test_a_whole_id_is_found_though_others_contain_it(tmp_path: Path) -> None:
    run = run_with(tmp_path, iteration_000000=["x/member=1", "x/member=10"], demos_000500=["demos=500/task=é[/b]"])
    assert find_trajectory(run, "x/member=1").id == "x/member=1"
    assert find_trajectory(run, "task=é").id == "demos=500/task=é[/b]"
    assert store.read_ids(run / "trajectories" / "demos_000500.jsonl.zst") == ["demos=500/task=é[/b]"]


def test_ids_do_not_make_the_trajectories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, **{f"iteration_{number:06d}": [f"iteration={number}/task=a"] for number in range(5)})
    made: list[str] = []
    original = Trajectory.from_dict

    def counting(record: dict[str, Any]) -> Trajectory:
        made.append(record["id"])
        return original(record)

    monkeypatch.setattr(Trajectory, "from_dict", staticmethod(counting))
    assert find_trajectory(run, "=3/task").id == "iteration=3/task=a"
    assert made == ["iteration=3/task=a"]


def test_household_replays_what_any_agent_did() -> None:
    env = make(HOUSEHOLD, difficulty="tiny")
    for agent in ("random", "oracle", "expert:noise=0.5"):
        for trajectory in agentrl.rollout(HOUSEHOLD, agent, n=3, max_turns=15, options={"difficulty": "tiny"}):
            assert compare(env, trajectory).difference is None
