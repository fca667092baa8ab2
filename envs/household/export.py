"""Houses as the files that ``alfworld-download`` leaves, for the real ALFWorld engine and for ``games.load``.

    valid_seen/pick_cool_then_place_in_recep-Apple-None-CounterTop-0/trial_household_full_valid_seen_4/game.tw-pddl
                                                                                                      /traj_data.json

``problem`` writes a house in PDDL with ids from which ALFWorld's ``Demangler`` makes the same names again: of n things of a
class, number n gets the smallest id. ``files`` puts the engine's own rules beside it (``alfred.pddl`` and ``alfred.twl2`` of
the package ``alfworld``, which are read and not imported). The number at the end of a task's folder says the room by its
hundreds, as ALFRED's floor plans do, and is the number of none: 0, 200, 300, 400.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentrl.envs.household import games
from agentrl.envs.household.house import Goal, House, Item, Receptacle
from agentrl.envs.household.problem import FLAGS
from agentrl.errors import GameError, MissingExtra
from agentrl.types import Task

# Types that ALFWorld's domain names, whether a house has such things or not.
DOMAIN_RECEPTACLES, DOMAIN_ITEMS = {"SinkBasin", "Microwave", "Fridge"}, {"Knife", "ButterKnife"}
GOALS = {  # beside "of the item's type, in a receptacle of the target's type"
    "pick_and_place_simple": "",
    "pick_clean_then_place_in_recep": "(cleanable ?o) (isClean ?o)",
    "pick_heat_then_place_in_recep": "(heatable ?o) (isHot ?o)",
    "pick_cool_then_place_in_recep": "(coolable ?o) (isCool ?o)",
}
# What alfworld 0.4 says -> what the games said that were published before it.
OLD_DIALECT = {
    "You arrive at {r.name}.": "You arrive at {lend.name}.",
    "move {o} to {r}": "put {o} in/on {r}",
    "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
}
MARKUP = "#{}[]|\\"  # characters that TextWorld's grammar does not print but obeys


def files(task: Task, house: House, human_goals: Sequence[str] = ()) -> dict[str, str]:
    """Path below the folder of games -> text, for the two files of one game.

    Raises MissingExtra without the package alfworld, and GameError for a house that would not come back the same.
    """
    domain, grammar = engine_rules(house.dialect)
    sentence = house.goal.text.removesuffix(".")
    if set(sentence) & set(MARKUP):
        raise GameError(
            f"task '{task.id}': wanted a goal without {MARKUP}, which the engine's grammar obeys; got '{sentence}'"
        )
    game = {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", json.dumps(sentence, ensure_ascii=False)[1:-1]),
        "pddl_problem": problem(house, _plain(task.id)),
        "solvable": True,
        "walkthrough": None,
    }
    folder = f"{task.split}/{_folder(task, house)}"
    if games.load({**game, "task_dir": folder.split("/")[1]}) != house:
        raise GameError(f"task '{task.id}' cannot be written as a game: other things would come back when it is read")
    trajectory = {
        "task_id": folder.rpartition("/")[2],
        "task_type": house.goal.type,
        "pddl_params": _parameters(house.goal),
        "turk_annotations": {"anns": [{"task_desc": sentence} for sentence in human_goals]},
    }
    return {
        f"{folder}/{games.GAME_FILE}": json.dumps(game),
        f"{folder}/{games.TRAJECTORY_FILE}": json.dumps(trajectory, indent=1),
    }


def engine_rules(dialect: str = "move") -> tuple[str, str]:
    """(domain, grammar) of the installed alfworld, the grammar's goal being "UNKNOWN GOAL". The dialect "put" undoes what
    alfworld 0.4 changed. Raises MissingExtra without the package, GameError for a version that says something else."""
    found = importlib.util.find_spec("alfworld")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("alfworld", "writing games for the real engine, whose rules stand in every game,")
    folder = Path(found.submodule_search_locations[0], "data")
    try:
        domain = (folder / "alfred.pddl").read_text(encoding="utf-8")
        grammar = (folder / "alfred.twl2").read_text(encoding="utf-8")
    except OSError as error:
        raise GameError(
            f"wanted alfred.pddl and alfred.twl2 in {folder}; {error.strerror}; install alfworld 0.4.2"
        ) from None
    expected = ("UNKNOWN GOAL", "action help", *OLD_DIALECT)
    missing = [words for words in expected if words not in grammar]
    if missing or "(:action help" not in domain:
        raise GameError(f"{folder}: the rules lack {missing or ['(:action help']}; install alfworld 0.4.2")
    if dialect == "put":
        domain = domain[: domain.index("(:action help")] + ")"
        grammar = grammar[: grammar.index("action help")]
        for new, old in OLD_DIALECT.items():
            grammar = grammar.replace(new, old)
    return domain, grammar


def problem(house: House, name: str = "house") -> str:
    """A house as an ALFWorld problem in PDDL: ``games.load`` gives back an equal one, names and locations included.

    Holds for every house whose things are in the order of their names (class ascending, number descending), with locations
    counted from 1: generated ones, and those that ``games.load`` read.
    """
    receptacles = [_id(place, index) for index, place in enumerate(house.receptacles)]
    items = [_id(item, index) for index, item in enumerate(house.items)]
    n_locations = max(house.start, *(thing.location for thing in (*house.receptacles, *house.items)))
    locations = {number: f"loc_bar_{n_locations - number:04}" for number in range(1, n_locations + 1)}
    otypes = sorted({item for _, item in house.can_contain} | {item.kind for item in house.items} | DOMAIN_ITEMS)
    rtypes = (
        {place for place, _ in house.can_contain} | {place.kind for place in house.receptacles} | DOMAIN_RECEPTACLES
    )
    objects = ["agent1 - agent"]
    objects += [f"{kind}Type - otype" for kind in otypes] + [f"{kind}Type - rtype" for kind in sorted(rtypes)]
    objects += [f"{identity} - receptacle" for identity in receptacles] + [f"{identity} - object" for identity in items]
    objects += [f"{location} - location" for location in locations.values()]
    facts = [f"atLocation agent1 {locations[house.start]}"]
    facts += _receptacle_facts(house, receptacles, locations)
    facts += _item_facts(house, items, receptacles, locations)
    facts += [f"canContain {place}Type {item}Type" for place, item in sorted(house.can_contain)]
    parts = ["(define", f"(problem {name})", "(:domain alfred)", "(:objects", *objects, ")"]
    parts += ["(:init", *(f"({fact})" for fact in facts), ")", f"(:goal (and {_goal(house.goal)}))", ")"]
    return "\n".join(parts) + "\n"


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plain(text: str) -> str:
    """A text as a part of a name: hyphens would end a folder's name in a number, as only a task's may."""
    return re.sub(r"[^A-Za-z0-9+]+", "_", text).strip("_")


def _folder(task: Task, house: House) -> str:
    """TASK/TRIAL: that of a real game, else ALFWorld's form with the trial named after the task."""
    if house.meta.get("task_dir") and house.meta.get("trial"):
        return f"{house.meta['task_dir']}/{house.meta['trial']}"
    hundreds = next((number for number, room in games.ROOMS.items() if room == house.room), 9)
    goal = house.goal
    parts = (goal.type, goal.item, "None", goal.receptacle or goal.toggle, str(100 * hundreds))
    return f"{'-'.join(parts)}/trial_{_plain(task.id)}"


