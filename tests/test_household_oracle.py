"""The oracle wins from everywhere; the expert wins without knowing more than it was shown."""

from __future__ import annotations

import gzip
import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.env import shared_folder
from agentrl.envs.household import games, generate
from agentrl.envs.household.house import TASK_TYPES, Goal, House, Item, Receptacle
from agentrl.envs.household.oracle import Expert, Wanted, parse_goal, plan
from agentrl.envs.household.world import World
from agentrl.errors import GameError
from agentrl.seeding import stream

LEVELS = ("tiny", "easy", "medium", "full")
SMALL = LEVELS[:2]
SPLITS = ("train", "valid_seen", "valid_unseen")
REAL = Path(shared_folder()) / "data" / "alfworld" / "games.jsonl.gz"


def drawn(level: str, split: str, n: int, dialect: str = "move") -> list[House]:
    return [replace(generate.house(task), dialect=dialect) for task in generate.tasks(level, split)[:n]]


def real_houses(every: int, dialect: str) -> list[House]:
    if not REAL.is_file():
        pytest.skip("no real ALFWorld data")
    with gzip.open(REAL, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for number, line in enumerate(lines) if number % every == 0]
    return [games.load(row, dialect=dialect) for row in rows]


def follow(world: World, commands: list[str]) -> None:
    for command in commands:
        assert not world.won
        world.step(command)
        assert world.valid, command
    assert world.won


def wander(world: World, n_turns: int, seed: int) -> None:
    random = stream(seed, "wander").random
    for _ in range(n_turns):
        commands = world.admissible()
        world.step(commands[int(random() * len(commands))])


def turns_of(expert: Expert, house: House, limit: int) -> int:
    """Turns until the expert has won; ``limit + 1`` where it has not."""
    world = World(house)
    text = world.reset()
    for turn in range(limit):
        if world.won:
            return turn
        text = world.step(expert.act(text, world.admissible(), house.goal.text))
        assert world.valid
    return limit if world.won else limit + 1


# ── goal sentences ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("put a mug in coffeemachine.", Wanted("pick_and_place_simple", "mug", "coffeemachine")),
        ("put some book on sidetable.", Wanted("pick_and_place_simple", "book", "sidetable")),
        ("look at cd under the desklamp.", Wanted("look_at_obj_in_light", "cd", "", "desklamp")),
        ("examine the bowl with the desklamp.", Wanted("look_at_obj_in_light", "bowl", "", "desklamp")),
        ("put a clean cloth in cabinet.", Wanted("pick_clean_then_place_in_recep", "cloth", "cabinet")),
        ("clean some fork and put it in drawer.", Wanted("pick_clean_then_place_in_recep", "fork", "drawer")),
        ("put a hot egg in fridge", Wanted("pick_heat_then_place_in_recep", "egg", "fridge")),
        ("heat some cup and put it in cabinet.", Wanted("pick_heat_then_place_in_recep", "cup", "cabinet")),
        ("put a cool apple in microwave.", Wanted("pick_cool_then_place_in_recep", "apple", "microwave")),
        ("cool some apple and put it in fridge.", Wanted("pick_cool_then_place_in_recep", "apple", "fridge")),
        ("put two cd in drawer.", Wanted("pick_two_obj_and_place", "cd", "drawer")),
        ("find two book and put them in desk.", Wanted("pick_two_obj_and_place", "book", "desk")),
    ],
)
def test_goal_sentences(text, wanted):
    assert parse_goal(text) == wanted


@pytest.mark.parametrize("text", ["", "put", "put a hot clean egg in fridge.", "put a egg in fridge. now", "win."])
def test_other_sentences_are_an_error(text):
    with pytest.raises(GameError, match="goal sentence"):
        parse_goal(text)


# ── the oracle ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dialect", ["move", "put"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_oracle_wins_every_generated_house(level, split, dialect):
    longest = 0
    for house in drawn(level, split, 300 if level in SMALL else 90, dialect):
        world = World(house)
        world.reset()
        commands = plan(world)
        longest = max(longest, len(commands))
        follow(world, commands)
        assert plan(world) == []
    assert longest <= 12


@given(st.sampled_from(LEVELS), st.integers(0, 999), st.integers(1, 60), st.integers(0, 1000))
def test_the_oracle_wins_from_wherever_a_wanderer_left_the_house(level, index, n_turns, seed):
    world = World(generate.house(generate.tasks(level, "valid_seen")[index]))
    world.reset()
    wander(world, n_turns, seed)
    before = world.snapshot()
    commands = plan(world)
    assert world.snapshot() == before
    follow(world, commands)


