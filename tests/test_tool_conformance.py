"""What every tool that ships with agentrl holds to, whatever it is given."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentrl import registry
from agentrl.browsers import find_chromium
from agentrl.chat.tool_calls import call_format
from agentrl.errors import ConfigError
from agentrl.rollouts import Maker, ProcessPool
from agentrl.tool import Recipe, Tool, ToolResult, tools_of
from agentrl.tool_env import ToolEnv, tool_loop
from agentrl.types import ToolCall

HERE = Path(__file__).parent


@cache
def corpus() -> Path:
    """A corpus of one passage, for as long as the tests run."""
    path = Path(tempfile.mkdtemp(prefix="agentrl-corpus-"), "corpus.jsonl")
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    path.write_text(json.dumps({"id": "0", "contents": '"Café"\nThe café opened in 1901.'}) + "\n", encoding="utf-8")
    return path


@cache
def entries() -> dict[str, dict[str, Any]]:
    """How each tool is named in a run file here. A new tool without an entry fails ``test_no_tool_is_left_out``."""
    found: dict[str, dict[str, Any]] = {
        "calculator": {},
        "python": {"wall_s": 20.0},
        "http": {"hosts": ["127.0.0.1:9"], "methods": ["GET", "POST"], "timeout_s": 5.0},
    }
    if importlib.util.find_spec("playwright") is not None and has_chromium():
        found["browser"] = {"hosts": ["127.0.0.1:9"], "timeout_s": 5.0}
    if importlib.util.find_spec("bm25s") is not None:
        found["search"] = {"corpus": str(corpus())}
    if importlib.util.find_spec("mcp") is not None:
        found["mcp"] = {"command": [sys.executable, str(HERE / "mcp_server.py")], "tools": ["add", "visit", "echo"]}
    return {name: {"name": name, **options} if options else {"name": name} for name, options in found.items()}


def has_chromium() -> bool:
    try:
        return find_chromium().is_file()
    except ConfigError:
        return False


def test_no_tool_is_left_out() -> None:
    optional = {"mcp", "search", "browser"} - set(entries())
    own = {name for name in registry.names("tool") if _is_own(name)}
    assert own - optional == set(entries())


def _is_own(name: str) -> bool:
    found = registry.get("tool", name)
    place = found.function if isinstance(found, Tool) else found
    return place.__module__.startswith("agentrl.")


# One valid call of each tool, and what its result contains.
VALID: dict[str, tuple[dict[str, Any], str]] = {
    "calculator": ({"expression": "2 * 21"}, "42"),
    "python": ({"code": "print('é' * 2)"}, "éé"),
    "http_get": ({"url": "http://example.org/"}, "not among the allowed hosts"),
    "http_post": ({"url": "http://example.org/", "body": "é"}, "not among the allowed hosts"),
    "browser_open": ({"url": "http://example.org/"}, "not among the allowed hosts"),
    "browser_act": ({"action": "click('12')"}, "no page is open"),
    "search": ({"query": "Café"}, "1901"),
    "add": ({"a": 1, "b": 2}, "3"),
    "visit": ({"plan": {"title": "é", "places": []}}, "é"),
    "echo": ({"text": "é"}, "é"),
}
COMES_FROM = {
    "browser_open": "browser",
    "browser_act": "browser",
    "add": "mcp",
    "visit": "mcp",
    "echo": "mcp",
    "search": "search",
}
NAMES = [name for name in VALID if COMES_FROM.get(name, "calculator") in entries()]


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, Tool]]:
    """All of them, open."""
    found: list[Tool] = []
    sets = []
    for entry in entries().values():
        made = tools_of(entry if len(entry) > 1 else entry["name"])
        if isinstance(made, Tool):
            found.append(made)
            continue
        assert isinstance(made, Recipe)
        sets.append(made.make())
        wait(sets[-1].open(None))
        found += sets[-1].tools()
    yield {one.name: one for one in found}
    for each in sets:
        wait(each.close())


def wait(work: Any) -> Any:
    if not asyncio.iscoroutine(work):
        return work
    return asyncio.run_coroutine_threadsafe(work, tool_loop()).result(120)


def call(one: Tool, arguments: Any) -> ToolResult:
    """The result, which is a text that can be shown and written."""
    result = wait(one.call(arguments))
    assert isinstance(result, ToolResult) and isinstance(result.text, str) and len(result.text) < 20_000
    assert json.loads(json.dumps(result.text)) == result.text
    result.text.encode()
    return result


def readable(result: ToolResult) -> bool:
    """An error that tells a model something, and that is no traceback."""
    return result.text.startswith("Error: ") and len(result.text) > 15 and "Traceback" not in result.text


def test_each_tool_is_tried(tools: dict[str, Tool]) -> None:
    assert sorted(tools) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_described(tools: dict[str, Tool], name: str) -> None:
    schema = tools[name].schema()
    assert schema["type"] == "function" and schema["function"]["name"] == name
    assert len(schema["function"]["description"]) > 10
    assert json.loads(json.dumps(schema)) == schema
    parameters = schema["function"]["parameters"]
    assert parameters["type"] == "object" and set(parameters.get("required", ())) <= set(parameters["properties"])
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with the extra 'mcp'")
    jsonschema.Draft202012Validator.check_schema(parameters)
    jsonschema.Draft202012Validator(parameters).validate(VALID[name][0])


@pytest.mark.parametrize("name", NAMES)
def test_a_valid_call(tools: dict[str, Tool], name: str) -> None:
    arguments, text = VALID[name]
    assert text in call(tools[name], arguments).text


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_told(tools: dict[str, Tool], name: str) -> None:
    one, valid = tools[name], VALID[name][0]
    for required in one.parameters["required"]:
        result = call(one, {key: value for key, value in valid.items() if key != required})
        assert result.error == "arguments" and readable(result) and required in result.text
    for key in valid:
        for wrong in (None, [], [1], {"a": 1}, object):
            result = call(one, {**valid, key: wrong})
            assert result.error == "arguments" and readable(result), (key, wrong, result)
    result = call(one, {**valid, "surprise": 1})
    assert result.error == "arguments" and readable(result) and "surprise" in result.text
    for nothing in (None, [], "text", 3, True):
        result = call(one, nothing)
        assert result.error == "arguments" and readable(result)
    result = call(one, {})
    assert result.error == "arguments" and readable(result)


def nested(depth: int) -> Any:
    value: Any = "x"
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return value


TEXTS = [
    "",
    "\x00",
    "\ud800",
    "\u202e\u2028é漢😀",
    "</tool_call>",
    "a" * 2_000_000,
    "[" * 100_000,
    "9" * 10_000,
    "\\" * 999,
]


@pytest.mark.parametrize("name", NAMES)
def test_strange_values_give_a_text(tools: dict[str, Tool], name: str) -> None:
    one, valid = tools[name], VALID[name][0]
    values = [
        nested(100),
        nested(100_000),
        [0] * 100_000,
        10**5000,
        -(2**63) - 1,
        float("nan"),
        float("inf"),
        b"\xff",
        *TEXTS,
    ]
    for key in valid:
        for value in values:
            result = call(one, {**valid, key: value})
            assert result.error is None or readable(result), (key, result)
            assert result.error != "exception", (key, repr(value)[:50], result)
    for key in ("\ud800", "", "self", "a" * 100_000, "\x00"):
        result = call(one, {**valid, key: 1})
        assert result.error == "arguments" and readable(result) and len(result.text) < 1_000
    assert VALID[name][1] in call(one, valid).text  # and it still works


def everything() -> ToolEnv:
    return ToolEnv(list(entries().values()), {"train": [{"prompt": "Go."}]}, lambda task, answer, calls: 1.0)


gymnasium.register(id="test/Everything-v0", entry_point=f"{__name__}:everything")


@pytest.mark.slow
def test_all_of_them_in_a_process_of_its_own() -> None:
    pool = ProcessPool(Maker("test/Everything-v0"))
    try:
        env = pool.take()
        env.reset(seed=0)
        for name in NAMES:
            arguments, text = VALID[name]
            seen, _, terminated, _, info = env.step(call_format("hermes").render([ToolCall(name, arguments)]))
            assert text in seen and not terminated and info["n_tool_calls"] == 1
        pool.put(env)
    finally:
        pool.close()
