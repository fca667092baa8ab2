"""The toolset ``mcp``, with real servers: one of the SDK's, and a small one that breaks the protocol."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import pytest

from agentrl.chat.tool_calls import call_format
from agentrl.errors import ConfigError, MissingExtra, ToolFault
from agentrl.listing import listing
from agentrl.rollouts import Maker, ProcessPool
from agentrl.tool import Recipe, ToolResult, tools_of
from agentrl.tool_env import ToolEnv, tool_loop
from agentrl.tools import mcp as module
from agentrl.tools.mcp import Mcp
from agentrl.types import ToolCall

pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")

T = TypeVar("T")
HERE = Path(__file__).parent
REAL = [sys.executable, str(HERE / "mcp_server.py")]


def small(*mode: str) -> list[str]:
    return [sys.executable, "-S", str(HERE / "mcp_small.py"), *mode]


def wait(work: Coroutine[Any, Any, T], seconds: float = 120.0) -> T:
    """In the tools' event loop, where calls of environments run."""
    return asyncio.run_coroutine_threadsafe(work, tool_loop()).result(seconds)


@contextmanager
def opened(**options: Any) -> Iterator[Mcp]:
    toolset = Mcp(**options)
    wait(toolset.open(None))
    try:
        yield toolset
    finally:
        wait(toolset.close())


def call(toolset: Mcp, name: str, /, **arguments: Any) -> ToolResult:
    found = {one.name: one for one in toolset.tools()}[name]
    return wait(found.call(arguments))


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it holds before the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with suppress(OSError):  # one that nobody has asked after yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


@pytest.fixture(scope="module")
def real() -> Iterator[Mcp]:
    with opened(command=REAL) as toolset:
        yield toolset


# ── tools, arguments and results ─────────────────────────────────────────────────────────────────────────────────────


def test_the_servers_tools_are_tools(real: Mcp) -> None:
    found = {one.name: one for one in real.tools()}
    assert {"add", "visit", "spaced_name__"} <= set(found)
    assert found["add"].description == "Adds two numbers."
    assert found["visit"].schema()["function"]["parameters"]["$defs"]["Place"]["required"] == ["name", "floor"]
    assert not found["add"].inline


@pytest.mark.parametrize(
    ("name", "arguments", "text", "error"),
    [
        ("add", {"a": 1, "b": 2}, "3", None),
        ("add", {"a": 1}, "1", None),
        ("add", {"a": "x"}, "Error: add: argument 'a': 'x' is not of type 'integer'", "arguments"),
        ("add", {}, "Error: add: 'a' is a required property", "arguments"),
        ("add", {"a": 1, "c": 2}, "Error: add has no argument 'c'. Known: a, b.", "arguments"),
        ("visit", {"plan": {"title": "T", "places": [{"name": "é", "floor": 1}]}}, "T: é", None),
        (
            "visit",
            {"plan": {"title": "T", "places": [{"name": "k", "floor": -1}]}},
            "Error: visit: argument 'plan.places.0.floor': -1 is less than the minimum of 0",
            "arguments",
        ),
        ("echo", {"text": "ünï 漢字 \u2028\x00 😀\n"}, "ünï 漢字 \u2028\x00 😀\n", None),
        ("picture", {}, "[image: image/png, 6 bytes]", None),
        ("spaced_name__", {"self": "me"}, "me", None),
        ("variable", {"name": "AGENTRL_TEST_SECRET"}, "(none)", None),
    ],
)
def test_calls(real: Mcp, monkeypatch: pytest.MonkeyPatch, name: str, arguments: Any, text: str, error: str) -> None:
    monkeypatch.setenv("AGENTRL_TEST_SECRET", "x")
    result = call(real, name, **arguments)
    assert (result.text, result.error) == (text, error)


def test_an_error_of_a_tool_is_told(real: Mcp) -> None:
    result = call(real, "fail", why="no such note")
    assert result.error == "tool" and "no such note" in result.text


