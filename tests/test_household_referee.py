"""Our rules beside the real engine, turn by turn, on real games: intro, observations, admissible lists and won.

Needs alfworld (which brings textworld) and the real games.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from household_engine import loader, walk, win

from agentrl.env import shared_folder
from agentrl.envs.household.export import engine_rules

ROWS = Path(shared_folder(), "data", "alfworld", "games.jsonl.gz")

pytestmark = pytest.mark.skipif(not ROWS.exists(), reason=f"real ALFWorld games are not at {ROWS}")


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Callable[[dict[str, Any], str, Path], tuple[Any, Path]]:
    """A function (row, dialect, folder) -> the real engine with that row as a game.tw-pddl, and the path of that."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    load = loader(patch)

    def written(row: dict[str, Any], dialect: str, folder: Path) -> tuple[Any, Path]:
        path = folder / "game.tw-pddl"
        domain, grammar = engine_rules(dialect)
        grammar = grammar.replace("UNKNOWN GOAL", row["task"].removesuffix("."))
        game = {"pddl_domain": domain, "grammar": grammar, "pddl_problem": row["pddl_problem"], "solvable": True}
        path.write_text(json.dumps({**game, "walkthrough": None}))
        return load(path), path

    return written


def small_rows(n: int) -> list[dict[str, Any]]:
    """The n smallest games of each of the six types, for the engine's time grows with the size."""
    with gzip.open(ROWS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: len(row["pddl_problem"]))
    types = sorted({row["task_type"] for row in rows})
    return [row for kind in types for row in [row for row in rows if row["task_type"] == kind][:n]]


def walk_beside(engine: Any, row: dict[str, Any], dialect: str, n_steps: int, folder: Path) -> None:
    world = walk(*engine(row, dialect, folder), n_steps, f"{row['trial']}:{dialect}")
    assert world.house.dialect == dialect


def test_a_few_games_as_the_engine_plays_them(engine: Any, tmp_path: Path) -> None:
    look, simple, clean, *_ = small_rows(1)
    for row, dialect in ((look, "move"), (simple, "put"), (clean, "move")):
        walk_beside(engine, row, dialect, 50, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "n_games", "n_steps"), [("move", 6, 50), ("put", 3, 30)])
def test_many_games_as_the_engine_plays_them(
    engine: Any, tmp_path: Path, dialect: str, n_games: int, n_steps: int
) -> None:
    for row in small_rows(n_games):
        walk_beside(engine, row, dialect, n_steps, tmp_path)


@pytest.mark.slow
def test_wins_a_game_of_each_type_in_the_engine(engine: Any, tmp_path: Path) -> None:
    for row in small_rows(1):
        win(*engine(row, "move", tmp_path))
