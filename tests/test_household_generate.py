"""Generated houses: the same everywhere, solvable, not solved, of the level's size, and in splits that stay apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.env import shared_folder
from agentrl.envs.household import generate
from agentrl.envs.household.house import TASK_TYPES, House
from agentrl.envs.household.world import World
from agentrl.errors import GameError
from agentrl.seeding import stable_hash
from agentrl.types import Task

LEVELS = ("tiny", "easy", "medium", "full")
SPLITS = ("train", "valid_seen", "valid_unseen")


def drawn(level: str, split: str, n: int) -> list[House]:
    return [generate.house(task) for task in generate.tasks(level, split)[:n]]


def fingerprint(house: House) -> str:
    places = [(r.name, r.kind, r.location, r.openable) for r in house.receptacles]
    items = [(i.name, i.kind, i.location, i.within, i.pickupable) for i in house.items]
    goal = house.goal
    return f"{stable_hash(repr((places, items, goal.type, goal.item, goal.receptacle, goal.toggle, goal.text))):032x}"


def target(house: House) -> tuple[str, str]:
    return house.goal.item, house.goal.receptacle or house.goal.toggle


def bounds(level: str, room: str, what: str) -> tuple[int, int]:
    """The least and the most that a level may have: its own numbers, moved towards those of real rooms."""
    rules, real = generate.LEVELS[level], generate.priors()["sizes"][room][what]
    least, most = getattr(rules, what)
    low, high = max(least, real[0]), real[-1]
    return round(least + rules.real * (low - least)), round(most + rules.real * (high - most))


def places_of_sought(house: House) -> set[str]:
    return {house.receptacles[item.within[0]].kind for item in house.items if item.kind == house.goal.item}


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tasks_are_lazy_sequences_with_distinct_ids_that_cycle_over_the_types():
    tasks = generate.tasks("tiny", "train")
    assert len(tasks) == 100_000
    assert tasks[17].id == "household-tiny-train-17"
    assert tasks[-1].id == "household-tiny-train-99999"
    assert [task.type for task in tasks[:7]] == [*TASK_TYPES, TASK_TYPES[0]]
    assert len({task.id for split in SPLITS for task in generate.tasks("easy", split)[:1000]}) == 3000
    with pytest.raises(IndexError, match="100000"):
        tasks[100_000]


def test_some_types_only_have_their_own_ids_and_come_in_one_order():
    two = ["pick_clean_then_place_in_recep", "pick_and_place_simple"]
    tasks = generate.tasks("tiny", "valid_seen", two)
    assert tasks[3].id == "household-tiny-valid_seen-pick+clean-3"
    assert {task.type for task in tasks[:50]} == set(two)
    assert tasks[3] == generate.tasks("tiny", "valid_seen", two[::-1])[3]


@given(st.sampled_from(LEVELS), st.sampled_from(SPLITS), st.integers(0, 999), st.sets(st.sampled_from(TASK_TYPES)))
def test_an_id_and_json_give_the_task_back(level, split, index, types):
    task = generate.tasks(level, split, sorted(types) or None)[index]
    assert generate.task_by_id(task.id) == task
    fields = json.loads(json.dumps(task.options))
    assert generate.house(Task(task.id, task.seed, task.type, options=fields)) == generate.house(task)


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "17",
        "household-huge-train-1",
        "household-tiny-test-1",
        "household-tiny-train-100000",
        "household-tiny-train-01",
        "household-tiny-train-clean+pick-1",
        "household-tiny-train-slice-1",
    ],
)
def test_other_ids_are_an_error(task_id):
    with pytest.raises(GameError, match="no household task"):
        generate.task_by_id(task_id)


def test_unknown_names_are_errors_that_name_the_nearest():
    with pytest.raises(GameError, match="Did you mean 'tiny'"):
        generate.tasks("tinny", "train")
    with pytest.raises(GameError, match="no split 'test'"):
        generate.tasks("tiny", "test")
    with pytest.raises(GameError, match="no task type 'pick'"):
        generate.tasks("tiny", "train", ["pick"])
    with pytest.raises(GameError, match="no generated house"):
        generate.house(Task("mine", type=TASK_TYPES[0]))


# ── houses ───────────────────────────────────────────────────────────────────────────────────────────────────────────

FIXED = {
    "household-tiny-train-0": "0245f36f850233fd509a28b2774a14df",
    "household-tiny-valid_unseen-4": "f56b503f302ced9c443c114386986c6a",
    "household-easy-valid_seen-17": "ec179ba04052ec27d715a2ef30b71c02",
    "household-medium-train-5": "81f79bc761a0d701729285b6471cacc2",
    "household-full-valid_seen-3": "5fa86c5fe5b1006697152ad900d4dbd9",
    "household-full-valid_unseen-9": "3cbe60cc4441948c98dde802ffc5a1da",
}


def test_some_houses_are_the_ones_that_they_have_always_been():
    assert {task_id: fingerprint(generate.house(generate.task_by_id(task_id))) for task_id in FIXED} == FIXED


def test_another_process_draws_the_same_houses():
    code = (
        "from agentrl.envs.household import generate as g\n"
        "print([(h.receptacles, h.items, h.goal) for h in map(g.house, g.tasks('easy', 'train')[:30])])"
    )
    here = [(h.receptacles, h.items, h.goal) for h in drawn("easy", "train", 30)]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == repr(here)


@given(st.sampled_from(LEVELS), st.sampled_from(SPLITS), st.integers(0, 999))
def test_a_house_keeps_the_rules_of_its_level_and_of_alfworld(level, split, index):
    house = generate.house(generate.tasks(level, split)[index])
    rules, room = generate.LEVELS[level], generate.priors()["rooms"][house.room]
    least, most = bounds(level, house.room, "receptacles")
    assert least <= len(house.receptacles) <= most
    pickupable = [item for item in house.items if item.pickupable]
    least, most = bounds(level, house.room, "items")
    assert least - 1 <= len(pickupable) <= most
    assert all(item.kind == "DeskLamp" and item.toggleable for item in house.items if not item.pickupable)
    assert {item.kind for item in pickupable} <= (rules.kinds or set(room["items"]))
    assert {r.kind for r in house.receptacles} <= set(room["receptacles"])
    for item in pickupable:  # where it may be put back
        place = house.receptacles[item.within[0]]
        assert (place.kind, item.kind) in house.can_contain
        assert item.location == place.location
    locations = {r.location for r in house.receptacles}
    assert locations == set(range(1, len(locations) + 1))
    assert house.start == len(locations) + 1
    assert all(r.kind in generate.priors()["openable"] for r in house.receptacles if r.openable)
    for things in (house.receptacles, house.items):
        by_kind: dict[str, list[int]] = {}
        for thing in things:
            name, _, number = thing.name.rpartition(" ")
            assert name == thing.kind.lower()
            by_kind.setdefault(name, []).append(int(number))
        assert list(by_kind) == sorted(by_kind)
        assert all(numbers == list(range(len(numbers), 0, -1)) for numbers in by_kind.values())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", LEVELS)
def test_goals_fit_the_room_and_are_not_true_at_the_start(level, split):
    houses = drawn(level, split, 300)
    assert {house.goal.type for house in houses} == set(TASK_TYPES)
    for house in houses:
        world = World(house)
        assert world.reset().endswith(f"Your task is to: {house.goal.text}")
        assert not world.won
        assert house.room in generate.priors()["task_rooms"][house.goal.type]
        item, place = target(house)
        sentences = generate.priors()["sentences"][house.goal.type]
        words = {"obj": item.lower(), "recep": place.lower(), "toggle": place.lower()}
        assert house.goal.text in [sentence.format(**words) + "." for sentence in sentences]
        if house.goal.type == "pick_and_place_simple":
            assert place not in places_of_sought(house)


def test_both_sentences_of_every_type_occur():
    houses = drawn("tiny", "train", 240)
    starts = {(house.goal.type, " ".join(house.goal.text.split()[:2])) for house in houses}
    for task_type, sentences in generate.priors()["sentences"].items():
        firsts = {sentence.split()[0] for sentence in sentences}
        assert {start.split()[0] for kind, start in starts if kind == task_type} == firsts


def test_sought_items_lie_where_real_ones_do_and_easy_rooms_share_places():
    houses = drawn("easy", "train", 1200)
    in_target = [house for house in houses if house.goal.receptacle in places_of_sought(house)]
    assert 0 < len(in_target) < 0.1 * len(houses)
    assert any(len({r.location for r in h.receptacles}) < len(h.receptacles) for h in houses)
    assert all(len({r.location for r in h.receptacles}) == 6 for h in drawn("tiny", "train", 300))
    drawers = [r.openable for h in houses for r in h.receptacles if r.kind == "Drawer"]
    assert sum(drawers) / len(drawers) == pytest.approx(generate.priors()["openable"]["Drawer"], abs=0.06)


def median_size(houses: list[House], room: str) -> tuple[float, float]:
    """Of the houses with such a room: receptacles, and items that can be picked up."""
    found = [house for house in houses if house.room == room]
    n_items = [sum(item.pickupable for item in house.items) for house in found]
    return median(len(house.receptacles) for house in found), median(n_items)


def test_full_houses_are_as_large_as_real_rooms_and_the_levels_ascend():
    drawn_houses = {level: drawn(level, "train", 480) for level in LEVELS}
    everywhere = [len(house.receptacles) for house in drawn_houses["full"]]
    assert min(everywhere) == 13 and 50 <= max(everywhere) <= 54
    for room, real in generate.priors()["sizes"].items():
        sizes = [median_size(drawn_houses[level], room) for level in LEVELS]
        for smaller, larger in pairwise(sizes):
            assert smaller[0] < larger[0] and smaller[1] < larger[1]
        large_enough = [n for n in real["receptacles"] if n >= 13]
        assert sizes[-1][0] == pytest.approx(median(large_enough), abs=2)
        assert sizes[-1][1] == pytest.approx(median(real["items"]), abs=2)


def test_full_kitchens_hold_the_kinds_of_real_ones_in_their_proportions():
    kitchens = [house for house in drawn("full", "train", 600) if house.room == "Kitchen"]
    receptacles = Counter(place.kind for house in kitchens for place in house.receptacles)
    for kind, (share, number, _) in generate.priors()["rooms"]["Kitchen"]["receptacles"].items():
        assert receptacles[kind] / len(kitchens) == pytest.approx(share * number, rel=0.4, abs=0.3), kind
    kinds = Counter(kind for house in kitchens for kind in {item.kind for item in house.items})
    for kind, share in generate.priors()["rooms"]["Kitchen"]["items"].items():
        may_lie_somewhere = any((place, kind) in generate.can_contain() for place in receptacles)
        assert kinds[kind] / len(kitchens) == pytest.approx(share if may_lie_somewhere else 0, abs=0.12), kind
    shared = [1 - len({r.location for r in house.receptacles}) / len(house.receptacles) for house in kitchens]
    assert 0.05 < mean(shared) < 0.16


# ── splits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_no_house_is_in_two_splits(level):
    n_train = 4000 if level in ("tiny", "easy") else 1000  # larger houses hardly meet, and take longer to draw
    found = {split: drawn(level, split, n_train if split == "train" else n_train // 4) for split in SPLITS}
    contents = {split: {generate.content(house) for house in houses} for split, houses in found.items()}
    assert not contents["train"] & contents["valid_seen"]
    assert not contents["train"] & contents["valid_unseen"]
    assert not contents["valid_seen"] & contents["valid_unseen"]
    assert len(contents["train"]) > 0.95 * n_train  # and hardly any house comes twice


@pytest.mark.parametrize("level", LEVELS)
def test_unseen_goals_and_layouts_never_occur_in_training(level):
    found = {split: drawn(level, split, 300) for split in SPLITS}
    pairs = {split: {target(house) for house in houses} for split, houses in found.items()}
    layouts = {split: {generate.layout(house) for house in houses} for split, houses in found.items()}
    for split in ("train", "valid_seen"):
        assert not pairs[split] & pairs["valid_unseen"]
        assert not layouts[split] & layouts["valid_unseen"]
    assert pairs["train"] & pairs["valid_seen"]


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_type_has_goals_on_both_sides(level, task_type):
    for held_out in (False, True):
        assert sum(map(len, generate._choices(level, task_type, held_out))) >= 5


# ── priors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_priors_are_what_the_script_derives_from_the_real_data():
    folder = Path(shared_folder()) / "data" / "alfworld"
    if not folder.is_dir():
        pytest.skip("no real ALFWorld data")
    from agentrl.envs.household.make_priors import derive

    assert json.loads(json.dumps(derive(folder))) == generate.priors()
