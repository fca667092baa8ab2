"""JSON schemas and defaults in words, as a run file writes values.

>>> words({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
'number above 0, at most 1'
>>> words({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
'integer from 1'
>>> toml({"name": "window", "turns": 4})
'{ name = "window", turns = 4 }'
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

BOUNDS = {
    "exclusiveMinimum": "above {}",
    "minimum": "from {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
}
KINDS = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number", "object": "table"}


def words(schema: Mapping[str, Any]) -> str:
    """What a value of this schema may be. References must have been replaced by what they name."""
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        found = [words(part) for part in several if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(found))  # each once, in order
    if "const" in schema:
        return toml(schema["const"])
    if "enum" in schema:
        return ", ".join(map(toml, schema["enum"]))
    kind = schema.get("type", "")
    if kind == "array":
        return _list(schema)
    if kind == "object" and schema.get("properties"):
        return _table(schema["properties"])
    bounds = [text.format(_number(schema[key])) for key, text in BOUNDS.items() if key in schema]
    return f"{KINDS.get(kind, 'anything')} {', '.join(bounds)}".strip()


def _list(schema: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {words(schema['prefixItems'][0])}"
    items = schema.get("items") or {}
    inner = words(items)
    if inner == "anything":
        return "list"
    return f"list of {'tables' if inner == 'table' else 'texts' if inner == 'text' else inner}"


def _table(properties: Mapping[str, Any]) -> str:
    """A table of known keys: that which tells it from others, where there is one, and its keys."""
    parts = [
        f"{key} = {words(value)}" if "const" in value or "enum" in value else key for key, value in properties.items()
    ]
    return "{ " + "; ".join(parts) + " }"


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


def toml(value: Any) -> str:
    """A value as a run file has it, on one line; None is "absent", which TOML cannot write."""
    if value is None:
        return "absent"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {toml(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
