"""The words that commands share: their application, the types of their arguments, and what they print with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

app = tyro.extras.SubcommandApp()
RunFile = Annotated[Positional[str], arg(metavar="CONFIG")]
EnvId = Annotated[Positional[str], arg(metavar="ENV")]
Overrides = Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]", help_behavior_hint="")]
Options = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint="")]
Split = Annotated[str, arg(metavar="SPLIT")]
# Where nothing is given, the text of each option says what happens.
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
Bound = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Seconds = Annotated[float | None, arg(metavar="S", help_behavior_hint="")]
Isolation = Annotated[Literal["inline", "process"] | None, arg(metavar="inline|process", help_behavior_hint="")]
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


def options_of(pairs: Sequence[str]) -> dict[str, Any]:
    """The options that ``--option KEY=VALUE`` gave. Raises ConfigError for one without a value."""
    from agentrl.errors import ConfigError
    from agentrl.overrides import parse_value

    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"'{pair}' is not an option: write key=value, as in difficulty=easy")
        found[key] = parse_value(text)
    return found


def as_json(value: Any) -> str:
    """As ``--json`` prints it."""
    return json.dumps(value, indent=2)


def print_toml(settings: Any) -> None:
    """A whole run file with its defaults, on standard output."""
    import tomli_w

    from agentrl.store import without_none

    print(tomli_w.dumps(without_none(settings.model_dump(mode="python"))), end="")


def process_started() -> float:
    """``time.time()`` of the moment this process began, imports included; where the system does not tell, now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        age = 0.0
    return time.time() - age
