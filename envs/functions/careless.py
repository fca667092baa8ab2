"""A player that knows what is right and slips: it ends a turn too early, or calls some tool with some values of
the state that the task began with (so that ``vocabulary`` has every word of it).

With noise 1 it never does what is right on purpose, which is what random play is in an environment of calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from agentrl.envs.functions.dialogue import NOTHING_TO_SAY
from agentrl.types import Json, ToolCall

if TYPE_CHECKING:
    from agentrl.envs.functions.env import FunctionCallingEnv


class Careless:
    """``noise``: the share of turns on which it slips; ``strayed`` says whether it did on the last."""

    def __init__(self, env: FunctionCallingEnv, noise: float, seed: int) -> None:
        self.env, self.noise, self.random = env, noise, Random(seed)
        self.strayed = False

    def act(self, observation: str, admissible: list[str], goal: str) -> str:
        """The next completion."""
        plan = self.env.oracle()
        self.strayed = self.random.random() < self.noise or not plan
        if not self.strayed:
            return plan[0]
        if self.random.random() < 0.25 or not self.env.tools:
            return NOTHING_TO_SAY
        return self.env.format.render([self._call()])

    def _call(self) -> ToolCall:
        about: Any = self.random.choice(self.env.tools)["function"]
        properties = about["parameters"]["properties"]
        wanted = [
            name for name in properties if name in about["parameters"].get("required", ()) or self.random.random() < 0.3
        ]
        return ToolCall(about["name"], {name: self._value(properties[name]) for name in wanted})

    def _value(self, schema: Mapping[str, Json]) -> Json:
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = {"integer": int, "boolean": bool}.get(str(schema.get("type")), str)
        assert self.env.task is not None
        known = [value for value in _values(self.env.task.options["state"]) if type(value) is kind]
        return self.random.choice(known) if known else kind(1)


def _values(value: Json) -> Iterator[Json]:
    """Every text, number and key in it; a key that is a number counts as one."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield int(key) if key.isdecimal() else key
            yield from _values(part)
    elif isinstance(value, list):
        for part in value:
            yield from _values(part)
    else:
        yield value
