"""What went wrong in a household game, by one who sees everything."""

from __future__ import annotations

from agentrl.envs.household.house import Item
from agentrl.envs.household.world import GOAL_BITS, KNIVES, SLICED, World


def failure(world: World) -> str | None:
    """Of a game as it stands, before its goal is reached.

    - "never_found": items of the kind that the goal names (two where it wants two), or its lamp, are in no receptacle whose content
      was told.
    - "wrong_action": an item of another kind was moved (a knife may be, where something is to be sliced), or one of the kind was
      put where the goal wants it without what the goal wants done to it.
    - None: what was done was right, and not yet all.
    """
    house, goal = world.house, world.house.goal
    items = list(enumerate(house.items))
    wanted = [index for index, item in items if item.kind == goal.item]
    needed = 2 if goal.type == "pick_two_obj_and_place" else 1
    unseen = set(world.unseen())
    if sum(_was_seen(world, index, unseen) for index in wanted) < needed:
        return "never_found"
    lamps = [index for index, item in items if item.kind == goal.toggle and item.toggleable]
    if goal.toggle and not any(_was_seen(world, lamp, unseen) for lamp in lamps):
        return "never_found"
    if any(_was_moved(world, index) and not _is_of_use(world, item) for index, item in items):
        return "wrong_action"
    bits = GOAL_BITS.get(goal.type, 0) | (SLICED if goal.sliced else 0)
    placed = [index for index in wanted if _was_moved(world, index) and _is_at_goal(world, index)]
    return "wrong_action" if any(world.flags(index) & bits != bits for index in placed) else None


def _is_of_use(world: World, item: Item) -> bool:
    goal = world.house.goal
    return item.kind == goal.item or (goal.sliced and item.kind in KNIVES)


def _is_at_goal(world: World, index: int) -> bool:
    return any(world.house.receptacles[place].kind == world.house.goal.receptacle for place in world.places(index))


def _was_moved(world: World, index: int) -> bool:
    return index == world.holds or world.places(index) != tuple(sorted(world.house.items[index].within))


def _was_seen(world: World, index: int, unseen: set[str]) -> bool:
    """What stayed where it was is seen where the content of its receptacle was told."""
    told = [world.house.receptacles[place].name not in unseen for place in world.house.items[index].within]
    return any(told) or _was_moved(world, index)
