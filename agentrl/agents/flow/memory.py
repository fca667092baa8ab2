"""AgentFlow's memory: what was done in this episode and what came of it, bounded in tokens.

>>> memory = Memory()
>>> memory.steps.append(Step(tool="search", sub_goal="Mara Velden", result="Mara Velden is a pilot."))
>>> print(memory.text(100, count=len, template="{number} {tool} {sub_goal}: {result}"))
1 search Mara Velden: Mara Velden is a pilot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

MARK = " … {n} characters were cut … "


@dataclass(slots=True)
class Step:
    """One step: the tool and the sub-goal that the planner named, the command, and the result that the next observation brought.
    ``failed``: nothing could be run, or what was run gave an error."""

    tool: str = ""
    sub_goal: str = ""
    command: str = ""
    result: str = ""
    failed: bool = False


@dataclass(slots=True)
class Memory:
    """The steps of one episode, oldest first."""

    steps: list[Step] = field(default_factory=list)

    def text(self, budget: int, *, count: Callable[[str], int], template: str, result_budget: int | None = None) -> str:
        """All steps, a line or more each, in at most ``budget`` tokens as ``count`` counts them; first each result is cut to
        ``result_budget``. ``template`` has the fields ``number``, ``tool``, ``sub_goal``, ``command`` and ``result``. What is too
        long is cut in its middle, where a mark says so."""
        whole = "".join(self._lines(template, result_budget or budget, count))
        return cut_middle(whole, budget, count)

    def _lines(self, template: str, most: int, count: Callable[[str], int]) -> list[str]:
        return [
            template.format_map(
                {**{k: str(v) for k, v in asdict(step).items()}, "number": str(number)}
                | {"result": cut_middle(step.result, most, count)}
            )
            for number, step in enumerate(self.steps, 1)
        ]

    def facts(self) -> list[dict[str, Any]]:
        """The steps as plain dictionaries, whole."""
        return [asdict(step) for step in self.steps]


def cut_middle(text: str, budget: int, count: Callable[[str], int]) -> str:
    """The text where it has at most ``budget`` tokens, else its beginning and its end with a mark between them that says how much
    is missing; "" where not even the mark has room.

    >>> cut_middle("abcdefghij" * 10, 40, len)
    'abcdef … 88 characters were cut … efghij'
    """
    if count(text) <= budget:
        return text
    low, high = -1, len(text) - 1  # the most characters that may stay; -1: none, not even the mark
    while low < high:
        middle = (low + high + 1) // 2
        if count(_without_middle(text, middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return "" if low < 0 else _without_middle(text, low)


def _without_middle(text: str, n: int) -> str:
    """``n`` characters of the text, half of them from its end, and the mark."""
    tail = n // 2
    return text[: n - tail] + MARK.format(n=len(text) - n) + (text[-tail:] if tail else "")
