"""A server of environments whose clients vanish, race and send anything, and whose environments hang, die and want to exit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_remote import SERVER, serving, started
from toys import Corridor

from agentrl.errors import ConfigError, EnvFault
from agentrl.remote import RemoteEnv, served

TASK = Corridor().tasks("train")[0]


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, trust_env=False, timeout=30)


def begun(url: str) -> str:
    """A session that has been reset, as a path."""
    path = f"/sessions/{post(url, '/sessions').json()['session']}"
    assert post(url, f"{path}/reset", seed=1, task=TASK.id).status_code == 200
    return path


def sent(url: str, data: bytes) -> bytes:
    """What is answered to bytes."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(data)
        return connection.recv(1 << 16)


def test_clients_that_come_at_once_open_no_more_sessions_than_there_may_be() -> None:
    together = threading.Barrier(12)

    class Slow(Corridor):
        def __init__(self) -> None:
            super().__init__()
            time.sleep(0.05)  # what is made takes a while

    with serving(Slow, max_sessions=3) as server:
        found: list[int] = []

        def come() -> None:
            together.wait()
            found.append(post(server.url, "/sessions").status_code)

        clients = [threading.Thread(target=come) for _ in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert sorted(found) == [200] * 3 + [503] * 9 and len(server.sessions) == 3


def test_an_environment_that_hangs_keeps_its_place_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.remote.server.CLOSING_S", 0.1)
    release, inside = threading.Event(), threading.Event()

    class Hanging(Corridor):
        def step(self, action: str) -> Any:
            inside.set()
            assert release.wait(30)
            return super().step(action)

    with serving(Hanging, max_sessions=1) as server:
        env = RemoteEnv(server.url, step_timeout_s=0.2)
        env.reset(seed=1, options={"task": TASK})
        with pytest.raises(EnvFault):
            env.step("go right")
        assert inside.is_set()
        server.idle_s = 0.0
        server.service_actions()
        assert len(server.sessions) == 1  # it is at work
        env.close()
        reply = post(server.url, "/sessions")
        assert reply.status_code == 503 and "1 of them were left, but hang" in reply.json()["error"]
        server.idle_s = 900.0
        release.set()
        monkeypatch.setattr("agentrl.remote.server.CLOSING_S", 30)
        assert post(server.url, "/sessions").status_code == 200 and not server.leaving


def test_what_is_asked_of_a_session_that_was_closed_is_answered() -> None:
    with serving() as server:
        begun(server.url)
        (session,) = server.sessions.values()
        session.close()
        with pytest.raises(Exception, match="no such session"):
            session.ask(lambda env: env)


def test_an_environment_that_wants_to_exit_ends_its_session_only() -> None:
    class Exiting(Corridor):
        def step(self, action: str) -> Any:
            sys.exit(3)

    with serving(Exiting) as server:
        path = begun(server.url)
        reply = post(server.url, f"{path}/step", action="x")
        assert (reply.status_code, reply.json()["kind"]) == (500, "environment") and "SystemExit(3)" in reply.text
        assert post(server.url, f"{path}/step", action="x").status_code == 404
        assert begun(server.url) != path


def test_the_environment_that_lists_tasks_is_replaced_where_it_has_died() -> None:
    made: list[Any] = []

    class Dying(Corridor):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def tasks(self, split: str) -> Any:
            if self is made[0]:
                raise EnvFault("the environment's process died")
            return super().tasks(split)

    with serving(Dying) as server:
        for _ in range(2):
            assert httpx.get(f"{server.url}/tasks", trust_env=False).json()["n"] == 6
        assert len(made) == 2 and server.catalogue.ended.wait(0) is False
        for _ in range(2):  # what a user can mend replaces nothing
            assert post(server.url, "/call", name="find_task", args=["nowhere"]).status_code == 422
        assert len(made) == 2


def test_bytes_that_are_no_request_are_answered_and_not_read_on(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        for line in (b"Content-Length: " + b"9" * 5000, b"Transfer-Encoding: chunked", b"Content-Length: -1"):
            found = sent(server.url, b"POST /sessions HTTP/1.1\r\n" + line + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            assert found.startswith(b"HTTP/1.1 400") and b"Connection: close" in found
        assert not server.sessions
        assert httpx.get(f"{server.url}/tasks?n={'9' * 5000}", trust_env=False).status_code == 400
        assert httpx.put(f"{server.url}/about", json={}, trust_env=False).status_code == 404
        path = begun(server.url)
        assert post(server.url, f"{path}/reset", seed=1, task={"id": "a", "bogus": 1}).json()["kind"] == "request"
    assert capfd.readouterr().err == ""


def test_a_client_that_vanishes_leaves_no_word_and_its_session_can_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    inside, release, left = threading.Event(), threading.Event(), threading.Event()

    class Waiting(Corridor):
        def step(self, action: str) -> Any:
            if action == "wait":
                inside.set()
                assert release.wait(30)
            return super().step(action)

    with serving(Waiting) as server:
        shutdown = server.shutdown_request

        def ended(request: Any) -> None:
            shutdown(request)
            if release.is_set():
                left.set()

        server.shutdown_request = ended
        path = begun(server.url)
        body = b'{"action": "wait"}'
        head = f"POST {path}/step HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        client = socket.create_connection(("127.0.0.1", server.server_address[1]))
        client.sendall(head + body)
        assert inside.wait(30)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # gone without a good-bye
        client.close()
        release.set()
        assert left.wait(30)
        assert post(server.url, f"{path}/step", action="go right").status_code == 200
    assert capfd.readouterr().err == ""


def test_what_making_an_environment_raises_is_not_taken_for_the_address() -> None:
    def broken() -> Any:
        raise FileNotFoundError("games.json")

    with pytest.raises(FileNotFoundError, match=r"games\.json"):
        served(broken, "broken", port=0)
    with served(Corridor, "one", port=0) as server, pytest.raises(ConfigError, match="cannot listen"):
        served(Corridor, "two", port=server.server_address[1])


CHILDREN = '''
import subprocess
class Parent:
    """Starts a process, as a game or a browser would be."""
    def __init__(self):
        self.child = subprocess.Popen(["sleep", "600"])
    def tasks(self, split):
        return []
    def reset(self, seed=None, options=None):
        return str(self.child.pid), {}
    def step(self, action):
        return "", 0.0, False, False, {}
    def close(self):
        self.child.kill()
        self.child.wait()
'''


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ended_lets_its_environments_close(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER.read_text())
    (tmp_path / "parent.py").write_text(CHILDREN)
    with started(sys.executable, "-I", "server.py", "parent:Parent", "--port", "0", folder=tmp_path) as url:
        children = []
        for _ in range(2):
            session = post(url, "/sessions").json()["session"]
            children.append(int(post(url, f"/sessions/{session}/reset", seed=1, task=None).json()["observation"]))
        assert all(Path(f"/proc/{child}").exists() for child in children)
        (server,) = [
            int(line)
            for line in subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "parent:Parent"], capture_output=True, text=True, check=True
            ).stdout.split()
        ]
        watched = os.pidfd_open(server)
        os.kill(server, number)
        os.waitid(os.P_PIDFD, watched, os.WEXITED | os.WNOWAIT)
        os.close(watched)
        assert not any(Path(f"/proc/{child}").exists() for child in children)
