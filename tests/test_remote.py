"""Environments behind HTTP: the same episodes as at home, faults where the server fails, a server that an old Python runs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from toys import Corridor

import agentrl
from agentrl.agents import OracleAgent, RandomAgent
from agentrl.env import TextEnv, hook, make
from agentrl.env_check import check_env, failed, render
from agentrl.errors import ConfigError, EnvFault, EnvTimeout, GameError
from agentrl.remote import EnvServer, RemoteEnv, served
from agentrl.rollouts import EnvPool, Rollouts
from agentrl.types import Outcome, RolloutRequest

HOUSE: dict[str, Any] = {"difficulty": "tiny"}
KEY = ("iteration", 0)
SERVER = Path(agentrl.__file__).with_name("remote") / "server.py"


@contextmanager
def serving(factory: Callable[[], Any] = Corridor, **limits: Any) -> Iterator[EnvServer]:
    with served(factory, "test", port=0, **limits) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def house() -> Any:
    return make("agentrl/Household-v0", **HOUSE)


# ---- the same as at home --------------------------------------------------------------------------------------------


def test_a_served_household_plays_as_the_one_at_home() -> None:
    tasks = house().get_wrapper_attr("tasks")("train")[:6]
    requests = [RolloutRequest(task, 2) for task in tasks]
    with serving(house) as server:
        for agent in (RandomAgent(), OracleAgent()):
            home, away = (
                Rollouts(EnvPool(factory), agent).run(requests, KEY)
                for factory in (house, lambda: RemoteEnv(server.url))
            )
            assert [[played(m) for m in group] for group in home] == [[played(m) for m in group] for group in away]
        assert all(member.success for group in away for member in group), "the oracle's"


def played(trajectory: Any) -> Any:
    turns = [(t.observation, t.state_key, t.action, t.reward, t.valid, t.info) for t in trajectory.turns]
    return trajectory.outcome, trajectory.success, trajectory.last_observation, turns


@pytest.mark.slow
def test_a_served_environment_keeps_the_contract() -> None:
    with serving(house) as server:
        checks = check_env(
            lambda: make("agentrl/Remote-v0", url=server.url), seeds=(0,), n_tasks=4, n_walks=2, max_turns=8
        )
    assert not failed(checks), render(checks)
    assert {"state_key", "oracle"} <= {check.name for check in checks if check.status == "pass"}


def test_tasks_come_in_pages_and_are_the_environments_own() -> None:
    with serving(house) as server:
        home, away = house().get_wrapper_attr("tasks")("train"), RemoteEnv(server.url).tasks("train")
        assert len(home) == len(away)
        for place in (0, 1, 99, 100, -1):
            assert home[place] == away[place]
        assert RemoteEnv(server.url).find_task(home[7].id) == home[7]
        with pytest.raises(GameError, match="nowhere"):
            RemoteEnv(server.url).find_task("nowhere")


def test_hooks_are_there_where_the_served_environment_has_them() -> None:
    class Plain(TextEnv):
        def tasks(self, split: str) -> list[Any]:
            return Corridor().tasks(split)

    with serving() as rich, serving(Plain) as poor:
        assert hook(RemoteEnv(rich.url), "state_key") is not None and hook(RemoteEnv(poor.url), "state_key") is None
        env = RemoteEnv(rich.url)
        env.reset(seed=1, options={"task": env.tasks("train")[0]})
        assert env.oracle() == ["go right"] * 2
        env.close()


# ---- what fails -----------------------------------------------------------------------------------------------------


def test_no_server_is_an_error_of_the_user() -> None:
    with pytest.raises(ConfigError, match="agentrl serve env"):
        RemoteEnv("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no address"):
        RemoteEnv("127.0.0.1:9000")


def test_what_the_environment_raises_is_a_fault_that_names_it() -> None:
    with serving(lambda: Corridor(failing=(1,))) as server:
        env = RemoteEnv(server.url)
        env.reset(seed=1, options={"task": env.tasks("train")[0]})
        with pytest.raises(EnvFault, match="OSError: the server is gone"):
            env.step("go right")


def test_an_answer_that_does_not_come_is_a_timeout_and_the_episode_is_played_again() -> None:
    release, hung = threading.Event(), []

    class Hanging(Corridor):
        def step(self, action: str) -> Any:
            if not hung:
                hung.append(1)
                release.wait(30)
            return super().step(action)

    with serving(Hanging) as server:
        task = Corridor().tasks("train")[0]
        rollouts = Rollouts(EnvPool(lambda: RemoteEnv(server.url, step_timeout_s=0.3)), OracleAgent())
        (member,) = rollouts.run([RolloutRequest(task, 1)], KEY)[0]
        assert member.success and rollouts.stats.n_retries == 1
        hung.clear()
        with pytest.raises(EnvTimeout, match=r"within 0\.3 s"):
            env = RemoteEnv(server.url, step_timeout_s=0.3)
            env.reset(seed=1, options={"task": task})
            env.step("go right")
        release.set()


def test_a_server_that_was_started_again_costs_one_try() -> None:
    """Its sessions are gone; the actions so far are played again in a new one."""
    task = Corridor().tasks("train")[2]  # four steps
    lost: list[int] = []
    with serving() as server:

        class Restarted(RemoteEnv):
            async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
                if name == "step" and not lost and self.n_steps == 2:
                    lost.append(1)
                    for key in list(server.sessions):
                        server.close_session(key)
                self.n_steps = 0 if name == "reset" else self.n_steps + (name == "step")
                return await super().ask(name, *args, **kwargs)

        rollouts = Rollouts(EnvPool(lambda: Restarted(server.url)), OracleAgent())
        (member,) = rollouts.run([RolloutRequest(task, 1)], KEY)[0]
    assert lost and member.outcome is Outcome.TERMINATED and member.success and rollouts.stats.n_retries == 1


def test_sessions_are_bounded_left_and_dropped_when_idle() -> None:
    with serving(max_sessions=2) as server:
        envs = [RemoteEnv(server.url) for _ in range(3)]
        task = envs[0].tasks("train")[0]
        for env in envs[:2]:
            env.reset(seed=1, options={"task": task})
        with pytest.raises(EnvFault, match="all 2 sessions"):
            envs[2].reset(seed=1, options={"task": task})
        envs[0].close()
        envs[2].reset(seed=1, options={"task": task})
        server.idle_s = 0.0
        server.service_actions()
        assert not server.sessions
        with pytest.raises(EnvFault, match="no session"):
            envs[2].step("go right")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/sessions/0/step", b"[]", 400, "JSON object"),
        ("POST", "/sessions/0/step", b"{", 400, "no JSON"),
        ("POST", "/sessions/0/step", b'{"action": 3}', 400, "'action' as str, got int"),
        ("POST", "/sessions/0/reset", b'{"seed": "x"}', 400, "'seed'"),
        ("POST", "/sessions/0/call", b'{"name": "close", "args": []}', 400, "nothing to call"),
        ("POST", "/sessions/77/step", b'{"action": "x"}', 404, "no session 77"),
        ("GET", "/tasks?start=x", b"", 400, "wanted start"),
        ("GET", "/../etc/passwd", b"", 404, "nothing is at"),
        ("POST", "/sessions/0/__init__", b"{}", 404, "nothing is at"),
    ],
)
def test_what_is_no_request_is_told_and_harms_nobody(
    method: str, path: str, body: bytes, status: int, said: str
) -> None:
    with serving() as server:
        assert httpx.post(server.url + "/sessions", trust_env=False).json() == {"session": "0"}
        reply = httpx.request(method, server.url + path, content=body, trust_env=False)
        assert (reply.status_code, said in reply.json()["error"]) == (status, True), reply.text
        env = RemoteEnv(server.url)
        assert env.reset(seed=1, options={"task": env.tasks("train")[0]})[0].startswith("You stand")


def test_info_that_json_cannot_hold_names_its_key() -> None:
    class Odd(Corridor):
        def step(self, action: str) -> Any:
            return *super().step(action)[:4], {"thing": object()}

    with serving(Odd) as server:
        env = RemoteEnv(server.url)
        env.reset(seed=1, options={"task": env.tasks("train")[0]})
        with pytest.raises(EnvFault, match=r"info\['thing'\] is a object"):
            env.step("go right")


# ---- other processes ------------------------------------------------------------------------------------------------

OLD = '''
class Old:
    """No agentrl here: dictionaries for tasks, Gymnasium's five values."""
    def tasks(self, split):
        return [{"id": split + "-" + str(n), "seed": n, "split": split} for n in range(3)]
    def reset(self, seed=None, options=None):
        self.left = 2 + options["task"]["seed"]
        return "go", {}
    def step(self, action):
        self.left -= action == "go"
        return str(self.left), float(self.left == 0), self.left == 0, False, {"success": self.left == 0}
