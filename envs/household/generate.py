"""Houses drawn from a seed, with what real ALFWorld houses hold and where they keep it.

>>> tiny = tasks("tiny", "train")
>>> len(tiny), tiny[17].id
(100000, 'household-tiny-train-17')
>>> house(tiny[17]) == house(task_by_id("household-tiny-train-17"))
True

``priors.json`` (see ``make_priors.py``) says which receptacles a room has and where an item is found. Levels are tiny, easy,
medium (halfway to a real room) and full (as large as real rooms of 13 and more receptacles: up to 54). A house is a pure
function of its ``Task``. The splits differ by rule, not by chance:

- (item kind, target kind) pairs: a stable hash puts each on one side; ``valid_unseen`` has one side, the others share
  the other. Layouts (room and multiset of receptacle kinds): the same.
- ``train`` and ``valid_seen`` draw from the same pairs and layouts; the hash of the finished house says whose it is.

Every goal can be reached and none is true at the start. Items lie only where they may be put back, so no ``take`` is a
dead end.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Literal, cast

from agentrl.env import LazyTasks
from agentrl.envs.household import rooms
from agentrl.envs.household.house import TASK_TYPES, Goal, House, Receptacle, TaskType
from agentrl.envs.household.rooms import LAMP, Placed, Random, can_contain, in_kind, one, priors, weighted
from agentrl.errors import GameError, did_you_mean
from agentrl.seeding import seed, stable_hash, stream
from agentrl.types import Task

SPLIT_SIZES = {"train": 100_000, "valid_seen": 1_000, "valid_unseen": 1_000}
PROCESSORS = {  # task type -> (property that the item needs, receptacle kind that gives it)
    "pick_clean_then_place_in_recep": ("cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("coolable", "Fridge"),
}
SHORT = {  # task type -> its name inside a task id
    "pick_and_place_simple": "pick",
    "look_at_obj_in_light": "look",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "two",
}
HELD_OUT_PAIRS, HELD_OUT_LAYOUTS, SEEN_HOUSES = 5, 4, 4  # one in so many is held out
COMMON = 0.05  # a receptacle kind that fewer rooms have is no target
ATTEMPTS = 2_000
_ID = re.compile(r"household-([a-z]+)-(train|valid_seen|valid_unseen)(?:-([a-z+]+))?-(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Level:
    """How large houses are and what is in them. Numbers are (least, most)."""

    receptacles: tuple[int, int]
    items: tuple[int, int]  # that can be picked up; a lamp comes on top
    real: float = (
        0.0  # how far the sizes go from there to a real room's: 0 stays; 1 is a real room of at least that size
    )
    kinds: frozenset[str] = frozenset()  # item kinds in use; empty: all that the room has
    repeats: float = 0.0  # share of further items whose kind is in the house already
    shared: float = 0.0  # chance of a receptacle to be reached from the place of another that it may share it with
    in_target: float = 0.05  # chance of a sought item to lie in the target: unclean, say, or one of two


# fmt: off
_TINY_KINDS = frozenset({
    "Apple", "Bread", "Cup", "Egg", "Mug", "Plate", "Potato", "Spoon",
    "Book", "CD", "CellPhone", "CreditCard", "KeyChain", "Laptop", "Pen", "Pillow",
    "Candle", "Cloth", "SoapBar", "ToiletPaper",
})
# fmt: on
LEVELS: dict[str, Level] = {
    "tiny": Level(receptacles=(6, 6), items=(4, 4), kinds=_TINY_KINDS),
    "easy": Level(receptacles=(8, 10), items=(9, 11), repeats=0.3, shared=0.15),
    "medium": Level(receptacles=(10, 12), items=(11, 13), real=0.5, shared=0.18),
    "full": Level(receptacles=(13, 13), items=(12, 12), real=1.0, shared=0.18),
}


@dataclass(frozen=True, slots=True)
class _Choice:
    """A goal that a room allows: what is sought, where it goes, and where it may be found."""

    room: str
    item: str
    target: str  # receptacle kind; for a lamp goal ""
    sources: tuple[str, ...]
    weights: tuple[float, ...]  # running sums


class TaskList(LazyTasks):
    """The tasks of one level and split, made when asked for. ``task_types`` cycle."""

    def __init__(self, level: str, split: str, task_types: tuple[TaskType, ...]) -> None:
        self.level, self.split, self.task_types = level, split, task_types
        names = "" if task_types == TASK_TYPES else "+".join(SHORT[t] for t in task_types) + "-"
        self._prefix = f"household-{level}-{split}-{names}"

    def __len__(self) -> int:
        return SPLIT_SIZES[self.split]

    def make(self, place: int) -> Task:
        kind = self.task_types[place % len(self.task_types)]
        return Task(
            id=f"{self._prefix}{place}",
            seed=seed(0, "household", self.level, self.split, kind, place),
            type=kind,
            split=self.split,
            options={
                "level": self.level,
                "split": self.split,
                "index": place,
                "task_types": list(self.task_types),
            },
        )

    def __repr__(self) -> str:
        return f"TaskList({self.level!r}, {self.split!r}, {self.task_types!r})"


def tasks(level: str, split: str, task_types: Sequence[str] | None = None) -> Sequence[Task]:
    """The tasks of a level and split, lazily; all six task types, or the given ones (their order does not matter).

    Raises GameError for an unknown level, split or task type.
    """
    _known(level, LEVELS, "level")
    _known(split, SPLIT_SIZES, "split")
    for task_type in task_types or ():
        _known(task_type, TASK_TYPES, "task type")
    return TaskList(level, split, tuple(t for t in TASK_TYPES if not task_types or t in task_types))


def task_by_id(task_id: str) -> Task:
    """The task of an id that ``tasks`` gave. Raises GameError for any other."""
    match = _ID.fullmatch(task_id)
    if match and match[1] in LEVELS and int(match[4]) < SPLIT_SIZES[match[2]]:
        long = {name: task_type for task_type, name in SHORT.items()}
        types = [long.get(name, "") for name in match[3].split("+")] if match[3] else None
        if types is None or all(types):
            task = tasks(match[1], match[2], types)[int(match[4])]
            if task.id == task_id:
                return task
    raise GameError(f"no household task '{task_id}': wanted LEVEL-SPLIT-NUMBER as in 'household-tiny-train-17'")


def house(task: Task) -> House:
    """The house of a task of ``tasks``. Raises GameError for a task whose options are not of that form."""
    try:
        level, split, index = task.options["level"], task.options["split"], task.options["index"]
        rules, _ = LEVELS[level], SPLIT_SIZES[split]
        choices = _choices(level, task.type, split == "valid_unseen")
    except KeyError as error:
        raise GameError(f"task '{task.id}' has no generated house: {error} is missing or unknown") from error
    random = stream(task.seed, "household", level, split, task.type, index).random
    for _ in range(ATTEMPTS):
        drawn = _draw(rules, task, choices, random)
        if split == "valid_unseen" or (stable_hash("house", content(drawn)) % SEEN_HOUSES == 0) == (split != "train"):
            return drawn
    raise GameError(f"task '{task.id}': no house in {ATTEMPTS} attempts")


def content(house: House) -> str:
    """What a house holds and where, without its goal: two houses have equal texts where they differ in numbers only."""
    inside: list[list[str]] = [[] for _ in house.receptacles]
    for item in house.items:
        inside[item.within[0]].append(item.kind)
    spots: dict[int, list[str]] = {}
    for receptacle, kinds in zip(house.receptacles, inside, strict=True):
        door = "+" if receptacle.openable else ""
        spots.setdefault(receptacle.location, []).append(f"{receptacle.kind}{door}({','.join(sorted(kinds))})")
    return f"{house.room}: {' '.join(sorted('&'.join(sorted(spot)) for spot in spots.values()))}"


def layout(house: House) -> tuple[str, ...]:
    """The room and the sorted kinds of its receptacles: the family that is held out as a whole."""
    return (house.room, *sorted(r.kind for r in house.receptacles))


@lru_cache(maxsize=1 << 16)
def layout_held_out(family: tuple[str, ...]) -> bool:
    """True where a layout belongs to ``valid_unseen``."""
    return stable_hash("layout", *family) % HELD_OUT_LAYOUTS == 0


def pair_held_out(item: str, target: str) -> bool:
    """True where goals of this item kind and this target (or lamp) kind belong to ``valid_unseen``."""
    return stable_hash("pair", item, target) % HELD_OUT_PAIRS == 0


def _known(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise GameError(f"no {what} '{name}'.{did_you_mean(str(name), known)}")


@cache
def _room_items(level: str, room: str) -> dict[str, tuple[tuple[str, float], ...]]:
    """Item kinds of a room -> (receptacle kind, share) where they are found there and may be put back."""
    places, kinds, allowed = priors()["rooms"][room]["receptacles"], LEVELS[level].kinds, can_contain()
    found = {}
    for item in priors()["rooms"][room]["items"]:
        if not kinds or item in kinds:
            where = priors()["locations"].get(item, {}).items()
            found[item] = tuple((kind, share) for kind, share in where if kind in places and (kind, item) in allowed)
    return {item: where for item, where in found.items() if where}


@cache
def _choices(level: str, task_type: TaskType, held_out: bool) -> tuple[tuple[_Choice, ...], ...]:
    """The goals of one side of the held-out rule, grouped by room."""
    needs, appliance = PROCESSORS.get(task_type, ("", ""))
    rooms = []
    for room in priors()["task_rooms"][task_type]:
        known = priors()["rooms"][room]
        places = [kind for kind, (share, _, _) in known["receptacles"].items() if share >= COMMON and kind != appliance]
        if task_type == "look_at_obj_in_light":
            places = [""] if LAMP in known["lamps"] else []
        found = []
        for item, where in _room_items(level, room).items():
            if needs and item not in priors()["properties"][needs]:
                continue
            for place in places:
                if (place and (place, item) not in can_contain()) or pair_held_out(item, place or LAMP) != held_out:
                    continue
                sources = [(kind, weight) for kind, weight in where if kind != place]
                if sources:
                    weights = tuple(accumulate(weight for _, weight in sources))
                    found.append(_Choice(room, item, place, tuple(kind for kind, _ in sources), weights))
        if found:
            rooms.append(tuple(found))
    return tuple(rooms)


def _draw(rules: Level, task: Task, choices: Sequence[Sequence[_Choice]], random: Random) -> House:
    """One house with a goal of ``choices``, in a layout of the right side."""
    choice = one(one(choices, random), random)
    lamp_place = ""
    if not choice.target:
        known = priors()["rooms"][choice.room]["receptacles"]
        lamp_place = weighted([(k, w) for k, w in priors()["locations"][LAMP].items() if k in known], random)
    source = choice.sources[bisect(choice.weights, random() * choice.weights[-1], hi=len(choice.sources) - 1)]
    appliance = PROCESSORS.get(task.type, ("", ""))[1]
    needed = [kind for kind in dict.fromkeys((choice.target, appliance, source, lamp_place)) if kind]
    size = _size(rules, choice.room, "receptacles", random)
    held_out = task.options["split"] == "valid_unseen"
    fill = rooms.real_receptacle_kinds if rules.real else rooms.receptacle_kinds
    for _ in range(ATTEMPTS):
        kinds = sorted(fill(choice.room, needed, size, random), key=str.lower)
        if layout_held_out((choice.room, *sorted(kinds))) == held_out:
            break
    else:
        raise GameError(f"task '{task.id}': no layout in {ATTEMPTS} attempts")
    places = rooms.receptacles(kinds, rules.shared, random)
    placed = _sought(rules, task.type, choice, source, places, random)
    if lamp_place:
        placed.append((LAMP, in_kind(lamp_place, places, random)))
    (_real_others if rules.real else _others)(rules, task, choice, placed, places, random)
    return House(
        receptacles=places,
        items=rooms.items(placed, places),
        can_contain=can_contain(),
        start=max(place.location for place in places) + 1,
        goal=_goal(cast(TaskType, task.type), choice, random),
        room=choice.room,
        meta={"task": task.id, "level": task.options["level"]},
    )


def _size(rules: Level, room: str, what: Literal["receptacles", "items"], random: Random) -> int:
    """How many receptacles or items a house of that level has in such a room."""
    least, most = getattr(rules, what)
    small = rooms.between((least, most), random)
    if not rules.real:
        return small
    for _ in range(ATTEMPTS):
        real = rooms.real_size(room, what, random)
        if real >= least:
            return round(small + rules.real * (real - small))
    raise GameError(f"no real {room} has {least} {what}")


def _sought(
    rules: Level,
    task_type: str,
    choice: _Choice,
    source: str,
    places: Sequence[Receptacle],
    random: Random,
) -> Placed:
    """The item that the goal needs, twice for ``pick_two_obj_and_place``; at most one lies in the target."""
    first = (choice.item, in_kind(source, places, random))
    early = random() < rules.in_target
    if task_type != "pick_two_obj_and_place":
        if early and task_type in PROCESSORS:
            return [(choice.item, in_kind(choice.target, places, random))]
        return [first]
    if early:
        return [first, (choice.item, in_kind(choice.target, places, random))]
    here = {r.kind for r in places}
    shares = [b - a for a, b in zip((0.0, *choice.weights), choice.weights, strict=False)]
    known = [(kind, share) for kind, share in zip(choice.sources, shares, strict=True) if kind in here]
    return [first, (choice.item, in_kind(weighted(known, random), places, random))]


def _others(
    rules: Level, task: Task, choice: _Choice, placed: Placed, places: Sequence[Receptacle], random: Random
) -> None:
    """Fills ``placed`` up to the level's number with what the room has; never the sought kind in the target."""
    known = _room_items(task.options["level"], choice.room)
    shares = priors()["rooms"][choice.room]["items"]
    kinds = list(known)
    weights = list(accumulate(shares[k] for k in kinds))
    here = {r.kind for r in places}
    wanted = _size(rules, choice.room, "items", random) + any(kind == LAMP for kind, _ in placed)
    present = {kind for kind, _ in placed}
    for _ in range(6 * wanted):
        if len(placed) >= wanted:
            return
        kind = kinds[bisect(weights, random() * weights[-1], hi=len(kinds) - 1)]
        if kind in present and random() >= rules.repeats:
            continue
        avoid = choice.target if kind == choice.item else ""
        where = [(place, share) for place, share in known[kind] if place in here and place != avoid]
        if where:
            placed.append((kind, in_kind(weighted(where, random), places, random)))
            present.add(kind)


