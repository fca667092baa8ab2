"""A person plays: through pipes, through a terminal, and what is recorded."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from toys import Corridor

from agentrl import agents, rollouts
from agentrl.agents.person import HELP
from agentrl.cli import main
from agentrl.env import make
from agentrl.store import read_trajectories
from agentrl.terminal import Terminal, inert
from agentrl.types import Outcome, Trajectory

HOUSEHOLD = "agentrl/Household-v0"
TOY = "toy/Corridor-v0"


class Bare(Corridor):
    """No list of actions, no oracle, no state keys; actions that begin with a slash."""

    oracle = state_key = expert = property()  # pyright: ignore

    def _view(self) -> tuple[str, dict[str, Any]]:
        return "[red]a[/red] [/nope]\x1b[2J\u202e", {}


class Expertless(Corridor):
    """Knows no oracle, but an expert, which has to see every turn."""

    oracle = property()  # pyright: ignore


@pytest.fixture(autouse=True)
def _toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    gymnasium.register(id=TOY, entry_point=Corridor)  # pyright: ignore
    yield
    gymnasium.registry.pop(TOY)


def played(lines: str, *arguments: str, env: str = TOY, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["play", env, "--task", "train-1", *arguments]) == status


def games(folder: Path) -> list[Trajectory]:
    return [game for file in sorted((folder / "trajectories").iterdir()) for game in read_trajectories(file)]


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


# ── through pipes ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_game_is_won_through_pipes_and_replayed(tmp_path: Path) -> None:
    env = make(HOUSEHOLD, difficulty="tiny")
    task = env.get_wrapper_attr("tasks")("train")[3]
    env.reset(seed=task.seed, options={"task": task})
    plan = env.get_wrapper_attr("oracle")()
    arguments = [HOUSEHOLD, "--task", task.id, "--option", "difficulty=tiny", "--record", "games"]
    done = command("play", *arguments, text="\n".join(plan) + "\nnever read\n")
    assert done.returncode == 0 and done.stderr == ""
    assert f"success after {len(plan)} turns, reward 1." in done.stdout and "reward +1   success yes" in done.stdout
    assert all(f"] > {action}" in done.stdout for action in plan) and "never read" not in done.stdout
    (game,) = games(tmp_path / "games")
    assert [turn.action for turn in game.turns] == plan and game.success and game.outcome is Outcome.TERMINATED
    assert (game.env, game.task, game.seed) == (HOUSEHOLD, task, task.seed)
    assert json.loads((tmp_path / "games" / "summary.json").read_text())["success_rate"] == 1
    done = command("replay", "games", task.id)
    assert done.returncode == 0 and f"equal: {len(plan)} of {len(plan)} turns" in done.stdout


def command(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-m", "agentrl", *arguments]
    return subprocess.run(code, input=text, capture_output=True, text=True, check=False, timeout=100, env=environment())


def environment(**more: str) -> dict[str, str]:
    """Of a process that imports the same agentrl as this one."""
    return {**os.environ, "PYTHONPATH": str(Path(agents.__file__).parents[2]), **more}


def test_the_record_is_that_of_any_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played("go right\ngo right\ngo right\n", "--record", "games", monkeypatch=monkeypatch)
    (game,) = games(tmp_path / "games")
    pool = rollouts.EnvPool(lambda: make(TOY))
    (other,) = rollouts.play(rollouts.Rollouts(pool, agents.OracleAgent()), [game.task])

    def told(record: Trajectory) -> dict[str, Any]:
        plain = record.to_dict()
        turns = [{**turn, "seconds": sorted(turn["seconds"])} for turn in plain["turns"]]
        return {**plain, "id": "", "group": "", "turns": turns}

    assert told(game) == told(other) and game.success


def test_the_end_of_the_input_ends_the_game(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played("go right\ngo right", "--record", "games", monkeypatch=monkeypatch)
    assert "You left the game: no success after 2 turns, reward 0." in shown(capsys)
    (game,) = games(tmp_path / "games")
    assert (game.outcome, game.error, game.n_turns) == (Outcome.CANCELLED, "the person left", 2)
    played("go right\n" * 3, "--record", "games", monkeypatch=monkeypatch)
    second = games(tmp_path / "games")[1]
    assert second.success and second.id == "play=1/task=train-1/member=0"
    result = json.loads((tmp_path / "games" / "summary.json").read_text())
    assert (result["n"], result["faults"], result["success_rate"], result["policy"]) == (1, 1, 1.0, "person")


def test_the_last_turn_is_the_last(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    played("go right\ngo left\n", "--max-turns", "1", monkeypatch=monkeypatch)
    out = shown(capsys)
    assert "[1/1] > go right" in out and "That was the last turn" in out and "go left" not in out
    assert out.count("You stand at") == 2


# ── what is typed ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    played("/help\n/actions\n/hint\n/info\n/state\n/undo\n/hnit\n\n/quit\ngo right\n", monkeypatch=monkeypatch)
    out = shown(capsys)
    for words in (*HELP, "Goal: reach the end", "  go left", "The oracle would: go right", "  goal: reach the end",
                  "place=0", "There is no turn to take back", "Did you mean '/hint'", "after 0 turns"):  # fmt: skip
        assert words in out
    assert "> go right" not in out


def test_an_inadmissible_action_is_told_and_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played("go rigth\nquit\n/quit\n", "--record", "games", monkeypatch=monkeypatch)
    out = shown(capsys)
    assert "'go rigth' is not admissible here; did you mean 'go right'?" in out
    assert "'quit' is not admissible here; did you mean '/quit'?" in out  # without a slash it is an action
    (game,) = games(tmp_path / "games")
    assert [(turn.action, turn.valid) for turn in game.turns] == [("go rigth", False), ("quit", False)]


def test_an_action_that_is_admissible_and_not_listed_is_not_called_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every search is admissible in the shop, and one is listed."""
    played(
        "search[red]\nlook\n/quit\n",
        "--task",
        "webshop-tiny-train-1",
        env="agentrl/WebShop-v0",
        monkeypatch=monkeypatch,
    )
    out = shown(capsys)
    assert "Total results" in out and "'search[red]' is not admissible" not in out
    assert "'look' is not admissible here" in out


