"""Are these the right calls? Two ways to tell, with the semantics of the Berkeley function-calling leaderboard (BFCL).

By the calls (``check_calls``): each must match another of the expected ones, in any order; every argument must be of its
type and among the accepted values, where "" among them means that it may be left out.

By what came of them (``check_results``): the state is that of the right calls, and their results are among the results so
far, each as often.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentrl.types import Json, ToolCall

# The names of BFCL, then those of JSON schema that differ.
TYPES: Mapping[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict, "any": str,
    "number": float, "object": dict,
}  # fmt: skip
_IGNORED = re.compile(r"[ ,./\-_*^]")
Accepted = Mapping[str, Sequence[Json]]  # argument -> values that are right; "" among them: it may be left out


def check_calls(
    calls: Sequence[ToolCall], expected: Sequence[tuple[str, Accepted]], schemas: Mapping[str, Mapping[str, Json]]
) -> str | None:
    """What is wrong with the calls, None where nothing is. ``expected``: the tools with the accepted values of their
    arguments, in any order; ``schemas``: the JSON schema of each tool's arguments. Each expected one, in its order, takes the
    first call that fits and is left, as BFCL matches them."""
    if len(calls) != len(expected):
        return f"wanted {len(expected)} calls; got {len(calls)}"
    left = list(calls)
    for name, accepted in expected:
        problems = [check_call(call, name, accepted, schemas[name]) for call in left]
        if None not in problems:
            return problems[0] if len(problems) == 1 else f"no call fits '{name}'"
        del left[problems.index(None)]
    return None


def check_call(call: ToolCall, name: str, accepted: Accepted, schema: Mapping[str, Json]) -> str | None:
    """What is wrong with a call, None where nothing is."""
    if call.name != name:
        return f"wanted a call of '{name}'; got '{call.name}'"
    for argument in schema.get("required", ()):
        if argument not in call.arguments:
            return f"{name}: the argument '{argument}' is missing"
    for argument, value in call.arguments.items():
        if argument not in schema["properties"] or argument not in accepted:
            return f"{name}: the argument '{argument}' should not be given"
        if not _fits(value, accepted[argument], schema["properties"][argument]):
            return f"{name}: the argument '{argument}' is not right"
    for argument, values in accepted.items():
        if argument not in call.arguments and "" not in values:
            return f"{name}: the argument '{argument}' is missing, and its default is not right"
    return None


def check_results(right: str, state: str, expected: Iterable[str], results: Iterable[str]) -> str | None:
    """What is wrong, None where nothing is: the states must be equal and the expected results among the results."""
    if right != state:
        return "the state is not what it should be"
    if Counter(expected) - Counter(results):
        return "a result that is needed was not asked for"
    return None


def plain(text: str) -> str:
    """A text as texts are compared: without case, spaces and most punctuation."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fits(value: Json, accepted: Sequence[Json], schema: Mapping[str, Json]) -> bool:
    kind = TYPES[schema["type"]]
    if kind is float and type(value) is int:
        value = _as_float(value)
    inner = TYPES[schema["items"]["type"]] if schema["type"] in ("array", "tuple") else None
    fit, is_variable = _of_type(value, accepted, kind, inner)
    if not fit:
        return False
    if not is_variable:
        if kind is dict:
            return _dict(value, accepted)
        if inner is dict:
            return any(_dicts(value, one) for one in accepted if isinstance(one, list))
        if kind is str:
            return plain(value) in [plain(one) for one in accepted if isinstance(one, str)]
        if kind is list:
            return _parts(value) in [_parts(one) for one in accepted]
    return value in accepted


def _as_float(value: int) -> Json:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return value


def _of_type(value: Json, accepted: Sequence[Json], kind: type, inner: type | None) -> tuple[bool, bool]:
    """Whether the value is of the type that is declared or accepted; whether only of the accepted one, which then is compared
    as it is. Of the parts of a list one level is looked at."""
    typical = next((type(one) for one in accepted if one != ""), None)
    if type(value) is kind:
        other = typical is not None and typical is not kind
        if inner is None:
            return True, other
        fits = any(
            not isinstance(one, list) or all(_of_type(part, one, inner, None)[0] for part in value) for one in accepted
        )
        return fits, other
    return typical is not None and type(value) is typical, True


def _parts(values: Any) -> list[Json]:
    return [plain(part) if isinstance(part, str) else part for part in values]


def _dict(value: Json, accepted: Sequence[Json]) -> bool:
    return isinstance(value, dict) and any(_dict_fits(value, one) for one in accepted if one != "")


def _dict_fits(value: Mapping[str, Json], accepted: Mapping[str, Sequence[Json]]) -> bool:
    if not all(isinstance(values, list | str) for values in accepted.values()):
        return False  # a few ground truths of BFCL have values where lists of values belong: nothing fits those
    for key, part in value.items():
        if key not in accepted or (plain(part) if isinstance(part, str) else part) not in _parts(accepted[key]):
            return False
    return all(key in value or "" in values for key, values in accepted.items())


def _dicts(values: Sequence[Json], accepted: Sequence[Json]) -> bool:
    return len(values) == len(accepted) and all(
        _dict(value, [one]) for value, one in zip(values, accepted, strict=True)
    )
