"""What of the past an agent shows to the model.

``window``: every turn is rendered anew from the last k turns: the prompt stays short, each turn is a sample of its own.
``append``: the prompt grows behind what was sampled: one sample an episode, nothing is ever rendered twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agentrl.agents.template import check_template
from agentrl.registry import register


@register("memory", "window")
@dataclass(frozen=True)
class Window:
    """The last ``turns`` turns as a text, oldest first; ``item`` is the format of one past turn, with the fields
    ``number`` (from 1), ``observation`` and ``action``. ``header`` stands before them, with the fields ``taken`` (how many turns
    lie behind) and ``shown`` (how many of them follow). ``empty`` stands where there is nothing to show.

    >>> Window(turns=2, item="> {action}\\n").history([("a room", "look"), ("a box", "open box 1"), ("in it", "look")])
    '> open box 1\\n> look\\n'
    """

    turns: Annotated[int, Field(ge=0)] = 2
    item: str = "Observation {number}: {observation}\nAction {number}: {action}\n"
    empty: str = ""
    header: str = ""

    appends = False

    def __post_init__(self) -> None:
        check_template("agent.memory.item", self.item, ("number", "observation", "action"))
        check_template("agent.memory.header", self.header, ("taken", "shown"))

    def history(self, past: list[tuple[str, str]]) -> str:
        """``past`` holds (observation, action) of every earlier turn."""
        first = max(0, len(past) - self.turns)
        texts = [
            self.item.format(number=number + 1, observation=past[number][0].strip(), action=past[number][1])
            for number in range(first, len(past))
        ]
        if not texts:
            return self.empty
        return self.header.format(taken=len(past), shown=len(texts)) + "".join(texts)


@register("memory", "append")
@dataclass(frozen=True)
class Append:
    """The conversation itself: the first turn shows the full prompt, each later one adds ``next`` as a user message.

    ``next`` may name any field of the prompt template.
    """

    next: str = "{observation}"

    appends = True

    def history(self, past: list[tuple[str, str]]) -> str:
        """Empty: the past stands in the conversation."""
        return ""
