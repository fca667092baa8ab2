"""OpenAI's chat-completions protocol, read with mistrust: pure functions from an HTTP answer to a ``Reply`` or to the reason
why there is none.

What is tried again (``Unanswered``): 408, 425, 429 and every 5xx but 501 and 505, answers that are no JSON or of another
shape, and an error inside a 200. What is not (``Rejected``): every other status, above all 400, 401, 403 and 404, and a 429 that
speaks of an empty account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from agentrl.types import Finish, Json, Reply

FILTERED = ("content_filter", "content_policy_violation", "invalid_prompt")  # error codes of a filter before the model
TOO_LONG = ("context_length_exceeded", "maximum context length", "string_above_max_length")  # codes, and what texts say
NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
FINISHES: dict[str, Finish] = {"length": "length", "content_filter": "abort"}
SHOWN = 300  # characters of an endpoint's own words in an error


class Unanswered(Exception):
    """A try that brought no reply and may be repeated, after ``wait_s`` where the endpoint said how long."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class Rejected(Exception):
    """A request that the endpoint would refuse again. ``kind``: "filtered", "too_long" or ""."""

    def __init__(self, problem: str, status: int, kind: str = "") -> None:
        super().__init__(problem)
        self.status = status
        self.kind = kind


def read_reply(status: int, headers: Mapping[str, str], text: str, now: float) -> Reply:
    """The reply in an HTTP answer; ``now`` (seconds since 1970) is for dates in Retry-After.

    Raises Unanswered or Rejected, nothing else, whatever the endpoint wrote.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not 200 <= status < 300:
        raise _refusal(status, data, text, retry_after(headers, now))
    if data is None:
        raise Unanswered(f"the answer is no JSON: {shown(text)}")
    error = data.get("error") if isinstance(data, dict) else None
    if error and not data.get("choices"):  # a gateway's way to pass an error on
        code = error.get("code") if isinstance(error, dict) else None
        inner = code if type(code) is int and 400 <= code < 600 else 500
        raise _refusal(inner, data, text, retry_after(headers, now))
    return _reply(data, text)


def shown(text: str) -> str:
    """An endpoint's words on one line, cut."""
    line = " ".join(clean(text).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def clean(value: Any) -> str:
    """A text that can be written as UTF-8; anything else is ""."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that Retry-After (a number or a date, RFC 9110 10.2.3) or retry-after-ms asks to wait; None where there is none
    that can be read."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, OverflowError, OSError):
        return None


def _refusal(status: int, data: Json, text: str, wait_s: float | None) -> Unanswered | Rejected:
    error = data.get("error", data) if isinstance(data, dict) else None
    found = error if isinstance(error, dict) else {"message": error}
    words = shown(clean(found.get("message")) or clean(found.get("detail")) or text)
    problem = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    codes = (found.get("code"), found.get("type"))
    if any(code in NO_CREDIT for code in codes):
        return Rejected(problem, status)
    if status in (408, 425, 429) or (500 <= status < 600 and status not in (501, 505)):
        return Unanswered(problem, wait_s)
    if any(code in FILTERED for code in codes):
        return Rejected(words, status, "filtered")
    if status == 413 or any(sign in f"{codes} {words}" for sign in TOO_LONG):
        return Rejected(problem, status, "too_long")
    return Rejected(problem, status)


def _reply(data: Any, text: str) -> Reply:
    try:
        choice = data["choices"][0]
        message = choice["message"]
        given = message.get("content")
        calls = message.get("tool_calls") or ()
        if not isinstance(given, (str, list, type(None))) or not isinstance(calls, (list, tuple)):
            raise TypeError
        content, thoughts = _parts(given)
        reasoning = thoughts or clean(message.get("reasoning_content")) or clean(message.get("reasoning"))
        finish = choice.get("finish_reason")
        usage = data.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            text=content,
            reasoning=reasoning,
            refusal=clean(message.get("refusal")),
            tool_calls=tuple(dict(call) for call in calls),
            finish=FINISHES.get(finish, "stop") if isinstance(finish, str) else "stop",
            n_prompt=_count(usage.get("prompt_tokens")),
            n_completion=_count(usage.get("completion_tokens")),
            n_cached=_count(details.get("cached_tokens")) or 0,
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise Unanswered(f"the answer holds no choices[0].message: {shown(text)}") from None


def _parts(content: str | list[Any] | None) -> tuple[str, str]:
    """Text and thoughts of a content that may be a list of parts."""
    if not isinstance(content, list):
        return clean(content), ""
    texts = [clean(part.get("text")) for part in content if part.get("type") in ("text", "output_text")]
    thoughts = [_parts(part.get("thinking"))[0] for part in content if part.get("type") == "thinking"]
    return "".join(texts), "".join(thoughts)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
