"""Our rules beside the real engine, turn by turn, on real games: intro, observations, admissible lists and won.

Needs alfworld (which brings textworld) and the real games. The engine's grammar parser is memoised, which changes
nothing that it says and makes it about three times faster.
"""

from __future__ import annotations

import copy
import functools
import gzip
import json
import os
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
def engine(request: pytest.FixtureRequest) -> Any:
    """A function (row, dialect, folder) -> the real engine, loaded with that game's game.tw-pddl."""
    pytest.importorskip("alfworld", reason="alfworld is not installed")
    pytest.importorskip("textworld", reason="textworld is not installed")
    import alfworld
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import textgen
    from textworld.envs.pddl.pddl import PddlEnv
    from textworld.logic import Rule

    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    parse = functools.cache(textgen._parse_and_convert)
    patch.setattr(textgen, "_parse_and_convert", lambda *args, **kwargs: copy.deepcopy(parse(*args, **kwargs)))
    patch.setattr(Rule, "parse_conjunctive_query", functools.cache(Rule.parse_conjunctive_query))
    shipped = Path(os.path.dirname(alfworld.__file__), "data")
    domain, grammar = (shipped / "alfred.pddl").read_text(), (shipped / "alfred.twl2").read_text()

    def load(row: dict[str, Any], dialect: str, folder: Path) -> tuple[Any, Path]:
        path = folder / "game.tw-pddl"
        path.write_text(json.dumps(game(row, dialect, domain, grammar)))
        env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        env.load(str(path))
        return env, path

    return load


def game(row: dict[str, Any], dialect: str, domain: str, grammar: str) -> dict[str, Any]:
    """A row as a game.tw-pddl. The old dialect undoes what alfworld 0.4 changed in its published games."""
    if dialect == "put":
        domain = domain[: domain.index("(:action help")] + ")"
        grammar = grammar[: grammar.index("action help")]
        for new, old in (
            ("You arrive at {r.name}.", "You arrive at {lend.name}."),
            ("move {o} to {r}", "put {o} in/on {r}"),
            ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
        ):
            assert new in grammar
            grammar = grammar.replace(new, old)
    grammar = grammar.replace("UNKNOWN GOAL", row["task"].removesuffix("."))
    return {
        "pddl_domain": domain,
        "grammar": grammar,
        "pddl_problem": row["pddl_problem"],
        "solvable": True,
        "walkthrough": None,
    }


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
    env, path = engine(row, dialect, folder)
    state, world = env.reset(), World(games.load(path))
    assert world.house.dialect == dialect
    rng = random.Random(f"{row['trial']}:{dialect}")
    assert world.reset() == state.feedback
    plan: Iterator[str] = iter(())
    for number in range(n_steps):
        admissible = list(state["admissible_commands"])
        assert world.admissible() == admissible, (row["trial"], number)
        assert world.won == state["won"], (row["trial"], number)
        if number % 5 == 0 and not world.won:
            plan = iter(oracle.plan(world))
        command = choose(world, admissible, plan, rng)
        state, _, _ = env.step(command)
        assert world.step(command) == state.feedback, (row["trial"], number, command)
        assert world.valid == (command.strip() in admissible)


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
        env, path = engine(row, "move", tmp_path)
        state, world = env.reset(), World(games.load(path))
        for command in oracle.plan(world):
            assert not state["won"]
            state, _, _ = env.step(command)
            assert world.step(command) == state.feedback
        assert state["won"] and world.won, row["trial"]
