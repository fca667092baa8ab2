"""Generated houses as files of the real engine: read back they are the same, and the engine plays them as we do.

What needs the engine's rules or the engine skips where alfworld is not installed; no test needs data.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from household_engine import loader, walk, win
from hypothesis import given
from hypothesis import strategies as st

from agentrl.env import make, shared_folder
from agentrl.envs.household import export, games, generate
from agentrl.envs.household.env import HouseholdEnv
from agentrl.envs.household.house import TASK_TYPES, House
from agentrl.errors import GameError, MissingExtra
from agentrl.exporter import export as export_tasks

LEVELS = ("tiny", "easy", "medium", "full")
SPLITS = ("train", "valid_seen", "valid_unseen")
ROWS = Path(shared_folder(), "data", "alfworld", "games.jsonl.gz")


def with_number(house: House) -> str:
    """A task folder's name that says the room."""
    return f"task-{100 * next(number for number, room in games.ROOMS.items() if room == house.room)}"


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    return loader(patch)


@pytest.fixture
def rules() -> None:
    pytest.importorskip("alfworld", reason="alfworld is not installed")


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.sampled_from(LEVELS), st.sampled_from(SPLITS), st.integers(0, 999), st.sampled_from(["move", "put"]))
def test_a_problem_gives_the_house_back(level: str, split: str, index: int, dialect: Any) -> None:
    house = replace(generate.house(generate.tasks(level, split)[index]), dialect=dialect)
    row = {"pddl_problem": export.problem(house), "task": house.goal.text, "task_dir": with_number(house)}
    assert games.load(row, dialect=dialect) == house


def test_a_problem_gives_back_what_only_real_houses_have() -> None:
    house = generate.house(generate.tasks("easy", "train")[0])
    first, second, *places = house.receptacles
    items = list(house.items)
    items[0] = items[0]._replace(within=(0, 1), clean=True, hot=True)
    items[1] = items[1]._replace(location=-1, within=(), is_receptacle=True, contains=(0, 2), toggled=True)
    items[2] = items[2]._replace(cool=True, sliced=True, pickupable=False)
    opened = (first._replace(openable=True, opened=True), second, *places)
    house = replace(house, receptacles=opened, items=tuple(items), start=first.location)
    house = replace(house, can_contain=frozenset(sorted(house.can_contain)[:7]))
    row = {"pddl_problem": export.problem(house), "task": house.goal.text, "task_dir": with_number(house)}
    back = games.load(row)
    assert (back.receptacles, back.items, back.can_contain) == (house.receptacles, house.items, house.can_contain)


@pytest.mark.skipif(not ROWS.exists(), reason=f"real ALFWorld games are not at {ROWS}")
def test_real_houses_come_back_too() -> None:
    with gzip.open(ROWS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for number, line in enumerate(lines) if number % 4 == 0]
    for row in rows:
        house = games.load(row)
        assert games.load({**row, "pddl_problem": export.problem(house)}) == house


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("dialect", ["move", "put"])
def test_exported_games_are_found_and_are_the_same_houses(tmp_path: Path, dialect: Any) -> None:
    out = tmp_path / "games-7"  # a folder above the task's says nothing about the room
    options = {"difficulty": "medium", "dialect": dialect}
    assert export_tasks("agentrl/Household-v0", out, 7, split="valid_unseen", options=options) == 7
    tasks = generate.tasks("medium", "valid_unseen")[:7]
    found = games.find(out)
    assert [game.split for game in found] == ["valid_unseen"] * 7
    by_trial = {game.id.rpartition("/")[2]: game for game in found}
    for task in tasks:
        game = by_trial["trial_" + task.id.replace("-", "_")]
        assert game.type == task.type
        assert games.load(game.source) == replace(generate.house(task), dialect=dialect)
    env = HouseholdEnv(games=out, split="valid_unseen")
    text, info = env.reset(seed=0)
    assert text.endswith(info["goal"])
    with pytest.raises(GameError, match='set goals = "template"'):
        HouseholdEnv(games=out, split="valid_unseen", goals="human").reset()


@pytest.mark.usefixtures("rules")
def test_the_files_are_laid_out_as_alfworld_has_them() -> None:
    task = generate.tasks("tiny", "train", ["pick_heat_then_place_in_recep"])[3]
    house = generate.house(task)
    files = HouseholdEnv(difficulty="tiny").export(task)
    folder = f"train/{task.type}-{house.goal.item}-None-{house.goal.receptacle}-0/trial_household_tiny_train_heat_3"
    assert set(files) == {f"{folder}/game.tw-pddl", f"{folder}/traj_data.json"}
    game, trajectory = (json.loads(files[f"{folder}/{name}"]) for name in ("game.tw-pddl", "traj_data.json"))
    assert set(game) == {"pddl_domain", "grammar", "pddl_problem", "solvable", "walkthrough"}
    assert game["solvable"] is True and "UNKNOWN GOAL" not in game["grammar"]
    assert trajectory["task_type"] == task.type
    expected = {"object_target": house.goal.item, "parent_target": house.goal.receptacle, "toggle_target": ""}
    assert trajectory["pddl_params"] == {**expected, "mrecep_target": "", "object_sliced": False}
    assert trajectory["turk_annotations"] == {"anns": []}


