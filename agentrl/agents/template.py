"""Prompt templates: Python's format strings, whose fields are inserted as they are (braces in a value mean nothing)."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping

from agentrl.errors import ConfigError, did_you_mean


def check_template(where: str, text: str, known: Iterable[str]) -> None:
    """Raises ConfigError for a template that cannot be read or that names a field which is not known."""
    known = list(known)
    try:
        wanted = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read as a template: {error}; a brace itself is written twice") from error
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{where} names a field '{{{name}}}', which nobody gives.{did_you_mean(name, known)}")


def fill(where: str, text: str, fields: Mapping[str, str]) -> str:
    """The template with the values of its fields. Raises ConfigError for a field that has none."""
    try:
        return text.format_map(fields)
    except KeyError:
        check_template(where, text, fields)
        raise
