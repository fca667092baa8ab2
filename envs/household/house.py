"""A house before anybody walks in it: what stands where, and what is asked for.

Both ways to a game end here: ``games.load`` reads a real ALFWorld problem, ``generate.house`` draws one from a seed.
``world.World`` then plays it.

>>> fridge = Receptacle(name="fridge 1", kind="Fridge", location=1, openable=True)
>>> apple = Item(name="apple 1", kind="Apple", location=1, within=(0,), pickupable=True, coolable=True)
>>> text = "cool some apple and put it in fridge."
>>> goal = Goal(type="pick_cool_then_place_in_recep", item="Apple", receptacle="Fridge", text=text)
>>> house = House(receptacles=(fridge,), items=(apple,), can_contain=frozenset({("Fridge", "Apple")}), start=0, goal=goal)

Receptacles and items are named tuples, because a game has about a hundred and they are made in a fifth of the time.
Kinds are ALFWorld's class names without the suffix ``Type`` (``SinkBasin``, ``ButterKnife``); names are what the engine
prints (``sinkbasin 1``). Locations are small integers; several receptacles may share one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

TaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]
TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)
Dialect = Literal["move", "put"]  # "move X to Y" (alfworld 0.4) or "put X in/on Y" (older data and papers)


class Receptacle(NamedTuple):
    """A place that holds items. ``location`` is where the agent stands to use it."""

    name: str
    kind: str
    location: int
    openable: bool = False
    opened: bool = False


class Item(NamedTuple):
    """An object. ``within`` holds indices of receptacles (real data puts a few objects in two); ``location`` is -1
    where the data gives none."""

    name: str
    kind: str
    location: int
    within: tuple[int, ...] = ()
    pickupable: bool = False
    cleanable: bool = False
    heatable: bool = False
    coolable: bool = False
    sliceable: bool = False
    toggleable: bool = False
    is_receptacle: bool = False
    clean: bool = False
    hot: bool = False
    cool: bool = False
    sliced: bool = False
    toggled: bool = False
    contains: tuple[int, ...] = ()  # items that examining it lists for ever, wherever they are (indices)


@dataclass(frozen=True, slots=True)
class Goal:
    """What must become true. ``text`` is the sentence after "Your task is to: ", with its final full stop if it has one."""

    type: TaskType
    item: str
    text: str
    receptacle: str = ""  # kind of the target receptacle; "" for look_at_obj_in_light
    toggle: str = ""  # kind of the lamp, look_at_obj_in_light only
    sliced: bool = False


@dataclass(frozen=True, slots=True)
class House:
    """Everything that ``World`` needs. ``can_contain`` holds (receptacle kind, item kind)."""

    receptacles: tuple[Receptacle, ...]
    items: tuple[Item, ...]
    can_contain: frozenset[tuple[str, str]]
    start: int
    goal: Goal
    room: str = ""
    dialect: Dialect = "move"
    meta: dict[str, str] = field(default_factory=dict, compare=False)  # where it came from, for messages