@pytest.mark.usefixtures("rules")
def test_rows_become_files_with_their_human_goals(tmp_path: Path) -> None:
    house = generate.house(generate.tasks("tiny", "train")[4])
    row = {"pddl_problem": export.problem(house), "task": house.goal.text, "split": "valid_seen", "trial": "trial_T1"}
    row |= {"task_dir": f"{house.goal.type}-Any-None-Any-12", "human_goals": ['Put the "thing" away', "tidy up. "]}
    rows = tmp_path / "games.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    for goals in ("template", "human"):
        out = tmp_path / goals
        options = {"games": str(rows), "goals": goals}
        assert export_tasks("agentrl/Household-v0", out, 0, options=options) == 1
        path = out / "valid_seen" / str(row["task_dir"]) / "trial_T1" / "game.tw-pddl"
        assert games.human_goals(path) == ['Put the "thing" away.', "tidy up."]
        wanted = HouseholdEnv(games=rows, split="valid_seen", goals=goals).reset()[1]["goal"]
        assert games.load(path).goal.text == wanted


@pytest.mark.usefixtures("rules")
def test_what_cannot_be_written() -> None:
    task = generate.tasks("tiny", "train")[0]
    house = generate.house(task)
    goal = replace(house.goal, text="put #all# {r.name} in [fridge].")
    with pytest.raises(GameError, match="which the engine's grammar obeys; got 'put #all#"):
        export.files(task, replace(house, goal=goal))
    for other in (replace(house, receptacles=house.receptacles[::-1]), replace(house, room="Cellar")):
        with pytest.raises(GameError, match="cannot be written as a game"):
            export.files(task, other)


def test_without_the_engine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    env = HouseholdEnv()
    with pytest.raises(MissingExtra, match=r"agentrl-toolkit\[alfworld\]"):
        env.export(env.tasks("train")[0])


def test_another_engine_than_the_one_we_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec)
    with pytest.raises(GameError, match=r"wanted alfred.pddl and alfred.twl2 .* install alfworld 0.4.2"):
        export.engine_rules()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "alfred.pddl").write_text("(define (domain alfred))")
    (tmp_path / "data" / "alfred.twl2").write_text("UNKNOWN GOAL")
    with pytest.raises(GameError, match=r"the rules lack .*action help.* install alfworld 0\.4\.2"):
        export.engine_rules()


# ── the referee ──────────────────────────────────────────────────────────────────────────────────────────────────────


def exported(folder: Path, level: str, task_type: str, dialect: str = "move") -> list[Path]:
    """Paths of the first valid_unseen game of a level and type."""
    options = {"difficulty": level, "task_types": [task_type], "dialect": dialect}
    export_tasks("agentrl/Household-v0", folder, 1, split="valid_unseen", options=options)
    return [Path(str(game.source)) for game in games.find(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_oracle_wins_full_houses_in_the_engine(engine: Any, tmp_path: Path, task_type: str) -> None:
    (path,) = exported(tmp_path / "games", "full", task_type)
    win(engine(path), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "task_type", "dialect"),
    [
        ("tiny", "pick_clean_then_place_in_recep", "move"),
        ("easy", "look_at_obj_in_light", "put"),
        ("medium", "pick_heat_then_place_in_recep", "put"),
        ("medium", "pick_two_obj_and_place", "move"),
        ("full", "pick_cool_then_place_in_recep", "move"),
    ],
)
def test_the_engine_plays_exported_houses_as_we_do(
    engine: Any, tmp_path: Path, level: str, task_type: str, dialect: str
) -> None:
    (path,) = exported(tmp_path / "games", level, task_type, dialect)
    world = walk(engine(path), path, 40, f"{level}:{task_type}")
    assert world.house.dialect == dialect


@pytest.mark.slow
def test_alfworld_itself_finds_and_plays_an_exported_folder(engine: Any, tmp_path: Path) -> None:
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    export_tasks("agentrl/Household-v0", tmp_path / "games", 6, split="valid_seen", options={"difficulty": "tiny"})
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6], "domain_randomization": False}
        | {"expert_type": "handcoded"},
        "dataset": {"eval_id_data_path": str(tmp_path / "games" / "valid_seen"), "num_eval_games": 0},
        "general": {"training_method": "dqn"},
        "rl": {"training": {"max_nb_steps_per_episode": 50}},
    }
    env = AlfredTWEnv(config, train_eval="eval_in_distribution")
    assert sorted(env.game_files) == sorted(str(game.source) for game in games.find(tmp_path / "games"))
    ours = make("agentrl/Household-v0", games=str(tmp_path / "games"), split="valid_seen")
    batch = env.init_env(batch_size=1)
    try:
        texts, infos = batch.reset()
    finally:
        batch.close()
    text, info = ours.reset(options={"game": infos["extra.gamefile"][0]})
    assert text == texts[0]
    assert info["admissible_actions"] == sorted(infos["admissible_commands"][0])