def test_an_undone_turn_leaves_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "go right\ngo left\n/undo\ngo right\ngo left\ngo left\n/undo\n/undo\n/state\ngo right\n"
    played(lines, "--record", "games", monkeypatch=monkeypatch)
    out = shown(capsys)
    assert out.count("Taken back: go left") == 3 and "place=2" in out
    # Each turn once, and the last line: what is played again is silent.
    assert out.count("reward ") == lines.count("go ") + 1
    (game,) = games(tmp_path / "games")
    assert [turn.action for turn in game.turns] == ["go right"] * 3 and game.success
    assert [turn.state_key for turn in game.turns] == ["place=0", "place=1", "place=2"]


def test_the_expert_gives_hints_where_there_is_no_oracle_and_sees_every_turn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gymnasium.registry[TOY].entry_point = Expertless  # pyright: ignore
    # The toy's expert goes left on every fourth call.
    played("/hint\nlook\nlook\nlook\n/hint\nlook\n/undo\n/hint\n", monkeypatch=monkeypatch)
    assert [line for line in shown(capsys).splitlines() if line.startswith("The expert")] == [
        "The expert would: go right",
        "The expert would: go left",
        "The expert would: go left",
    ]


def test_an_environment_that_tells_little_and_would_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gymnasium.registry[TOY].entry_point = Bare  # pyright: ignore
    played("/actions\n/hint\n/info\n/state\n//go right\nx\x1b[2J\n", "--record", "games", monkeypatch=monkeypatch)
    out = shown(capsys)
    for words in ("does not list its admissible", "neither an oracle nor an expert", "Nothing.", "no state keys",
                  "[red]a[/red] [/nope]␛[2J\ufffd"):  # fmt: skip
        assert words in out
    assert "\x1b" not in out and "\u202e" not in out
    assert [turn.action for turn in games(tmp_path / "games")[0].turns] == ["/go right", "x\x1b[2J"]


