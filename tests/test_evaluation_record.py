"""The record of an evaluation: what stands in its folder, and that ``--resume`` comes to the results of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_server import HOUSEHOLD, Answer, Asked, ChatServer, fails, housekeeper

from agentrl.cli import main
from agentrl.evaluation.record import added
from agentrl.store import read_trajectories

UNRULY = "toy_processes:toy/Unruly-v0"
TIMES = ("seconds", "time")
NOT_COMPARED = (*TIMES, "options")  # of the unruly environment: the file that tells whether it is killed


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def untimed(folder: str) -> dict[str, Any]:
    """``eval.json`` without its times and options."""
    result = json.loads((Path(folder) / "eval.json").read_text())
    return {key: value for key, value in result.items() if key not in NOT_COMPARED}


def unruly(out: str, once: str, *more: str) -> list[str]:
    """An evaluation whose process is killed in the middle of task 3, the first time: the file ``once`` is not there yet."""
    options = ("trouble=kill", "at=1", f"once={once}", "only=valid_seen-3")
    asked = [word for option in options for word in ("--option", option)]
    return ["eval", UNRULY, "--samples", "3", "--episodes", "6", "--max-turns", "6", "--out", out, *asked, *more]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parent
    path = {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    words = [sys.executable, "-m", "agentrl", *arguments]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **path}, check=False)


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on_to_the_results_of_an_undisturbed_one() -> None:
    Path("there").touch()
    assert main(unruly("whole", "there")) == 0
    killed = command(*unruly("found", "gone"))
    assert killed.returncode == -signal.SIGKILL
    journal = Path("found/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 9  # the samples of three tasks
    assert not Path("found/eval.json").exists()
    journal.write_bytes(b"".join(lines[:8]) + lines[8][:100])  # as if the kill had come while it was written

    resumed = command(*unruly("found", "gone", "--resume"))
    assert resumed.returncode == 0 and "8 of 18 episodes are there already" in resumed.stderr
    assert untimed("found") == untimed("whole") and untimed("found")["n"] == 18
    assert not journal.exists()
    for name in ("eval.md", "eval.html", "summary.json"):
        assert (Path("found") / name).stat().st_size
    ids = [
        [trajectory.id for trajectory in read_trajectories(Path(folder) / "trajectories" / "eval.jsonl.zst")]
        for folder in ("found", "whole")
    ]
    assert ids[0] == ids[1]


def test_a_complete_evaluation_resumes_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", HOUSEHOLD, "--episodes", "3", "--max-turns", "5", "--out", "found"]
    assert main(arguments) == 0
    before = json.loads(Path("found/eval.json").read_text())
    assert main([*arguments, "--resume"]) == 0
    after = json.loads(Path("found/eval.json").read_text())
    assert untimed("found") == {key: value for key, value in before.items() if key not in NOT_COMPARED}
    assert after["time"] == before["time"] and after["seconds"] >= before["seconds"]
    assert "3 of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--seed", "1"), "run.seed = 0, now 1"),
        (("--samples", "2"), "samples = 1, now 2"),
        (("--policy", "oracle"), "policy = 'random', now 'oracle'"),
        (("--episodes", "3"), "tasks = 2 tasks, now 3 tasks"),
        (("--max-turns", "3"), "max_turns"),
        (("--option", "difficulty=easy"), "difficulty"),
        (("--temperature", "0.5"), "temperature"),
    ],
)
def test_other_settings_do_not_continue(change: tuple[str, str], words: str, capsys: Any) -> None:
    arguments = ["eval", HOUSEHOLD, "--episodes", "2", "--max-turns", "4", "--out", "found"]
    assert main(arguments) == 0
    kept = sorted(Path("found").rglob("*"))
    capsys.readouterr()
    assert main([*arguments, *change, "--resume"]) == 2
    line = capsys.readouterr().err
    assert words in line and "without --resume" in line and line.count("\n") == 1
    assert sorted(Path("found").rglob("*")) == kept


def test_what_cannot_be_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", HOUSEHOLD, "--episodes", "2", "--max-turns", "2"]
    assert main([*arguments, "--resume"]) == 2 and "--out" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--out", "none"]) == 2
    assert "no evaluation to continue" in capsys.readouterr().err and not Path("none").exists()
    assert main([*arguments, "--samples", "0"]) == 2 and "at least 1 sample" in capsys.readouterr().err
    assert main([*arguments, "--out", "found"]) == 0
    Path("found/journal.jsonl").write_text('{"seconds": 1\n{"seconds": 2}\n')
    capsys.readouterr()
    assert main([*arguments, "--out", "found", "--resume"]) == 2
    assert "journal.jsonl, line 1 cannot be read" in capsys.readouterr().err


def test_a_resume_tries_faults_again_and_adds_the_accounts_up(capsys: pytest.CaptureFixture[str]) -> None:
    house, down = housekeeper(4), [True]
    first: list[str] = []

    def answer(asked: Asked) -> Answer:
        text = asked.body["messages"][0]["content"]
        if not first:
            first.append(text)
        return fails(500) if down[0] and text == first[0] else house(asked)

    Path("agent.toml").write_text('[agent]\nmemory = { name = "append" }\nprompt = "id {task_id}\\n{goal}"\n')
    with ChatServer(answer=answer) as server:
        spec = server.spec(retries=0, concurrency=1, price_in=1, price_out=4)
        arguments = ["eval", HOUSEHOLD, "--policy", spec, "--config", "agent.toml", "--episodes", "4", "--out", "found"]
        assert main(arguments) == 0
        before = untimed("found")
        down[0] = False
        assert main([*arguments, "--resume"]) == 0
        after = untimed("found")
    capsys.readouterr()
    assert (before["n"], before["faults"], before["failures"]["fault"]) == (3, 1, 1)
    assert (after["n"], after["faults"], after["success_rate"]) == (4, 0, 1.0)
    assert after["episodes"][1:] == before["episodes"][1:]
    assert after["calls"] - before["calls"] == after["episodes"][0]["turns"] > 0
    assert after["tokens"]["prompt"] == 100 * after["calls"]
    assert after["cost"] == pytest.approx(after["calls"] * (100 + 40) / 1e6)


def test_accounts_add_up() -> None:
    one = {"calls": 1, "tokens": {"prompt": 2}, "cost": None}
    assert added(None, None) is None and added(None, one) == added(one, None) == one
    assert added({"calls": 2, "tokens": {"prompt": 3}, "cost": 1.0}, one) == {
        "calls": 3, "tokens": {"prompt": 5}, "cost": None,
    }  # fmt: skip
