"""How large pages are, and how much is asked."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Level:
    """Ranges of numbers (least, most): ``fields`` of a form, ``entries`` of a list, ``items`` of a table, an inbox, a shop or a
    week, ``asked`` changes that a task asks for; ``tabs`` a page has; ``shown`` items of a page before one turns it, and twice
    as many entries of a list before one scrolls; whether a dialog asks before anything ends (``confirm``); and how many turns a
    task may take.
    """

    fields: Span
    entries: Span
    items: Span
    asked: Span
    tabs: int
    shown: int
    confirm: bool
    max_turns: int


LEVELS = {
    "tiny": Level(
        fields=(2, 3), entries=(2, 3), items=(2, 3), asked=(1, 2), tabs=2, shown=20, confirm=False, max_turns=8
    ),
    "small": Level(
        fields=(3, 5), entries=(4, 6), items=(4, 6), asked=(1, 3), tabs=3, shown=20, confirm=False, max_turns=12
    ),
    "medium": Level(
        fields=(4, 6), entries=(8, 12), items=(7, 12), asked=(2, 4), tabs=4, shown=20, confirm=True, max_turns=20
    ),
    "full": Level(
        fields=(6, 9), entries=(18, 26), items=(10, 12), asked=(2, 5), tabs=6, shown=6, confirm=True, max_turns=30
    ),
}
