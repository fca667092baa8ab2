"""``agentrl eval --policy openai:…`` from end to end, against a server on this machine."""

from __future__ import annotations

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from chat_server import HOUSEHOLD, Answer, Asked, ChatServer, fails, housekeeper, says

from agentrl.cli import main
from agentrl.store import read_trajectories

KEY = "sk-test-0123456789abcdef"
CONVERSATION = """
[agent]
memory = { name = "append" }
system = "You keep house."
prompt = "id {task_id}\\n{goal}\\n{observation}"
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TOY_KEY", KEY)


@pytest.fixture
def conversation(tmp_path: Path) -> str:
    (tmp_path / "agent.toml").write_text(CONVERSATION.replace('system = "You keep house."\n', ""))
    return str(tmp_path / "agent.toml")


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    status = main(["eval", HOUSEHOLD, *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_a_model_that_knows_eight_houses_of_twelve(
    capsys: pytest.CaptureFixture[str], conversation: str, tmp_path: Path
) -> None:
    house, gate = housekeeper(12, clumsy=lambda place: place % 3 == 2), threading.Barrier(4, timeout=20)

    def answer(asked: Asked) -> Answer:
        if asked.number < 4:
            gate.wait()  # passes when four episodes ask at a time
        return house(asked)

    with ChatServer(answer=answer) as server:
        spec = server.spec(concurrency=4, key="TOY_KEY", price_in=1, price_out=4, max_tokens=77)
        result = evaluated(
            capsys, "--policy", spec, "--config", conversation, "--episodes", 12, "--max-turns", 20, "--out", "found"
        )
        n_calls = len(server.asked)
    assert (result["n"], result["success_rate"], result["faults"]) == (12, 8 / 12, 0)
    assert (result["policy"], result["calls"], result["retries"]) == (spec, n_calls, 0)
    assert result["tokens"] == {"prompt": 100 * n_calls, "completion": 10 * n_calls, "cached": 0}
    assert result["cost"] == pytest.approx(n_calls * (100 * 1 + 10 * 4) / 1e6)
    assert server.most_active == 4

    folder = tmp_path / "found"
    trajectories = list(read_trajectories(folder / "trajectories" / "eval.jsonl.zst"))
    calls = [call for trajectory in trajectories for call in trajectory.calls()]
    assert len(calls) == n_calls and all(call.messages and call.reply for call in calls)
    assert sorted(json.dumps(call.messages) for call in calls) == sorted(
        json.dumps(a.body["messages"]) for a in server.asked
    )
    settings = tomllib.loads((folder / "config.toml").read_text())
    assert settings["agent"]["memory"]["name"] == "append" and settings["rollout"]["max_tokens"] == 77
    assert settings["rollout"]["policy"] == spec
    assert json.loads((folder / "eval.json").read_text()) == result
    headline = {key: value for key, value in result.items() if key != "episodes"}
    assert json.loads((folder / "summary.json").read_text()) == headline
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert KEY not in json.dumps([trajectory.to_dict() for trajectory in trajectories])


def test_a_server_that_fails_now_and_then_changes_no_result(
    capsys: pytest.CaptureFixture[str], conversation: str
) -> None:
    house = housekeeper(6, clumsy=lambda place: place == 0)
    stumbles = [fails(429, Retry_After="0"), fails(500), Answer(cut_at=0), Answer("{"), Answer(cut_at=5, body="x" * 50)]

    def answer(asked: Asked) -> Answer:
        return stumbles[asked.number % 5] if asked.number % 3 == 1 else house(asked)

    found = []
    for behaviour in (house, answer):
        with ChatServer(answer=behaviour) as server:
            arguments = ("--config", conversation, "--episodes", 6, "--max-turns", 20)
            result = evaluated(capsys, "--policy", server.spec(concurrency=3, retries=20), *arguments)
        assert result["retries"] == len(server.asked) - result["calls"]
        found.append(
            {key: result[key] for key in ("success_rate", "n", "mean_turns", "faults", "calls", "tokens", "by_type")}
        )
    assert found[0] == found[1] and found[0]["success_rate"] == 5 / 6
    assert result["retries"] > 0


def test_the_default_prompt_shows_the_admissible_actions(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(asked: Asked) -> Answer:
        (message,) = asked.body["messages"]
        admissible = message["content"].split("Admissible actions:\n")[1].splitlines()[:-1]
        return says(f"Let me see. <action>{admissible[0]}</action>")

    with ChatServer(answer=answer) as server:
        result = evaluated(capsys, "--policy", server.spec(), "--episodes", 3, "--max-turns", 4, "--temperature", 0)
        assert {asked.body["temperature"] for asked in server.asked} == {0}
    assert (result["n"], result["valid_action_ratio"], result["cost"]) == (3, 1.0, None)


def test_tables_end_with_what_was_used(capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(fails(503), says("no idea", usage=None), says("no idea", usage=(1000, 20))) as server:
        spec = server.spec(price_in=2, price_out=10, concurrency=1)
        assert main(["eval", HOUSEHOLD, "--policy", spec, "--episodes", "1", "--max-turns", "3"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 calls, 1 retries; 2000 prompt tokens (0 cached), 40 completion tokens; cost 0.0044;" in printed
    assert "1 calls without token counts" in printed


@pytest.mark.parametrize(
    ("policy", "more", "words"),
    [
        ("openai:URL#toy,concurency=2", (), "openai has no parameter 'concurency'. Did you mean 'concurrency'?"),
        ("openai:URL", (), "openai:URL#MODEL"),
        ("openai:localhost:8000#toy", (), "http://"),
        ("opnai:URL#toy", (), "no policy is called 'opnai'. Did you mean 'openai'?"),
        ("openai:URL#toy,key=NOT_SET", (), "the environment variable NOT_SET is not set"),
        (f"openai:URL#toy,key={KEY}", (), "not the key itself"),
        (f"opnai:URL#toy,key={KEY}", (), "no policy is called 'opnai'"),
        ("openai:URL#toy", ("--config", "none.toml"), "none.toml cannot be read"),
        ("openai:URL#toy", ("--config", "typo.toml"), "unknown key 'agent.promt'. Did you mean 'prompt'?"),
        ("openai:URL#toy", ("--config", "field.toml"), "agent.prompt names a field '{obs}'"),
        ("random", ("--config", "field.toml"), "config says how a model behind an API is prompted"),
        ("openai:URL#toy,key=TOY_KEY", (), "HTTP 401: wrong key [key]; name the environment variable"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    policy: str, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "typo.toml").write_text('[agent]\npromt = "x"\n')
    (tmp_path / "field.toml").write_text('[agent]\nprompt = "{obs}"\n')
    before = sorted(tmp_path.rglob("*"))
    with ChatServer(fails(401, f"wrong key {KEY}")) as server:
        spec = policy.replace("URL", server.url)
        assert main(["eval", HOUSEHOLD, "--policy", spec, *more, "--episodes", "2", "--out", "found"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and words in captured.err and captured.err.count("\n") == 1
    assert KEY not in captured.err and sorted(tmp_path.rglob("*")) == before


def test_an_endpoint_that_stays_down_is_a_failure_of_the_machinery(capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(fails(503, "overloaded")) as server:
        assert main(["eval", HOUSEHOLD, "--policy", server.spec(retries=2), "--episodes", "3"]) == 1
    line = capsys.readouterr().err
    assert "policy_fault" in line and "HTTP 503: overloaded (try 3 of 3)" in line and line.count("\n") == 1


@pytest.mark.slow
def test_an_answer_too_late_is_an_outage_and_not_a_bad_agent(capsys: pytest.CaptureFixture[str]) -> None:
    house = housekeeper(4)
    held: list[str] = []

    def answer(asked: Asked) -> Answer:
        first = asked.body["messages"][0]["content"]
        if not held:
            held.append(first)
        return Answer(hold=True) if first == held[0] else house(asked)

    Path("agent.toml").write_text(CONVERSATION.replace('system = "You keep house."\n', ""))
    with ChatServer(answer=answer) as server:
        spec = server.spec(timeout_s=1.0, retries=0, concurrency=4)
        result = evaluated(capsys, "--policy", spec, "--config", "agent.toml", "--episodes", 4)
    assert (result["n"], result["faults"], result["success_rate"]) == (3, 1, 1.0)


def test_a_system_message_and_a_context_of_the_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("agent.toml").write_text(CONVERSATION + "context = 64\n")
    with ChatServer(says("<action>look</action>")) as server:
        arguments = ("--config", "agent.toml", "--episodes", "1", "--max-turns", "2", "--json")
        assert main(["eval", HOUSEHOLD, "--policy", server.spec(), *arguments]) == 0
    assert "agent.context is not used" in capsys.readouterr().err
    assert [m["role"] for m in server.asked[1].body["messages"]] == ["system", "user", "assistant", "user"]
    assert server.asked[0].body["messages"][0]["content"] == "You keep house."


def test_a_run_file_with_several_environments_prompts_as_in_the_one_that_is_played(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("run.toml").write_text(
        '[agent]\nsystem = "All."\nprompt = "{observation}"\n'
        '[[env]]\nid = "other/Env-v0"\nagent = { system = "Other." }\n'
        f'[[env]]\nid = "{HOUSEHOLD}"\nagent = {{ prompt = "House: {{goal}}" }}\n'
    )
    with ChatServer(says("<action>look</action>")) as server:
        evaluated(capsys, "--policy", server.spec(), "--config", "run.toml", "--episodes", 1, "--max-turns", 1)
    system, user = (message["content"] for message in server.asked[0].body["messages"])
    assert system == "All." and user.startswith("House: ")


@pytest.mark.parametrize(
    ("table", "given", "most"),
    [("", {}, 1024), ("[rollout]\nmax_tokens = 16\n", {}, 16), ("[rollout]\nmax_tokens = 16\n", {"max_tokens": 9}, 9)],
)
def test_answers_are_as_long_as_the_run_file_or_the_policy_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str, given: dict[str, Any], most: int
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(CONVERSATION + table)
    for config in ("run", "run/config.toml"):
        with ChatServer(says("<action>look</action>")) as server:
            evaluated(capsys, "--policy", server.spec(**given), "--config", config, "--episodes", 1, "--max-turns", 1)
        assert {asked.body["max_tokens"] for asked in server.asked} == {most}