@pytest.mark.parametrize(
    ("text", "told"),
    [("\ud800", "cannot be sent"), ("x" * 1_000_001, "at most 1000000"), (float("nan"), "cannot be sent")],
)
def test_what_a_connection_would_choke_on_is_not_sent(real: Mcp, text: Any, told: str) -> None:
    result = call(real, "echo", text=text)
    assert result.error == "arguments" and told in result.text and len(result.text) < 400
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    assert "nested deeper than 64" in call(real, "echo", text=deep).text
    assert call(real, "echo", text="and on it goes").text == "and on it goes"


def test_a_long_result_is_cut(real: Mcp) -> None:
    result = call(real, "huge", n=200_000)
    assert result.error is None and result.text.startswith("ääää") and "192000 more characters" in result.text


def test_calls_run_side_by_side(real: Mcp) -> None:
    echo = next(one for one in real.tools() if one.name == "echo")

    async def many() -> list[ToolResult]:
        return await asyncio.gather(*(echo.call({"text": str(n)}) for n in range(20)))

    assert [result.text for result in wait(many())] == [str(n) for n in range(20)]


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (
            "mixed",
            "first\n[audio: audio/wav, 3 bytes]\n[resource: file:///a.txt (a)]\ninside\n[resource: file:///c, 6 bytes]\nlast",
        ),
        ("structured", '{"a":["é",1]}'),
        ("nothing", "(no output)"),
        ("garbage", "{}"),
    ],
)
def test_results(mode: str, text: str) -> None:
    with opened(command=small(mode)) as toolset:
        result = call(toolset, "one")
        assert (result.text, result.error) == (text, None)


def test_names_prefix_and_choice() -> None:
    with opened(command=small("echo"), prefix="my ", tools=["two"]) as toolset:
        assert [one.name for one in toolset.tools()] == ["my_two"]
        assert call(toolset, "my_two", a=1).text == '{"a": 1}'
    with opened(command=small("bare")) as toolset:
        assert [(one.name, one.description) for one in toolset.tools()] == [("_1st", "1st")]
    with opened(command=small("open schema")) as toolset:  # nothing is fetched, and the server judges
        assert call(toolset, "one", a=1).text == '{"a": 1}'


# ── who is at fault ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [-32602, -32603, -32600, 7])
def test_what_the_server_refuses_is_told(code: int) -> None:
    with opened(command=small("refuses")) as toolset:
        result = call(toolset, "one", code=code)
        assert (result.text, result.error) == ("Error: the server refuses the call: not like this", "tool")


def test_a_result_that_is_none_is_a_fault() -> None:
    with opened(command=small("broken result")) as toolset, pytest.raises(ToolFault, match="breaks the protocol"):
        call(toolset, "one")


@pytest.mark.slow
def test_a_call_that_hangs_is_given_up_and_the_server_stays() -> None:
    with opened(command=REAL, timeout_s=2) as toolset:
        assert call(toolset, "count").text == "1"
        result = call(toolset, "hang")
        assert (result.text, result.error) == ("Error: hang took longer than 2 s and was given up", "timeout")
        assert call(toolset, "count").text == "2"


@pytest.mark.slow
def test_a_server_that_answers_no_more_is_a_fault_and_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_S", 0.5)
    with opened(command=REAL, timeout_s=3) as toolset:
        assert call(toolset, "block").error == "timeout"
        with pytest.raises(ToolFault, match="answers no more"):
            call(toolset, "count")
        assert call(toolset, "count").text == "1"


@pytest.mark.slow
def test_a_server_that_dies_is_a_fault_for_all_calls_and_is_started_again() -> None:
    with opened(command=REAL) as toolset:
        found = {one.name: one for one in toolset.tools()}

        async def both() -> list[Any]:
            hanging = asyncio.create_task(found["hang"].call({}))
            assert (await found["count"].call({})).text == "1"
            return list(await asyncio.gather(hanging, found["die"].call({}), return_exceptions=True))

        faults = wait(both())
        assert [type(fault) for fault in faults] == [ToolFault, ToolFault]
        assert "Connection closed" in str(faults[0])

        async def three() -> list[str]:
            return sorted(one.text for one in await asyncio.gather(*(found["count"].call({}) for _ in range(3))))

        assert wait(three()) == ["1", "2", "3"]  # started once, for all of them


