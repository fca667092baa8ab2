"""Houses drawn from a seed, with what real ALFWorld houses hold and where they keep it.

>>> tiny = tasks("tiny", "train")
>>> len(tiny), tiny[17].id
(100000, 'household-tiny-train-17')
>>> house(tiny[17]) == house(task_by_id("household-tiny-train-17"))
True

``priors.json`` (see ``make_priors.py``) says which receptacles a room has and where an item is found. A house is a pure
function of its ``Task``. The splits differ by rule, not by chance:

- (item kind, target kind) pairs: a stable hash puts each on one side; ``valid_unseen`` has one side, the others share
  the other. Layouts (room and multiset of receptacle kinds): the same.
- ``train`` and ``valid_seen`` draw from the same pairs and layouts; the hash of the finished house says whose it is.

Every goal can be reached and none is true at the start. Items lie only where they may be put back, so no ``take`` is a
dead end.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from agentrl.envs.household.house import TASK_TYPES, Goal, House, Item, Receptacle, TaskType
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
LAMP = "DeskLamp"  # ALFWorld's floor lamps stand in no receptacle and so can never count
HELD_OUT_PAIRS, HELD_OUT_LAYOUTS, SEEN_HOUSES = 5, 4, 4  # one in so many is held out
COMMON = 0.05  # a receptacle kind that fewer rooms have is no target
ATTEMPTS = 2_000
T = TypeVar("T")
_ID = re.compile(r"household-([a-z]+)-(train|valid_seen|valid_unseen)(?:-([a-z+]+))?-(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Level:
    """How large houses are. Numbers are (least, most)."""

    receptacles: tuple[int, int]
    items: tuple[int, int]  # that can be picked up; a lamp comes on top
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
}


@dataclass(frozen=True, slots=True)
class _Choice:
    """A goal that a room allows: what is sought, where it goes, and where it may be found."""

    room: str
    item: str
    target: str  # receptacle kind; for a lamp goal ""
    sources: tuple[str, ...]
    weights: tuple[float, ...]  # running sums


class TaskList(Sequence[Task]):
    """The tasks of one level and split, made when asked for. ``task_types`` cycle."""

    def __init__(self, level: str, split: str, task_types: tuple[TaskType, ...]) -> None:
        self.level, self.split, self.task_types = level, split, task_types
        names = "" if task_types == TASK_TYPES else "+".join(SHORT[t] for t in task_types) + "-"
        self._prefix = f"household-{level}-{split}-{names}"

    def __len__(self) -> int:
        return SPLIT_SIZES[self.split]

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index} of {len(self)} in {self!r}")
        index = int(index) % len(self)
        kind = self.task_types[index % len(self.task_types)]
        return Task(
            id=f"{self._prefix}{index}",
            seed=seed(0, "household", self.level, self.split, kind, index),
            type=kind,
            split=self.split,
            options={
                "level": self.level,
                "split": self.split,
                "index": index,
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


@cache
def priors() -> Mapping[str, Any]:
    """The content of ``priors.json``."""
    return json.loads(Path(__file__).with_name("priors.json").read_text(encoding="utf-8"))


@cache
def can_contain() -> frozenset[tuple[str, str]]:
    """(receptacle kind, item kind) for all that ALFWorld's rules allow."""
    return frozenset((place, item) for place, items in priors()["can_contain"].items() for item in items)


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


def _draw(rules: Level, task: Task, choices: Sequence[Sequence[_Choice]], random: Callable[[], float]) -> House:
    """One house with a goal of ``choices``, in a layout of the right side."""
    choice = _one(_one(choices, random), random)
    lamp_place = ""
    if not choice.target:
        known = priors()["rooms"][choice.room]["receptacles"]
        lamp_place = _weighted([(k, w) for k, w in priors()["locations"][LAMP].items() if k in known], random)
    source = choice.sources[bisect(choice.weights, random() * choice.weights[-1], hi=len(choice.sources) - 1)]
    appliance = PROCESSORS.get(task.type, ("", ""))[1]
    needed = [kind for kind in dict.fromkeys((choice.target, appliance, source, lamp_place)) if kind]
    size = _between(rules.receptacles, random)
    held_out = task.options["split"] == "valid_unseen"
    for _ in range(ATTEMPTS):
        kinds = sorted(_fill(choice.room, needed, size, random), key=str.lower)
        if layout_held_out((choice.room, *sorted(kinds))) == held_out:
            break
    else:
        raise GameError(f"task '{task.id}': no layout in {ATTEMPTS} attempts")
    receptacles = _receptacles(kinds, rules.shared, random)
    placed = _sought(rules, task.type, choice, source, receptacles, random)
    if lamp_place:
        placed.append((LAMP, _in_kind(lamp_place, receptacles, random)))
    _distractors(rules, task, choice, placed, receptacles, random)
    return House(
        receptacles=receptacles,
        items=_items(placed, receptacles),
        can_contain=can_contain(),
        start=0,
        goal=_goal(cast(TaskType, task.type), choice, random),
        room=choice.room,
        meta={"task": task.id, "level": task.options["level"]},
    )


