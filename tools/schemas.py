"""Arguments held against a JSON schema that somebody else wrote, before they are sent to where it came from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from agentrl.errors import ConfigError, did_you_mean
from agentrl.tool import BadArguments
from agentrl.types import Json

MAX_BYTES = 1_000_000
MAX_DEPTH = 64  # readers of JSON give up at some hundred
MAX_PROBLEMS = 5
MAX_STEPS = 20_000  # words of a schema that are looked at for one call
MAX_UNIQUE = 1_000  # items that are compared pair by pair
MAX_PROBLEM_CHARS = 200
# Words of a schema that may allow arguments which "properties" does not name.
OPEN = {
    *("additionalProperties", "patternProperties", "unevaluatedProperties"),
    *("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"),
}


def argument_check(tool: str, schema: Mapping[str, Json]) -> Callable[[dict[str, Json]], dict[str, Any]]:
    """What gives the arguments of a call as they are, or raises BadArguments with one line for each problem. An argument
    that the schema does not name is one, unless the schema says something about such. Patterns, and what would take too long,
    are left to whoever wrote the schema.

    Raises ConfigError for a schema that is none.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except SchemaError as error:
        raise ConfigError(f"the tool '{tool}' has a schema that is no JSON schema: {error.message[:200]}") from error
    steps = [0]
    validator = _bounded(kind, steps)(dict(schema), registry=Registry())  # an empty one: nothing is fetched
    known = schema.get("properties")

    def check(arguments: dict[str, Json]) -> dict[str, Any]:
        _must_be_sendable(tool, arguments)
        if isinstance(known, Mapping) and not OPEN & schema.keys():
            for name in arguments:
                if name not in known:
                    raise BadArguments(f"{tool} has no argument '{name[:64]}'.{did_you_mean(name[:64], known)}")
        steps[0] = MAX_STEPS
        try:
            problems = list(itertools.islice(validator.iter_errors(arguments), MAX_PROBLEMS))
        except (
            Unresolvable,
            _Endless,
        ):  # the schema points elsewhere, or branches beyond measure: its author can judge
            return arguments
        if problems:
            raise BadArguments("\n".join(f"{tool}: {_problem(error)}" for error in problems))
        return arguments

    return check


class _Endless(Exception):
    """A check takes too many steps."""


def _bounded(kind: Any, steps: list[int]) -> Any:
    """A validator of that kind that raises _Endless when ``steps`` are used up, and matches no regular expression: a pattern
    such as ``(a+)+$`` takes a text of thirty characters minutes."""
    from jsonschema.validators import extend

    def bounded(word: str, judge: Any) -> Any:
        def check(validator: Any, value: Any, instance: Any, schema: Mapping[str, Json]) -> Any:
            steps[0] -= 1
            if steps[0] < 0:
                raise _Endless
            by_pattern = word.endswith("Properties") and "patternProperties" in schema
            by_pairs = word == "uniqueItems" and isinstance(instance, list) and len(instance) > MAX_UNIQUE
            if word != "pattern" and not by_pattern and not by_pairs:
                yield from judge(validator, value, instance, schema) or ()

        return check

    return extend(kind, {word: bounded(word, judge) for word, judge in kind.VALIDATORS.items()})


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    text = error.message
    if len(text) > MAX_PROBLEM_CHARS:  # it begins with the value, and ends with what is wrong
        text = f"…{text[-MAX_PROBLEM_CHARS:]}"
    return f"argument '{where}': {text}" if where else text


def _must_be_sendable(tool: str, arguments: Mapping[str, Json]) -> None:
    """Raises BadArguments for what a connection or its other end would choke on."""
    level: list[Any] = [arguments]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise BadArguments(f"{tool}: the arguments are nested deeper than {MAX_DEPTH} levels")
    try:
        size = len(json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError) as error:  # NaN, half of a surrogate pair, an integer of thousands of digits
        raise BadArguments(f"{tool}: the arguments cannot be sent as JSON: {str(error)[:200]}") from error
    if size > MAX_BYTES:
        raise BadArguments(f"{tool}: the arguments have {size} bytes; at most {MAX_BYTES} are sent")