def test_a_server_that_cannot_be_started_again_is_a_fault(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text((HERE / "mcp_small.py").read_text())
    with opened(command=[sys.executable, "-S", str(script), "pid"]) as toolset:
        pid = int(call(toolset, "one").text)
        script.unlink()
        os.kill(pid, signal.SIGKILL)
        for why in ("Connection closed", "No such file", "No such file"):
            with pytest.raises(ToolFault, match=why):
                call(toolset, "one")
        script.write_text((HERE / "mcp_small.py").read_text())
        assert int(call(toolset, "one").text) != pid
        script.unlink()
        wait(toolset.close())
        with pytest.raises(ToolFault, match="cannot be reached"):  # it has worked before
            wait(toolset.open(None))
        with pytest.raises(ToolFault, match="is closed"):
            call(toolset, "one")


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("dies", "Connection closed; it said: no licence / for this"),
        ("mute", "no answer in the protocol within 2 s; it said: waiting for nothing"),
        ("only garbage", "no answer in the protocol within 2 s"),
        ("endless list", "more than 100 pages"),
        ("bad schema", "'one' has a schema that is no JSON schema"),
        ("same names", "two tools that would be called 'a_b'"),
    ],
)
def test_a_server_that_does_not_start_is_told_clearly(mode: str, why: str) -> None:
    limit = 2 if mode in ("mute", "only garbage") else 60
    toolset = Mcp(command=small(mode), start_timeout_s=limit)
    with pytest.raises(ConfigError, match=why):
        wait(toolset.open(None))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "wanted either command"),
        ({"command": ["a"], "url": "http://x"}, "wanted either command"),
        ({"command": ["no-such-program-at-all"]}, "no program no-such-program-at-all"),
        ({"command": ["python"], "cwd": "/no/such/folder"}, "no folder"),
        ({"command": ["python"], "headers": {"a": "b"}}, "headers to a url"),
        ({"url": "ftp://x"}, "begins with http"),
        ({"url": "http://x", "headers": {"Authorization": "$NO_SUCH_VARIABLE"}}, "no NO_SUCH_VARIABLE; set it"),
        ({"url": "http://x", "timeout_s": 0}, "timeout_s: wanted above 0"),
        ({"url": "http://x", "hedaers": {}}, "Did you mean 'headers'"),
        ({"url": "http://x", "lifetime": "runn"}, "lifetime"),
        ({"command": "python server.py"}, "command"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], why: str) -> None:
    recipe = tools_of({"name": "mcp", **options})
    assert isinstance(recipe, Recipe)
    with pytest.raises(ConfigError, match=why):
        recipe.make()


def test_a_tool_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"has no tool 'tow'\. Did you mean 'two'"):
        wait(Mcp(command=small("echo"), tools=["tow"]).open(None))


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"agentrl-toolkit\[mcp\]"):
        Mcp(url="http://x")


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    toolset = Mcp(command=small("echo"), env={"TOKEN": "$MY_TOKEN", "PLAIN": "$1"})
    assert toolset._link_options["env"] == {"TOKEN": "s3cret", "PLAIN": "$1"}


# ── nothing is left ──────────────────────────────────────────────────────────────────────────────────────────────────

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers are Linux's")


def clinging(path: Path) -> list[int]:
    assert until(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(word) for word in path.read_text().split()]


@linux
@pytest.mark.slow
def test_close_ends_what_clings(tmp_path: Path) -> None:
    with opened(command=small("clings", str(tmp_path / "pids"))):
        pids = clinging(tmp_path / "pids")
        assert not any(map(is_gone, pids))
    assert until(lambda: all(map(is_gone, pids)))


@linux
@pytest.mark.slow
def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from agentrl.tools.mcp import Mcp\n"
        "async def main():\n"
        f"    await Mcp(command={small('clings', str(tmp_path / 'pids'))!r}).open(None)\n"
        "    print('open', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=HERE.parent, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"open\n"
        pids = clinging(tmp_path / "pids")
        assert not any(map(is_gone, pids))
        parent.kill()
    assert until(lambda: all(map(is_gone, pids)))