def _fill(room: str, needed: Sequence[str], size: int, random: Callable[[], float]) -> list[str]:
    """``size`` receptacle kinds: the needed ones, and others as a real room has them, repeats being rarer."""
    known = priors()["rooms"][room]["receptacles"]
    counts = dict.fromkeys(needed, 1)
    kinds = list(needed)
    while len(kinds) < size:
        weights = [
            (kind, share * mean / (1 + counts.get(kind, 0)))
            for kind, (share, mean, most) in known.items()
            if counts.get(kind, 0) < most
        ]
        kind = _weighted(weights, random)
        counts[kind] = counts.get(kind, 0) + 1
        kinds.append(kind)
    return kinds


def _receptacles(kinds: list[str], shared: float, random: Callable[[], float]) -> tuple[Receptacle, ...]:
    """Named receptacles in the engine's order (class ascending, number descending), closed, each at its own location
    but for the share that real rooms show together. The agent starts at location 0."""
    left, pairs, shares = Counter(kinds), priors()["co_located"], priors()["openable"]
    built: list[Receptacle] = []
    for kind in kinds:
        location = len(built) + 1
        if shared and random() < shared:
            location = next((b.location for b in built if sorted((b.kind, kind)) in pairs), location)
        openable = kind in shares and random() < shares[kind]
        built.append(Receptacle(f"{kind.lower()} {left[kind]}", kind, location, openable))
        left[kind] -= 1
    return tuple(built)


Placed = list[tuple[str, int]]  # item kind, index of the receptacle it is in


def _sought(
    rules: Level,
    task_type: str,
    choice: _Choice,
    source: str,
    receptacles: Sequence[Receptacle],
    random: Callable[[], float],
) -> Placed:
    """The item that the goal needs, twice for ``pick_two_obj_and_place``; at most one lies in the target."""
    first = (choice.item, _in_kind(source, receptacles, random))
    early = random() < rules.in_target
    if task_type != "pick_two_obj_and_place":
        if early and task_type in PROCESSORS:
            return [(choice.item, _in_kind(choice.target, receptacles, random))]
        return [first]
    if early:
        return [first, (choice.item, _in_kind(choice.target, receptacles, random))]
    here = {r.kind for r in receptacles}
    weighted = [(k, w) for k, w in zip(choice.sources, _differences(choice.weights), strict=True) if k in here]
    return [first, (choice.item, _in_kind(_weighted(weighted, random), receptacles, random))]


def _distractors(
    rules: Level,
    task: Task,
    choice: _Choice,
    placed: Placed,
    receptacles: Sequence[Receptacle],
    random: Callable[[], float],
) -> None:
    """Fills ``placed`` up to the level's number with what the room has; never the sought kind in the target."""
    known = _room_items(task.options["level"], choice.room)
    shares = priors()["rooms"][choice.room]["items"]
    kinds = list(known)
    weights = list(accumulate(shares[k] for k in kinds))
    here = {r.kind for r in receptacles}
    wanted = _between(rules.items, random) + any(kind == LAMP for kind, _ in placed)
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
            placed.append((kind, _in_kind(_weighted(where, random), receptacles, random)))
            present.add(kind)


def _items(placed: Placed, receptacles: Sequence[Receptacle]) -> tuple[Item, ...]:
    """Items in the engine's order. Their numbers follow their places, so they do not tell which one is sought."""
    left = Counter(kind for kind, _ in placed)
    built = []
    for kind, place in sorted(placed, key=lambda pair: (pair[0].lower(), pair[1])):
        built.append(
            Item(
                name=f"{kind.lower()} {left[kind]}",
                kind=kind,
                location=receptacles[place].location,
                within=(place,),
                pickupable=kind != LAMP,
                **_properties(kind),
            )
        )
        left[kind] -= 1
    return tuple(built)


@cache
def _properties(kind: str) -> dict[str, Any]:
    return {name: kind in kinds for name, kinds in priors()["properties"].items()}


def _goal(task_type: TaskType, choice: _Choice, random: Callable[[], float]) -> Goal:
    """The goal and one of ALFWorld's two sentences for it."""
    template = _one(priors()["sentences"][task_type], random)
    toggle = "" if choice.target else LAMP
    text = template.format(obj=choice.item.lower(), recep=choice.target.lower(), toggle=toggle.lower())
    return Goal(type=task_type, item=choice.item, text=f"{text}.", receptacle=choice.target, toggle=toggle)


def _in_kind(kind: str, receptacles: Sequence[Receptacle], random: Callable[[], float]) -> int:
    """The index of one receptacle of that kind."""
    return _one([i for i, r in enumerate(receptacles) if r.kind == kind], random)


def _between(least_most: tuple[int, int], random: Callable[[], float]) -> int:
    least, most = least_most
    return least + int(random() * (most - least + 1))


def _one(options: Sequence[T], random: Callable[[], float]) -> T:
    return options[int(random() * len(options))]


def _weighted(options: Sequence[tuple[str, float]], random: Callable[[], float]) -> str:
    """One of the names, in proportion to its weight."""
    sums = list(accumulate(weight for _, weight in options))
    return options[bisect(sums, random() * sums[-1], hi=len(sums) - 1)][0]


def _differences(sums: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip((0.0, *sums), sums, strict=False)]