def _parameters(goal: Goal) -> dict[str, Any]:
    return {
        "object_target": goal.item,
        "parent_target": goal.receptacle,
        "toggle_target": goal.toggle,
        "mrecep_target": "",
        "object_sliced": goal.sliced,
    }


def _id(thing: Receptacle | Item, index: int) -> str:
    """The id of a thing; within a class, ids are in the order of the indices."""
    name = thing.name.rpartition(" ")[0]
    kind = thing.kind if thing.kind.lower() == name else name  # real data has a bathtub basin of the type SinkBasin
    if name.endswith("basin"):  # the Demangler adds it where it stands anywhere in an id
        return f"{kind[: -len('basin')]}_bar_{index:04}_bar_{kind}"
    return f"{kind}_bar_{index:04}"


def _receptacle_facts(house: House, ids: Sequence[str], locations: dict[int, str]) -> Iterator[str]:
    for identity, place in zip(ids, house.receptacles, strict=True):
        yield f"receptacleType {identity} {place.kind}Type"
        yield f"receptacleAtLocation {identity} {locations[place.location]}"
        if place.openable:
            yield f"openable {identity}"
        if place.opened:
            yield f"opened {identity}"


def _item_facts(house: House, ids: Sequence[str], places: Sequence[str], locations: dict[int, str]) -> Iterator[str]:
    for identity, item in zip(ids, house.items, strict=True):
        yield f"objectType {identity} {item.kind}Type"
        if item.location in locations:
            yield f"objectAtLocation {identity} {locations[item.location]}"
        yield from (f"inReceptacle {identity} {places[place]}" for place in item.within)
        yield from (f"{predicate} {identity}" for field, predicate in FLAGS.items() if getattr(item, field))
        yield from (f"inReceptacleObject {ids[inner]} {identity}" for inner in item.contains)


def _goal(goal: Goal) -> str:
    """The goal of a type, in the words of ALFWorld's goal library."""
    if goal.type == "look_at_obj_in_light":
        lamp = f"(objectType ?ot {goal.toggle}Type) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l)"
        lamp += " (atLocation ?a ?l) (inReceptacle ?ot ?r)"
        return (
            f"(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and {lamp}))\n"
            f"(exists (?o - object ?a - agent) (and (objectType ?o {goal.item}Type) (holds ?a ?o)))"
        )
    there = f"(objectType {{0}} {goal.item}Type) (receptacleType ?r {goal.receptacle}Type) (inReceptacle {{0}} ?r)"
    if goal.type == "pick_two_obj_and_place":
        second = f"(exists (?o2 - object) (and (not (= ?o ?o2)) {there.format('?o2')}))"
        return f"(exists (?r - receptacle) (exists (?o - object) (and {there.format('?o')} {second})))"
    return f"(exists (?r - receptacle) (exists (?o - object) (and {GOALS[goal.type]} {there.format('?o')})))"