def test_an_oracle_that_fails_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Corridor, "oracle", lambda self: 1 // 0)
    played("/hint\n", monkeypatch=monkeypatch)
    assert "The oracle failed: ZeroDivisionError" in shown(capsys)
    monkeypatch.setattr(Corridor, "oracle", lambda self: [])
    played("/hint\n", monkeypatch=monkeypatch)
    assert "The oracle knows no way from here." in shown(capsys)


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--task train-9", "no task 'train-9' in Corridor. Did you mean"),
        ("--split trian", "Did you mean 'train'"),
        ("--max-turns 0", "env.max_turns"),
        ("--seed -1", "run.seed"),
        ("--option colour=red", "colour"),
        ("--record used", "used exists already"),
    ],
)
def test_what_cannot_be_played(
    arguments: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    monkeypatch.setattr("sys.stdin", io.StringIO("go right\n"))
    assert main(["play", TOY, *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["notes.txt", "used"]


def test_games_of_another_environment_are_kept_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played("go right\n", "--record", "games", monkeypatch=monkeypatch)
    played("go right\n", "--record", "games", "--option", "truncate_at=1", monkeypatch=monkeypatch, status=2)
    assert "games holds games of toy/Corridor-v0 with the options {}" in capsys.readouterr().err


def test_an_environment_that_fails_is_recorded_and_status_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--option", "failing=[2]", "--record", "games")
    played("go right\ngo right\n", *options, monkeypatch=monkeypatch, status=1)
    assert "the environment failed: step raised OSError: the server is gone" in capsys.readouterr().err
    (game,) = games(tmp_path / "games")
    assert game.outcome is Outcome.ENV_FAULT and game.n_turns == 2


def test_the_seed_draws_the_task(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    heads = []
    for seed in ("0", "0", "1", "2", "3"):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert main(["play", TOY, "--seed", seed, "--split", "valid_seen"]) == 0
        heads.append(shown(capsys).splitlines()[0])
    assert heads[0] == heads[1] and len(set(heads)) > 1 and all("valid_seen-" in head for head in heads)


def test_a_person_who_leaves_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("go right\n/quit\ngo right\n/quit\n"))
    pool = rollouts.EnvPool(Corridor)
    task = Corridor().tasks("train")[0]
    with pytest.raises(Exception, match="cancelled: the person left"):  # one of one episodes: no result
        rollouts.play(rollouts.Rollouts(pool, agents.PersonAgent()), [task])
    assert sys.stdin.read() == "go right\n/quit\n"


def test_texts_that_no_terminal_can_write_are_marked() -> None:
    assert inert("a\r\nb\tc\x07\x85\ud800[b]") == "a\nb\tc␇\ufffd\ufffd[b]"
    assert inert("käse 茶 🍵") == "käse 茶 🍵"


def test_input_that_is_no_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8"))
    assert main(["play", TOY]) == 2
    assert "standard input is no text" in capsys.readouterr().err


def test_completion_leaves_readline_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    readline = pytest.importorskip("readline")
    before = readline.get_completer(), readline.get_completer_delims()
    found: list[str | None] = []

    def typed(prompt: str) -> str:
        complete = readline.get_completer()
        found.extend(complete("go t", number) for number in range(3))
        assert readline.get_completer_delims() == ""
        return "go to desk 1"

    terminal = Terminal()
    terminal.interactive = True
    monkeypatch.setattr("builtins.input", typed)
    assert terminal.ask("[1] ", ["go to desk 1", "look", "go to sofa 1"]) == "go to desk 1"
    assert found == ["go to desk 1", "go to sofa 1", None]
    assert (readline.get_completer(), readline.get_completer_delims()) == before


# ── in a terminal ────────────────────────────────────────────────────────────────────────────────────────────────────


class Pty:
    """A process in a terminal of its own; ``until`` reads until a text has come."""

    def __init__(self, *arguments: str) -> None:
        import pty

        self.handle, theirs = pty.openpty()
        code = [sys.executable, "-m", "agentrl", *arguments]
        plain = environment(TERM="xterm", COLUMNS="200", NO_COLOR="1")
        self.process = subprocess.Popen(code, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=plain)
        os.close(theirs)
        self.unread = ""

    def until(self, text: str) -> str:
        deadline = time.monotonic() + 100
        while text not in self.unread:
            assert select.select([self.handle], [], [], deadline - time.monotonic())[0], f"no {text!r}: {self.unread!r}"
            self.unread += os.read(self.handle, 65536).decode()
        read, self.unread = self.unread.split(text, 1)
        return read

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def close(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        status = self.process.wait(timeout=100)
        os.close(self.handle)
        with self.process.stderr:
            return status, self.process.stderr.read().decode()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_in_a_terminal_tab_completes_and_ctrl_c_keeps_the_record(tmp_path: Path) -> None:
    env = make(HOUSEHOLD, difficulty="tiny")
    task = env.get_wrapper_attr("tasks")("train")[0]
    _, info = env.reset(seed=task.seed, options={"task": task})
    actions = info["admissible_actions"]
    target = actions[0]
    typed = next(target[:n] for n in range(1, 99) if [a for a in actions if a.startswith(target[:n])] == [target])
    assert " " in typed and typed != target
    game = Pty("play", HOUSEHOLD, "--task", task.id, "--record", "games")
    game.until("[1/50] > ")
    game.type(typed + "\t")
    game.until(target)
    game.type("\n")
    game.until("reward +0   success no")
    game.until("[2/50] > ")
    game.type("/u\t\n")
    game.until(f"Taken back: {target}")
    game.until("[1/50] > ")
    game.type("look\n")
    game.until("[2/50] > ")
    game.process.send_signal(signal.SIGINT)
    game.type("\n")  # readline overlooks a signal that comes between its prompt and its wait, until the line ends
    game.until("Recorded as")
    assert game.close() == (130, "agentrl: interrupted\n")
    (record,) = games(tmp_path / "games")
    assert [turn.action for turn in record.turns] == ["look"] and record.error == "interrupted"
