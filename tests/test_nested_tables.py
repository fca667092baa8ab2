"""Nested tables of parameters: what nothing takes is refused there as everywhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from agentrl import registry
from agentrl.errors import ConfigError


@dataclass(frozen=True)
class Clip:
    low: float = 0.1
    on: bool = False


@dataclass(frozen=True)
class Deep:
    clip: Clip = Clip()


@dataclass(frozen=True)
class Method:
    clip: Clip = Clip()
    each: list[Clip] = field(default_factory=list)
    named: dict[str, Clip] = field(default_factory=dict)
    maybe: Clip | None = None
    deep: Deep = Deep()
    free: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"clip": {"lwo": 1.0}}, "loss.clip has no parameter 'lwo'. Did you mean 'low'?"),
        ({"each": [{"low": 1.0}, {"lo": 1.0}]}, "loss.each.1 has no parameter 'lo'. Did you mean 'low'?"),
        ({"named": {"a": {"onn": True}}}, "loss.named.a has no parameter 'onn'. Did you mean 'on'?"),
        ({"maybe": {"lowe": 1.0}}, "loss.maybe has no parameter 'lowe'. Did you mean 'low'?"),
        ({"deep": {"clip": {"lov": 1.0}}}, "loss.deep.clip has no parameter 'lov'. Did you mean 'low'?"),
        ({"each": [{"on": 1}]}, "loss.each.0.on: true or false is wanted; got 1"),
        ({"clip": {"low": float("nan")}}, "loss.clip.low: a number is wanted; got nan"),
    ],
)
def test_a_typo_in_a_nested_table_is_refused_with_a_suggestion(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.validate(Method, given, "loss")
    assert str(error.value) == problem


def test_nested_tables_that_fit_are_taken_as_they_are() -> None:
    given = {"clip": {"low": 2.0}, "each": [{"on": True}], "named": {"a": {}}, "maybe": None, "free": {"any": {"x": 1}}}
    made = registry.validate(Method, given, "loss")
    assert (made.clip, made.each, made.named, made.maybe) == (Clip(2.0), [Clip(on=True)], {"a": Clip()}, None)
    assert made.free == {"any": {"x": 1}}
