"""Why a turn has its advantage: recomputed from real runs and from folders made by hand, printed, and compared with the record."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import run_file, tiny

from agentrl import build, stages, store
from agentrl.algorithms import TurnTable
from agentrl.algorithms.method import Method
from agentrl.algorithms.terms import Term
from agentrl.cli import main
from agentrl.config import load
from agentrl.console import Progress
from agentrl.errors import CheckpointError
from agentrl.explain import explain, overview
from agentrl.types import Outcome, Task, Trajectory, Turn

# ── folders made by hand ─────────────────────────────────────────────────────────────────────────────────────────────

MEASURED = {"entropy": [0.1, 0.9, 0.4], "value": [0.2, 0.5, 0.6]}


def member(number: int, place: int, n_turns: int, reward: float) -> Trajectory:
    turns = [Turn(f"room {t % 2}", state_key=f"s{t % 2}", action=f"go {t}", valid=t != 1) for t in range(n_turns)]
    turns[-1].reward = reward
    group = f"iteration=4/task=q{place}/place={place}"
    return Trajectory(f"{group}/member={number}", "toy", Task(f"q{place}"), group, turns=turns, success=reward > 0)


def made(folder: Path, *overrides: str, states: Mapping[str, Any] | None = None, **measured: list[float]) -> Path:
    """An iteration 4 of two groups of ragged episodes whose credit was assigned as the run file says, and a group and an
    episode that were left out."""
    settings = load(run_file(folder), overrides)
    kept = [member(i, p, 1 + (i + p) % 3, float((i + p) % 2)) for p in (0, 1) for i in range(4)]
    left = [member(i, 2, 2, 0.0) for i in range(2)]
    fault = member(4, 1, 1, 0.0)
    fault.outcome, fault.error = Outcome.ENV_FAULT, "the server is gone"
    rows = [(t, i) for i, each in enumerate(kept) for t in range(each.n_turns)]
    further = {name: np.array([values[t] + 0.01 * i for t, i in rows]) for name, values in measured.items()}
    methods = build.credit_methods(settings.algorithm)
    states = dict(states or {})
    known = {place: None for place, method in methods.named() if hasattr(method, "init")}
    stages.assign_credit(methods, {**known, **states}, kept, further)
    run = store.RunFolder.create(folder / "run", settings.model_dump(mode="python"))
    run.add_trajectories("iteration_000003", [])
    run.add_trajectories("iteration_000004", [*kept, *left, fault])
    if states:
        run.add_states(4, states)
    return folder / "run"


CREDIT = [
    '{name = "grpo"}',
    '{name = "dr_grpo"}',
    '{name = "rloo"}',
    '{name = "flow_grpo", outcome = "success"}',
    '{name = "ngrpo"}',
    '{name = "bnpo"}',
    '{name = "reinforce_plus_plus"}',
    '{name = "reinforce_plus_plus_baseline", unit = "turn"}',
    '{name = "gigpo"}',
    '{name = "hgpo"}',
    '{name = "mt_grpo"}',
    '{name = "mt_grpo_biased"}',
    '{name = "return_to_go"}',
    '{name = "turn_gae", unit = "turn"}',
    '[{name = "grpo"}, {name = "empg"}]',
]


@pytest.mark.parametrize("credit", CREDIT)
def test_every_method_is_explained_from_the_record(credit: str, tmp_path: Path) -> None:
    run = made(tmp_path, f"algorithm.credit={credit}", **MEASURED)
    found = overview(run)
    assert found["equal"] and found["n_turns"] == found["n_equal"] == 15 and not found["problem"]
    for group in found["groups"][:2]:
        for each in group["members"][:4]:
            said = explain(run, each["id"])
            assert said["equal"] and said["group"]["id"] == group["id"]
            for turn in said["turns"]:
                assert turn["recomputed"] == turn["recorded"]  # to the last bit
                last = turn["credit"][-1]
                assert last["after"] == turn["recomputed"] and last["agrees"]
                assert last["term"]["value"] == pytest.approx(last["gave"], abs=1e-9)


def test_strata_and_states_come_from_the_record(tmp_path: Path) -> None:
    (tmp_path / "strata").mkdir()
    strata = made(
        tmp_path / "strata",
        'algorithm.rewards=[{name = "stratum", by = "turns"}]',
        'algorithm.credit={name = "stratified_grpo", alpha = 0.5}',
    )
    said = explain(strata, "place=0/member=1", 1)["turns"][0]
    assert said["rewards"][0]["columns"] == {"stratum": [None, "2"]} and said["equal"]
    assert said["credit"][0]["term"]["parts"][0]["among"]["about"] == "stratum 2"
    options = ('algorithm.credit={name = "spo", forgetting = "constant"}', "algorithm.rewards=[]")
    spo = made(tmp_path, *options, states={"credit[0]": {"q0": [3.0, 1.0]}})
    said = explain(spo, "place=0/member=1", 0)
    assert said["equal"] and said["turns"][0]["credit"][0]["term"]["parts"][0]["numbers"]["reward"] == 1
    (expected,) = said["turns"][0]["credit"][0]["term"]["parts"][0]["parts"]
    assert expected["value"] == 0.75 and expected["note"] == "expected of the task q0"


def test_what_was_left_out_says_so_and_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path, 'algorithm.filters=[{name = "degenerate"}]')
    assert main(["explain", str(run), "place=2/member=0", "1"]) == 0
    out = capsys.readouterr().out
    assert (
        "No advantage: the filters left it out, so it was not trained on (degenerate: keep a group where max_i" in out
    )
    assert main(["explain", str(run), "place=1/member=4"]) == 0
    assert "it ended as env_fault, a fault of the machinery" in capsys.readouterr().out
    said = explain(run, "place=2/member=0")
    assert [turn["recorded"] for turn in said["turns"]] == [None, None] == [t["recomputed"] for t in said["turns"]]
    assert [each["advantage_min"] for each in said["group"]["members"]] == [None, None]


def test_a_record_that_was_changed_is_not_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    file = run / "trajectories" / "iteration_000004.jsonl.zst"
    changed = list(store.read_trajectories(file))
    changed[1].turns[0].advantage += 1e-6
    store.write_trajectories(file, changed)
    for arguments, words in [
        (["place=0/member=1", "0"], "NOT EQUAL. The record, a method or config.toml was changed"),
        (["place=0/member=1"], "NOT EQUAL to the recorded advantages: turn 0."),
        ([], "1 of 15 advantages are NOT what the record says."),
    ]:
        with pytest.raises(SystemExit) as caught:
            main(["explain", str(run), *arguments])
        assert caught.value.code == 1 and words in capsys.readouterr().out
    assert main(["explain", str(run), "place=0/member=2"]) == 0


def test_what_an_older_record_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path, 'algorithm.credit=[{name = "grpo"}, {name = "empg"}]', **MEASURED)
    file = run / "trajectories" / "iteration_000004.jsonl.zst"
    older = list(store.read_trajectories(file))
    older[0].turns[0].columns = {}
    store.write_trajectories(file, older)
    with pytest.raises(SystemExit):
        main(["explain", str(run), "place=0/member=1", "1"])
    out = capsys.readouterr().out
    assert (
        "Not computed again: credit[1] (EMPG) reads entropy, which the record does not have. From the record: " in out
    )
    said = explain(run, "place=0/member=1", 1)["turns"][0]
    assert f"From the record: advantage {said['recorded']:.4g}." in out and said["recomputed"] is None
    assert overview(run)["problem"].startswith("credit[1] (EMPG) reads entropy")
    with pytest.raises(SystemExit):
        main(["explain", str(run), "--list"])
    assert "Not computed again: credit[1] (EMPG)" in capsys.readouterr().out
    spo = made(tmp_path / "run", 'algorithm.credit={name = "spo", forgetting = "constant"}', states={"credit[0]": {}})
    assert overview(spo)["equal"]
    (spo / "states" / "iteration_000004.json.zst").unlink()
    assert overview(spo)["problem"] == "credit[0] (SPO) remembers, and what it knew then was not kept"


# ── methods of others ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Plain(Method):
    """Has no explain()."""

    stage = "credit"
    reads = ("group",)
    writes = ("advantage",)
    formula = "A = 2"

    def __call__(self, table: TurnTable) -> np.ndarray:
        return np.full(len(table), 2.0)


@dataclass(frozen=True)
class Wrong(Plain):
    """Explains another number than it gives."""

    def explain(self, table: TurnTable, row: int) -> Term:
        return Term("A", "1 + x", {"x": 0.5})


@dataclass(frozen=True)
class Column(Method):
    """Gives a column, and no advantage."""

    stage = "credit"
    writes = ("weight",)

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        return {"weight": table["turn"] / 4}


def test_composed_methods_are_shown_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = f'{{name = "{__name__}:Column"}}, {{name = "{__name__}:Plain"}}, {{name = "toy_runs:Halve"}}'
    run = made(tmp_path, f'algorithm.credit=[{{name = "grpo"}}, {names}]')
    (turn,) = explain(run, "place=0/member=1", 1)["turns"]
    grpo, column, plain, halve = turn["credit"]
    assert column["gave"] is None and column["columns"] == {"weight": [None, 0.25]} and column["after"] == grpo["after"]
    assert plain["after"] == grpo["gave"] + 2 and not plain["changes"] and plain["term"] is None
    assert halve["after"] == plain["after"] / 2 == turn["recorded"] and halve["changes"]
    assert main(["explain", str(run), "place=0/member=1", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{__name__}:Plain   A = 2\n  A = 2   (the method has no explain(); this is what it gave)" in out
    assert f"  advantage: {grpo['gave']:.4g} + 2 = {plain['after']:.4g}\n" in out
    assert f"  advantage: {plain['after']:.4g} becomes {halve['after']:.4g}\n" in out
    assert "  weight = 0.25   (was none)" in out
    assert main(["explain", str(run), "place=0/member=1"]) == 0
    heading = next(line for line in capsys.readouterr().out.splitlines() if "penalty" in line)
    assert heading.split()[-5:] == ["grpo", "S", f"{__name__}:Plain", "toy_runs:Halve", "advantage"]


def test_an_explanation_that_is_not_the_methods_number_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path, f'algorithm.credit={{name = "{__name__}:Wrong"}}')
    with pytest.raises(SystemExit) as caught:
        main(["explain", str(run), "place=0/member=1", "1"])
    assert caught.value.code == 1
    assert f"explain() of {__name__}:Wrong says 1.5, but the method gave 2.0" in capsys.readouterr().out


# ── the command on real runs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="training needs the extra 'train'")
    credit = '[{name = "gigpo"}, {name = "spo", forgetting = "constant", r_max = 4.0}, {name = "empg"}]'
    from agentrl.trainer import train

    folder = tmp_path_factory.mktemp("trained")
    overrides = (f"algorithm.credit={credit}", "run.iterations=2", "evaluation.episodes=1")
    train(tiny(folder, *overrides), folder / "run", progress=Progress())
    return folder / "run"


@pytest.mark.slow
def test_a_real_run_is_explained_to_the_last_bit(trained: Path) -> None:
    for iteration in (0, 1):
        found = overview(trained, iteration)
        assert found["equal"] and found["n_turns"] == 32 == found["n_equal"]
        for group in found["groups"]:
            for each in group["members"]:
                turns = explain(trained, each["id"])["turns"]
                assert all(t["recomputed"] == t["recorded"] and set(t["measured"]) == {"entropy"} for t in turns)
                assert all([step["name"] for step in t["credit"]] == ["gigpo", "spo", "empg"] for t in turns)
    assert overview(trained)["iteration"] == 1  # the last
    assert len(store.read_states(trained, 0)["credit[1]"]) == 0 < len(store.read_states(trained, 1)["credit[1]"])


@pytest.mark.slow
def test_the_command_on_a_real_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(trained)]) == main(["explain", str(trained), "--list", "--iteration", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("All 32 advantages, computed again, equal the recorded ones.") == 2 and "place=1: 4 traj" in out
    assert main(["explain", str(trained), "place=0/member=2", "1"]) == 0
    out = capsys.readouterr().out
    for words in ("A   = A_E + step_weight * A_S = ", "S   = R - penalty = ", "A_S, anchor group (", "→   member=2",
                  "credit[1] spo   A_it = ", "becomes", "measured  entropy", "scores    Parity", ": equal."):  # fmt: skip
        assert words in out
    assert main(["explain", str(trained), "iteration=0/task", "--iteration", "1"]) == 2
    assert "is not of iteration 1; leave --iteration out" in capsys.readouterr().err
    assert main(["explain", str(trained), "place=0/member=2", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["equal"] and said["iteration"] == 1 and said["turns"][0]["turn"] == 1
    anchors = said["turns"][0]["credit"][0]["term"]["parts"][1]["among"]["members"]
    assert {"trajectory", "turn", "action", "value", "weight"} == set(anchors[0])


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "nothing has no config.toml; give the folder of a training run"),
        (["RUN", "place=0/membr=0"], "no trajectory's id contains 'place=0/membr=0'; ids here are like iteration=4/"),
        (["RUN", "place=0/membr=0"], "`agentrl explain RUN --iteration 4` lists them all"),
        (["RUN", "place=0"], "4 ids contain 'place=0'; write more of one of them: "),
        (["RUN", "place=0/member=1", "2"], "member=1 has no turn 2; its turns are 0 to 1"),
        (["RUN", "place=0/member=1", "-1"], "has no turn -1; its turns are 0 to 1"),
        (["RUN", "--iteration", "9"], "has no iteration 9; it has 3 to 4"),
        (["RUN", "iteration=7/task=q"], "has no iteration 7; it has 3 to 4"),
        (["RUN", "q", "--iteration", "3"], "iteration 3: no trajectory's id contains 'q'; ids here are like none"),
        (["empty"], "empty holds no iterations of training; credit is given there alone"),
    ],
)
def test_what_cannot_be_explained(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path).rename(tmp_path / "RUN")
    store.RunFolder.create(tmp_path / "empty", load(tmp_path / "tiny.toml").model_dump(mode="python"))
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_an_iteration_without_anything_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    assert main(["explain", str(run), "--iteration", "3"]) == 0
    assert "No trajectory of this iteration was trained on." in capsys.readouterr().out


def test_states_that_cannot_be_read(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run / "states").mkdir()
    (run / "states" / "iteration_000004.json.zst").write_bytes(b"not zstd")
    with pytest.raises(CheckpointError, match="holds no states that can be read"):
        overview(run)


def test_a_narrow_terminal_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path)
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["explain", str(run)]) == 0
    out = capsys.readouterr().out
    assert "trajectory" in out and "outcome" in out and re.search(r"\n +member=0 +terminated", out)


def test_texts_of_environments_are_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path)
    file = run / "trajectories" / "iteration_000004.jsonl.zst"
    changed = list(store.read_trajectories(file))
    for turn in changed[0].turns:
        turn.action, turn.observation, turn.state_key = "[/b]\x1b[2J go", "[red] \x1b[0m", "s\x1b"
    store.write_trajectories(file, changed)
    for arguments in (["place=0/member=0"], ["place=0/member=0", "0"]):
        with pytest.raises(SystemExit):  # another state, so another anchor group
            main(["explain", str(run), *arguments])
        out = capsys.readouterr().out
        assert "[/b]␛[2J go" in out and "\x1b" not in out
