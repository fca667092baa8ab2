"""agentrl/BFCL-v0 beside the package bfcl_eval: the same verdict on right, truncated and corrupted answers."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import agentrl
from agentrl.env_check import check_env, render
from agentrl.envs.functions import bfcl_data as data
from agentrl.envs.functions.bfcl import BFCLEnv
from agentrl.envs.functions.bfcl_engine import Engine, Judge, judge_calls, read_call
from agentrl.errors import ConfigError, GameError
from agentrl.types import Task, ToolCall

INSTALLED = importlib.util.find_spec("bfcl_eval") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason="the package bfcl_eval is not installed: make bfcl")
SAMPLE = 12  # entries of a category in the normal suite; the sweeps take all
AST = [name for name in data.SINGLE if "relevance" not in name]
Answer = list[ToolCall]


@pytest.fixture(scope="module")
def package() -> Iterator[tuple[Any, Any]]:
    """The package's checkers of calls and of turns, without the vendors' libraries that its list of models loads."""
    name = "bfcl_eval.constants.model_config"
    stub: Any = types.ModuleType(name)
    stub.MODEL_CONFIG_MAPPING = {"agentrl": types.SimpleNamespace(underscore_to_dot=False)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, stub)
        checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
        turns = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
        yield checker, turns


def entries(category: str, n: int | None) -> list[tuple[str, Any, Any]]:
    """(id, entry, ground truth) of ``n`` entries, evenly, or of all."""
    found = list(data.entries(category).items())
    step = max(1, len(found) // n) if n else 1
    return [(key, entry, data.answers(category)[key]) for key, entry in found[::step]]


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + " and more"
    return [*value, "more"] if isinstance(value, list) else {**value, "more": 1} if isinstance(value, dict) else "more"


def variants(right: Answer) -> Iterator[Answer]:
    """The right calls, the same in another order, and what is wrong or at least odd about them."""
    yield right
    yield right[::-1]
    yield right[:-1]
    yield [*right, right[0]]
    yield [ToolCall(f"{right[0].name}_x", right[0].arguments), *right[1:]]
    for place, call in enumerate(right):
        for key, value in call.arguments.items():
            odd = (
                other(value),
                str(value).upper(),
                f" {value}.",
                None,
                [value],
                {"a": value},
                3,
                True,
                2.5,
                "",
                [],
                {},
            )
            for changed in odd:
                yield [*right[:place], ToolCall(call.name, {**call.arguments, key: changed}), *right[place + 1 :]]
            left = {name: kept for name, kept in call.arguments.items() if name != key}
            yield [*right[:place], ToolCall(call.name, left), *right[place + 1 :]]
        yield [*right[:place], ToolCall(call.name, {**call.arguments, "unknown": 1}), *right[place + 1 :]]


def answers(task: Task) -> Answer:
    return BFCLEnv().right_calls(task, 0)


def agree_on_calls(category: str, n: int | None, package: tuple[Any, Any]) -> tuple[int, int, int]:
    """How many right answers were accepted, of how many; how many variants both judged alike."""
    language = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON
    accepted = compared = 0
    found = entries(category, n)
    for key, entry, truth in found:
        right = answers(Task(id=key, type=category, reference=truth))
        accepted += not judge_calls(category, entry, truth, right)
        for calls in variants(right):
            decoded = [{call.name: dict(call.arguments)} for call in calls]
            try:
                theirs = package[0].ast_checker(entry["function"], decoded, truth, language, category, "agentrl")[
                    "valid"
                ]
            except (TypeError, AttributeError, KeyError):  # a value that their checker is not made for
                theirs = False
            assert theirs == (not judge_calls(category, entry, truth, calls)), (key, calls, truth)
            compared += 1
    return accepted, len(found), compared


@needs_package
@pytest.mark.parametrize("category", AST)
def test_calls_are_judged_as_the_package_does(category: str, package: tuple[Any, Any]) -> None:
    accepted, n, compared = agree_on_calls(category, SAMPLE, package)
    assert accepted == n and compared > 5 * n


@needs_package
@pytest.mark.sweep
@pytest.mark.parametrize("category", AST)
def test_all_calls_are_judged_as_the_package_does(category: str, package: tuple[Any, Any]) -> None:
    accepted, n, compared = agree_on_calls(category, None, package)
    print(f"{category}: {accepted} of {n} right answers accepted, {compared} answers judged alike")
    assert accepted >= 0.99 * n


@needs_package
def test_what_would_be_computed_for_hours_is_an_error() -> None:
    engine = Engine({"id": "multi_turn_base_0", "involved_classes": ["MathAPI"], "initial_config": {}})
    huge = 10**9
    for name, args, kwargs in (
        ("power", (9, huge), {}),
        ("power", (), {"base": 10**4000, "exponent": 10**4}),
        ("power", (2,), {"exponent": -huge}),
        ("logarithm", (2.0, 10.0, huge), {}),
        ("logarithm", (), {"value": 2, "base": 10, "precision": huge}),
        ("square_root", (2, huge), {}),
        ("round_number", (12345,), {"decimal_places": -huge}),
    ):
        text, ran = engine.call(name, args, kwargs)
        assert (not ran and "are not computed" in text) or "is not computed" in text, (name, text)
    assert engine.call("power", (2, 10)) == ('{"result": 1024}', True)
    assert engine.call("power", (2.5, 3.0))[1] and engine.call("power", ("a", huge))[1]
    assert engine.call("square_root", (), {"number": 10**12, "precision": 5})[1]
    assert engine.call("logarithm", (10**12, 10, 5))[1]


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ours(entry: Any, truth: Sequence[Sequence[str]], turns: Sequence[Sequence[str]]) -> bool:
    """Our verdict on the calls of each turn."""
    engine, judge = Engine(entry), Judge(entry, truth)
    for number, calls in enumerate(turns):
        for text in calls:
            engine.call(*read_call(text))
        if judge.turn(number, engine, len(calls)):
            return False
    return True


def theirs(package: tuple[Any, Any], entry: Any, truth: Any, turns: Any, name: str) -> bool:
    steps = [[[call] for call in calls] for calls in turns]
    category = entry["id"].rpartition("_")[0]
    valid = package[1].multi_turn_checker(steps, truth, entry, category, name)["valid"]
    return valid and package[1].multi_turn_irrelevance_checker(steps, truth)["valid"]


def changed(text: str) -> str | None:
    """The call with another value in its first argument."""
    node: Any = ast.parse(text, mode="eval").body
    values = [*node.args, *(part.value for part in node.keywords)]
    if not values:
        return None
    value = ast.literal_eval(values[0])
    new = ast.Constant(other(value) if not isinstance(value, list | dict) else "x")
    if node.args:
        node.args[0] = new
    else:
        node.keywords[0].value = new
    return ast.unparse(node)


def corrupted(truth: list[list[str]]) -> Iterator[list[list[str]]]:
    yield truth
    full = [number for number, calls in enumerate(truth) if calls]
    yield [calls[:-1] if number == full[-1] else calls for number, calls in enumerate(truth)]
    yield [[] for _ in truth]
    yield [calls[::-1] for calls in truth]
    yield [calls or ["unknown()"] for calls in truth]
    yield [calls or [truth[full[0]][0]] for calls in truth]
    for number in full:
        if (call := changed(truth[number][0])) is not None:
            yield [[call, *calls[1:]] if place == number else calls for place, calls in enumerate(truth)]


def agree_on_turns(category: str, n: int | None, package: tuple[Any, Any]) -> tuple[int, int, int]:
    accepted = compared = 0
    found = entries(category, n)
    for key, entry, truth in found:
        for number, turns in enumerate(corrupted(truth)):
            mine = ours(entry, truth, turns)
            assert mine == theirs(package, entry, truth, turns, f"agentrl-{category}-{number}"), (key, number, turns)
            accepted += mine and number == 0
            assert not (mine and number in (1, 2)), (key, number)
            compared += 1
    return accepted, len(found), compared


@needs_package
@pytest.mark.parametrize("category", data.MULTI_TURN)
def test_turns_are_judged_as_the_package_does(category: str, package: tuple[Any, Any]) -> None:
    accepted, n, compared = agree_on_turns(category, SAMPLE, package)
    assert accepted == n and compared > 5 * n


@needs_package
@pytest.mark.sweep
@pytest.mark.parametrize("category", data.MULTI_TURN)
def test_all_turns_are_judged_as_the_package_does(category: str, package: tuple[Any, Any]) -> None:
    accepted, n, compared = agree_on_turns(category, None, package)
    print(f"{category}: {accepted} of {n} ground truths accepted, {compared} episodes judged alike")
    assert accepted == n == 200


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


def won(env: BFCLEnv, task: Task) -> bool:
    env.reset(options={"task": task})
    replies = [env.step(action) for action in env.oracle()]
    return replies[-1][2] and replies[-1][4]["success"] and replies[-1][1] == 1.0


@needs_package
def test_the_oracle_wins() -> None:
    env = BFCLEnv()
    for category in data.CATEGORIES:
        tasks = BFCLEnv([category]).tasks("valid_unseen")
        assert all(won(env, task) for task in tasks[:: max(1, len(tasks) // 5)]), category


@needs_package
@pytest.mark.sweep
def test_the_oracle_wins_nearly_everywhere() -> None:
    env = BFCLEnv()
    lost = [task.id for task in env.tasks("valid_unseen") if not won(env, task)]
    print(lost)
    assert len(lost) <= 4 and all(key.startswith("live_") for key in lost)


@needs_package
@pytest.mark.slow  # it lists thousands of tasks
def test_it_keeps_the_contract_of_environments() -> None:
    for options in (
        {"categories": ["multi_turn_base", "multi_turn_miss_func"], "parts": True},
        {"categories": ["parallel"]},
    ):
        checks = check_env(lambda options=options: agentrl.env.make("agentrl/BFCL-v0", **options), n_tasks=8, n_walks=3)
        assert {check.status for check in checks} <= {"pass", "skip", "warn"}, render(checks)


@needs_package
def test_a_missing_function_comes_with_its_turn() -> None:
    env = BFCLEnv(["multi_turn_miss_func"], format="python")
    text, _ = env.reset(options={"task": "multi_turn_miss_func_0"})
    assert '"name": "sort"' not in text
    for action in env.oracle():
        text, _, over, _, info = env.step(action)
        if info["user_turn"] == 3:
            break
    assert not over and text.startswith("Now you have more tools: sort.") and '"name": "sort"' in text


@needs_package
def test_hostile_calls_are_only_told() -> None:
    env = BFCLEnv(format="python")
    env.reset(options={"task": "multi_turn_base_0"})
    for action in (
        "[__import__('os').system('true')]",
        "[_load_scenario(scenario={})]",
        "[mkdir(dir_name=[{'a': None}])]",
        "[cd(folder=3), cd(), nothing(a=1)]",
        "[eval(a='1')]",
    ):
        text, _, over, _, info = env.step(action)
        assert isinstance(text, str) and not over and (not info["valid"] or info["n_tool_errors"] or "rror" in text)
    for action in (
        "[f(",
        "",
        "[calculate_triangle_area(base=[[[]]], height={'a': {}})]",
        "[calculate_triangle_area()]",
    ):
        env.reset(options={"task": "simple_python_0"})
        assert env.step(action)[1:3] == (0.0, True)


@needs_package
def test_parts_keep_variants_together() -> None:
    env = BFCLEnv(parts=True)
    found = {split: {task.id for task in env.tasks(split)} for split in ("train", "valid_seen", "valid_unseen")}
    assert sum(map(len, found.values())) == sum(len(data.entries(category)) for category in data.CATEGORIES)
    numbers = [{key.rpartition("_")[2].split("-")[0] for key in keys if "multi_turn" in key} for keys in found.values()]
    assert (
        not numbers[0] & numbers[1] and not numbers[0] & numbers[2] and len(found["train"]) > len(found["valid_seen"])
    )


@needs_package
def test_wrong_options_are_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'multiple'"):
        BFCLEnv(["multipel"])
    with pytest.raises(ConfigError, match="wanted a list"):
        BFCLEnv("multiple")
    with pytest.raises(GameError, match="ids are like simple_python_0"):
        BFCLEnv(["multiple"]).reset(options={"task": "multiple_9999"})


def test_without_the_package_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data.folder.cache_clear()
    data.entries.cache_clear()
    try:
        with pytest.raises(ConfigError, match="make bfcl"):
            agentrl.env.make("agentrl/BFCL-v0")
    finally:
        data.folder.cache_clear()


def test_only_calls_with_literals_are_read() -> None:
    assert read_call("f(1, a=[2, {'b': -3}])") == ("f", [1], {"a": [2, {"b": -3}]})
    for text in ("f(g())", "a.f()", "f(**{})", "f(x)", "1", "f(", "(lambda: 1)()"):
        with pytest.raises(GameError, match="no call with literals"):
            read_call(text)
