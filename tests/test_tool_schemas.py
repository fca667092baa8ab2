"""Arguments against the schemas of others: what is wrong is told, and no schema makes that take long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentrl.errors import ConfigError
from agentrl.tool import BadArguments
from agentrl.tools.schemas import argument_check

pytest.importorskip("jsonschema", reason="jsonschema comes with the extra 'mcp'")

TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}, "left": {"type": "null"}}},
                {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}, "required": ["right"]},
            ]
        }
    },
}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"left": 1}
    for _ in range(depth):
        value = {"child": value}
    return value


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}, {"a": "a" * 5_000 + "!"}),
        ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 5_000 + "!": 1}),
        ({"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False}, {"a" * 5_000 + "!": 1}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"n": number} for number in range(30_000)]}),
        (TREE, {"root": nested(60)}),
    ],
)
def test_what_would_take_long_is_left_to_the_server(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    started = time.process_time()
    assert argument_check("f", {"type": "object", **schema})(arguments) == arguments
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("schema", "arguments", "told"),
    [
        ({"properties": {"a": {"type": "integer"}}}, {"a": "x"}, "argument 'a': 'x' is not of type 'integer'"),
        ({"properties": {"a": {}}}, {"b": 1}, "f has no argument 'b'."),
        ({"additionalProperties": False}, {"b": 1}, "'b' was unexpected"),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, 1]}, "has non-unique elements"),
        (TREE, {"root": nested(3)}, "is not valid under any of the given schemas"),
        ({"required": ["a"]}, {}, "'a' is a required property"),
    ],
)
def test_what_is_wrong_is_told(schema: dict[str, Any], arguments: dict[str, Any], told: str) -> None:
    check = argument_check("f", {"type": "object", **schema})
    for _ in range(3):  # the steps are those of one call
        with pytest.raises(BadArguments) as caught:
            check(arguments)
        assert told in str(caught.value)


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no JSON schema"):
        argument_check("f", {"type": "numeral"})
