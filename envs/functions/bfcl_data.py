"""The entries of the Berkeley function-calling leaderboard, as the package ``bfcl_eval`` ships them.

``pip install --no-deps bfcl_eval mpmath`` (or ``make bfcl``) is enough: only data files and back ends are read, and none of
the package's checkers.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.types import Json

SINGLE = (
    "simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple", "live_parallel",
    "live_parallel_multiple", "irrelevance", "live_irrelevance", "live_relevance",
)  # fmt: skip
MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
CATEGORIES = (*SINGLE, *MULTI_TURN)
# Class of a back end -> its module, and the file that describes its functions.
BACK_ENDS: Mapping[str, tuple[str, str]] = {
    "GorillaFileSystem": ("gorilla_file_system", "gorilla_file_system"),
    "MathAPI": ("math_api", "math_api"),
    "MessageAPI": ("message_api", "message_api"),
    "TwitterAPI": ("posting_api", "posting_api"),
    "TicketAPI": ("ticket_api", "ticket_api"),
    "TradingBot": ("trading_bot", "trading_bot"),
    "TravelAPI": ("travel_booking", "travel_booking"),
    "VehicleControlAPI": ("vehicle_control", "vehicle_control"),
}
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


@functools.cache
def folder() -> Path:
    """The package's folder of data. Raises ConfigError where it is not installed."""
    found = importlib.util.find_spec("bfcl_eval")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "agentrl/BFCL-v0 needs the package bfcl_eval, which is no extra because of its pins: run `make bfcl`, or "
            "`pip install --no-deps bfcl_eval mpmath`"
        )
    return Path(found.submodule_search_locations[0], "data")


@functools.cache
def entries(category: str) -> Mapping[str, Mapping[str, Json]]:
    """Id -> entry, in the file's order. Raises ConfigError for an unknown category."""
    if category not in CATEGORIES:
        raise ConfigError(f"BFCL-v0 plays no category '{category}'.{did_you_mean(category, CATEGORIES)}")
    return {row["id"]: row for row in _rows(folder() / f"BFCL_v4_{category}.json")}


@functools.cache
def answers(category: str) -> Mapping[str, Json]:
    """Id -> ground truth; empty for the categories that ask only whether anything is called."""
    path = folder() / "possible_answer" / f"BFCL_v4_{category}.json"
    return {row["id"]: row["ground_truth"] for row in _rows(path)} if path.exists() else {}


@functools.cache
def functions_of(back_end: str) -> list[dict[str, Json]]:
    """What the functions of a back end are described as."""
    return _rows(folder() / "multi_turn_func_doc" / f"{BACK_ENDS[back_end][1]}.json")


def category_of(entry_id: str) -> str:
    """The category that an id belongs to. Raises GameError where there is none."""
    category = entry_id.rpartition("_")[0]
    if category not in CATEGORIES or entry_id not in entries(category):
        raise GameError(f"BFCL has no entry '{entry_id[:80]}' that is played here; ids are like simple_python_0")
    return category


def number_of(entry_id: str) -> int:
    """The first number of an id. Entries of the four multi-turn categories with the same one are variants of each other, and so
    are live ones."""
    found = re.search(r"\d+", entry_id.rpartition("_")[2])
    return int(found.group()) if found else 0


def json_schema(value: Json) -> Json:
    """A description's types in the words of JSON schema."""
    if isinstance(value, list):
        return [json_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _TYPES.get(part, part) if key == "type" and isinstance(part, str) else json_schema(part)
        for key, part in value.items()
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