def shortest(world: World, limit: int) -> int:
    """Length of the shortest way to win, by breadth-first search."""
    world.reset()
    queue, seen = deque([(0, world.snapshot())]), {world.state_key()}
    while queue:
        depth, snapshot = queue.popleft()
        world.restore(snapshot)
        for command in world.admissible():
            if command.startswith(("examine", "look", "inventory", "help", "close")):
                continue
            world.restore(snapshot)
            world.step(command)
            if world.won:
                return depth + 1
            if depth + 1 < limit and world.state_key() not in seen:
                seen.add(world.state_key())
                queue.append((depth + 1, world.snapshot()))
    raise AssertionError("out of reach")


def test_plans_are_shortest_where_a_search_can_tell():
    easy_to_search = ("pick_and_place_simple", "look_at_obj_in_light")
    for task in generate.tasks("tiny", "valid_seen", easy_to_search)[:12]:
        world = World(generate.house(task))
        world.reset()
        found = len(plan(world))
        assert found == shortest(world, found)


@pytest.mark.parametrize("dialect", ["move", "put"])
def test_the_oracle_wins_a_sample_of_real_games(dialect):
    for house in real_houses(12, dialect):
        world = World(house)
        world.reset()
        follow(world, plan(world))


@pytest.mark.slow
def test_the_oracle_wins_every_real_game_from_the_start_and_from_afar():
    lost = 0
    for number, house in enumerate(real_houses(1, "move")):
        world = World(house)
        world.reset()
        follow(world, plan(world))
        world.reset()
        wander(world, number % 50, number)
        try:
            commands = plan(world)
        except GameError:  # only what no receptacle takes cannot be put down
            held = house.items[world.holds].kind
            assert not any((place.kind, held) in house.can_contain for place in house.receptacles)
            lost += 1
            continue
        if commands:
            follow(world, commands)
    assert lost <= 10


def kitchen(*items: Item, goal: Goal, can_contain: frozenset[tuple[str, str]] | None = None) -> House:
    """A counter and a microwave that stands on it, a sink, a fridge and a drawer."""
    receptacles = (
        Receptacle("countertop 1", "CounterTop", 1),
        Receptacle("microwave 1", "Microwave", 1, openable=True),
        Receptacle("sinkbasin 1", "SinkBasin", 2),
        Receptacle("fridge 1", "Fridge", 3, openable=True),
        Receptacle("drawer 1", "Drawer", 4, openable=True),
    )
    return House(receptacles, items, generate.can_contain() if can_contain is None else can_contain, 0, goal)


def test_a_receptacle_that_shares_the_place_is_used_without_going_to_it():
    apple = Item("apple 1", "Apple", 1, within=(1,), pickupable=True, heatable=True, coolable=True)
    goal = Goal("pick_heat_then_place_in_recep", "Apple", "heat some apple and put it in countertop.", "CounterTop")
    world = World(kitchen(apple, goal=goal))
    world.reset()
    commands = plan(world)
    assert commands == [
        "go to microwave 1",
        "open microwave 1",
        "take apple 1 from microwave 1",
        "heat apple 1 with microwave 1",
        "move apple 1 to countertop 1",
    ]
    follow(world, commands)


def test_an_item_that_is_also_in_the_target_is_not_put_there_again():
    pan = Item("pan 1", "Pan", 1, within=(0, 2), pickupable=True, cleanable=True)
    goal = Goal("pick_clean_then_place_in_recep", "Pan", "put a clean pan in countertop.", "CounterTop")
    world = World(kitchen(pan, goal=goal))
    world.reset()
    follow(world, plan(world))


def test_an_item_that_is_hot_already_is_not_heated_again_and_a_wrong_one_is_dropped_first():
    apple = Item("apple 1", "Apple", 3, within=(3,), pickupable=True, heatable=True, hot=True)
    fork = Item("fork 1", "Fork", 2, within=(2,), pickupable=True)
    goal = Goal("pick_heat_then_place_in_recep", "Apple", "put a hot apple in countertop.", "CounterTop")
    world = World(kitchen(apple, fork, goal=goal))
    world.reset()
    for command in ("go to sinkbasin 1", "take fork 1 from sinkbasin 1"):
        world.step(command)
    commands = plan(world)
    assert commands[0] == "move fork 1 to sinkbasin 1"
    assert not any(command.startswith("heat") for command in commands)
    follow(world, commands)