def _real_others(
    rules: Level, task: Task, choice: _Choice, placed: Placed, places: Sequence[Receptacle], random: Random
) -> None:
    """Fills ``placed`` as real rooms are filled: each kind is there as often as in real rooms, in as many pieces.

    What must still become clean, hot or cool may lie in the target already; other sought things never do.
    """
    shares, numbers = priors()["rooms"][choice.room], priors()["numbers"]
    here = {r.kind for r in places}
    avoid = "" if task.type in PROCESSORS else choice.target
    where: dict[str, list[tuple[str, float]]] = {}
    for kind, found in _room_items(task.options["level"], choice.room).items():
        left = [(place, share) for place, share in found if place in here and (kind != choice.item or place != avoid)]
        if left:
            where[kind] = left
    if not any(kind == LAMP for kind, _ in placed) and random() < shares["lamps"].get(LAMP, 0.0):
        lamp_places = [(place, share) for place, share in priors()["locations"][LAMP].items() if place in here]
        if lamp_places:
            placed.append((LAMP, in_kind(weighted(lamp_places, random), places, random)))
    counts = Counter(kind for kind, _ in placed)
    wanted = _size(rules, choice.room, "items", random) + counts[LAMP]
    fresh = [kind for kind in where if not counts[kind] and random() < shares["items"][kind]]
    fresh.sort(key=lambda kind: shares["items"][kind])  # where there is no room for all, the rarer ones stay away
    while len(placed) < wanted:
        more = [(k, numbers[k][0] - 1) for k, n in counts.items() if k in where and n < numbers[k][1]]
        if fresh:
            kind = fresh.pop()
        elif any(weight > 0 for _, weight in more):
            kind = weighted(more, random)
        else:
            return  # a real room holds no more of these
        placed.append((kind, in_kind(weighted(where[kind], random), places, random)))
        counts[kind] += 1


def _goal(task_type: TaskType, choice: _Choice, random: Random) -> Goal:
    """The goal and one of ALFWorld's two sentences for it."""
    template = one(priors()["sentences"][task_type], random)
    toggle = "" if choice.target else LAMP
    text = template.format(obj=choice.item.lower(), recep=choice.target.lower(), toggle=toggle.lower())
    return Goal(type=task_type, item=choice.item, text=f"{text}.", receptacle=choice.target, toggle=toggle)
