"""Structured answers: a model's text as JSON that a schema admits, or the problem with it.

>>> class Verdict(pydantic.BaseModel):
...     stop: bool
>>> read('<think>enough?</think>{"stop": true}', Verdict).value
Verdict(stop=True)
>>> read("We should not stop yet", Verdict).problem
'wanted one JSON object; got "We should not stop yet"'
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import pydantic

from agentrl.chat.tool_calls import json_problem

T = TypeVar("T")
MAX_CHARS = 100_000
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```[\w-]*\s*(\{.*\})\s*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """``value`` is what the schema made of a text, None where there is a ``problem``."""

    value: T | None
    problem: str = ""


def without_thoughts(text: str) -> str:
    """A text without what stands in ``<think>``; a thought that is not closed reaches to the end."""
    return _THOUGHTS.sub("", text).strip()


def read(text: str, schema: type[T]) -> Read[T]:
    """The JSON object that a text is, alone or in a ``` fence and behind thoughts, checked by ``schema`` (a pydantic model, a typed
    dictionary …). Nothing is guessed from prose and nothing is converted; NaN, infinity, a key that is given twice and nesting
    without end are refused as in calls of tools. Never raises: a text that does not fit is data."""
    body = without_thoughts(text)
    fenced = _FENCED.fullmatch(body)
    body = fenced[1] if fenced else body
    if not body.startswith("{"):
        return Read(None, f"wanted one JSON object; got {_brief(body)}" if body else "the answer is empty")
    if len(body) > MAX_CHARS:
        return Read(None, f"the answer is longer than {MAX_CHARS} characters")
    try:
        value = _adapter(schema).validate_json(body.encode(errors="replace"), strict=True)
    except pydantic.ValidationError as error:
        return Read(None, _told(error))
    problem = json_problem(body)
    return Read(None, problem) if problem else Read(value)


def written(value: Any) -> str:
    """A value as the JSON text that ``read`` reads back: a text as it is, models without what is at its default."""
    if isinstance(value, str):
        return value
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@lru_cache(maxsize=256)
def _adapter(schema: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(schema)


def _told(error: pydantic.ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"'{where}' is missing"
    message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
    return f"'{where}': {message}; got {_brief(problem['input'])}" if where else message


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"
