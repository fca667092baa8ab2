from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms.scores.judge import grade_of
from agentrl.chat.parser import ActionFormat, VerlAgentFormat
from agentrl.chat.tool_calls import Hermes, JsonCalls, PythonCalls
from agentrl.tags import all_pairs, first_pair
from agentrl.tool_env import ToolEnv
from agentrl.types import Reply

texts = st.lists(st.sampled_from(["<a>", "</a>", "<b>", "</b>", "<", "x", "\n", "<a"])).map("".join)


@given(texts, st.integers(0, 5))
def test_first_pair_is_what_the_expression_finds(text: str, start: int) -> None:
    match = re.compile(r"<(a|b)>(.*?)</\1>", re.DOTALL).search(text, start)
    assert first_pair(text, "a", "b", start=start) == (match and (match[1], match[2], *match.span()))


@given(texts)
def test_all_pairs_are_what_the_expression_finds(text: str) -> None:
    matches = re.finditer(r"<(a)>(.*?)</a>", text, re.DOTALL)
    assert list(all_pairs(text, "a")) == [(match[1], match[2], *match.span()) for match in matches]


def played(text: str) -> Any:
    env = ToolEnv(tasks={"train": [{"prompt": "?"}]}, score=lambda task, answer, calls: 1.0)
    env.reset(seed=0)
    return env.step(text)


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "actions": (ActionFormat().parse, "<action>"),
    "thoughts": (ActionFormat(think_tags=True).parse, "<think>"),
    "verl-agent's actions": (VerlAgentFormat().parse, "<think>"),
    "answers": (played, "<answer>"),
    "grades": (lambda text: grade_of(Reply(text=text, finish="stop")), "<score>"),
    "hermes": (Hermes().parse, "<think></think>"),
    "fences": (JsonCalls().parse, "x\n```json" + " " * 10),
    "lists": (PythonCalls().parse, "[f(a='"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_text_of_openings_takes_no_longer_than_any_other(name: str) -> None:
    """An expression that begins anew at each opening takes minutes."""
    read, opening = READERS[name]
    started = time.process_time()
    read(opening * (1_000_000 // len(opening)))
    assert time.process_time() - started < 5


def test_blanks_behind_a_fence_take_no_time() -> None:
    started = time.process_time()
    JsonCalls().parse("```" + " " * 90_000 + "x")
    assert time.process_time() - started < 5
