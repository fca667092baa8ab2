"""The real ALFWorld engine, and walks beside it: what the referees of the household game share."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl.envs.household import games, oracle
from agentrl.envs.household.world import World

NONSENSE = ("", "go to nowhere 1", "Look", "look around", "take apple 1", "open fridge", "put down", "examine room 1")


def loader(patch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """A function from the path of a game.tw-pddl to the real engine with that game loaded; skips where it is not installed.

    The engine's grammar parser is memoised, which changes nothing that it says and makes it about three times faster.
    """
    pytest.importorskip("alfworld", reason="alfworld is not installed")
    textworld = pytest.importorskip("textworld", reason="textworld is not installed")
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import textgen
    from textworld.envs.pddl.pddl import PddlEnv
    from textworld.logic import Rule

    parse = functools.cache(textgen._parse_and_convert)
    patch.setattr(textgen, "_parse_and_convert", lambda *args, **kwargs: copy.deepcopy(parse(*args, **kwargs)))
    patch.setattr(Rule, "parse_conjunctive_query", functools.cache(Rule.parse_conjunctive_query))

    def load(path: Path) -> Any:
        env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        env.load(str(path))
        return env

    return load


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


def walk(env: Any, path: Path, n_steps: int, key: str) -> World:
    """Plays a game in the engine ``env`` and natively, and finds no difference. Returns the native world."""
    state, world = env.reset(), World(games.load(path))
    rng = random.Random(key)
    assert world.reset() == state.feedback
    plan: Iterator[str] = iter(())
    for number in range(n_steps):
        admissible = list(state["admissible_commands"])
        assert world.admissible() == admissible, (key, number)
        assert world.won == state["won"], (key, number)
        if number % 5 == 0 and not world.won:
            plan = iter(oracle.plan(world))
        command = choose(world, admissible, plan, rng)
        state, _, _ = env.step(command)
        assert world.step(command) == state.feedback, (key, number, command)
        assert world.valid == (command.strip() in admissible)
    return world


def win(env: Any, path: Path) -> None:
    """The oracle's plan wins in the engine, and not before its last command; both say the same all along."""
    state, world = env.reset(), World(games.load(path))
    assert world.reset() == state.feedback
    for command in oracle.plan(world):
        assert not state["won"] and not world.won
        assert world.admissible() == list(state["admissible_commands"])
        state, _, _ = env.step(command)
        assert world.step(command) == state.feedback
    assert state["won"] and world.won, path
