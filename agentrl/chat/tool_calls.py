"""How calls of tools stand in a model's text: three formats, each with its inverse.

>>> Hermes().parse('I add. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
Calls(calls=(ToolCall(name='add', arguments={'a': 1}),), rest='I add.')
>>> PythonCalls().parse('[add(a=-1), say(text="hi")]').calls[1]
ToolCall(name='say', arguments={'text': 'hi'})
>>> print(JsonCalls().parse('{"name": "add", "arguments": [1]}').text)
"arguments" must be an object; got [1]; wanted {"name": "…", "arguments": {…}} or a list of such objects

``parse`` reads only what the policy wrote, and never raises: a text gives ``Calls`` (none: the text holds no call) or a
``CallProblem``, whose text tells the model what is wrong. Thoughts in ``<think>`` are skipped. Nothing is ever evaluated.
Sizes are bounded: ``MAX_CHARS`` of a text that holds calls, ``MAX_DEPTH`` of brackets in brackets.
"""

from __future__ import annotations

import json
import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from agentrl.chat.python_calls import NotACall, read_python
from agentrl.errors import ConfigError, did_you_mean
from agentrl.types import Json, ToolCall

MAX_CHARS = 100_000
MAX_DEPTH = 32
_BLANKS = re.compile(r"\s*")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_MARK = re.compile(r"<think>|</?tool_call>")
_FENCE = re.compile(r"^```[\w-]*+[ \t]*+\n?+\s*+(?=[\[{])", re.MULTILINE)
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_TAGS = re.compile(r"<(?=/?tool_(?:call|response))")


@dataclass(frozen=True, slots=True)
class Calls:
    """What a text holds: the calls in order, and the rest of it without thoughts and calls."""

    calls: tuple[ToolCall, ...]
    rest: str


@dataclass(frozen=True, slots=True)
class CallProblem:
    """Why a text that looks like a call is none: for the model to read."""

    text: str


class CallFormat(Protocol):
    """A way to write calls, and to show what came of them."""

    def parse(self, text: str) -> Calls | CallProblem:
        """The calls in a completion. Never raises."""
        ...

    def render(self, calls: Sequence[ToolCall]) -> str:
        """The inverse of ``parse``. Raises ConfigError for calls that the format cannot write."""
        ...

    def respond(self, results: Sequence[tuple[str, str]]) -> str:
        """An observation of results, (tool, text) each, in the order of the calls."""
        ...

    @property
    def usage(self) -> str:
        """How a model is told to write a call."""
        ...


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Unreadable(Exception):
    """A text is no JSON that we take; the message is for the model."""


