"""Reading real games, refusing everything else in one line, and the environment around them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.env import SPLITS, hook, make, shared_folder
from agentrl.envs.household import games
from agentrl.envs.household.env import HouseholdEnv
from agentrl.envs.household.house import TASK_TYPES, Goal
from agentrl.envs.household.world import World
from agentrl.errors import ConfigError, GameError
from agentrl.types import Task

ROWS = Path(shared_folder(), "data", "alfworld", "games.jsonl.gz")
real_games = pytest.mark.skipif(not ROWS.exists(), reason=f"real ALFWorld games are not at {ROWS}")

TYPES = ["Apple", "Bowl", "DeskLamp", "Knife", "Fridge", "SinkBasin", "SideTable", "Cabinet"]
GOALS = {
    "pick_and_place_simple": "(inReceptacle ?o ?r) (objectType ?o AppleType) (receptacleType ?r SideTableType)",
    "pick_cool_then_place_in_recep": """(coolable ?o) (objectType ?o AppleType) (receptacleType ?r SideTableType)
        (isCool ?o) (inReceptacle ?o ?r)""",
    "pick_two_obj_and_place": """(objectType ?o AppleType) (receptacleType ?r SideTableType) (inReceptacle ?o ?r)
        (exists (?o2 - object) (and (not (= ?o ?o2)) (objectType ?o2 AppleType) (receptacleType ?r SideTableType)
        (inReceptacle ?o2 ?r)))""",
}
LOOK = """(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot DeskLampType)
    (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))
    (exists (?o - object ?a - agent) (and (objectType ?o AppleType) (holds ?a ?o)))"""
FACTS = """
    (receptacleType Fridge_bar_1 FridgeType) (receptacleAtLocation Fridge_bar_1 loc_bar_2) (openable Fridge_bar_1)
    (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType) (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_3)
    (receptacleType SideTable_bar_1 SideTableType) (receptacleAtLocation SideTable_bar_1 loc_bar_4)
    (receptacleType Cabinet_bar_1 CabinetType) (receptacleAtLocation Cabinet_bar_1 loc_bar_4) (openable Cabinet_bar_1)
    (receptacleType Cabinet_bar_2 CabinetType) (receptacleAtLocation Cabinet_bar_2 loc_bar_2) (opened Cabinet_bar_2)
    (objectType Apple_bar_1 AppleType) (inReceptacle Apple_bar_1 Fridge_bar_1) (objectAtLocation Apple_bar_1 loc_bar_2)
    (pickupable Apple_bar_1) (coolable Apple_bar_1) (isCool Apple_bar_1)
    (objectType Apple_bar_2 AppleType) (inReceptacle Apple_bar_2 Cabinet_bar_2) (pickupable Apple_bar_2)
    (objectType Bowl_bar_1 BowlType) (isReceptacleObject Bowl_bar_1) (inReceptacleObject Apple_bar_2 Bowl_bar_1)
    (objectType DeskLamp_bar_1 DeskLampType) (toggleable DeskLamp_bar_1) (inReceptacle DeskLamp_bar_1 SideTable_bar_1)
    (canContain SideTableType AppleType) (canContain CabinetType AppleType) (canContain FridgeType AppleType)
    (atLocation agent1 loc_bar_1)
