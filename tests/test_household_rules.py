"""Every rule and text of the household game, on a house small enough to know by heart."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.envs.household.house import Dialect, Goal, House, Item, Receptacle
from agentrl.envs.household.world import HELP, NOTHING_HAPPENS, World, listing

RECEPTACLES = (
    Receptacle("fridge 1", "Fridge", 1, openable=True),
    Receptacle("microwave 1", "Microwave", 2, openable=True),
    Receptacle("sinkbasin 1", "SinkBasin", 3),
    Receptacle("countertop 1", "CounterTop", 4),
    Receptacle("drawer 2", "Drawer", 4, openable=True, opened=True),  # one stands at the countertop to use it
    Receptacle("drawer 1", "Drawer", 5),  # some drawers of the data cannot be opened
    Receptacle("sidetable 1", "SideTable", 6),
)
FRIDGE, MICROWAVE, SINK, COUNTER, DRAWER_2, DRAWER_1, SIDETABLE = range(7)
FOOD = {"pickupable": True, "cleanable": True, "heatable": True, "coolable": True}
ITEMS = (
    Item("apple 1", "Apple", 4, (COUNTER,), sliceable=True, **FOOD),
    Item("apple 2", "Apple", 1, (FRIDGE,), sliceable=True, **FOOD),
    Item("knife 1", "Knife", 4, (DRAWER_2,), pickupable=True, cleanable=True),
    Item("bowl 1", "Bowl", 4, (COUNTER,), is_receptacle=True, contains=(6,), **FOOD),
    Item("desklamp 1", "DeskLamp", 6, (SIDETABLE,), toggleable=True),
    Item("faucet 1", "Faucet", 3, (SINK,)),
    Item("egg 1", "Egg", 4, (COUNTER, DRAWER_2), **FOOD),  # the data puts a few items in two receptacles
)
APPLE, APPLE_2, KNIFE, BOWL, LAMP, FAUCET, EGG = range(7)
CAN_CONTAIN = frozenset(
    (place, kind)
    for place in ("Fridge", "Microwave", "SinkBasin", "CounterTop", "Drawer", "SideTable")
    for kind in ("Apple", "Bowl", "Egg", "Knife")
    if (place, kind) not in {("Drawer", "Bowl"), ("Fridge", "Knife"), ("Microwave", "Knife")}
)
PUT_APPLE = Goal("pick_and_place_simple", "Apple", "put some apple on sidetable.", "SideTable")
ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a countertop 1, a drawer 2, a drawer 1, "
    "a fridge 1, a microwave 1, a sidetable 1, and a sinkbasin 1."
)


def house(goal: Goal = PUT_APPLE, dialect: Dialect = "move") -> House:
    return House(RECEPTACLES, ITEMS, CAN_CONTAIN, start=0, goal=goal, dialect=dialect)


def world(goal: Goal = PUT_APPLE, dialect: Dialect = "move") -> World:
    made = World(house(goal, dialect))
    made.reset()
    return made


def play(made: World, *commands: str) -> str:
    """Plays commands that all must do something; returns the last text."""
    text = ""
    for command in commands:
        assert command in made.admissible(), command
        text = made.step(command)
        assert made.valid
        assert text != NOTHING_HAPPENS
    return text


def refused(made: World, *commands: str) -> None:
    """Plays commands that all must do nothing."""
    for command in commands:
        before = made.state_key()
        assert command not in made.admissible()
        assert made.step(command) == NOTHING_HAPPENS
        assert not made.valid
        assert made.state_key() == before


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_introduction_lists_classes_ascending_and_numbers_descending() -> None:
    text = World(house()).reset()
    assert text == f"-= Welcome to TextWorld, ALFRED! =-\n\n{ROOM}\n\nYour task is to: put some apple on sidetable."


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "nothing"),
        (["egg 1"], "a egg 1"),
        (["egg 1", "pan 1"], "a egg 1, and a pan 1"),
        (["egg 1", "pan 1", "pot 2"], "a egg 1, a pan 1, and a pot 2"),
    ],
)
def test_listing(names: list[str], text: str) -> None:
    assert listing(names) == text


def test_look_does_not_repeat_the_room() -> None:
    made = world()
    assert play(made, "look") == "You are in the middle of a room. Looking quickly around you, you see nothing."
    play(made, "go to fridge 1")
    assert play(made, "look") == "You are facing the fridge 1. Next to it, you see nothing."
    play(made, "go to drawer 2")
    assert play(made, "look") == "You are facing the countertop 1, and drawer 2. Next to it, you see nothing."


def test_a_start_beside_a_receptacle_is_described_from_there() -> None:
    made = World(dataclasses.replace(house(), start=1))
    assert "\n\nYou are facing the fridge 1. Next to it, you see nothing.\n\n" in made.reset()


def test_inventory() -> None:
    made = world()
    assert play(made, "inventory") == "You are not carrying anything." == made.inventory()
    play(made, "go to countertop 1", "take apple 1 from countertop 1")
    assert play(made, "inventory") == "You are carrying: a apple 1." == made.inventory()
    assert made.held == "apple 1"


def test_help_exists_in_the_new_dialect_only() -> None:
    assert play(world(), "help") == HELP
    assert HELP.startswith("Available commands:\n  look: ")
    refused(world(dialect="put"), "help")


def test_admissible_list_at_the_start() -> None:
    places = ["countertop 1", "drawer 1", "drawer 2", "fridge 1", "microwave 1", "sidetable 1", "sinkbasin 1"]
    assert world().admissible() == [*(f"go to {place}" for place in places), "help", "inventory", "look"]


def test_admissible_list_at_two_receptacles_that_share_a_location() -> None:
    made = world()
    play(made, "go to countertop 1")
    assert made.admissible() == [
        "close drawer 2",
        "examine countertop 1",
        "examine drawer 2",
        "go to drawer 1",
        "go to fridge 1",
        "go to microwave 1",
        "go to sidetable 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
        "take apple 1 from countertop 1",
        "take bowl 1 from countertop 1",
        "take egg 1 from countertop 1",
        "take egg 1 from drawer 2",
        "take knife 1 from drawer 2",
    ]


def test_the_list_is_the_callers_own() -> None:
    made = world()
    made.admissible().clear()
    assert made.admissible()


# ── going, opening, examining ────────────────────────────────────────────────────────────────────────────────────────


def test_going() -> None:
    made = world()
    assert play(made, "go to fridge 1") == "You arrive at fridge 1. The fridge 1 is closed."
    assert play(made, "go to drawer 1") == "You arrive at drawer 1. On the drawer 1, you see nothing."
    text = play(made, "go to drawer 2")
    assert text == "You arrive at drawer 2. The drawer 2 is open. In it, you see a egg 1, and a knife 1."
    refused(made, "go to drawer 2", "go to countertop 1", "go to nowhere 1", "go to")


def test_going_in_the_old_dialect_names_the_location() -> None:
    assert play(world(dialect="put"), "go to fridge 1") == "You arrive at loc 1. The fridge 1 is closed."


def test_opening_and_closing() -> None:
    made = world()
    refused(made, "open fridge 1")
    play(made, "go to fridge 1")
    refused(made, "close fridge 1", "take apple 2 from fridge 1")
    assert play(made, "open fridge 1") == "You open the fridge 1. The fridge 1 is open. In it, you see a apple 2."
    refused(made, "open fridge 1")
    assert play(made, "close fridge 1") == "You close the fridge 1."
    assert play(made, "examine fridge 1") == "The fridge 1 is closed."
    play(made, "go to sinkbasin 1")
    refused(made, "open sinkbasin 1", "close sinkbasin 1", "examine fridge 1")


def test_examining_receptacles_shows_what_cannot_be_taken_too() -> None:
    made = world()
    play(made, "go to sinkbasin 1")
    assert play(made, "examine sinkbasin 1") == "On the sinkbasin 1, you see a faucet 1."
    refused(made, "take faucet 1 from sinkbasin 1")


def test_only_the_held_item_can_be_examined() -> None:
    made = world()
    play(made, "go to countertop 1")
    refused(made, "examine apple 1")
    play(made, "take apple 1 from countertop 1")
    assert play(made, "examine apple 1") == "There's nothing special about apple 1."


def test_a_bowl_lists_for_ever_what_the_data_puts_in_it() -> None:
    made = world()
    play(
        made,
        "go to countertop 1",
        "take bowl 1 from countertop 1",
        "go to sinkbasin 1",
        "clean bowl 1 with sinkbasin 1",
    )
    assert play(made, "examine bowl 1") == "This is a normal bowl 1. In it, you see a egg 1."
    empty = ITEMS[BOWL]._replace(contains=())
    made = World(dataclasses.replace(house(), items=(*ITEMS[:BOWL], empty, *ITEMS[BOWL + 1 :])))
    play(made, "go to countertop 1", "take bowl 1 from countertop 1")
    assert play(made, "examine bowl 1") == "This is a normal bowl 1. In it, you see nothing."


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("hot", "clean", "sliced"), "This is a hot and clean sliced apple 1."),
        (("cool", "clean", "sliced"), "This is a cool and clean sliced apple 1."),
        (("clean", "sliced"), "This is a clean sliced apple 1."),
        (("hot", "sliced"), "This is a hot sliced apple 1."),
        (("cool", "sliced"), "This is a cool sliced apple 1."),
        (("hot", "clean"), "This is a hot and clean apple 1."),
        (("cool", "clean"), "This is a cool and clean apple 1."),
        (("hot",), "This is a hot apple 1."),
        (("clean",), "This is a clean apple 1."),
        (("cool",), "This is a cold apple 1."),
        (("sliced",), "This is a sliced apple 1."),
        ((), "There's nothing special about apple 1."),
    ],
)
def test_what_examining_says(flags: tuple[str, ...], text: str) -> None:
    apple = ITEMS[APPLE]._replace(**dict.fromkeys(flags, True))
    made = World(dataclasses.replace(house(), items=(apple, *ITEMS[1:])))
    play(made, "go to countertop 1", "take apple 1 from countertop 1")
    assert play(made, "examine apple 1") == text


@pytest.mark.parametrize(("toggled", "word"), [(True, "on"), (False, "off")])
def test_a_lamp_in_the_hand(toggled: bool, word: str) -> None:
    lamp = ITEMS[LAMP]._replace(pickupable=True, toggled=toggled)
    made = World(dataclasses.replace(house(), items=(*ITEMS[:LAMP], lamp, *ITEMS[LAMP + 1 :])))
    play(made, "go to sidetable 1", "take desklamp 1 from sidetable 1")
    assert play(made, "examine desklamp 1") == f"This desklamp 1 is {word}."


# ── taking and putting ───────────────────────────────────────────────────────────────────────────────────────────────


def test_taking_and_moving() -> None:
    made = world()
    play(made, "go to countertop 1")
    assert play(made, "take apple 1 from countertop 1") == "You pick up the apple 1 from the countertop 1."
    refused(made, "take bowl 1 from countertop 1", "put apple 1 in/on countertop 1")  # full hands; the other dialect
    play(made, "go to sidetable 1")
    assert play(made, "move apple 1 to sidetable 1") == "You move the apple 1 to the sidetable 1."
    assert play(made, "examine sidetable 1") == "On the sidetable 1, you see a apple 1, and a desklamp 1."
    assert made.held == ""


def test_putting_in_the_old_dialect() -> None:
    made = world(dialect="put")
    play(made, "go to countertop 1", "take apple 1 from countertop 1", "go to sidetable 1")
    refused(made, "move apple 1 to sidetable 1")
    assert play(made, "put apple 1 in/on sidetable 1") == "You put the apple 1 in/on the sidetable 1."


def test_moving_asks_for_a_fitting_open_receptacle_here() -> None:
    made = world()
    play(made, "go to countertop 1", "take bowl 1 from countertop 1")
    refused(made, "move bowl 1 to drawer 2", "move bowl 1 to sidetable 1", "move apple 1 to countertop 1")
    play(made, "go to fridge 1")
    refused(made, "move bowl 1 to fridge 1")
    play(made, "open fridge 1")
    assert play(made, "move bowl 1 to fridge 1") == "You move the bowl 1 to the fridge 1."


def test_an_item_in_two_receptacles_is_held_and_still_seen() -> None:
    made = world()
    play(made, "go to countertop 1", "take egg 1 from drawer 2")
    assert made.places(EGG) == (COUNTER,)
    assert play(made, "examine countertop 1") == "On the countertop 1, you see a apple 1, a bowl 1, and a egg 1."
    play(made, "move egg 1 to countertop 1")
    assert made.places(EGG) == (COUNTER,)
    assert made.contents(COUNTER) == (APPLE, BOWL, EGG)


def test_what_lies_next_to_it_is_what_moved_between_receptacles_of_one_location() -> None:
    made = world()
    play(made, "go to countertop 1", "take apple 1 from countertop 1")
    assert play(made, "look") == "You are facing the countertop 1, and drawer 2. Next to it, you see nothing."
    play(made, "move apple 1 to drawer 2", "take egg 1 from drawer 2", "move egg 1 to countertop 1")
    assert (
        play(made, "look")
        == "You are facing the countertop 1, and drawer 2. Next to it, you see a apple 1, and a egg 1."
    )
    play(made, "take apple 1 from drawer 2", "move apple 1 to countertop 1")
    kept = made.snapshot()
    made.reset()
    made.restore(kept)  # apple 1 was taken from drawer 2 last
    assert (
        play(made, "look")
        == "You are facing the countertop 1, and drawer 2. Next to it, you see a apple 1, and a egg 1."
    )
    play(made, "take apple 1 from countertop 1", "go to drawer 1", "move apple 1 to drawer 1")
    assert play(made, "look") == "You are facing the drawer 1. Next to it, you see nothing."
    play(made, "go to drawer 2")
    assert play(made, "look") == "You are facing the countertop 1, and drawer 2. Next to it, you see a egg 1."


# ── doing things to items ────────────────────────────────────────────────────────────────────────────────────────────


def test_heating_cooling_and_cleaning_need_no_open_door() -> None:
    made = world()
    play(made, "go to countertop 1", "take apple 1 from countertop 1")
    refused(made, "heat apple 1 with microwave 1", "cool apple 1 with fridge 1", "clean apple 1 with sinkbasin 1")
    play(made, "go to microwave 1")
    assert play(made, "heat apple 1 with microwave 1") == "You heat the apple 1 using the microwave 1."
    assert play(made, "examine apple 1") == "This is a hot apple 1."
    play(made, "go to fridge 1")
    assert play(made, "cool apple 1 with fridge 1") == "You cool the apple 1 using the fridge 1."
    assert play(made, "examine apple 1") == "This is a cold apple 1."
    play(made, "go to sinkbasin 1")
    assert play(made, "clean apple 1 with sinkbasin 1") == "You clean the apple 1 using the sinkbasin 1."
    assert play(made, "examine apple 1") == "This is a cool and clean apple 1."


def test_only_what_can_be_heated_is() -> None:
    made = world()
    play(made, "go to drawer 2", "take knife 1 from drawer 2", "go to microwave 1")
    refused(made, "heat knife 1 with microwave 1", "clean knife 1 with microwave 1")


def test_a_lamp_stays_on_and_the_text_says_so_again() -> None:
    made = world()
    refused(made, "use desklamp 1")
    play(made, "go to sidetable 1")
    assert play(made, "use desklamp 1") == "You turn on the desklamp 1."
    key = made.state_key()
    assert play(made, "use desklamp 1") == "You turn on the desklamp 1."
    assert made.state_key() == key


def test_a_lamp_in_a_closed_receptacle_can_be_used() -> None:
    lamp = ITEMS[LAMP]._replace(within=(FRIDGE,))
    made = World(dataclasses.replace(house(), items=(*ITEMS[:LAMP], lamp, *ITEMS[LAMP + 1 :])))
    play(made, "go to fridge 1", "use desklamp 1")


def test_slicing() -> None:
    made = world()
    play(made, "go to countertop 1")
    refused(made, "slice apple 1 with knife 1")
    play(made, "take knife 1 from drawer 2")
    assert play(made, "slice apple 1 with knife 1") == "You sliced the apple 1 with the knife 1."
    refused(made, "slice egg 1 with knife 1", "slice apple 2 with knife 1")
    play(made, "go to fridge 1")
    assert (
        play(made, "slice apple 2 with knife 1") == "You sliced the apple 2 with the knife 1."
    )  # behind a closed door


def test_slicing_follows_an_item_that_was_moved() -> None:
    made = world()
    play(made, "go to countertop 1", "take apple 1 from countertop 1")
    assert made.slice_spots(APPLE) == ()
    play(made, "go to drawer 1", "move apple 1 to drawer 1")
    play(made, "go to drawer 2", "take knife 1 from drawer 2")
    refused(made, "slice apple 1 with knife 1")
    play(made, "go to drawer 1", "slice apple 1 with knife 1")


# ── goals ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pick_and_place() -> None:
    made = world()
    play(made, "go to countertop 1", "take apple 1 from countertop 1", "go to sidetable 1")
    assert not made.won
    play(made, "move apple 1 to sidetable 1")
    assert made.won
    play(made, "take apple 1 from sidetable 1")
    assert not made.won


@pytest.mark.parametrize("lamp_first", [True, False])
def test_look_at_something_under_the_lamp(lamp_first: bool) -> None:
    made = world(Goal("look_at_obj_in_light", "Apple", "look at apple under the desklamp.", toggle="DeskLamp"))
    if lamp_first:
        play(made, "go to sidetable 1", "use desklamp 1")
    play(made, "go to countertop 1", "take apple 1 from countertop 1")
    assert not made.won
    play(made, "go to sidetable 1")
    assert made.won == lamp_first
    play(made, "use desklamp 1")
    assert made.won
    play(made, "go to fridge 1")
    assert not made.won


@pytest.mark.parametrize(
    ("goal_type", "place", "treat"),
    [
        ("pick_clean_then_place_in_recep", "sinkbasin 1", "clean apple 1 with sinkbasin 1"),
        ("pick_heat_then_place_in_recep", "microwave 1", "heat apple 1 with microwave 1"),
        ("pick_cool_then_place_in_recep", "fridge 1", "cool apple 1 with fridge 1"),
    ],
)
def test_treat_and_place(goal_type, place: str, treat: str) -> None:  # type: ignore[no-untyped-def]
    made = world(Goal(goal_type, "Apple", "", "SideTable"))
    play(
        made, "go to countertop 1", "take apple 1 from countertop 1", "go to sidetable 1", "move apple 1 to sidetable 1"
    )
    assert not made.won
    play(made, "take apple 1 from sidetable 1", f"go to {place}", treat, "go to sidetable 1")
    assert not made.won
    play(made, "move apple 1 to sidetable 1")
    assert made.won


def test_what_is_cool_but_not_coolable_does_not_count() -> None:
    statue = Item("apple 3", "Apple", 6, (SIDETABLE,), pickupable=True, cool=True)
    goal = Goal("pick_cool_then_place_in_recep", "Apple", "", "SideTable")
    made = World(dataclasses.replace(house(goal), items=(*ITEMS, statue)))
    assert not made.won


def test_two_must_be_in_the_same_receptacle() -> None:
    made = world(Goal("pick_two_obj_and_place", "Apple", "put two apple in drawer.", "Drawer"))
    play(made, "go to countertop 1", "take apple 1 from countertop 1", "move apple 1 to drawer 2")
    play(
        made,
        "go to fridge 1",
        "open fridge 1",
        "take apple 2 from fridge 1",
        "go to drawer 1",
        "move apple 2 to drawer 1",
    )
    assert not made.won
    play(made, "take apple 2 from drawer 1", "go to drawer 2", "move apple 2 to drawer 2")
    assert made.won


def test_sliced_goal() -> None:
    made = world(Goal("pick_and_place_simple", "Apple", "put sliced apple in countertop.", "CounterTop", sliced=True))
    play(made, "go to drawer 2", "take knife 1 from drawer 2")
    assert not made.won
    play(made, "slice apple 1 with knife 1")
    assert made.won


# ── the state ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command", ["", "xyzzy", "LOOK", "look now", "examine apple 2", "take egg 9 from drawer 2", "move  to "]
)
def test_nonsense_changes_nothing(command: str) -> None:
    refused(world(), command)


def test_commands_are_stripped_and_nothing_more() -> None:
    made = world()
    made.step(" go to fridge 1\n")
    assert made.valid and made.at == 1
    refused(made, "go  to drawer 1")


def test_reset_puts_everything_back() -> None:
    made = world()
    key, listed = made.state_key(), made.admissible()
    play(made, "go to countertop 1", "close drawer 2", "take apple 1 from countertop 1")
    made.reset()
    assert (made.state_key(), made.admissible(), made.held, made.won) == (key, listed, "", False)


def test_going_back_and_forth_returns_to_the_same_key() -> None:
    made = world()
    play(made, "go to countertop 1")
    key = made.state_key()
    play(made, "take bowl 1 from countertop 1")
    held = made.state_key()
    play(made, "move bowl 1 to countertop 1")
    assert made.state_key() == key != held
    play(made, "close drawer 2")
    assert made.state_key() != key
    play(made, "open drawer 2")
    assert made.state_key() == key


def test_restore_also_into_another_world() -> None:
    made, other = world(), world()
    play(made, "go to countertop 1", "close drawer 2", "take apple 1 from countertop 1")
    kept = made.snapshot()
    key, listed = made.state_key(), made.admissible()
    play(made, "go to sidetable 1", "move apple 1 to sidetable 1")
    assert made.won
    for each in (made, other):
        each.restore(kept)
        assert (each.state_key(), each.admissible(), each.won, each.held) == (key, listed, False, "apple 1")
        play(each, "move apple 1 to countertop 1")
    assert made.state_key() == other.state_key()


def observable(made: World) -> tuple[object, ...]:
    """All that tells states apart, read through the accessors and without the key."""
    n_items, n_receptacles = range(len(made.house.items)), range(len(made.house.receptacles))
    places = tuple(map(made.places, n_items)), tuple(map(made.contents, n_receptacles))
    return (
        made.at,
        made.holds,
        made.opened,
        places,
        tuple(map(made.flags, n_items)),
        tuple(map(made.slice_spots, n_items)),
    )


@given(st.integers(0, 10**9), st.sampled_from(["move", "put"]))
def test_random_walks(seed: int, dialect: Dialect) -> None:
    rng, made = random.Random(seed), world(dialect=dialect)
    known: dict[str, object] = {}
    vocabulary = set(made.admissible())
    for _ in range(60):
        listed = made.admissible()
        assert listed == sorted(set(listed))
        state, key = observable(made), made.state_key()
        assert known.setdefault(key, state) == state  # equal keys, equal states
        kept = made.snapshot()
        assert made.step(rng.choice(listed)) != NOTHING_HAPPENS
        assert made.valid
        after = made.snapshot()
        made.restore(kept)
        assert (made.state_key(), made.admissible()) == (key, listed)
        for command in vocabulary.difference(listed):
            assert made.step(command) == NOTHING_HAPPENS
            assert not made.valid and made.state_key() == key
        made.restore(after)
        vocabulary.update(made.admissible())
    assert len(set(known.values())) == len(known)  # distinct keys, distinct states


def test_unseen_is_what_nobody_has_looked_into() -> None:
    made = world()
    everything = ["countertop 1", "drawer 2", "drawer 1", "fridge 1", "microwave 1", "sidetable 1", "sinkbasin 1"]
    assert made.unseen() == everything
    play(made, "go to fridge 1")  # closed: nothing was told
    assert made.unseen() == everything
    play(made, "open fridge 1", "go to countertop 1", "look")  # "look" names no contents
    assert made.unseen() == ["drawer 2", "drawer 1", "microwave 1", "sidetable 1", "sinkbasin 1"]
    before = made.snapshot()
    play(made, "examine drawer 2", "go to sidetable 1")
    assert made.unseen() == ["drawer 1", "microwave 1", "sinkbasin 1"]
    made.restore(before)
    assert made.unseen() == ["drawer 2", "drawer 1", "microwave 1", "sidetable 1", "sinkbasin 1"]
    made.reset()
    assert made.unseen() == everything
