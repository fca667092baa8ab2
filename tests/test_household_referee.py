"""Our rules beside the real engine, turn by turn, on real games: intro, observations, admissible lists and won.

Needs alfworld (which brings textworld) and the real games. ``agentrl.envs.alfworld.engine`` drives the engine; that what it
memoises changes nothing is tested in test_alfworld.py.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl.env import shared_folder
from agentrl.envs.household import games, oracle
from agentrl.envs.household.world import World

ROWS = Path(shared_folder(), "data", "alfworld", "games.jsonl.gz")
NONSENSE = ("", "go to nowhere 1", "Look", "look around", "take apple 1", "open fridge", "put down", "examine room 1")

pytestmark = pytest.mark.skipif(not ROWS.exists(), reason=f"real ALFWorld games are not at {ROWS}")


@pytest.fixture(scope="module")
def engine() -> Any:
    """A function (row, dialect, folder) -> the real engine, loaded with that game's game.tw-pddl."""
    pytest.importorskip("alfworld", reason="alfworld is not installed")
    pytest.importorskip("textworld", reason="textworld is not installed")
    from agentrl.envs.alfworld.engine import Engine, game_data

    def load(row: dict[str, Any], dialect: Any, folder: Path) -> tuple[Engine, Path]:
        path = folder / "game.tw-pddl"
        path.write_text(json.dumps(game_data(row, dialect)))
        found = Engine()
        found.load(games.read(path), games.load(path))
        return found, path

    return load


def small_rows(n: int) -> list[dict[str, Any]]:
    """The n smallest games of each of the six types, for the engine's time grows with the size."""
    with gzip.open(ROWS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: len(row["pddl_problem"]))
    types = sorted({row["task_type"] for row in rows})
    return [row for kind in types for row in [row for row in rows if row["task_type"] == kind][:n]]


def choose(world: World, admissible: list[str], plan: Iterator[str], rng: random.Random) -> str:
    """A command: towards the goal, nonsense, a look, whatever does something here, or anything at all."""
    draw = rng.random()
    if draw < 0.30 and not world.won:
        return next(plan, "look")
    if draw < 0.36:
        return rng.choice([*NONSENSE, f"  {rng.choice(admissible)}\n", f"take {world.house.items[0].name} from here"])
    if draw < 0.44:
        return "look"
    here = [command for command in admissible if not command.startswith("go to ")]
    return rng.choice(here if draw < 0.85 else admissible)


def walk(engine: Any, row: dict[str, Any], dialect: str, n_steps: int, folder: Path) -> None:
    """Plays both and finds no difference."""
    real, path = engine(row, dialect, folder)
    world = World(games.load(path))
    assert world.house.dialect == dialect
    rng = random.Random(f"{row['trial']}:{dialect}")
    assert world.reset() == real.reset()
    plan: Iterator[str] = iter(())
    for number in range(n_steps):
        admissible = real.admissible()
        assert world.admissible() == admissible, (row["trial"], number)
        assert world.won == real.won, (row["trial"], number)
        if number % 5 == 0 and not world.won:
            plan = iter(oracle.plan(world))
        command = choose(world, admissible, plan, rng)
        assert world.step(command) == real.step(command), (row["trial"], number, command)
        assert world.valid == (command.strip() in admissible)
        assert (world.held, world.unseen()) == (real.held, real.unseen()), (row["trial"], number, command)


def test_a_few_games_as_the_engine_plays_them(engine: Any, tmp_path: Path) -> None:
    look, simple, clean, *_ = small_rows(1)
    for row, dialect in ((look, "move"), (simple, "put"), (clean, "move")):
        walk(engine, row, dialect, 50, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "n_games", "n_steps"), [("move", 6, 50), ("put", 3, 30)])
def test_many_games_as_the_engine_plays_them(
    engine: Any, tmp_path: Path, dialect: str, n_games: int, n_steps: int
) -> None:
    for row in small_rows(n_games):
        walk(engine, row, dialect, n_steps, tmp_path)


@pytest.mark.slow
def test_wins_a_game_of_each_type_in_the_engine(engine: Any, tmp_path: Path) -> None:
    for row in small_rows(1):
        real, path = engine(row, "move", tmp_path)
        world = World(games.load(path))
        assert world.reset() == real.reset()
        for command in oracle.plan(world):
            assert not real.won
            assert world.step(command) == real.step(command)
        assert real.won and world.won, row["trial"]
