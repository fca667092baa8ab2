"""ALFWorld's household game: the rules and texts of its TextWorld engine, in plain Python.

    world = World(house)
    print(world.reset())                  # the room and the task
    print(world.step("go to fridge 1"))   # "You arrive at fridge 1. The fridge 1 is closed."
    world.admissible()                    # ["close fridge 1", ..., "look"]: exactly the commands that do something
    world.won

Source: ``alfred.pddl`` (what is possible) and ``alfred.twl2`` (what is said) of alfworld 0.4.2; the dialect "put" gives
the commands and texts of the games published before 0.4. ``tests/test_household_referee.py`` walks beside the engine.

Some rules surprise; they are the engine's and are kept:

- several receptacles may share a location, and one cannot "go to" a receptacle where one already stands;
- a receptacle never fills up; heating, cooling and cleaning need neither an open door nor anything put inside;
- a lamp that was used once counts as switched on for ever; it may be used while out of sight in a closed receptacle;
- after "Next to it, you see" stands what was taken out of a receptacle here and lies in another receptacle here;
- what examining a bowl or a box lists never changes, for nothing is ever put into an item;
- only the held item can be examined, and slicing asks where an item was first seen, not whether it is visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from agentrl.envs.household.house import House, Item

CLEAN, HOT, COOL, SLICED, TOGGLED = 1, 2, 4, 8, 16  # the bits of an item's flags
NOTHING_HAPPENS = "Nothing happens."
WELCOME = "-= Welcome to TextWorld, ALFRED! =-\n\n"
MIDDLE_OF_ROOM = "You are in the middle of a room. Looking quickly around you, you see "
HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
# What a receptacle of a kind does to the held item: verb, the bit it sets, the bit it clears.
TREATMENTS = {"SinkBasin": ("clean", CLEAN, 0), "Microwave": ("heat", HOT, COOL), "Fridge": ("cool", COOL, HOT)}
KNIVES = ("Knife", "ButterKnife")
# What examining the held item says: the first row whose bits are all set.
LOOKS = (
    (HOT | CLEAN | SLICED, "hot and clean sliced"),
    (COOL | CLEAN | SLICED, "cool and clean sliced"),
    (CLEAN | SLICED, "clean sliced"),
    (HOT | SLICED, "hot sliced"),
    (COOL | SLICED, "cool sliced"),
    (HOT | CLEAN, "hot and clean"),
    (COOL | CLEAN, "cool and clean"),
    (HOT, "hot"),
    (CLEAN, "clean"),
    (COOL, "cold"),
)
GOAL_BITS = {
    "pick_clean_then_place_in_recep": CLEAN,
    "pick_heat_then_place_in_recep": HOT,
    "pick_cool_then_place_in_recep": COOL,
}

Action = tuple[Callable[[int, int], str], int, int]  # what to call, and its two arguments


class Snapshot(NamedTuple):
    """Everything that changes while a house is played."""

    at: int
    holds: int
    opened: frozenset[int]
    places: tuple[tuple[int, ...], ...]
    spots: tuple[tuple[int, ...], ...]
    left: tuple[tuple[int, ...], ...]
    flags: tuple[int, ...]
    looked: frozenset[int]
    valid: bool


def listing(names: Iterable[str], article: str = "a ") -> str:
    """An enumeration as the engine writes it.

    >>> listing(["apple 1", "egg 2", "pan 1"])
    'a apple 1, a egg 2, and a pan 1'
    >>> listing([])
    'nothing'
    """
    parts = [article + name for name in names]
    if len(parts) > 1:
        return ", ".join(parts[:-1]) + ", and " + parts[-1]
    return parts[0] if parts else "nothing"


def display_order(names: Sequence[str]) -> list[int]:
    """Indices in the order in which the engine lists things: class ascending, number descending."""

    def key(index: int) -> tuple[str, int]:
        kind, _, number = names[index].rpartition(" ")
        return kind, -int(number) if number.isdecimal() else 0

    return sorted(range(len(names)), key=key)


class World:
    """Plays one house. Receptacles and items are named by their index in ``house``; -1 stands for none."""

    at: int
    """Location of the agent."""
    holds: int
    """Index of the held item, -1 for empty hands."""
    valid: bool
    """Whether the last command was admissible; True after ``reset``."""
    places_text: str
    """The names of all receptacles, in display order."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._names = [item.name for item in house.items]
        self._receptacles = display_order([receptacle.name for receptacle in house.receptacles])
        self._rank = [0] * len(house.items)
        for rank, index in enumerate(display_order(self._names)):
            self._rank[index] = rank
        self._here: dict[int, list[int]] = {}
        for index in self._receptacles:
            self._here.setdefault(house.receptacles[index].location, []).append(index)
        self.places_text = ", ".join(house.receptacles[index].name for index in self._receptacles)
        self._go = {f"go to {receptacle.name}": index for index, receptacle in enumerate(house.receptacles)}
        self._go_lists: dict[int, list[str]] = {}  # location -> the "go to" commands there, a constant of the house
        self._sliceable = [index for index, item in enumerate(house.items) if item.sliceable]
        self._goal_items, self._goal_places, self._goal_bits = self._goal_parts()
        put = house.dialect == "put"
        self._put_command, self._put_link, self._put_verb = ("put", "in/on", "put") if put else ("move", "to", "move")
        self._start = Snapshot(
            at=house.start,
            holds=-1,
            opened=frozenset(index for index, receptacle in enumerate(house.receptacles) if receptacle.opened),
            places=tuple(item.within for item in house.items),
            spots=tuple((item.location,) if item.location >= 0 else () for item in house.items),
            left=((),) * len(house.items),
            flags=tuple(_flags(item) for item in house.items),
            looked=frozenset(),
            valid=True,
        )
        self.restore(self._start)

    def _goal_parts(self) -> tuple[frozenset[int], frozenset[int], int]:
        """The items that could satisfy the goal, the receptacles (or lamps) that it names, and the bits it asks for."""
        goal, items = self.house.goal, self.house.items
        bits = GOAL_BITS.get(goal.type, 0)
        # The goal asks for "coolable and cool"; data may call an item cool that is not coolable.
        able = {CLEAN: "cleanable", HOT: "heatable", COOL: "coolable"}.get(bits)
        wanted = [i for i, item in enumerate(items) if item.kind == goal.item and (not able or getattr(item, able))]
        if goal.type == "look_at_obj_in_light":
            places = [i for i, item in enumerate(items) if item.kind == goal.toggle and item.toggleable]
        else:
            places = [i for i, place in enumerate(self.house.receptacles) if place.kind == goal.receptacle]
        return frozenset(wanted), frozenset(places), bits | (SLICED if goal.sliced else 0)

    # ── playing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self) -> str:
        """Puts everything back and returns the introduction, ending with the line "Your task is to: ..."."""
        self.restore(self._start)
        if self.at in self._here:
            room = self._look(-1, -1)
        else:
            room = MIDDLE_OF_ROOM + listing(self.house.receptacles[index].name for index in self._receptacles) + "."
        return f"{WELCOME}{room}\n\nYour task is to: {self.house.goal.text}"

    def step(self, command: str) -> str:
        """Carries out a command and returns what the engine would say; "Nothing happens." for an inadmissible one."""
        command = command.strip()
        target = self._go.get(command)
        if target is not None:
            self.valid = self.house.receptacles[target].location != self.at
            return self._go_to(target) if self.valid else NOTHING_HAPPENS
        action = self._local_actions().get(command)
        self.valid = action is not None
        if action is None:
            return NOTHING_HAPPENS
        do, first, second = action
        return do(first, second)

    def admissible(self) -> list[str]:
        """The commands that do something now, sorted, each once: the engine's ``admissible_commands``."""
        known = self._lists.get(self.at)
        if known is None:
            go = self._go_lists.get(self.at)
            if go is None:
                receptacles = self.house.receptacles
                go = sorted(text for text, index in self._go.items() if receptacles[index].location != self.at)
                self._go_lists[self.at] = go
            known = self._lists[self.at] = sorted([*go, *self._local_actions()])
        return known.copy()

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        if self._won is None:
            self._won = self._goal_holds()
        return self._won

    @property
    def held(self) -> str:
        """Name of the held item, "" for empty hands."""
        return self._names[self.holds] if self.holds >= 0 else ""

    def inventory(self) -> str:
        """What the command "inventory" says, without spending a turn."""
        return f"You are carrying: a {self.held}." if self.holds >= 0 else "You are not carrying anything."

    # ── the state ────────────────────────────────────────────────────────────────────────────────────────────────────

    def state_key(self) -> str:
        """The exact state in a short string: location | held item | opened | what differs from the start, item by item.

        Two states of one house have equal keys if and only if the same commands are admissible, do the same and reach
        the goal from both, for ever. The items that stand "next to" a receptacle are only words, and no part of it.
        """
        if self._key is None:
            start = self._start
            changed: list[str] = []
            for index in sorted(self._touched):
                places, flags = self._places[index], self._flags[index]
                # Only slicing asks for spots.
                spots = self._spots[index] if self.house.items[index].sliceable else start.spots[index]
                if (places, spots, flags) != (start.places[index], start.spots[index], start.flags[index]):
                    changed.append(f"{index}:{_numbers(places)}/{_numbers(spots)}/{flags}")
            self._key = f"{_numbers(sorted(self._opened))}|{';'.join(changed)}"
        return f"{self.at}|{self.holds}|{self._key}"

    def snapshot(self) -> Snapshot:
        """An immutable copy of the state, for ``restore`` of this or another World of an equal house."""
        items = (tuple(self._places), tuple(self._spots), tuple(self._left), tuple(self._flags))
        return Snapshot(self.at, self.holds, frozenset(self._opened), *items, frozenset(self._looked), self.valid)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot."""
        self.at, self.holds, opened, places, spots, left, flags, looked, self.valid = snapshot
        self._looked = set(looked)  # the receptacles whose content was told
        self._opened = set(opened)
        self._places = list(places)  # item -> the receptacles that it is in
        self._spots = list(spots)  # item -> the locations where the engine believes it to be
        self._left = list(left)  # item -> the receptacles that it was taken from and is not in
        self._flags = list(flags)
        self._contents: list[list[int]] = [[] for _ in self.house.receptacles]
        for index, within in enumerate(places):
            for receptacle in within:
                self._contents[receptacle].append(index)
        self._touched = set(range(len(places))) if snapshot is not self._start else set()
        self._local: dict[int, dict[str, Action]] = {}  # location -> commands there that are not "go to"
        self._lists: dict[int, list[str]] = {}  # location -> the whole admissible list
        self._seen: dict[int, str] = {}  # receptacle -> what examining it says
        self._key: str | None = None
        self._won: bool | None = None

    @property
    def opened(self) -> frozenset[int]:
        """Indices of the open receptacles."""
        return frozenset(self._opened)

    def unseen(self) -> list[str]:
        """Names of the receptacles whose content has not been told yet, in display order: what is left to search."""
        return [self.house.receptacles[index].name for index in self._receptacles if index not in self._looked]

    def contents(self, receptacle: int) -> tuple[int, ...]:
        """Indices of the items in a receptacle, whether one can see them or not, in display order."""
        return tuple(sorted(self._contents[receptacle], key=self._rank.__getitem__))

    def places(self, item: int) -> tuple[int, ...]:
        """Indices of the receptacles that an item is in, ascending; empty while it is held."""
        return self._places[item]

    def flags(self, item: int) -> int:
        """The bits CLEAN, HOT, COOL, SLICED and TOGGLED of an item."""
        return self._flags[item]

    def accessible(self, receptacle: int) -> bool:
        """Whether things can be taken out and put in: it has no door, or the door is open."""
        return not self.house.receptacles[receptacle].openable or receptacle in self._opened

    def slice_spots(self, item: int) -> tuple[int, ...]:
        """Locations from which an item can be sliced now; empty for what cannot be sliced."""
        return self._spots[item] if self.house.items[item].sliceable else ()

    # ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _local_actions(self) -> dict[str, Action]:
        """Command -> action for all that can be done here besides leaving."""
        actions = self._local.get(self.at)
        if actions is None:
            actions = self._local[self.at] = {"look": (self._look, -1, -1), "inventory": (self._inventory, -1, -1)}
            if self.house.dialect == "move":
                actions["help"] = (self._help, -1, -1)
            for index in self._here.get(self.at, ()):
                self._add_receptacle_actions(actions, index)
            if self.holds >= 0:
                self._add_held_actions(actions)
        return actions

    def _add_receptacle_actions(self, actions: dict[str, Action], index: int) -> None:
        receptacle, items = self.house.receptacles[index], self.house.items
        name = receptacle.name
        actions[f"examine {name}"] = (self._examine, index, -1)
        if receptacle.openable:
            if index in self._opened:
                actions[f"close {name}"] = (self._close, index, -1)
            else:
                actions[f"open {name}"] = (self._open, index, -1)
        can_take = self.holds < 0 and self.accessible(index)
        for thing in self._contents[index]:
            item = items[thing]
            if can_take and item.pickupable:
                actions[f"take {item.name} from {name}"] = (self._take, thing, index)
            if item.toggleable:
                actions[f"use {item.name}"] = (self._use, thing, -1)
        if self.holds < 0:
            return
        item = items[self.holds]
        if self.accessible(index) and (receptacle.kind, item.kind) in self.house.can_contain:
            actions[f"{self._put_command} {item.name} {self._put_link} {name}"] = (self._put, index, -1)
        treatment = TREATMENTS.get(receptacle.kind)
        if treatment and getattr(item, treatment[0] + "able"):
            actions[f"{treatment[0]} {item.name} with {name}"] = (self._treat, index, -1)

    def _add_held_actions(self, actions: dict[str, Action]) -> None:
        item = self.house.items[self.holds]
        actions[f"examine {item.name}"] = (self._examine_held, -1, -1)
        if item.kind in KNIVES:
            for index in self._sliceable:
                if self.at in self._spots[index]:
                    actions[f"slice {self._names[index]} with {item.name}"] = (self._slice, index, -1)

    def _goal_holds(self) -> bool:
        goal, flags, bits = self.house.goal, self._flags, self._goal_bits
        if goal.type == "look_at_obj_in_light":
            if self.holds not in self._goal_items or flags[self.holds] & bits != bits:
                return False
            here = self._here.get(self.at, ())
            return any(
                flags[lamp] & TOGGLED and any(place in here for place in self._places[lamp])
                for lamp in self._goal_places
            )
        wanted = 2 if goal.type == "pick_two_obj_and_place" else 1
        for place in self._goal_places:
            inside = [i for i in self._contents[place] if i in self._goal_items and flags[i] & bits == bits]
            if len(inside) >= wanted:
                return True
        return False

    # ── the actions: each changes the state and returns the engine's words ───────────────────────────────────────────

    def _changed(self) -> None:
        """Forgets what depends on places and flags."""
        self._key = None
        self._won = None

    def _hands_changed(self, item: int, receptacle: int) -> None:
        """Forgets what depends on the hands, which is every list of commands, and on one receptacle."""
        self._touched.add(item)
        self._seen.pop(receptacle, None)
        self._local.clear()
        self._lists.clear()
        self._changed()

    def _look(self, _first: int, _second: int) -> str:
        here = self._here.get(self.at)
        if not here:
            return MIDDLE_OF_ROOM + "nothing."
        names = listing((self.house.receptacles[index].name for index in here), article="")
        beside = listing(
            self._names[item]
            for item in sorted(self._touched, key=self._rank.__getitem__)
            for receptacle in here
            if receptacle in self._left[item] and self.at in self._spots[item]
        )
        return f"You are facing the {names}. Next to it, you see {beside}."

    def _inventory(self, _first: int, _second: int) -> str:
        return self.inventory()

    def _help(self, _first: int, _second: int) -> str:
        return HELP

    def _examine(self, receptacle: int, _second: int) -> str:
        text = self._seen.get(receptacle)
        if text is None:
            place = self.house.receptacles[receptacle]
            if place.openable and receptacle not in self._opened:
                text = f"The {place.name} is closed."
            else:
                self._looked.add(receptacle)
                inside = listing(self._names[index] for index in self.contents(receptacle))
                start = f"The {place.name} is open. In it" if place.openable else f"On the {place.name}"
                text = f"{start}, you see {inside}."
            self._seen[receptacle] = text
        return text

    def _examine_held(self, _first: int, _second: int) -> str:
        item, flags = self.house.items[self.holds], self._flags[self.holds]
        if item.is_receptacle:
            inside = sorted(item.contains, key=self._rank.__getitem__)
            return f"This is a normal {item.name}. In it, you see {listing(self._names[i] for i in inside)}."
        for bits, words in LOOKS:
            if flags & bits == bits:
                return f"This is a {words} {item.name}."
        if item.toggleable:
            return f"This {item.name} is {'on' if flags & TOGGLED else 'off'}."
        if item.sliceable and flags & SLICED:
            return f"This is a sliced {item.name}."
        return f"There's nothing special about {item.name}."

    def _go_to(self, receptacle: int) -> str:
        place = self.house.receptacles[receptacle]
        self.at = place.location
        self._won = None
        where = f"loc {place.location}" if self.house.dialect == "put" else place.name
        return f"You arrive at {where}. {self._examine(receptacle, -1)}"

    def _open(self, receptacle: int, _second: int) -> str:
        self._opened.add(receptacle)
        self._door_moved(receptacle)
        return f"You open the {self.house.receptacles[receptacle].name}. {self._examine(receptacle, -1)}"

    def _close(self, receptacle: int, _second: int) -> str:
        self._opened.discard(receptacle)
        self._door_moved(receptacle)
        return f"You close the {self.house.receptacles[receptacle].name}."

    def _door_moved(self, receptacle: int) -> None:
        """Forgets what depends on a door: only the commands at this location, and what one sees inside."""
        self._key = None
        self._seen.pop(receptacle, None)
        self._local.pop(self.at, None)
        self._lists.pop(self.at, None)

    def _take(self, item: int, receptacle: int) -> str:
        self._places[item] = tuple(place for place in self._places[item] if place != receptacle)
        self._spots[item] = tuple(spot for spot in self._spots[item] if spot != self.at)
        self._left[item] = (*self._left[item], receptacle)
        self._contents[receptacle].remove(item)
        self.holds = item
        self._hands_changed(item, receptacle)
        return f"You pick up the {self._names[item]} from the {self.house.receptacles[receptacle].name}."

    def _put(self, receptacle: int, _second: int) -> str:
        item = self.holds
        if receptacle not in self._places[item]:
            self._places[item] = tuple(sorted((*self._places[item], receptacle)))
            self._contents[receptacle].append(item)
        self._left[item] = tuple(place for place in self._left[item] if place != receptacle)
        if self.at not in self._spots[item]:
            self._spots[item] = tuple(sorted((*self._spots[item], self.at)))
        self.holds = -1
        self._hands_changed(item, receptacle)
        name = self.house.receptacles[receptacle].name
        return f"You {self._put_verb} the {self._names[item]} {self._put_link} the {name}."

    def _treat(self, receptacle: int, _second: int) -> str:
        verb, gained, lost = TREATMENTS[self.house.receptacles[receptacle].kind]
        self._set_flags(self.holds, self._flags[self.holds] & ~lost | gained)
        return f"You {verb} the {self.held} using the {self.house.receptacles[receptacle].name}."

    def _use(self, lamp: int, _second: int) -> str:
        self._set_flags(lamp, self._flags[lamp] | TOGGLED)
        return f"You turn on the {self._names[lamp]}."

    def _slice(self, item: int, _second: int) -> str:
        self._set_flags(item, self._flags[item] | SLICED)
        return f"You sliced the {self._names[item]} with the {self.held}."

    def _set_flags(self, item: int, flags: int) -> None:
        self._flags[item] = flags
        self._touched.add(item)
        self._changed()


def _numbers(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _flags(item: Item) -> int:
    """The bits that an item starts with."""
    return CLEAN * item.clean | HOT * item.hot | COOL * item.cool | SLICED * item.sliced | TOGGLED * item.toggled
