"""From a sampled completion to an action: optional thoughts in ``<think>``, the action in ``<action>…</action>``.

>>> ActionFormat().parse("<think>hot?</think><action>go to sinkbasin 1</action>")
Parsed(action='go to sinkbasin 1', thought='hot?', problem='')
>>> ActionFormat().parse("go to sinkbasin 1").problem
'no <action>…</action> found'
>>> ActionFormat(action_tags=False).parse("look").action
'look'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parsed:
    """``action`` is "" where none was found; then ``problem`` says why."""

    action: str
    thought: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ActionFormat:
    """How an action stands in a completion.

    ``action_tags``: the action must stand in ``<action>`` tags (the first complete pair after the first thought and outside
    of further ones counts); otherwise all that is not a thought is the action. ``think_tags``: a ``<think>`` block is
    required. A thought that is not closed reaches to the end.
    """

    action_tags: bool = True
    think_tags: bool = False

    def parse(self, text: str) -> Parsed:
        """Never raises: a completion that does not fit is data."""
        thought = _THINK.search(text)
        if self.think_tags and thought is None:
            return Parsed("", problem="no <think>…</think> found")
        thinking = thought.group(1).strip() if thought else ""
        if not self.action_tags:
            action = _THOUGHTS.sub("", text).strip()
            return Parsed(action, thinking, "" if action else "the completion is empty")
        match = _ACTION.search(_THOUGHTS.sub("", text[thought.end() :] if thought else text))
        if match is None:
            return Parsed("", thinking, "no <action>…</action> found")
        action = match.group(1).strip()
        return Parsed(action, thinking, "" if action else "<action> is empty")

    def pieces(self, action: str, thought: str = "") -> list[tuple[str, bool]]:
        """A completion that ``parse`` reads back, as (text, is_markup): what a demonstration is written with."""
        parts: list[tuple[str, bool]] = []
        if self.think_tags or thought:
            parts += [("<think>", True), (thought, False), ("</think>", True)]
        if self.action_tags:
            return [*parts, ("<action>", True), (action, False), ("</action>", True)]
        return [*parts, (action, False)]
