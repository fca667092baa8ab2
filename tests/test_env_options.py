"""Options of environments: a value of another type than the annotation is one clear error."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest

from agentrl.env import TextEnv, make
from agentrl.errors import ConfigError

ID = "test/Options-v0"


class Options(TextEnv):
    def __init__(
        self,
        flag: bool = False,
        count: int | None = None,
        share: float = 0.5,
        mode: Literal["a", "b"] = "a",
        folder: str | os.PathLike[str] | None = None,
        names: Sequence[str] = (),
        free: Any = None,
    ) -> None:
        self.given = (flag, count, share, mode, folder, names, free)


def unreadable(level: Level = 3) -> Options:  # type: ignore[name-defined]  # noqa: F821
    return Options(count=level)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(id=ID, entry_point=Options)
    gymnasium.register(id="test/Unreadable-v0", entry_point=unreadable)
    yield
    del gymnasium.registry[ID], gymnasium.registry["test/Unreadable-v0"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flag": "yes"}, "wanted flag as true or false; got 'yes'"),
        ({"flag": 1}, "wanted flag as true or false; got 1"),
        ({"count": "3"}, "wanted count as a whole number; got '3'"),
        ({"count": True}, "wanted count as a whole number; got True"),
        ({"count": 3.5}, "wanted count as a whole number; got 3.5"),
        ({"share": "x" * 100}, "wanted share as a number; got 'xxx"),
        ({"share": None}, "wanted share as a number; got None"),
        ({"mode": 3}, "wanted mode as a text; got 3"),
        ({"folder": 3}, "wanted folder as a path or a text; got 3"),
    ],
)
def test_a_value_of_another_type_is_one_clear_error(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"environment '{ID}': {says}")) as caught:
        make(ID, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "options",
    [
        {"flag": True, "count": 3, "share": 1, "mode": "c"},
        {"count": None, "share": np.float32(0.5), "folder": Path()},
        {"count": np.int64(3), "folder": "x", "names": 3, "free": object()},
    ],
)
def test_what_fits_or_only_the_environment_can_judge_goes_through(options: dict[str, Any]) -> None:
    given = make(ID, **options).unwrapped.given  # type: ignore[attr-defined]
    assert {id(value) for value in options.values()} <= {id(value) for value in given}


def test_annotations_that_nobody_can_read_check_nothing() -> None:
    assert make("test/Unreadable-v0", level="x").unwrapped.given[1] == "x"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_id", "options", "says"),
    [
        ("agentrl/WebShop-v0", {"mended": "no"}, "wanted mended as true or false"),
        ("agentrl/WebShop-v0", {"data": 3}, "wanted data as a path or a text"),
        ("agentrl/Browser-v0", {"reward_scale": "x"}, "wanted reward_scale as a number"),
        ("agentrl/Browser-v0", {"seed": "a"}, "wanted seed as a whole number"),
        ("agentrl/MiniWoB-v0", {"level": 3}, "wanted level as a text"),
        ("agentrl/MiniWoB-v0", {"screenshots": "x"}, "wanted screenshots as true or false"),
    ],
)
def test_environments_of_our_own(env_id: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(env_id, **options)
