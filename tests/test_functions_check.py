"""The check of calls: accepted values, optional arguments, any order, types."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.envs.functions.check import check_calls, check_results
from agentrl.types import ToolCall

SCHEMA = {
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "width": {"type": "float"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "who": {"type": "dict"},
        "rows": {"type": "array", "items": {"type": "dict"}},
    },
    "required": ["city"],
}
EXPECTED = {
    "city": ["New York, NY", "New York"],
    "days": [3, ""],
    "width": [2.0, ""],
    "tags": [["a", "b"], ""],
    "who": [{"name": ["Ana"], "age": [3, ""]}, ""],
    "rows": [[{"x": [1]}, {"x": [2]}], ""],
}


def right(**arguments: Any) -> bool:
    return check_calls([ToolCall("f", arguments)], [("f", EXPECTED)], {"f": SCHEMA}) is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, True),
        ({"city": "new york ny"}, True),
        ({"city": "Boston"}, False),
        ({"city": 3}, False),
        ({"days": 3}, True),
        ({"days": "3"}, False),
        ({"days": 4}, False),
        ({"days": True}, False),
        ({"width": 2}, True),
        ({"width": 10**400}, False),
        ({"tags": ["A", "b"]}, True),
        ({"tags": ["b", "a"]}, False),
        ({"tags": [1]}, False),
        ({"tags": "a"}, False),
        ({"who": {"name": "ana"}}, True),
        ({"who": {"name": "Ana", "age": 3}}, True),
        ({"who": {"age": 3}}, False),
        ({"who": {"name": "Ana", "more": 1}}, False),
        ({"rows": [{"x": 1}, {"x": 2}]}, True),
        ({"rows": [{"x": 2}, {"x": 1}]}, False),
        ({"rows": [1, 2]}, False),
        ({"unknown": 1}, False),
    ],
)
def test_arguments(arguments: dict[str, Any], wanted: bool) -> None:
    assert right(**{"city": "New York", **arguments}) == wanted


def test_what_must_be_given() -> None:
    assert not right(days=3)
    schema = {"properties": {"a": {"type": "integer"}}, "required": []}
    told = check_calls([ToolCall("f", {})], [("f", {"a": [1]})], {"f": schema})
    assert told is not None and "default is not right" in told


def test_calls_match_in_any_order_and_each_once() -> None:
    schemas = {name: {"properties": {"a": {"type": "integer"}}, "required": ["a"]} for name in "fg"}
    expected = [("f", {"a": [1]}), ("g", {"a": [1]}), ("f", {"a": [2]})]
    f1, f2, g1 = ToolCall("f", {"a": 1}), ToolCall("f", {"a": 2}), ToolCall("g", {"a": 1})
    assert check_calls([f2, g1, f1], expected, schemas) is None
    assert check_calls([f1, g1, f1], expected, schemas) == "f: the argument 'a' is not right"
    assert check_calls([f1, f1, g1], [expected[2], *expected[:2]], schemas) == "no call fits 'f'"
    assert check_calls([f1, g1], expected, schemas) == "wanted 3 calls; got 2"
    assert check_calls([g1], expected[:1], schemas) == "wanted a call of 'f'; got 'g'"


def test_results_count_as_often_as_they_are_needed() -> None:
    assert check_results("s", "s", ["a", "b"], ["b", "c", "a"]) is None
    assert check_results("s", "s", ["a", "a"], ["a", "b"]) == "a result that is needed was not asked for"
    assert check_results("s", "t", [], []) == "the state is not what it should be"