@linux
def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    async def cancelled() -> int:
        task = asyncio.create_task(Mcp(command=small("mute")).open(None))
        keeper = None
        while keeper is None:
            await asyncio.sleep(0.01)
            below = Path(f"/proc/{os.getpid()}/task").glob("*/children")
            keeper = next((int(pid) for file in below for pid in file.read_text().split() if _runs(pid, "mute")), None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return keeper

    keeper = wait(cancelled())
    assert until(lambda: is_gone(keeper))


def _runs(pid: str, word: str) -> bool:
    with suppress(OSError):
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(port: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*REAL, "http", str(port)], stderr=subprocess.DEVNULL) as process:

        def answers() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return process.poll() is not None

        try:
            assert until(answers) and process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.fixture
def port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("handshake", ["auto", "legacy"])
def test_http(port: int, handshake: str) -> None:
    options = {"url": f"http://127.0.0.1:{port}/mcp", "timeout_s": 5, "handshake": handshake}
    with serving(port), opened(**options) as toolset:
        assert call(toolset, "add", a=1, b=2).text == "3"
        assert call(toolset, "echo", text="ünï 漢字 😀").text == "ünï 漢字 😀"
        assert call(toolset, "fail", why="no such note").error == "tool"
        assert "192000 more" in call(toolset, "huge", n=200_000).text
        assert call(toolset, "hang").error == "timeout"
        assert call(toolset, "count").text == "1"
        with pytest.raises(ToolFault):
            call(toolset, "die")
        with pytest.raises(ToolFault, match="cannot be reached"):
            call(toolset, "count")
        with serving(port):
            assert call(toolset, "count").text == "1"


@pytest.mark.slow
def test_an_http_server_that_forgot_the_session_is_a_fault(port: int) -> None:
    options = {"url": f"http://127.0.0.1:{port}/mcp", "handshake": "legacy"}
    with serving(port) as first, opened(**options) as toolset:
        assert call(toolset, "count").text == "1"
        first.kill()
        first.wait()
        with serving(port):
            with pytest.raises(ToolFault, match="connection broke"):
                call(toolset, "count")
            assert call(toolset, "count").text == "1"


def test_http_without_a_server_is_told_clearly(port: int) -> None:
    with pytest.raises(ConfigError, match="cannot be reached: ConnectError"):
        wait(Mcp(url=f"http://127.0.0.1:{port}/mcp").open(None))


# ── environments ─────────────────────────────────────────────────────────────────────────────────────────────────────


def pids(mode: str = "pid", **options: Any) -> ToolEnv:
    tasks = {"train": [{"prompt": f"task {n}"} for n in range(2)]}
    entry = {"name": "mcp", "command": small(mode), **options}
    return ToolEnv([entry], tasks, lambda task, answer, calls: 1.0)


def ask(env: Any, task: int, name: str = "one") -> str:
    env.reset(options={"task": f"train-{task}"})
    return env.step(call_format("hermes").render([ToolCall(name, {})]))[0]


@pytest.mark.parametrize(("lifetime", "n"), [("run", 1), ("task", 2), ("episode", 3)])
def test_lifetimes(lifetime: str, n: int) -> None:
    env, other = pids(lifetime=lifetime), pids(lifetime=lifetime)
    try:
        texts = [ask(env, task) for task in (0, 0, 1)]
        assert len(set(texts)) == n
        assert (ask(other, 0) in texts) == (lifetime == "run")
        assert '"description": "Does two."' in env.reset(seed=0)[0]
    finally:
        env.close()
        other.close()


gymnasium.register(id="test/OneServer-v0", entry_point=f"{__name__}:pids")


@pytest.mark.slow
def test_in_a_process_of_its_own() -> None:
    pool = ProcessPool(Maker("test/OneServer-v0"))
    try:
        env = pool.take()
        server = int("".join(filter(str.isdigit, ask(env, 0))))
        assert not is_gone(server)
        pool.put(env)
    finally:
        pool.close()
    assert until(lambda: is_gone(server))


def test_it_is_listed() -> None:
    rows = [row for row in listing("tools")["tools"] if row.get("toolset") == "mcp"]
    assert len(rows) == 1 and "server" in rows[0]["description"]
    assert json.dumps(rows)
