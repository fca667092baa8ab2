"""BFCL's multi-turn back ends, executed safely, and the check of a user turn.

The package's own executor evaluates the model's text and keeps every back end in a module's globals. Here a call is a name
and literal values, only public methods of the entry's own instances can be called, and they live as long as the episode.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl.envs.functions.bfcl_data import BACK_ENDS
from agentrl.envs.functions.check import check_calls
from agentrl.errors import GameError
from agentrl.types import Json, ToolCall

_SOURCE = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
MAX_DIGITS = 10_000  # that MathAPI may be asked to compute; results above Python's own bound of 4,300 are errors anyway
MAX_BITS = 100_000  # of a power of integers
# The arguments of MathAPI's functions that say how much there is to compute; None: another one.
MATH: Mapping[str, tuple[str | None, ...]] = {
    "logarithm": (None, None, "precision"),
    "square_root": (None, "precision"),
    "round_number": (None, "decimal_places"),
    "power": ("base", "exponent"),
}


class Engine:
    """The back ends of an entry, from its initial state on; ``outputs`` of all calls so far."""

    def __init__(self, entry: Mapping[str, Json]) -> None:
        self.instances: dict[str, Any] = {}
        self.methods: dict[str, Callable[..., Any]] = {}
        self.outputs: list[str] = []
        for name in entry["involved_classes"]:
            instance = getattr(importlib.import_module(f"{_SOURCE}.{BACK_ENDS[name][0]}"), name)()
            if name != "MathAPI":  # which has no state
                scenario = copy.deepcopy(entry["initial_config"].get(name, {}))
                instance._load_scenario(scenario, long_context="long_context" in entry["id"])
            self.instances[name] = instance
            for key, _ in inspect.getmembers(type(instance), inspect.isfunction):
                if not key.startswith("_"):
                    self.methods[key] = getattr(instance, key)

    def call(self, name: str, args: Sequence[Json] = (), kwargs: Mapping[str, Json] | None = None) -> tuple[str, bool]:
        """What the call gives, as BFCL writes it, and whether it ran through. Whatever a back end raises is an output, and so is
        that numbers would take it beyond all measure."""
        try:
            if name not in self.methods:
                raise NameError(f"name '{name}' is not defined")
            _must_be_computable(name, args, kwargs or {})
            value, ran = _text(self.methods[name](*args, **(kwargs or {}))), True
        except Exception as error:
            value, ran = f"Error during execution: {error}", False
        self.outputs.append(value)
        return value, ran

    def differs(self, other: Engine) -> str:
        """The class whose public attributes differ from those of the other; "" where none do."""
        for name, instance in self.instances.items():
            there = vars(other.instances[name])
            if any(there[key] != value for key, value in vars(instance).items() if not key.startswith("_")):
                return name
        return ""

    def named(self, text: str) -> ToolCall:
        """A call of the ground truth, with all arguments by name."""
        name, args, kwargs = read_call(text)
        signature = inspect.signature(self.methods[name])
        return ToolCall(name, dict(signature.bind(*args, **kwargs).arguments))


class Judge:
    """Judges the user turns of an episode, in their order, against a replay of the ground truth."""

    def __init__(self, entry: Mapping[str, Json], truth: Sequence[Sequence[str]]) -> None:
        self.right, self.truth = Engine(entry), truth

    def turn(self, number: int, engine: Engine, n_calls: int) -> str:
        """What is wrong with the turn in which ``engine`` has executed ``n_calls`` calls; "" where nothing is."""
        expected = [self.right.call(*read_call(text))[0] for text in self.truth[number]]
        if not expected:
            return "nothing should have been called" if n_calls else ""
        if not n_calls:
            return "nothing was called"
        if where := self.right.differs(engine):
            return f"the state of {where} is not what it should be"
        missing = Counter(expected) - Counter(engine.outputs)
        return "a result that is needed was not asked for" if missing else ""


def _must_be_computable(name: str, args: Sequence[Json], kwargs: Mapping[str, Json]) -> None:
    """Raises OverflowError for what MathAPI would compute for hours: it bounds neither digits nor powers."""
    if name not in MATH:
        return
    given = dict(zip(MATH[name], args, strict=False)) | dict(kwargs)
    numbers = [given[key] for key in MATH[name] if type(given.get(key)) is int]
    if name != "power" and any(abs(number) > MAX_DIGITS for number in numbers):
        raise OverflowError(f"more than {MAX_DIGITS} digits are not computed")
    if name == "power" and len(numbers) == 2 and numbers[0].bit_length() * abs(numbers[1]) > MAX_BITS:
        raise OverflowError(f"a power of more than {MAX_BITS} bits is not computed")


def judge_calls(category: str, entry: Mapping[str, Json], truth: Json, calls: Sequence[ToolCall]) -> str:
    """What is wrong with the calls of a single-turn category; "" where nothing is."""
    if category.endswith("irrelevance"):
        return "nothing should have been called" if calls else ""
    if category.endswith("_relevance"):
        return "" if calls else "nothing was called"
    schemas = {function["name"]: function["parameters"] for function in entry["function"]}
    expected = [(name, accepted) for answer in truth for name, accepted in answer.items()]
    return check_calls(calls, expected, schemas) or ""


def read_call(text: str) -> tuple[str, list[Json], dict[str, Json]]:
    """Name, positional and named arguments of a Python call with literals. Raises GameError for anything else."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(part.arg for part in node.keywords):
            named = {str(part.arg): ast.literal_eval(part.value) for part in node.keywords}
            return node.func.id, [ast.literal_eval(part) for part in node.args], named
    except (SyntaxError, ValueError) as error:
        raise GameError(f"BFCL: no call with literals: {text[:80]!r}: {error}") from error
    raise GameError(f"BFCL: no call with literals: {text[:80]!r}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        try:
            return json.dumps(value)
        except (TypeError, ValueError):
            return str(value)
    return str(value)
