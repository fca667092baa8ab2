"""From a sampled completion to an action: optional thoughts in ``<think>``, the action in ``<action>…</action>``.

>>> ActionFormat().parse("<think>hot?</think><action>go to sinkbasin 1</action>")
Parsed(action='go to sinkbasin 1', thought='hot?', problem='')
>>> ActionFormat().parse("go to sinkbasin 1").problem
'no <action>…</action> found'
>>> ActionFormat(action_tags=False).parse("look").action
'look'

A generation prompt may itself open ``<think>``: what is parsed is then that opening and the completion behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentrl.tags import first_pair

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_HAN = re.compile("[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Parsed:
    """``action`` is what the environment gets; ``problem`` says what is wrong with the completion ("": nothing)."""

    action: str
    thought: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ActionFormat:
    """How an action stands in a completion.

    ``action_tags``: the action must stand in ``<action>`` tags (the first complete pair after the first thought and outside
    of further ones counts); otherwise all that is not a thought is the action. ``think_tags``: a ``<think>`` block is
    required. A thought that is not closed reaches to the end. A completion with a problem gives no action.
    """

    action_tags: bool = True
    think_tags: bool = False

    only_admissible = True  # an action that the environment does not list is invalid, too

    def parse(self, text: str) -> Parsed:
        """Never raises: a completion that does not fit is data."""
        thought = first_pair(text, "think")
        if self.think_tags and thought is None:
            return Parsed("", problem="no <think>…</think> found")
        thinking = thought.inside.strip() if thought else ""
        if not self.action_tags:
            action = _THOUGHTS.sub("", text).strip()
            return Parsed(action, thinking, "" if action else "the completion is empty")
        match = first_pair(_THOUGHTS.sub("", text[thought.end :] if thought else text), "action")
        if match is None:
            return Parsed("", thinking, "no <action>…</action> found")
        action = match.inside.strip()
        return Parsed(action, thinking, "" if action else "<action> is empty")

    def pieces(self, action: str, thought: str = "", *, opened: bool = False) -> list[tuple[str, bool]]:
        """A completion that ``parse`` reads back, as (text, is_markup): what a demonstration is written with. ``opened``:
        the prompt ends inside a thought, which the completion then closes."""
        parts: list[tuple[str, bool]] = []
        if self.think_tags or thought or opened:
            parts += [*([] if opened else [("<think>", True)]), (thought, False), ("</think>", True)]
        if self.action_tags:
            return [*parts, ("<action>", True), (action, False), ("</action>", True)]
        return [*parts, (action, False)]


@dataclass(frozen=True)
class VerlAgentFormat(ActionFormat):
    """The reading of completions in verl-agent's released code for ALFWorld, for runs that are compared with it.

    The action is what stands between the first ``<action>`` and the first ``</action>``, wherever they stand, in lower case;
    where a tag is missing, the last 30 characters of the completion. It is played in any case. The turn is valid where both
    pairs of tags are there and no Han character is; whether the environment lists the action does not matter.

    >>> VerlAgentFormat().parse("I open it: Open Fridge 1")
    Parsed(action='i open it: open fridge 1', thought='', problem='no <action>…</action> found')
    """

    action_tags: bool = True
    think_tags: bool = True

    only_admissible = False

    def parse(self, text: str) -> Parsed:
        """Never raises."""
        thought = first_pair(text, "think")
        thinking = thought.inside.strip() if thought else ""
        lower = text.lower()
        first, last = lower.find("<action>"), lower.find("</action>")
        if first < 0 or last < 0:
            return Parsed(lower[-30:], thinking, "no <action>…</action> found")
        action = lower[first + len("<action>") : last].strip()
        if "<think>" not in text or "</think>" not in text:
            return Parsed(action, thinking, "no <think>…</think> found")
        return Parsed(action, thinking, "a Han character in the completion" if _HAN.search(text) else "")