"""


def problem(goal: str = "", facts: str = FACTS, things: str | None = None) -> str:
    """A small house as ALFWorld writes one; ``things`` is what its list of objects says after the types."""
    kinds = "\n".join(f"{name}Type - {'o' if i < 4 else 'r'}type" for i, name in enumerate(TYPES))
    if things is None:
        things = "\n".join(f"{name} - object" for name in sorted(set(re.findall(r"\w+_bar_\w+", facts))))
    goal = goal or f"(exists (?r - receptacle) (exists (?o - object) (and {GOALS['pick_and_place_simple']})))"
    head = f"(define (problem small)\n(:domain alfred)\n(:objects\nagent1 - agent\n{kinds}\n{things}\n)\n"
    return f"{head}(:init\n{facts})\n(:goal\n(and\n{goal}\n)\n)\n)"


def row(**changes: Any) -> dict[str, Any]:
    made = {"task_dir": "pick_and_place_simple-Apple-None-SideTable-12", "trial": "trial_1", "split": "valid_seen"}
    made |= {"task": "put some apple on sidetable.", "task_type": "pick_and_place_simple", "pddl_problem": problem()}
    return made | changes


def grammar(sentence: str = "put some apple on sidetable", put: str = "move {o} to {r}") -> str:
    rules = f'{{"task": [{{"rhs": "Your task is to: {sentence}."}}]}}'
    return f'grammar :: """\n{rules}\n""";\naction PutObject {{\n    template :: "{put}";\n}}\n'


def write_game(folder: Path, split: str, task_dir: str, trial: str, **changes: Any) -> Path:
    """One game as ``alfworld-download`` leaves it."""
    place = folder / split / task_dir / trial
    place.mkdir(parents=True)
    game = {"pddl_domain": "", "grammar": grammar(), "pddl_problem": problem(), "solvable": True, "walkthrough": None}
    (place / "game.tw-pddl").write_text(json.dumps(game | changes))
    (place / "traj_data.json").write_text(json.dumps({"task_type": task_dir.split("-")[0]}))
    return place / "game.tw-pddl"


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "games.jsonl"
    path.write_text("".join(json.dumps(made) + "\n" for made in rows))
    return path


# ── load ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_house_from_a_row() -> None:
    house = games.load(row())
    assert [place.name for place in house.receptacles] == [
        "cabinet 2",
        "cabinet 1",
        "fridge 1",
        "sidetable 1",
        "sinkbasin 1",
    ]
    assert [place.kind for place in house.receptacles] == ["Cabinet", "Cabinet", "Fridge", "SideTable", "SinkBasin"]
    # The smallest of four location ids is number 4.
    assert [place.location for place in house.receptacles] == [1, 3, 3, 1, 2]
    assert house.start == 4
    assert [place.openable for place in house.receptacles] == [True, False, True, False, False]
    assert [place.opened for place in house.receptacles] == [False, True, False, False, False]
    assert [item.name for item in house.items] == ["apple 2", "apple 1", "bowl 1", "desklamp 1"]
    apple, other, bowl, lamp = house.items
    assert (apple.kind, apple.location, apple.within, apple.coolable, apple.cool) == ("Apple", 3, (2,), True, True)
    assert (other.location, other.within, other.pickupable, other.coolable) == (-1, (1,), True, False)
    assert (bowl.is_receptacle, bowl.contains, bowl.within) == (True, (1,), ())
    assert (lamp.toggleable, lamp.within) == (True, (3,))
    assert house.can_contain == {("SideTable", "Apple"), ("Cabinet", "Apple"), ("Fridge", "Apple")}
    assert house.goal == Goal("pick_and_place_simple", "Apple", "put some apple on sidetable.", "SideTable")
    assert (house.room, house.dialect) == ("Kitchen", "move")
    assert World(house).reset().endswith("\n\nYour task is to: put some apple on sidetable.")


@pytest.mark.parametrize("task_type", sorted(GOALS))
@pytest.mark.parametrize("sliced", [False, True])
def test_goals_of_placing(task_type: str, sliced: bool) -> None:
    more = "(sliceable ?o) (isSliced ?o) " if sliced else ""
    goal = f"(exists (?r - receptacle) (exists (?o - object) (and {more}{GOALS[task_type]})))"
    read = games.load(row(pddl_problem=problem(goal))).goal
    assert (read.type, read.item, read.receptacle, read.sliced) == (task_type, "Apple", "SideTable", sliced)


def test_goal_of_looking() -> None:
    goal = games.load(row(pddl_problem=problem(LOOK), task=None)).goal
    assert goal == Goal("look_at_obj_in_light", "Apple", "look at apple under the desklamp.", toggle="DeskLamp")


@pytest.mark.parametrize(
    "goal",
    [
        "(exists (?o - object ?mo - object) (and (objectType ?o AppleType) (inReceptacleObject ?o ?mo)))",
        LOOK.replace("(toggleable ?ot)", "(toggleable ?ot) (sliceable ?o) (isSliced ?o)"),
        "(forall (?o - object) (objectType ?o AppleType))",
        GOALS["pick_and_place_simple"].replace("?o AppleType", "?o"),
        "(holds agent1 apple)",
        LOOK.replace("(holds ?a ?o)", "(holds ?a ?other)"),
    ],
)
def test_other_goals_are_refused(goal: str) -> None:
    with pytest.raises(GameError, match="wanted an ALFWorld problem; got a goal") as caught:
        games.load(row(pddl_problem=problem(goal)))
    assert "\n" not in str(caught.value)


def test_a_file_its_text_and_its_dictionary_are_the_same_game(tmp_path: Path) -> None:
    path = write_game(tmp_path, "train", "pick_and_place_simple-Apple-None-SideTable-12", "trial_1")
    houses = [
        games.load(path),
        games.load(str(path)),
        games.load(path.read_text()),
        games.load(json.loads(path.read_text())),
    ]
    assert all(house.items == houses[0].items and house.goal == houses[0].goal for house in houses)
    assert houses[0].room == "Kitchen"


def test_dialect_and_sentence_come_from_the_grammar() -> None:
    game = {"pddl_problem": problem(), "grammar": grammar('put the \\"red\\" apple away', "put {o} in/on {r}")}
    house = games.load(game)
    assert house.dialect == "put"
    assert house.goal.text == 'put the "red" apple away.'
    assert games.load(game, dialect="move").dialect == "move"
    assert games.load(row(), dialect="put").dialect == "put"
    assert (
        games.load({"pddl_problem": problem(), "grammar": grammar("UNKNOWN GOAL")}).goal.text
        == "put a apple in sidetable."
    )


def test_case_and_comments_do_not_matter() -> None:
    text = problem().replace("Apple_bar_1", "APPLE_bar_1").replace("(:init", "(:init ; all that is true\n; (opened x)")
    text = text.replace("(objectType APPLE", "(OBJECTTYPE apple").replace("- agent\n", "- agent ; the robot\n")
    assert games.load(row(pddl_problem=text)).items == games.load(row()).items


@given(st.permutations(FACTS.replace(")", ")\n").split("\n")))
def test_the_order_of_facts_does_not_matter(facts: list[str]) -> None:
    assert games.load(row(pddl_problem=problem(facts="\n".join(facts)))) == games.load(row())


SPACES = st.sampled_from([" ", "\n", "\t", "  \r\n"])


@given(st.data())
def test_spaces_do_not_matter(data: st.DataObject) -> None:
    parts = re.split(r"(\()|(\))|\s+", FACTS.lower())
    facts = "".join([part or data.draw(SPACES) for part in parts]).strip()
    assert games.load(row(pddl_problem=problem(facts=facts).replace("(:init\n", "(:init"))) == games.load(row())


def test_what_may_lie_where_is_read_anew_where_it_differs() -> None:
    fewer = FACTS.replace("(canContain CabinetType AppleType) ", "")
    assert games.load(row(pddl_problem=problem(facts=fewer))).can_contain == {
        ("SideTable", "Apple"),
        ("Fridge", "Apple"),
    }
    none = fewer.replace("(canContain SideTableType AppleType)", "").replace("(canContain FridgeType AppleType)", "")
    assert games.load(row(pddl_problem=problem(facts=none))).can_contain == frozenset()
    renamed = problem().replace("AppleType - otype", "APPLEType - otype")
    assert ("Fridge", "APPLE") in games.load(row(pddl_problem=renamed)).can_contain
    apart = FACTS.replace("(canContain SideTableType AppleType)", "").replace(
        "(openable", "(canContain SideTableType AppleType)(openable", 1
    )
    assert games.load(row(pddl_problem=problem(facts=apart))) == games.load(row())
    for wrong in (
        "(canContain FridgeType)",
        "(canContain FridgeType AppleType EggType)",
        "(canContain a b)(canContain c)",
    ):
        with pytest.raises(GameError, match="'canContain' has 2 argument"):
            games.load(row(pddl_problem=problem(facts=FACTS + wrong)))


def test_the_real_engine_reads_basin_names_this_way() -> None:
    facts = FACTS.replace("Sink_bar_1_bar_SinkBasin", "SinkBasin_bar_1")
    assert games.load(row(pddl_problem=problem(facts=facts))).receptacles[4].name == "sinkbasinbasin 1"


BAD_FACTS = {
    "no location for": FACTS.replace("(receptacleAtLocation Fridge_bar_1 loc_bar_2)", ""),
    "0 agents": FACTS.replace("(atLocation agent1 loc_bar_1)", ""),
    "2 agents": FACTS + "(atLocation agent2 loc_bar_1)",
    "no receptacle": "(atLocation agent1 loc_bar_1)",
    "is no receptacle": FACTS.replace("Apple_bar_2 Cabinet_bar_2", "Apple_bar_2 Cabinet_bar_9"),
    "whose location is not named": FACTS.replace("loc_bar_1", "somewhere"),
    r"'inReceptacle' has 2 argument": FACTS + "(inReceptacle Apple_bar_1)",
    "a thing called": FACTS + "(objectType thing AppleType)",
    r"a type 'zebratype', which '\(:objects' does not list": FACTS + "(objectType Bowl_bar_2 ZebraType)",
    r"a type 'boxtype', which '\(:objects' does not list": FACTS + "(canContain BoxType AppleType)",
    "unbalanced parentheses": FACTS + "(openable Cabinet_bar_2",
}


@pytest.mark.parametrize("reason", sorted(BAD_FACTS))
def test_a_house_that_makes_no_sense_is_refused(reason: str) -> None:
    with pytest.raises(GameError, match=f"trial_1: wanted an ALFWorld problem; got .*{reason}.*alfworld-download"):
        games.load(row(pddl_problem=problem(facts=BAD_FACTS[reason])))


@pytest.mark.parametrize("fact", ["inReceptacle Ghost_bar_1 Fridge_bar_1", "isCool Ghost_bar_1", "opened Ghost_bar_1"])
def test_a_fact_about_an_unknown_thing_is_refused_as_by_the_engine(fact: str) -> None:
    known = problem(facts=FACTS + f"({fact})")
    assert games.load(row(pddl_problem=known)).items == games.load(row()).items
    unknown = known.replace("Ghost_bar_1 - object", "")
    with pytest.raises(GameError, match=r"got a fact about 'ghost_bar_1', which '\(:objects' does not list"):
        games.load(row(pddl_problem=unknown))


@pytest.mark.parametrize("section", ["(:domain alfred)", "(:objects", "(:init", "(:goal"])
def test_a_missing_section_is_named(section: str) -> None:
    text = problem().replace(section, section.replace(":", "").replace("alfred", "cookery"))
    with pytest.raises(
        GameError, match=r"got a text without '\(:domain alfred\)', '\(:objects', '\(:init' and '\(:goal'"
    ):
        games.load(row(pddl_problem=text))


@pytest.mark.parametrize(
    "source",
    [
        "",
        "no/such/game.tw-pddl",
        "a\0b",
        "{",
        "[]",
        "[[1]]",
        "{}",
        '{"pddl_problem": 3}',
        '{"pddl_problem": "(define"}',
        '{"a": ' * 100_000,
        b"\xff\xfe",
        "/",
        {},
        {"pddl_problem": None},
        {"pddl_problem": problem(), "grammar": 5},
        {"file": 3, "row": 0},
        {"file": "no/such.jsonl", "row": 0},
        None,
        7,
    ],
)
def test_foreign_input_is_one_clear_line(source: Any) -> None:
    with pytest.raises(GameError, match="wanted") as caught:
        games.load(source)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(GameError, match="a dialect is one of move, put; got 'drop'"):
        games.load(row(), dialect="drop")  # type: ignore[arg-type]


def refuses_or_plays(source: Any) -> None:
    """Loads what can be played, or raises a GameError of one line."""
    try:
        house = games.load(source)
    except GameError as error:
        assert "\n" not in str(error) and "wanted" in str(error)
    else:
        world = World(house)
        world.reset()
        for command in world.admissible():
            world.step(command)


@given(st.data())
def test_a_damaged_game_loads_or_is_refused(data: st.DataObject) -> None:
    text = json.dumps({"pddl_problem": problem(), "grammar": grammar()})
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.sampled_from([0, 1, 5, 40, 10**6]))
        text = text[:start] + data.draw(st.sampled_from(["", "(", ")", '"', " ", "x", "\\", "(a b)"])) + text[end:]
    refuses_or_plays("{" + text.removeprefix("{"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    "pddl_problem",
    "grammar",
    "task",
    "task_dir",
    "trial",
    "split",
    "human_goals",
    "turk_annotations",
    "file",
    "row",
)


@given(st.sampled_from(KEYS), JSON)
def test_a_value_of_another_type_loads_or_is_refused(key: str, value: Any) -> None:
    refuses_or_plays(row(**{key: value}))


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_a_truncated_game_is_refused(n_json: int, n_problem: int) -> None:
    text = json.dumps({"pddl_problem": problem()})
    for source in (
        text[: min(n_json, len(text) - 1)],
        {"pddl_problem": problem()[: min(n_problem, len(problem()) - 1)]},
    ):
        with pytest.raises(GameError, match="wanted"):
            games.load(source)


WORDS = sorted(set(re.findall(r"[\w:?=]+|[()]", problem(LOOK) + problem())))


@given(st.data())
def test_a_game_with_other_words_loads_or_is_refused(data: st.DataObject) -> None:
    words = re.findall(
        r"\S+|\s+", problem(data.draw(st.sampled_from(["", LOOK]))).replace("(", " ( ").replace(")", " ) ")
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(words) - 1))
        words[place : place + data.draw(st.integers(0, 3))] = [" ", data.draw(st.sampled_from(WORDS)), " "]
    refuses_or_plays({"pddl_problem": "".join(words).replace("( ", "(")})


@given(st.text() | st.binary() | st.dictionaries(st.text(), st.text()) | st.just({"pddl_problem": "(:init(:goal"}))
def test_noise_is_refused(source: Any) -> None:
    with pytest.raises(GameError):
        games.load(source)


# ── goals in people's words ──────────────────────────────────────────────────────────────────────────────────────────

TOLD = ("Put it  away\n", "Carry an apple over. ", " . ")
ANNOTATIONS = {"anns": [{"votes": []}, *({"task_desc": text} for text in TOLD)]}
SAID = ["Put it away.", "Carry an apple over."]


def test_human_goals_of_rows_and_of_files(tmp_path: Path) -> None:
    assert games.human_goals(row(human_goals=["Put it away", "Carry an apple over."])) == SAID
    assert games.human_goals(row(turk_annotations=ANNOTATIONS)) == SAID
    assert games.human_goals(json.dumps(row(turk_annotations=ANNOTATIONS))) == SAID
    path = write_game(tmp_path, "train", "pick_and_place_simple-Apple-None-SideTable-12", "trial_1")
    assert games.human_goals(path) == []
    (path.parent / "traj_data.json").write_text(json.dumps({"turk_annotations": ANNOTATIONS}))
    assert games.human_goals(path) == games.human_goals(str(path)) == SAID
    (path.parent / "traj_data.json").write_text("{")
    with pytest.raises(GameError, match=r"traj_data.json.*wanted the JSON"):
        games.human_goals(path)
    (path.parent / "traj_data.json").unlink()
    assert games.human_goals(path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"human_goals": "put it away"},
        {"human_goals": [3, None, ""]},
        {"turk_annotations": []},
        {"turk_annotations": {"anns": "x"}},
        {"turk_annotations": {"anns": [{"task_desc": 1}, "x"]}},
    ],
)
def test_a_game_without_human_goals_says_so(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert games.human_goals(row(**changes)) == []
    env = HouseholdEnv(games=write_rows(tmp_path, row(**changes)), split="valid_seen", goals="human")
    with pytest.raises(
        GameError, match=r"SideTable-12/trial_1': wanted a goal sentence of people .*\"template\""
    ) as caught:
        env.reset(seed=0)
    assert "\n" not in str(caught.value)


def test_the_task_chooses_the_human_goal(tmp_path: Path) -> None:
    said = [f"say {word}" for word in ("apple", "basket", "cup", "door")]
    rows = write_rows(tmp_path, *[row(trial=f"trial_{i}", human_goals=said) for i in range(40)])
    env = HouseholdEnv(games=rows, goals="human")
    tasks = env.tasks("valid_seen")
    goals = [env.reset(options={"task": task})[1]["goal"] for task in tasks]
    assert set(goals) == {f"{text}." for text in said}
    again = [env.reset(options={"task": task.id}) for task in reversed(tasks)]
    assert [info["goal"] for _, info in again] == goals[::-1]
    assert again[0][0].endswith(f"Your task is to: {goals[-1]}")
    seeded = [env.reset(options={"task": replace(task, seed=7)})[1]["goal"] for task in tasks]
    assert seeded != goals
    played = env.reset(options={"game": row(trial="trial_0", human_goals=said)})[1]["goal"]
    assert played == goals[0]
    words = " ".join(env.vocabulary())
    assert all(text in words for text in said)
    assert HouseholdEnv(games=rows).reset(options={"task": tasks[0]})[1]["goal"] == "put some apple on sidetable."


@real_games
def test_every_real_game_has_human_goals() -> None:
    env = HouseholdEnv(games=ROWS, split="valid_seen", goals="human")
    for task in env.tasks("valid_seen")[::20]:
        text, info = env.reset(options={"task": task})
        goal = info["goal"]
        assert goal in games.human_goals(task.options["game"])
        assert text.endswith(f"\n\nYour task is to: {goal}") and "\n" not in goal and goal.endswith(".")
        for action in env.oracle():
            info = env.step(action)[4]
        assert info["won"]


# ── find ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_find_in_a_downloaded_folder(tmp_path: Path) -> None:
    put, look = "pick_and_place_simple-Apple-None-SideTable-12", "look_at_obj_in_light-Apple-None-DeskLamp-12"
    path = write_game(tmp_path, "valid_seen", put, "trial_2")
    write_game(tmp_path, "valid_train", put, "trial_1")
    write_game(tmp_path, "elsewhere", look, "trial_3")
    write_game(tmp_path, "train", "pick_and_place_with_movable_recep-Apple-Bowl-SideTable-12", "trial_4")
    write_game(tmp_path, "train", "pick_and_place_simple-AppleSliced-None-SideTable-12", "trial_5")
    write_game(tmp_path, "train", put, "trial_6", solvable=False)
    (write_game(tmp_path, "train", put, "trial_7").parent / "traj_data.json").unlink()
    found = games.find(tmp_path)
    assert [(game.id, game.type, game.split) for game in found] == [
        (f"{look}/trial_3", "look_at_obj_in_light", ""),
        (f"{put}/trial_1", "pick_and_place_simple", "train"),
        (f"{put}/trial_2", "pick_and_place_simple", "valid_seen"),
    ]
    assert found[2].source == str(path)
    assert games.load(found[2].source).goal.item == "Apple"


@pytest.mark.parametrize("name", ["games.jsonl", "games.jsonl.gz"])
def test_find_in_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = "\n".join(json.dumps(row(trial=f"trial_{i}", split=split)) for i, split in enumerate(["valid_train", "x"]))
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "wt") as file:
        file.write(lines + "\n\n" + json.dumps({"pddl_problem": problem(LOOK)}) + "\n")
    found = games.find(tmp_path)
    assert [game.id.split("/")[-1] for game in found] == [f"{name}:2", "trial_0", "trial_1"]
    assert [game.split for game in found] == ["", "train", ""]
    assert games.find(path) == found
    assert games.load(json.loads(json.dumps(found[0].source))).goal.type == "look_at_obj_in_light"
    with pytest.raises(GameError, match="wanted a row from 0 to 2; got 3"):
        games.load({"file": str(path), "row": 3})


def test_what_find_refuses(tmp_path: Path) -> None:
    with pytest.raises(GameError, match="does not exist; get one with alfworld-download"):
        games.find(tmp_path / "nowhere")
    with pytest.raises(GameError, match="has none; get games with alfworld-download"):
        games.find(tmp_path)
    (tmp_path / "games.jsonl").write_text('{"question": 1}\n')
    with pytest.raises(GameError, match=r"row 0: wanted a row with a text 'pddl_problem'; got keys \['question'\]"):
        games.find(tmp_path)
    (tmp_path / "games.jsonl").write_text(json.dumps(row()) + "\n" + json.dumps(row())[:300])
    with pytest.raises(GameError, match="row 1': wanted the JSON"):
        games.find(tmp_path)
    (tmp_path / "games.jsonl").unlink()
    (tmp_path / "games.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20])
    with pytest.raises(GameError, match="wanted the JSON of an ALFWorld game"):
        games.find(tmp_path)


def test_what_was_found_is_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = "pick_and_place_simple-Apple-None-SideTable-12"
    write_game(tmp_path, "train", put, "trial_1")
    rows = write_rows(tmp_path, row(trial="trial_2"))
    looks: list[str] = []
    look = games._looked_for
    monkeypatch.setattr(games, "_looked_for", lambda root, folder: looks.append(root) or look(root, folder))

    def found() -> list[str]:
        return [game.id.split("/")[1] for game in games.find(tmp_path)]

    def grow_old() -> None:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))

    assert found() == found() == ["trial_1", "trial_2"]
    grow_old()
    assert found() == found() == found() == ["trial_1", "trial_2"]
    assert 2 <= len(looks) <= 3
    games.find(tmp_path).clear()  # the caller's own
    assert found() == ["trial_1", "trial_2"]
    rows.write_text(json.dumps(row(trial="trial_3")) + "\n")
    assert found() == ["trial_1", "trial_3"]
    grow_old()
    assert found() == ["trial_1", "trial_3"]
    write_game(tmp_path, "train", put, "trial_4")
    assert found() == ["trial_1", "trial_3", "trial_4"]
    shutil.rmtree(tmp_path)
    with pytest.raises(GameError, match="does not exist"):
        games.find(tmp_path)


@real_games
def test_every_real_game_loads() -> None:
    found = games.find(ROWS)
    assert len(found) == len({game.id for game in found}) == 340
    assert sum(game.split == "valid_seen" for game in found) == 140
    doubled = openable = 0
    for game in found:
        house = games.load(game.source)
        assert house.goal.type == game.type
        assert house.room
        assert not World(house).won
        doubled += any(len(item.within) > 1 for item in house.items)
        openable += any(place.openable for place in house.receptacles)
    assert openable > 300 and doubled > 100


# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put, look = "pick_and_place_simple-Apple-None-SideTable-12", "look_at_obj_in_light-Apple-None-DeskLamp-12"
    write_game(tmp_path, "valid_seen", put, "trial_1")
    write_game(tmp_path, "train", put, "trial_2", grammar=grammar(put="put {o} in/on {r}"))
    write_game(tmp_path, "elsewhere", look, "trial_3", pddl_problem=problem(LOOK))
    return tmp_path


WIN = ["go to cabinet 1", "take apple 1 from cabinet 1", "go to sidetable 1", "move apple 1 to sidetable 1"]


def test_an_episode(folder: Path) -> None:
    env = make("agentrl/Household-v0", games=str(folder), split="valid_seen")
    task = HouseholdEnv(games=folder).tasks("valid_seen")[1]
    text, info = env.reset(seed=0, options={"task": task})
    assert text.endswith("Your task is to: put some apple on sidetable.")
    assert info["admissible_actions"] == hook(env, "admissible_actions")
    expected = {"success": False, "won": False, "score": 0.0, "goal": "put some apple on sidetable."}
    expected |= {"inventory": "You are not carrying anything.", "task_type": "pick_and_place_simple"}
    expected |= {"task_id": "pick_and_place_simple-Apple-None-SideTable-12/trial_1", "is_action_valid": True}
    expected |= {"held": "nothing", "unseen": info["places"]}
    assert {key: info[key] for key in expected} == expected
    assert set(info) == {*expected, "admissible_actions", "places"}
    assert set(info["places"].split(", ")) == {
        action[6:] for action in info["admissible_actions"] if action[:3] == "go "
    }
    text, reward, terminated, truncated, info = env.step("fly to the moon")
    assert (text, reward, terminated, truncated, info["is_action_valid"]) == (
        "Nothing happens.",
        0.0,
        False,
        False,
        False,
    )
    for action in WIN:
        assert not terminated
        text, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated, info["success"], info["won"], info["score"]) == (
        1.0,
        True,
        False,
        True,
        True,
        1.0,
    )


def test_one_task_a_game_filtered_by_split_and_type(folder: Path) -> None:
    env = HouseholdEnv(games=folder)
    trials = {split: [task.id.split("/")[1] for task in env.tasks(split)] for split in SPLITS}
    assert trials == {
        "train": ["trial_3", "trial_2"],
        "valid_seen": ["trial_3", "trial_1"],
        "valid_unseen": ["trial_3"],
    }
    assert json.loads(json.dumps(env.tasks("train")[0].options)) == env.tasks("train")[0].options
    only = HouseholdEnv(games=folder, task_types=["pick_and_place_simple"])
    assert [len(only.tasks(split)) for split in SPLITS] == [1, 1, 0]
    with pytest.raises(GameError, match="no task in the split 'valid_unseen'"):
        HouseholdEnv(games=folder, task_types=["pick_and_place_simple"], split="valid_unseen").reset()
    with pytest.raises(GameError, match="give other task_types"):
        HouseholdEnv(games=folder, task_types=["pick_two_obj_and_place"])


def test_reset_takes_an_id_a_task_or_a_game(folder: Path) -> None:
    env = HouseholdEnv(games=folder)
    for task in env.tasks("train"):
        _, info = env.reset(options={"task": task.id})
        assert (info["task_id"], info["task_type"]) == (task.id, task.type)
    with pytest.raises(GameError, match="no game 'pick'"):
        env.reset(options={"task": "pick"})
    text, info = env.reset(options={"game": row(task="bring the apple.")})
    assert text.endswith("bring the apple.")
    assert info["task_id"] == "pick_and_place_simple-Apple-None-SideTable-12/trial_1"
    with pytest.raises(GameError, match="wanted"):
        env.reset(options={"game": "nowhere.tw-pddl"})


def test_a_game_keeps_the_dialect_of_its_grammar_unless_asked(folder: Path) -> None:
    old = next(task for task in HouseholdEnv(games=folder).tasks("train") if task.id.endswith("trial_2"))
    assert "help" not in HouseholdEnv(games=folder).reset(options={"task": old})[1]["admissible_actions"]
    new = row()
    assert "help" in HouseholdEnv(games=folder).reset(options={"game": new})[1]["admissible_actions"]
    assert "help" not in HouseholdEnv(games=folder, dialect="put").reset(options={"game": new})[1]["admissible_actions"]


def test_snapshots_travel_between_environments(folder: Path) -> None:
    env, other = HouseholdEnv(games=folder), HouseholdEnv(games=folder, reward_scale=10)
    env.reset(options={"game": row()})
    for action in WIN[:3]:
        env.step(action)
    other.restore(pickle.loads(pickle.dumps(env.snapshot())))
    assert other.state_key() == env.state_key()
    assert other.admissible_actions == env.admissible_actions
    assert other.step(WIN[3])[1] == 10.0
    assert env.step(WIN[3])[1] == 1.0
    assert other.state_key() == env.state_key()


def test_before_the_first_reset() -> None:
    with pytest.raises(GameError, match="call reset first"):
        HouseholdEnv().step("look")


@pytest.mark.parametrize(
    "options",
    [
        {"split": "test"},
        {"dialect": "drop"},
        {"task_types": ["cook"]},
        {"task_types": "look_at_obj_in_light"},
        {"size": 3},
        {"goals": "humans"},
        {"goals": "human"},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make("agentrl/Household-v0", **options)


def test_generated_houses_are_won_by_the_oracle() -> None:
    env = make("agentrl/Household-v0", difficulty="tiny")
    for number, task_type in enumerate(TASK_TYPES):
        task = next(task for task in hook(env, "tasks")("train") if task.type == task_type)  # type: ignore[misc]
        _, info = env.reset(seed=number, options={"task": task.id})
        assert info["task_id"] == task.id
        for action in hook(env, "oracle")():  # type: ignore[misc]
            _, reward, terminated, _, info = env.step(action)
            assert info["is_action_valid"]
        assert (reward, terminated) == (1.0, True)


def test_the_seed_chooses_the_task() -> None:
    env = HouseholdEnv(seed=5)
    first = env.reset()
    second = env.reset()
    assert HouseholdEnv().reset(seed=5) == first == env.reset(seed=5)
    assert second == env.reset() != first
    assert isinstance(env.task, Task)


def test_it_is_registered_without_heavy_libraries() -> None:
    assert "agentrl/Household-v0" in gymnasium.registry


@pytest.mark.parametrize("action", [None, 3, b"look", ["look"]])
def test_an_action_that_is_no_text_does_nothing(action: Any) -> None:
    env = HouseholdEnv()
    env.reset(seed=0)
    before = env.state_key()
    text, reward, terminated, _, info = env.step(action)
    assert (text, reward, terminated, info["is_action_valid"]) == ("Nothing happens.", 0.0, False, False)
    assert env.state_key() == before


def test_reset_knows_its_options() -> None:
    with pytest.raises(GameError, match=r"no option 'taks'\. Did you mean 'task'\?"):
        HouseholdEnv().reset(options={"taks": 1})