def _pairs(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Unreadable(f"the key {_brief(twice)} is given twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Unreadable(f"{name} is no JSON; give a number or null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Unreadable(f"the number {text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant, parse_float=_finite)


def json_problem(text: str) -> str:
    """Why a text that is JSON is not taken from a model: NaN or infinity, a key given twice, too long, nested too deeply; "" for
    one that is taken.

    >>> json_problem('{"a": 1}'), json_problem('{"a": 1, "a": 2}'), json_problem("[1e999]")
    ('', 'the key "a" is given twice', 'the number 1e999 is too large')
    """
    try:
        _read_json(text, 0, "the answer")
    except _Unreadable as problem:
        return str(problem)
    return ""


def _read_json(text: str, start: int, what: str = "the call") -> tuple[Json, int]:
    """The JSON value that begins at ``start`` and where it ends. Raises _Unreadable."""
    if len(text) - start > MAX_CHARS:
        raise _Unreadable(f"{what} is longer than {MAX_CHARS} characters")
    depth = 0
    for match in _JSON_TOKEN.finditer(text, start):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _Unreadable(f"{what} is nested deeper than {MAX_DEPTH} levels")
        elif token in "]}":
            depth -= 1
            if depth <= 0:
                break
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        near = text[max(start, error.pos - 10) : error.pos + 20]
        raise _Unreadable(f"it is no JSON: {error.msg} at {_brief(near)}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits
        raise _Unreadable("it is no JSON that can be read: a number is too large") from error


def _call(value: Json) -> ToolCall:
    """The call that a JSON value is. Raises _Unreadable."""
    if not isinstance(value, dict):
        raise _Unreadable(f"a call must be an object; got {_brief(value)}")
    for key in value:
        if key not in ("name", "arguments"):
            raise _Unreadable(f'a call has the keys "name" and "arguments"; got {_brief(key)}')
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise _Unreadable(f'"name" must be the name of a tool; got {_brief(name)}')
    if not isinstance(arguments, dict):
        raise _Unreadable(f'"arguments" must be an object; got {_brief(arguments)}')
    return ToolCall(name, arguments)


def _dumped(call: ToolCall) -> str:
    try:
        return json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a call of '{call.name}' cannot be written as JSON: {error}") from error


def _json_lines(results: Sequence[tuple[str, str]]) -> str:
    """One JSON object a line: no result can pretend to be another."""
    return "\n".join(json.dumps({"name": name, "result": text}, ensure_ascii=False) for name, text in results)


# ── the formats ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Hermes:
    """Each call a JSON object in ``<tool_call>`` tags; text may stand around them. The form of Hermes and Qwen models."""

    usage = (
        'To call one, write <tool_call>{"name": "…", "arguments": {…}}</tool_call>. '
        "Several such blocks in one reply are called together."
    )

    def parse(self, text: str) -> Calls | CallProblem:
        """As ``CallFormat.parse``."""
        calls: list[ToolCall] = []
        rest: list[str] = []
        place = 0
        while match := _MARK.search(text, place):
            rest.append(text[place : match.start()])
            if match.group() == "<think>":
                end = text.find("</think>", match.end())
                place = len(text) if end < 0 else end + len("</think>")
                continue
            if match.group() == "</tool_call>":
                return CallProblem("</tool_call> closes nothing: a call begins with <tool_call>")
            try:
                value, place = _read_json(text, _after_blanks(text, match.end()))
                calls.append(_call(value))
            except _Unreadable as problem:
                wanted = '<tool_call>{"name": "…", "arguments": {…}}</tool_call>'
                return CallProblem(f"{problem}; wanted {wanted}")
            place = _after_blanks(text, place)
            if not text.startswith("</tool_call>", place):
                return CallProblem(f"a call ends with </tool_call>; got {_brief(text[place : place + 30])}")
            place += len("</tool_call>")
        rest.append(text[place:])
        return Calls(tuple(calls), "".join(rest).strip())

    def render(self, calls: Sequence[ToolCall]) -> str:
        """As ``CallFormat.render``."""
        return "\n".join(f"<tool_call>\n{_dumped(call)}\n</tool_call>" for call in calls)

    def respond(self, results: Sequence[tuple[str, str]]) -> str:
        """Each text in ``<tool_response>`` tags. Such tags in a text are written with ``&lt;``, so it cannot end its own."""
        return "\n".join(f"<tool_response>\n{_TAGS.sub('&lt;', text)}\n</tool_response>" for _, text in results)


@dataclass(frozen=True)
class JsonCalls:
    """One JSON object or a list of them, alone or in a ``` fence with text around it. A text that begins with a bracket
    is read as calls."""

    usage = 'To call one, answer with {"name": "…", "arguments": {…}}; to call several together, with a list of such objects.'

    def parse(self, text: str) -> Calls | CallProblem:
        """As ``CallFormat.parse``."""
        body = _without_thoughts(text)
        fence = None if body[:1] in ("{", "[") else _FENCE.search(body)
        if not body or (fence is None and body[0] not in "[{"):
            return Calls((), body)
        start = fence.end() if fence else 0
        try:
            value, end = _read_json(body, start)
            calls = [_call(one) for one in value] if isinstance(value, list) else [_call(value)]
            if not calls:
                raise _Unreadable("the list holds no call")
        except _Unreadable as problem:
            wanted = '{"name": "…", "arguments": {…}}'
            return CallProblem(f"{problem}; wanted {wanted} or a list of such objects")
        end = _after_blanks(body, end)
        if fence and not body.startswith("```", end):
            return CallProblem(f"wanted ``` behind the call; got {_brief(body[end : end + 30])}")
        if not fence and end < len(body):
            return CallProblem(f"wanted nothing behind the calls; got {_brief(body[end : end + 30])}")
        return Calls(tuple(calls), (body[: fence.start()] + body[end + 3 :]).strip() if fence else "")

    def render(self, calls: Sequence[ToolCall]) -> str:
        """As ``CallFormat.render``."""
        texts = [_dumped(call) for call in calls]
        return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else ""

    def respond(self, results: Sequence[tuple[str, str]]) -> str:
        """A line a result: {"name", "result"}."""
        return _json_lines(results)


@dataclass(frozen=True)
class PythonCalls:
    """A list of Python calls whose arguments are literals by name: ``[f(a=1), g(b="x")]``, alone or in a ``` fence. A text
    that begins with a bracket is read as calls."""

    usage = "To call some, answer with a list of calls in Python, every argument a literal by name: [f(a=1), g(b='x')]."

    def parse(self, text: str) -> Calls | CallProblem:
        """As ``CallFormat.parse``."""
        body = _without_thoughts(text)
        if body.startswith("```"):
            inner = body.partition("\n")[2].rstrip().removesuffix("```").strip()
            body = inner if inner.startswith("[") else body
        if not body.startswith("["):
            return Calls((), body)
        if len(body) > MAX_CHARS:
            return CallProblem(f"the calls are longer than {MAX_CHARS} characters")
        try:
            return Calls(tuple(read_python(body, MAX_DEPTH)), "")
        except NotACall as problem:
            return CallProblem(f"{problem}; wanted [f(a=1), g(b='x')]")

    def render(self, calls: Sequence[ToolCall]) -> str:
        """As ``CallFormat.render``."""
        return f"[{', '.join(_python(call) for call in calls)}]" if calls else ""

    def respond(self, results: Sequence[tuple[str, str]]) -> str:
        """A line a result: {"name", "result"}."""
        return _json_lines(results)


def _python(call: ToolCall) -> str:
    for name in (*call.name.split("."), *call.arguments):
        if not name.isidentifier() or keyword.iskeyword(name) or unicodedata.normalize("NFKC", name) != name:
            raise ConfigError(f"the call {call.name}(…) cannot be written in Python: {name!r} is no name there")
    _dumped(call)  # what is no JSON is no literal of ours
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


FORMATS: Mapping[str, Callable[[], CallFormat]] = {"hermes": Hermes, "json": JsonCalls, "python": PythonCalls}


def call_format(name: str) -> CallFormat:
    """The format of that name. Raises ConfigError where there is none."""
    if name not in FORMATS:
        raise ConfigError(f"no format of tool calls is called '{name}'.{did_you_mean(name, FORMATS)}")
    return FORMATS[name]()


def _after_blanks(text: str, place: int) -> int:
    match: Any = _BLANKS.match(text, place)
    return match.end()


def _without_thoughts(text: str) -> str:
    """The text behind the thoughts that it begins with. (Behind them, a tag may stand in an argument.)"""
    text = text.strip()
    while text.startswith("<think>"):
        text = _THOUGHT.sub("", text, count=1).strip()
    return text


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"
