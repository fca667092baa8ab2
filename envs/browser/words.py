"""The words that pages are filled with. The second half of every row is held out: only ``valid_unseen`` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

_ROWS = {
    "name": """
        Anna Ben Carla David Emma Farid Grace Hugo Ines Jonas Kira Leo Mina Nora Omar Paula Quinn Rosa Selma Tariq
        Ulla Viktor Wanda Yusuf
    """,
    "city": "Oslo Paris Rome Lima Cairo Delhi Quito Riga Porto Basel Kyoto Dakar Turin Vienna Boston Sofia",
    "food": """
        bread milk tea rice eggs salt honey apples cheese butter beans pears plums flour onions olives lemons pepper
        carrots yogurt pasta coffee sugar garlic mustard grapes oats spinach noodles lentils walnuts cherries melons
        peaches radish celery parsley basil thyme cumin ginger vinegar syrup jam cocoa cream tofu corn peas leeks
        dates figs limes soup crackers cereal
    """,
    "thing": "lamp chair clock mirror kettle pillow basket shelf vase rug mug stool candle desk towel bench",
    "colour": "red blue green black white yellow brown grey pink orange purple silver",
    "topic": """
        lunch budget travel meeting invoice party report garden holiday concert moving training parking weather
        football dentist contract recipe photos museum piano survey tickets wedding passport laundry
    """,
    "answer": "yes no thanks later sorry agreed maybe tomorrow welcome done never soon",
    "setting": """
        alarm sounds images colours backup updates sharing history cookies captions zoom mouse camera printer keyboard
        location
    """,
    "tab": "General Sound Screen Mail Network Privacy Storage Account Help Power Fonts Users",
    "press": "Reset Start Stop Export Import Print Repair Restore Resume Refresh Sync Test",
    "field": """
        Name City Street Company Title Team Country Nickname Church School Guest Village Hobby Hotel Doctor Office
        River Bank Pet Island Teacher Song Station Club
    """,
    "choice": "Colour Paint Cover Ink Lining Handle Frame Lid",
    "speed": "express normal pickup courier post drone bicycle train",
}
ROWS: dict[str, tuple[str, ...]] = {row: tuple(words.split()) for row, words in _ROWS.items()}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOURS = ("eight", "nine", "ten", "eleven", "noon", "two", "three", "four")


class Words:
    """The words that a split may use, drawn with ``random``."""

    def __init__(self, random: Random, *, unseen: bool) -> None:
        self.random, self.unseen = random, unseen

    def some(self, row: str, n: int) -> list[str]:
        """n different words of a row; of a short row as many as it has."""
        known = self.known(row)
        return self.random.sample(known, min(n, len(known)))

    def known(self, row: str) -> tuple[str, ...]:
        """All words of a row that the split may use."""
        words = ROWS[row]
        kept = len(words) // 2
        return words[kept:] if self.unseen else words[:kept]


def every() -> Iterator[str]:
    """Every word."""
    for row in (*ROWS.values(), DAYS, HOURS):
        yield from row