def test_hands_full_of_what_nothing_takes_and_sliced_goals_are_errors():
    apple = Item("apple 1", "Apple", 3, within=(3,), pickupable=True)
    roll = Item("papertowelroll 1", "PaperTowelRoll", 1, within=(0,), pickupable=True)
    goal = Goal("pick_and_place_simple", "Apple", "put a apple in drawer.", "CounterTop")
    world = World(kitchen(apple, roll, goal=goal))
    world.reset()
    world.step("go to countertop 1")
    world.step("take papertowelroll 1 from countertop 1")
    with pytest.raises(GameError, match="no plan for 'put a apple in drawer"):
        plan(world)
    with pytest.raises(GameError, match="no plan"):
        plan(World(kitchen(apple, goal=replace(goal, sliced=True))))


# ── the expert ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["prior", "random"])
@pytest.mark.parametrize("dialect", ["move", "put"])
@pytest.mark.parametrize("level", SMALL)
def test_the_expert_wins_generated_houses(level, dialect, order):
    expert = Expert(seed=3, order=order)
    turns = [turns_of(expert, house, 50) for house in drawn(level, "valid_unseen", 180, dialect)]
    assert max(turns) <= 50


@pytest.mark.parametrize("level", SMALL)
def test_the_expert_recovers_from_its_noise(level):
    expert = Expert(noise=0.3, seed=4)
    turns = [turns_of(expert, house, 100) for house in drawn(level, "train", 180)]
    assert max(turns) <= 100


def test_likely_receptacles_first_is_faster_than_any_order():
    houses = drawn("easy", "valid_seen", 180)
    by_prior, at_random = (
        sum(turns_of(Expert(seed=5, order=order), house, 60) for house in houses) for order in ("prior", "random")
    )
    assert by_prior < 0.85 * at_random


@pytest.mark.slow
def test_the_expert_wins_the_real_games():
    turns = [turns_of(Expert(seed=6), house, 150) for house in real_houses(1, "move")]
    assert sum(turn <= 50 for turn in turns) >= 0.98 * len(turns)


def test_the_expert_wins_a_sample_of_real_games_in_the_old_dialect():
    turns = [turns_of(Expert(seed=6), house, 150) for house in real_houses(15, "put")]
    assert max(turns) <= 150


@pytest.mark.parametrize("level", SMALL)
def test_the_expert_never_uses_what_it_has_not_seen(level):
    """Moves everything somewhere else: until a text differs, the commands must not."""
    later = 0
    for number, house in enumerate(drawn(level, "train", 300)):
        random = stream(number, "elsewhere").random
        items = []
        for item in house.items:
            place = int(random() * len(house.receptacles))
            items.append(item._replace(within=(place,), location=house.receptacles[place].location))
        worlds = World(house), World(replace(house, items=tuple(items)))
        texts = [world.reset() for world in worlds]
        experts = Expert(seed=number), Expert(seed=number)
        while texts[0] == texts[1] and not worlds[0].won and not worlds[1].won:
            later += 1
            commands = [
                expert.act(texts[0], world.admissible(), house.goal.text)
                for expert, world in zip(experts, worlds, strict=True)
            ]
            assert commands[0] == commands[1]
            texts = [world.step(command) for world, command in zip(worlds, commands, strict=True)]
    assert later > 350


def test_equal_seeds_give_equal_commands_and_reset_starts_again():
    house = generate.house(generate.tasks("easy", "train")[4])

    def commands(expert: Expert) -> list[str]:
        world = World(house)
        text, chosen = world.reset(), []
        for _ in range(30):
            chosen.append(expert.act(text, world.admissible(), house.goal.text))
            text = world.step(chosen[-1])
        return chosen

    expert = Expert(noise=0.5, seed=8)
    first = commands(expert)
    assert commands(Expert(noise=0.5, seed=8)) == first
    assert commands(Expert(noise=0.5, seed=9)) != first
    expert.reset(8)
    assert commands(expert) == first


def test_full_noise_is_a_random_player():
    world = World(generate.house(generate.tasks("tiny", "train")[0]))
    text = world.reset()
    admissible = world.admissible()
    goal = world.house.goal.text
    chosen = {Expert(noise=1.0, seed=seed).act(text, admissible, goal) for seed in range(200)}
    assert chosen == set(admissible) - {"help"}


def test_wrong_arguments_of_the_expert_are_errors():
    with pytest.raises(GameError, match="noise"):
        Expert(noise=1.5)
    with pytest.raises(GameError, match="order"):
        Expert(order="alphabet")  # type: ignore[arg-type]
    with pytest.raises(GameError, match="goal sentence"):
        Expert().act("", ["look"], "be good")
    with pytest.raises(GameError, match="none"):
        Expert().act("", [], "put a mug in shelf.")


def test_all_six_types_are_played():
    assert {house.goal.type for house in drawn("tiny", "valid_unseen", 6)} == set(TASK_TYPES)