'''


def test_what_a_reset_cannot_bring_over_the_wire_is_refused() -> None:
    with serving(house) as server:
        env = RemoteEnv(server.url)
        task = env.tasks("train")[3]
        assert env.reset(options={"task": task.id})[0] == env.reset(options={"task": task})[0]
        with pytest.raises(GameError, match="'task': …} alone; got 'game'"):
            env.reset(options={"task": task, "game": "house.json"})
        with pytest.raises(GameError, match="nowhere"):
            env.reset(options={"task": "nowhere"})
        env.close()


def test_the_server_is_python_3_8_and_needs_only_its_library() -> None:
    tree = ast.parse(SERVER.read_text(), feature_version=(3, 8))
    imported = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    imported += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {name.split(".")[0] for name in imported}
    assert modules <= sys.stdlib_module_names


@contextmanager
def started(*command: str, folder: Path) -> Iterator[str]:
    """The url that a serving process prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(agentrl.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def test_a_copied_server_serves_an_environment_that_knows_nothing_of_agentrl(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER.read_text())
    (tmp_path / "old.py").write_text(OLD)
    with started(sys.executable, "-I", "server.py", "old:Old", "--port", "0", folder=tmp_path) as url:
        env = make("agentrl/Remote-v0", url=url)
        tasks = env.get_wrapper_attr("tasks")("train")
        assert [task.id for task in tasks] == ["train-0", "train-1", "train-2"]
        assert env.reset(options={"task": tasks[1].id})[0] == "go"  # an id comes to it as the task's fields
        assert [env.step("go")[2] for _ in range(3)] == [False, False, True]
        env.close()


def test_the_environment_of_the_page_is_served_and_keeps_the_contract(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "configs" / "README.md").read_text(encoding="utf-8")
    start = page.index("    class Doors:")
    block = page[start : page.index("\n\nThe server is started there", start)]
    (tmp_path / "server.py").write_text(SERVER.read_text())
    (tmp_path / "doors.py").write_text(re.sub("^ {4}", "", block, flags=re.MULTILINE))
    with started(sys.executable, "-I", "server.py", "doors:Doors", "--port", "0", folder=tmp_path) as url:
        checks = check_env(lambda: make("agentrl/Remote-v0", url=url), seeds=(0,), n_tasks=4, n_walks=2, max_turns=4)
        found = agentrl.evaluate("agentrl/Remote-v0", "random", 10, options={"url": url})
    assert not failed(checks), render(checks)
    assert (found["n"], found["faults"]) == (10, 0) and found["success_rate"] > 0.5


@pytest.mark.slow
def test_the_command_serves_what_the_command_evaluates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agentrl", "serve", "env", "agentrl/Household-v0", "--option", "difficulty=tiny"]
    with started(*command, "--port", "0", "--isolation", "process", folder=tmp_path) as url:
        evaluate = [sys.executable, "-m", "agentrl", "eval", "agentrl/Remote-v0", "--option", f"url={url}"]
        found = subprocess.run(
            [*evaluate, "--policy", "oracle", "--episodes", "3", "--json"],
            capture_output=True, text=True, cwd=tmp_path, check=True,
            env={**os.environ, "PYTHONPATH": str(Path(agentrl.__file__).parents[1])},
        )  # fmt: skip
    assert json.loads(found.stdout)["success_rate"] == 1.0
