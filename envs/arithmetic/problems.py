"""Word problems from seeds: sentences about who has how many of what, the expression that they mean, and its value.

>>> task("tiny", "train", 0).reference["expression"]
'10 * 5'

A task is a pure function of level, split and number; ``options["prompt"]`` is the problem, ``reference`` {"expression", "value"}.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from agentrl.env import SPLITS, LazyTasks
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.seeding import stable_hash
from agentrl.tools.calculator import calculator
from agentrl.types import Task

SIZES = {"train": 50_000, "valid_seen": 2_000, "valid_unseen": 2_000}
ATTEMPTS = 1_000
# The last of each row are held out: only valid_unseen has them, and each of its tasks has a held-out thing and a held-out person.
PEOPLE = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Leo")
THINGS = (
    "apples",
    "books",
    "coins",
    "cards",
    "marbles",
    "nails",
    "pens",
    "shells",
    "stamps",
    "stones",
    "tickets",
    "tiles",
)
HELD_OUT = 3
PLAIN = ("{who} has {a} {things}.", "There are {a} {things} on the table of {who}.")
BOXES = ("{who} has {a} boxes of {b} {things}.", "{who} fills {a} bags with {b} {things} each.")
MORE = ("{who} buys {a} more.", "{other} gives {who} {a} of them.", "{who} finds another {a}.")
FEWER = ("{who} loses {a}.", "{who} gives {a} to {other}.", "{who} sells {a} of them.")
MORE_BOXES = ("{who} buys {a} boxes of {b} more.", "{other} brings {a} boxes of {b} more.")
FEWER_BOXES = ("{who} sells {a} boxes of {b}.", "{who} gives away {a} boxes of {b}.")
ASIDE = ("{other} is {a} years old.", "It is {a} minutes past noon.")
HOW_MANY = "How many {things} does {who} have now?"
PILES = "{who} makes {a} equal piles. How many {things} are in each?"


@dataclass(frozen=True)
class Level:
    """How hard a problem is: sentences that change the number (least, most), the largest number written, the largest value,
    whether boxes come later too, whether it may end in equal piles, and sentences that mean nothing."""

    steps: tuple[int, int]
    largest: int
    value: int
    boxes: bool
    piles: bool
    asides: int


LEVELS = {
    "tiny": Level(steps=(0, 1), largest=12, value=60, boxes=False, piles=False, asides=0),
    "easy": Level(steps=(1, 3), largest=20, value=499, boxes=True, piles=False, asides=0),
    "medium": Level(steps=(2, 4), largest=50, value=1_999, boxes=True, piles=True, asides=1),
    "full": Level(steps=(4, 6), largest=99, value=9_999, boxes=True, piles=True, asides=2),
}


class Tasks(LazyTasks):
    """The tasks of a level and a split, each made when it is asked for. Raises ConfigError for an unknown level."""

    def __init__(self, level: str, split: str) -> None:
        if level not in LEVELS:
            raise ConfigError(f"no level of Arithmetic is called '{level}'.{did_you_mean(level, LEVELS)}")
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        self.level, self.split = level, split

    def __len__(self) -> int:
        return SIZES[self.split]

    def make(self, place: int) -> Task:
        return task(self.level, self.split, place)

    def __repr__(self) -> str:
        return f"Tasks({self.level!r}, {self.split!r})"


def task_by_id(task_id: str) -> Task:
    """The generated task of that id. Raises GameError where there is none."""
    parts = task_id.split("/")
    if len(parts) == 3 and parts[0] in LEVELS and parts[1] in SPLITS and parts[2].isascii() and parts[2].isdecimal():
        number = int(parts[2][:9])
        if number < SIZES[parts[1]] and str(number) == parts[2]:
            return task(parts[0], parts[1], number)
    raise GameError(f"no task '{task_id[:80]}' in Arithmetic; ids are like tiny/train/0")


@functools.lru_cache(maxsize=8192)
def task(level: str, split: str, number: int) -> Task:
    """The task of that number. An expression of ``train`` is in no other split: they are kept apart by its hash."""
    for attempt in range(ATTEMPTS):
        random = Random(stable_hash("arithmetic", level, split, number, attempt))
        text, expression, value = _Writer(LEVELS[level], split == "valid_unseen", random).write()
        if 0 < value <= LEVELS[level].value and held_out(expression) == (split != "train"):
            return Task(
                id=f"{level}/{split}/{number}",
                seed=number,
                type="piles" if "//" in expression else "boxes" if "*" in expression else "sum",
                split=split,
                options={"prompt": text},
                reference={"expression": expression, "value": value},
                max_turns=6,
            )
    raise GameError(f"no task {number} of '{level}' has a small value; {ATTEMPTS} attempts")


def held_out(expression: str) -> bool:
    """Whether an expression is kept for the two validation splits: a quarter is."""
    return stable_hash("arithmetic", expression) % 4 == 0


class _Writer:
    """A problem in the making."""

    def __init__(self, level: Level, unseen: bool, random: Random) -> None:
        self.level, self.random = level, random
        known = [names[-HELD_OUT:] if unseen else names[:-HELD_OUT] for names in (PEOPLE, THINGS)]
        self.who, self.other = random.sample(known[0], 2)
        self.things = random.choice(known[1])
        self.sentences: list[str] = []

    def write(self) -> tuple[str, str, int]:
        """The problem, its expression and its value; 0 for a problem that has no sensible one."""
        n_steps = self.random.randint(*self.level.steps)
        expression = self._first(with_boxes=n_steps == 0 or self.random.random() < 0.5)
        lowest = value = int(calculator(expression))
        for _ in range(n_steps):
            expression += self._step()
            value = int(calculator(expression))
            lowest = min(lowest, value)
        for _ in range(self.random.randint(0, self.level.asides)):
            self._say(ASIDE, self.random.randint(1, len(self.sentences)))
        piles = self.random.randint(2, 9)
        if self.level.piles and value % piles == 0:
            expression, value = f"({expression}) // {piles}", value // piles
            self.sentences.append(self._filled(PILES, piles))
        else:
            self.sentences.append(self._filled(HOW_MANY))
        return " ".join(self.sentences), expression, value if lowest > 0 else 0

    def _first(self, *, with_boxes: bool) -> str:
        numbers = self._say(BOXES if with_boxes else PLAIN)
        return " * ".join(map(str, numbers))

    def _step(self) -> str:
        """A further sentence; what it puts behind the expression."""
        kinds = [(" + ", MORE), (" - ", FEWER)]
        if self.level.boxes:
            kinds += [(" + ", MORE_BOXES), (" - ", FEWER_BOXES)]
        sign, wordings = self.random.choice(kinds)
        return sign + " * ".join(map(str, self._say(wordings)))

    def _say(self, wordings: Sequence[str], place: int | None = None) -> list[int]:
        """Adds a sentence at that place (None: at the end); the numbers in it."""
        wording = self.random.choice(wordings)
        numbers = [
            self.random.randint(2, self.level.largest) for _ in range(wording.count("{a}") + wording.count("{b}"))
        ]
        self.sentences.insert(len(self.sentences) if place is None else place, self._filled(wording, *numbers))
        return numbers

    def _filled(self, wording: str, *numbers: int) -> str:
        named = dict(zip("ab", numbers, strict=False))
        return wording.format(who=self.who, other=self.other, things=self.things, **named)


def texts(level: Level) -> Iterator[str]:
    """Texts that hold every word of a level's problems."""
    wordings = (*PLAIN, *BOXES, *MORE, *FEWER, *MORE_BOXES, *FEWER_BOXES, *ASIDE, HOW_MANY, PILES)
    for who, things in itertools.zip_longest(PEOPLE, THINGS, fillvalue=""):
        for wording in wordings:
            text = wording.format(who=who, other=who, things=things, a=1, b=1)
            yield from (text, f" {text}")
    for number in range(max(level.value, level.largest**2) + 1):
        yield f"{number} {number}"
