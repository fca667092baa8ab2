"""Values as they are typed: ``dotted.key=value`` overrides of a run file, and ``key=value,key=value`` parameters."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.errors import ConfigError

COMMANDS = ("train", "sweep", "demos", "sft", "doctor")  # they take overrides
FLAGS = ("--resume", "--dry-run", "--json")  # their options without a value


def overridden(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tables of a run file with ``dotted.key=value`` overrides; ``data`` stays as it is."""
    result = copy.deepcopy(dict(data))
    for override in overrides:
        _override(result, override)
    return result


def _override(data: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *tables, key = dotted.strip().split(".")
    if not equals or not all([*tables, key]):
        raise ConfigError(f"'{override}' is not an override: write dotted.key=value, as in run.seed=1")
    value = parse_value(text)
    place: Any = data
    for table in tables:
        if isinstance(place, list):
            place = place[_index(table, place, override)]
        else:
            place = place.setdefault(table, {})
        if not isinstance(place, (dict, list)):
            raise ConfigError(f"'{override}': {table} is a value, not a table")
    if isinstance(place, list):
        place[_index(key, place, override)] = value
    else:
        place[key] = value


def _index(text: str, array: Sequence[Any], override: str) -> int:
    if not text.isdecimal() or int(text) >= len(array):
        raise ConfigError(f"'{override}': wanted a place from 0 to {len(array) - 1} in an array; got '{text}'")
    return int(text)


def parse_value(text: str) -> Any:
    """A value as TOML writes it; a bare word is a string, for a shell eats the quotes.

    >>> parse_value("1e-6"), parse_value("easy"), parse_value("[1, 2]")
    (1e-06, 'easy', [1, 2])
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, where the command takes overrides with those that come after options moved before them.

    >>> overrides_first(["train", "quickstart", "--out", "new", "run.seed=1"])
    ['train', 'quickstart', 'run.seed=1', '--out', 'new']
    """
    words = list(arguments)
    first = next((place for place, word in enumerate(words) if word.startswith("--")), None)
    if not first or words[0] not in COMMANDS:
        return words

    def is_override(place: int) -> bool:
        before = words[place - 1]
        value_of_option = before.startswith("--") and before not in FLAGS
        return not value_of_option and re.match(r"\w+(\.\w+)*=", words[place]) is not None

    late = [place for place in range(first + 1, len(words)) if is_override(place)]
    options = [words[place] for place in range(first, len(words)) if place not in late]
    return [*words[:first], *(words[place] for place in late), *options]


def parse_parameters(text: str, example: str) -> dict[str, Any]:
    """``key=value,key=value`` with values as TOML writes them; a comma inside of brackets or quotes belongs to its value.
    Raises ConfigError for a part that is no parameter and for a key that comes twice; ``example`` is for the message, which
    shows no value.

    >>> parse_parameters("noise=0.2,order=random,sizes=[1, 2]", "")
    {'noise': 0.2, 'order': 'random', 'sizes': [1, 2]}
    """
    found: dict[str, Any] = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals:
            what = f"'{part}'" if part.isidentifier() else "a part between two commas"  # it may be a key
            raise ConfigError(f"{what} is not a parameter of a policy: write key=value, as in {example}")
        if key.strip() in found:
            raise ConfigError(f"'{key.strip()}' is given twice; give it once")
        found[key.strip()] = parse_value(value)
    return found


def _split(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets and quotes; empty ones are left out."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part for part in parts if part.strip()]
