"""Pairs of tags in a text that a model wrote.

>>> first_pair("I look. <search> Oslo </search> <answer> 1 </answer>", "answer", "search")
Pair(name='search', inside=' Oslo ', start=8, end=31)
>>> [pair.inside for pair in all_pairs("<answer>1</answer> or <answer>2</answer>", "answer")]
['1', '2']

They are what ``<(name)>(.*?)</\\1>`` finds. That expression reads a text of openings that nothing closes once for each of
them: minutes for a long one. Here the time grows with the text's length only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Pair(NamedTuple):
    """A pair of tags: its name, what stands inside, and the places where it begins and ends."""

    name: str
    inside: str
    start: int
    end: int


def first_pair(text: str, *names: str, start: int = 0) -> Pair | None:
    """The first complete pair of tags of one of the names, from ``start`` on; None where there is none."""
    last = {name: text.rfind(f"</{name}>") for name in names}
    for opening in re.compile(f"<({'|'.join(map(re.escape, names))})>").finditer(text, start):
        name, inside = opening[1], opening.end()
        if last[name] >= inside:
            end = text.find(f"</{name}>", inside)
            return Pair(name, text[inside:end], opening.start(), end + len(f"</{name}>"))
    return None


def all_pairs(text: str, name: str) -> Iterator[Pair]:
    """The complete pairs of tags of that name, one behind the other."""
    opening, closing, place = f"<{name}>", f"</{name}>", 0
    while (start := text.find(opening, place)) >= 0:
        inside = start + len(opening)
        end = text.find(closing, inside)
        if end < 0:
            return
        place = end + len(closing)
        yield Pair(name, text[inside:end], start, place)
