"""Two players that need no model: ``plan`` knows everything, ``Expert`` knows what it has read.

>>> plan(world)                                        # from any state, in either dialect
['go to countertop 1', 'take mug 1 from countertop 1', 'go to coffeemachine 1', 'move mug 1 to coffeemachine 1']
>>> expert = Expert(noise=0.2, seed=7)
>>> expert.act(observation, admissible, "put a clean mug in coffeemachine.")
'go to countertop 1'

``plan`` tries every choice of item, receptacle and appliance, and returns the shortest. ``Expert`` keeps notes of the
texts that it was shown, looks in likely receptacles first and makes demonstrations that a learner could have made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations
from typing import Literal, NamedTuple

from agentrl.envs.household.generate import can_contain, priors
from agentrl.envs.household.house import TaskType
from agentrl.envs.household.world import GOAL_BITS, TOGGLED, TREATMENTS, World
from agentrl.errors import GameError
from agentrl.seeding import stream

# ── the goal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Wanted(NamedTuple):
    """A goal as its sentence names it: kinds in lower case, "" where the type has none."""

    type: TaskType
    item: str
    receptacle: str = ""
    toggle: str = ""


_ITEM, _PLACE, _LAMP = r"(?P<item>[a-z]+)", r"(?P<receptacle>[a-z]+)", r"(?P<toggle>[a-z]+)"
_FORMS: tuple[tuple[TaskType, str], ...] = (
    ("pick_and_place_simple", f"put a {_ITEM} in {_PLACE}"),
    ("pick_and_place_simple", f"put some {_ITEM} on {_PLACE}"),
    ("look_at_obj_in_light", f"look at {_ITEM} under the {_LAMP}"),
    ("look_at_obj_in_light", f"examine the {_ITEM} with the {_LAMP}"),
    ("pick_clean_then_place_in_recep", f"put a clean {_ITEM} in {_PLACE}"),
    ("pick_clean_then_place_in_recep", f"clean some {_ITEM} and put it in {_PLACE}"),
    ("pick_heat_then_place_in_recep", f"put a hot {_ITEM} in {_PLACE}"),
    ("pick_heat_then_place_in_recep", f"heat some {_ITEM} and put it in {_PLACE}"),
    ("pick_cool_then_place_in_recep", f"put a cool {_ITEM} in {_PLACE}"),
    ("pick_cool_then_place_in_recep", f"cool some {_ITEM} and put it in {_PLACE}"),
    ("pick_two_obj_and_place", f"put two {_ITEM} in {_PLACE}"),
    ("pick_two_obj_and_place", f"find two {_ITEM} and put them in {_PLACE}"),
)
_PATTERNS: list[tuple[TaskType, re.Pattern[str]]] = [(kind, re.compile(form + r"\.?")) for kind, form in _FORMS]


@cache
def parse_goal(text: str) -> Wanted:
    """What one of ALFWorld's twelve goal sentences asks for. Raises GameError for any other sentence.

    >>> parse_goal("cool some apple and put it in fridge.")
    Wanted(type='pick_cool_then_place_in_recep', item='apple', receptacle='fridge', toggle='')
    """
    for task_type, pattern in _PATTERNS:
        match = pattern.fullmatch(text.strip())
        if match:
            named = match.groupdict()
            return Wanted(task_type, named["item"], named.get("receptacle", ""), named.get("toggle", ""))
    raise GameError(
        f"wanted a goal sentence of ALFWorld's, such as 'put a clean mug in coffeemachine.'; got {text!r}; "
        'set goals = "template"'
    )


# ── the omniscient plan ──────────────────────────────────────────────────────────────────────────────────────────────


def plan(world: World) -> list[str]:
    """The commands that win from the world's present state, as few as this planner finds; [] where it is won.

    The world is left as it is. Raises GameError where the goal is out of reach: hands full of what no receptacle here
    takes (in real games a roll of paper towels), or a goal that asks for a sliced item (no published game does).
    """
    if world.won:
        return []
    goal = world.house.goal
    best = None if goal.sliced else min(_plans(world), key=len, default=None)
    if best is None:
        raise GameError(f"no plan for '{goal.text}' in {world.house.meta or 'this house'}")
    return best


def _plans(world: World) -> Iterator[list[str]]:
    """One plan for each sensible choice of items, destination, appliance and place to drop what is held."""
    house = world.house
    bits = GOAL_BITS.get(house.goal.type, 0)
    verb = next((v for v, bit, _ in TREATMENTS.values() if bit == bits), "")
    appliances = [i for i, r in enumerate(house.receptacles) if verb and TREATMENTS.get(r.kind, ("",))[0] == verb]
    for items, destination in _deliveries(world, f"{verb}able" if verb else ""):
        for appliance in appliances or [-1]:
            for drop in _drops(world, items[0]):
                route = _Route(world)
                if drop >= 0:
                    route.put(world.holds, drop)
                for item in items:
                    if item != world.holds:
                        route.take(item)
                    if bits and not world.flags(item) & bits:
                        route.treat(verb, item, appliance)
                    if house.goal.type == "look_at_obj_in_light":
                        route.use(destination)
                    elif not (bits and route.still_in_target(item)):
                        route.put(item, destination)
                yield route.commands


def _deliveries(world: World, needs: str) -> Iterator[tuple[tuple[int, ...], int]]:
    """(items in the order of delivery, receptacle), for a lamp goal (item, lamp)."""
    house, goal = world.house, world.house.goal
    items = [i for i, item in enumerate(house.items) if item.kind == goal.item and (not needs or getattr(item, needs))]
    items = [i for i in items if i == world.holds or (world.places(i) and house.items[i].pickupable)]
    if goal.type == "look_at_obj_in_light":
        lamps = [i for i, x in enumerate(house.items) if x.kind == goal.toggle and x.toggleable and world.places(i)]
        yield from (((item,), lamp) for item in items for lamp in lamps)
        return
    n_items = 2 if goal.type == "pick_two_obj_and_place" else 1
    for place, receptacle in enumerate(house.receptacles):
        if receptacle.kind != goal.receptacle or (receptacle.kind, goal.item) not in house.can_contain:
            continue
        done = {i for i in items if place in world.places(i)} if n_items == 2 else set()
        left = [i for i in items if i not in done]
        for chosen in permutations(left, n_items - len(done)):
            if world.holds not in chosen[1:]:
                yield chosen, place


def _drops(world: World, item: int) -> list[int]:
    """Where to put what is held before ``item`` can be taken: here, where the item is, anywhere; [-1] for no need."""
    if world.holds in (-1, item):
        return [-1]
    house, kind = world.house, world.house.items[world.holds].kind
    allowed = [i for i, r in enumerate(house.receptacles) if (r.kind, kind) in house.can_contain]
    near = {world.at, *(house.receptacles[i].location for i in world.places(item))}
    anywhere = sorted(allowed, key=lambda i: not world.accessible(i))[:1]
    return [i for i in allowed if house.receptacles[i].location in near] + anywhere


class _Route:
    """Writes down commands and follows where the agent is and which doors it has opened."""

    def __init__(self, world: World) -> None:
        self.world, self.at = world, world.at
        self.opened: set[int] = set()
        self.taken: set[tuple[int, int]] = set()  # (item, receptacle)
        self.commands: list[str] = []

    def visit(self, receptacle: int) -> None:
        place = self.world.house.receptacles[receptacle]
        if place.location != self.at:
            self.at = place.location
            self.commands.append(f"go to {place.name}")

    def reach_into(self, receptacle: int) -> str:
        """Goes there, opens it if need be, and returns its name."""
        self.visit(receptacle)
        name = self.world.house.receptacles[receptacle].name
        if receptacle not in self.opened and not self.world.accessible(receptacle):
            self.opened.add(receptacle)
            self.commands.append(f"open {name}")
        return name

    def take(self, item: int) -> None:
        places, receptacles = self.world.places(item), self.world.house.receptacles
        place = min(places, key=lambda i: (receptacles[i].location != self.at) + (not self.world.accessible(i)))
        name = self.reach_into(place)
        self.taken.add((item, place))
        self.commands.append(f"take {self.world.house.items[item].name} from {name}")

    def still_in_target(self, item: int) -> bool:
        """True for an item that the data puts in two receptacles: taken from one, it still lies in the target."""
        house = self.world.house
        left = [place for place in self.world.places(item) if (item, place) not in self.taken]
        return any(house.receptacles[place].kind == house.goal.receptacle for place in left)

    def put(self, item: int, receptacle: int) -> None:
        name, place = self.world.house.items[item].name, self.reach_into(receptacle)
        old = self.world.house.dialect == "put"
        self.commands.append(f"put {name} in/on {place}" if old else f"move {name} to {place}")

    def treat(self, verb: str, item: int, appliance: int) -> None:
        self.visit(appliance)
        house = self.world.house
        self.commands.append(f"{verb} {house.items[item].name} with {house.receptacles[appliance].name}")

    def use(self, lamp: int) -> None:
        self.visit(self.world.places(lamp)[0])
        if not self.world.flags(lamp) & TOGGLED:
            self.commands.append(f"use {self.world.house.items[lamp].name}")


# ── the expert that searches ─────────────────────────────────────────────────────────────────────────────────────────

_NAME = r"([a-z]+ \d+)"
_INSIDE = re.compile(rf"(?:On the {_NAME}|The {_NAME} is open\. In it), you see ([^.]*)\.")
_LISTED = re.compile(rf"\ba {_NAME}")
_INTRO = re.compile(r"Looking quickly around you, you see (a [^.]*)\.")
_TAKEN = re.compile(rf"You pick up the {_NAME} from the {_NAME}\.")
_PUT = re.compile(rf"You (?:move the {_NAME} to|put the {_NAME} in/on) the {_NAME}\.")
_TREATED = re.compile(rf"You (clean|heat|cool) the {_NAME} using")
_CARRYING = re.compile(rf"You are carrying: a {_NAME}\.")
_VERBS = {
    "pick_clean_then_place_in_recep": ("clean", "sinkbasin"),
    "pick_heat_then_place_in_recep": ("heat", "microwave"),
    "pick_cool_then_place_in_recep": ("cool", "fridge"),
}


@cache
def _shares() -> dict[str, dict[str, float]]:
    """Item kind -> receptacle kind -> share of such items that are found there, as the kinds are printed."""
    table = priors()["locations"].items()
    return {item.lower(): {kind.lower(): share for kind, share in where.items()} for item, where in table}


@cache
def _allowed() -> frozenset[tuple[str, str]]:
    """(receptacle kind, item kind) that go together, as the kinds are printed."""
    return frozenset((place.lower(), item.lower()) for place, item in can_contain())


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


class Expert:
    """Plays from texts alone: what it was shown, the admissible commands, and the goal sentence.

    ``noise`` is the chance of a uniformly random admissible command (never "help"); ``order`` is how it searches: likely
    receptacles first, or at random. The introduction of a house, or ``reset``, starts new notes. Equal seeds and texts give equal
    commands. Raises GameError for a noise outside [0, 1] or another order.
    """

    def __init__(self, noise: float = 0.0, seed: int = 0, order: Literal["prior", "random"] = "prior") -> None:
        if not 0 <= noise <= 1 or order not in ("prior", "random"):
            raise GameError(f"wanted noise in [0, 1] and order 'prior' or 'random', got {noise!r} and {order!r}")
        self.noise, self.order = noise, order
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Forgets the house; with a seed, also restarts the random stream."""
        if seed is not None:
            self._random = stream(seed, "household", "expert").random
        self.held = ""
        self.strayed = False  # whether the last command was noise
        self._seen: set[str] = set()  # receptacles that it has looked into
        self._contents: dict[str, list[str]] = {}  # receptacle -> items known to be in it
        self._origin: dict[str, str] = {}  # item -> receptacle it was taken from
        self._done: set[tuple[str, str]] = set()  # (verb, item): what has been cleaned, and is hot or cool now
        self._refused: set[tuple[str, str]] = set()  # (item kind, receptacle) that did not go together
        self._luck: dict[str, float] = {}  # receptacle -> its random rank

    def act(self, observation: str, admissible: Sequence[str], goal_text: str) -> str:
        """The next command, one of ``admissible``. Raises GameError for an unknown goal sentence or an empty list."""
        wanted = parse_goal(goal_text)
        if not admissible:
            raise GameError("the expert chooses among the admissible commands, and there are none")
        self._read(observation)
        allowed = set(admissible)
        for command in admissible:
            if command.startswith("go to "):
                self._know(command[6:])
            elif command.startswith(("open ", "close ")):
                self._know(command.partition(" ")[2])
        self.strayed = self._random() < self.noise
        if not self.strayed:
            for _ in range(len(self._luck) + 8):  # each failed attempt corrects the notes
                command = self._decide(wanted, allowed)
                if command in allowed:
                    return command
        careless = [command for command in admissible if command != "help"] or admissible
        return careless[int(self._random() * len(careless))]

    def _know(self, receptacle: str) -> None:
        if receptacle not in self._luck:
            self._luck[receptacle] = self._random()

    def _read(self, text: str) -> None:
        """Takes notes of one observation."""
        intro = _INTRO.search(text)
        if intro:
            self.reset()
            for name in _LISTED.findall(intro[1]):
                self._know(name)
        for flat, door, items in _INSIDE.findall(text):
            self._seen.add(flat or door)
            self._contents[flat or door] = _LISTED.findall(items)
        if taken := _TAKEN.match(text):
            self.held = taken[1]
            self._origin[taken[1]] = taken[2]
            self._contents[taken[2]] = [item for item in self._contents.get(taken[2], ()) if item != taken[1]]
        elif put := _PUT.match(text):
            self.held = ""
            self._contents.setdefault(put[3], []).append(put[1] or put[2])
        elif treated := _TREATED.match(text):
            verb, item = treated.groups()
            self._done.discard(({"heat": "cool", "cool": "heat"}.get(verb, ""), item))
            self._done.add((verb, item))
        elif carrying := _CARRYING.match(text):
            self.held = carrying[1]

    # ── decisions: a command, or "" after correcting the notes ───────────────────────────────────────────────────────

    def _decide(self, wanted: Wanted, allowed: set[str]) -> str:
        if self.held and _kind(self.held) != wanted.item:
            return self._drop(allowed)
        if not self.held:
            return self._fetch(wanted, allowed)
        if wanted.toggle:
            return self._light(wanted, allowed)
        if not self._ready(self.held, wanted):
            verb, appliance = _VERBS[wanted.type]
            names = [name for name in self._luck if _kind(name) == appliance]
            ways = (self._at(name, f"{verb} {self.held} with {name}", allowed, doors=False) for name in names)
            return next(filter(None, ways), "")
        names = [name for name in self._luck if _kind(name) == wanted.receptacle]
        pile = self._pile(wanted) if wanted.type == "pick_two_obj_and_place" else ""
        return self._put_in(sorted(names, key=lambda name: (name != pile, f"examine {name}" not in allowed)), allowed)

    def _ready(self, item: str, wanted: Wanted) -> bool:
        """Whether the item is as clean, hot or cool as the goal asks."""
        return wanted.type not in _VERBS or (_VERBS[wanted.type][0], item) in self._done

    def _pile(self, wanted: Wanted) -> str:
        """The target receptacle known to hold one of the two already; "" where none is."""
        piles = [r for r in self._contents if _kind(r) == wanted.receptacle and self._count(r, wanted.item)]
        return max(piles, key=lambda r: self._count(r, wanted.item), default="")

    def _count(self, receptacle: str, kind: str) -> int:
        return sum(_kind(item) == kind for item in self._contents[receptacle])

    def _fetch(self, wanted: Wanted, allowed: set[str]) -> str:
        """Takes a known item of the wanted kind, else looks into the next receptacle."""
        pile = self._pile(wanted) if wanted.type == "pick_two_obj_and_place" else ""
        known = [
            (not self._ready(item, wanted), f"examine {place}" not in allowed, place, item)
            for place, items in self._contents.items()
            if place != pile
            for item in items
            if _kind(item) == wanted.item
        ]
        if not known:
            avoid = wanted.receptacle if wanted.type == "pick_and_place_simple" else ""  # there, the game would be won
            return self._search(wanted.item, avoid, allowed)
        _, _, place, item = min(known)
        command = self._at(place, f"take {item} from {place}", allowed)
        if not command:
            self._contents[place].remove(item)
        return command

    def _light(self, wanted: Wanted, allowed: set[str]) -> str:
        """Brings the held item to a lamp and switches it on; looks for the lamp where it is unknown."""
        for place, items in self._contents.items():
            for lamp in items:
                if _kind(lamp) == wanted.toggle:
                    return self._at(place, f"use {lamp}", allowed, doors=False)
        return self._search(wanted.toggle, "", allowed)

    def _drop(self, allowed: set[str]) -> str:
        """Puts an unwanted item down: here, where it came from, or wherever its kind may be."""
        kind = _kind(self.held)
        places = [r for r in self._luck if (_kind(r), kind) in _allowed()]
        origin = self._origin.get(self.held)
        places.sort(key=lambda r: (f"examine {r}" not in allowed, r != origin, f"open {r}" in allowed))
        return self._put_in(places, allowed)

    def _put_in(self, places: Sequence[str], allowed: set[str]) -> str:
        """Puts the held item into the first of the places that takes it."""
        kind = _kind(self.held)
        for place in places:
            if (kind, place) in self._refused:
                continue
            old = f"put {self.held} in/on {place}"
            command = self._at(place, old if old in allowed else f"move {self.held} to {place}", allowed)
            if command:
                return command
            self._refused.add((kind, place))
        return ""

    def _at(self, place: str, command: str, allowed: set[str], doors: bool = True) -> str:
        """The command if it is possible now, else what leads to it: going there, opening. "" where it is impossible."""
        if command in allowed:
            return command
        if doors and f"open {place}" in allowed:
            return f"open {place}"
        going = f"go to {place}"
        return going if going in allowed else ""

    def _search(self, kind: str, avoid: str, allowed: set[str]) -> str:
        """Looks into the receptacle most likely to hold the kind; starts over where all have been seen."""
        unseen = [name for name in self._luck if name not in self._seen]
        if not unseen:
            self._seen.clear()
            return ""
        shares = _shares().get(kind, {}) if self.order == "prior" else {}
        numbers: dict[str, int] = {}
        for name in self._luck:
            numbers[_kind(name)] = numbers.get(_kind(name), 0) + 1

        def rank(name: str) -> tuple[bool, float, float]:
            return _kind(name) == avoid, -shares.get(_kind(name), 0.0) / numbers[_kind(name)], self._luck[name]

        place = min(unseen, key=rank)
        command = self._at(place, f"go to {place}", allowed)
        if not command and f"examine {place}" in allowed:
            command = f"examine {place}"
        if not command:
            self._seen.add(place)  # neither here nor reachable
        return command
