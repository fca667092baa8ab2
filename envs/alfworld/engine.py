"""ALFWorld's own engine, TextWorld with Fast Downward, with the methods of household's ``World``.

    engine = Engine()
    game = game_data(games.read("games.jsonl.gz row"))
    engine.load(game, games.load("games.jsonl.gz row"))
    print(engine.reset())
    print(engine.step("go to fridge 1"))

Importing this module needs alfworld and textworld, and switches on what makes the engine fast (``fast``): it parses the
same strings and copies the same names again and again. What it says stays the same, word for word.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import alfworld
import fast_downward
import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld.envs.pddl import textgen
from textworld.envs.pddl.pddl import PddlEnv
from textworld.logic import Rule

from agentrl.envs.household.house import Dialect, House
from agentrl.envs.household.world import display_order
from agentrl.errors import GameError

KEPT_PROBLEMS = 4  # translated problems in memory: two games, each for playing and for planning
_TOLD = re.compile(r"(?:On the|The) ([^.,]+?)(?: is open\. In it)?, you see ")
_NEGATION = re.compile(r"\bnot_\w+")


# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _context_copy(context: Mapping[str, Any]) -> dict[str, Any]:
    """What TextWorld copies to the bottom: nobody changes the names and variables in it, only which of them it holds."""
    return {**context, "variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


def _parsing_once(parse: Callable[..., Any]) -> Callable[..., Any]:
    known = functools.cache(parse)
    return lambda *args, **kwargs: copy.deepcopy(known(*args, **kwargs))  # the symbols get contexts when they are used


def _translating_once(translate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.lru_cache(KEPT_PROBLEMS)
    def known(*args: Any, **kwargs: Any) -> Any:
        arguments = sys.argv  # which the translator writes over
        try:
            return translate(*args, **kwargs)
        finally:
            sys.argv = arguments

    return known


# (where, name, TextWorld's own, ours)
_FASTER: list[tuple[Any, str, Any, Any]] = [
    (owner, name, getattr(owner, name), make(getattr(owner, name)))
    for owner, name, make in (
        (textgen, "_parse_and_convert", _parsing_once),
        (textgen, "copy_context", lambda _: _context_copy),
        (Rule, "parse_conjunctive_query", functools.cache),
        (fast_downward, "pddl2sas", _translating_once),
    )
]


def fast(on: bool) -> None:
    """Switches between TextWorld's own functions and the same with a memory; off is for comparisons."""
    for owner, name, own, ours in _FASTER:
        setattr(owner, name, ours if on else own)


fast(True)


# ── games ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def shipped() -> tuple[str, str]:
    """The domain and the grammar that alfworld brings."""
    folder = Path(os.path.dirname(alfworld.__file__), "data")
    return (folder / "alfred.pddl").read_text(encoding="utf-8"), (folder / "alfred.twl2").read_text(encoding="utf-8")


def game_data(row: Mapping[str, Any], dialect: Dialect = "move") -> dict[str, Any]:
    """The content of a game.tw-pddl: of one as it is, of a row (``pddl_problem``, ``task``) with alfworld's domain and grammar.
    The dialect "put" undoes what alfworld 0.4 changed in its published games; a game with a grammar keeps that."""
    if "grammar" in row and "pddl_domain" in row:
        return dict(row)
    domain, grammar = shipped()
    if dialect == "put":
        domain = domain[: domain.index("(:action help")] + ")"
        grammar = grammar[: grammar.index("action help")]
        for new, old in (
            ("You arrive at {r.name}.", "You arrive at {lend.name}."),
            ("move {o} to {r}", "put {o} in/on {r}"),
            ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
        ):
            if new not in grammar:
                raise GameError(
                    f"wanted a grammar of alfworld 0.4 with '{new}'; the installed one has none; use 'move'"
                )
            grammar = grammar.replace(new, old)
    sentence = str(row["task"]).removesuffix(".") if row.get("task") else "UNKNOWN GOAL"
    grammar = grammar.replace("UNKNOWN GOAL", sentence)
    problem = {"pddl_problem": row["pddl_problem"], "solvable": True, "walkthrough": None}
    return {"pddl_domain": domain, "grammar": grammar, **problem}


class Engine:
    """One copy of the engine, which plays one game at a time.

    ``valid``: whether the last command was admissible; ``places_text``: the receptacles in display order;
    ``commands``: what was played since ``reset``.
    """

    house: House
    places_text: str
    valid: bool
    commands: list[str]

    def __init__(self) -> None:
        self._pddl = PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True))
        self._env = AlfredDemangler(self._pddl)

    def load(self, game: Mapping[str, Any], house: House) -> None:
        """Takes a game (``game_data``) and its house (``games.load``), which knows the goal and the names. ``reset`` comes
        next. Raises GameError for what the engine cannot load."""
        try:
            self._env.load(game)
        except (Exception, SystemExit) as error:  # its translator leaves by SystemExit
            problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise GameError(
                f"wanted a game that ALFWorld's engine can load; '{house.meta.get('source', 'game')}' gave {problem}; "
                "agentrl/Household-v0 may be able to play it"
            ) from error
        self.house = house
        names = [receptacle.name for receptacle in house.receptacles]
        self._places = [names[index] for index in display_order(names)]
        self.places_text = ", ".join(self._places)
        self._negations = {word.lower() for word in _NEGATION.findall(str(game["grammar"]))}

    # ── playing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self) -> str:
        """Starts the game; the introduction."""
        self._state = self._env.reset()
        self.valid, self.commands = True, []
        self._unseen = dict.fromkeys(self._places)
        self._first = self._facts()
        self._key: str | None = None
        return str(self._state.feedback)

    def step(self, command: str) -> str:
        """Carries out a command and returns what the engine says; "Nothing happens." for an inadmissible one."""
        self.valid = command.strip() in self._state["admissible_commands"]
        self._state, _, _ = self._env.step(command)
        self._key = None
        text = str(self._state.feedback)
        if self.valid:
            self.commands.append(command)
            if told := _TOLD.search(text):
                self._unseen.pop(told[1], None)
        return text

    def play(self, commands: list[str]) -> None:
        """Starts the game and plays commands: the engine's state cannot be copied."""
        self.reset()
        for command in commands:
            self.step(command)

    def admissible(self) -> list[str]:
        """The commands that do something now, sorted, each once."""
        return list(self._state["admissible_commands"])

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        return bool(self._state["won"])

    @property
    def held(self) -> str:
        """Name of the held item, "" for empty hands."""
        names = [self._name(fact.arguments[1]) for fact in self._state["_facts"] if fact.name == "holds"]
        return names[0] if names else ""

    def inventory(self) -> str:
        """What the command "inventory" says, without spending a turn."""
        return f"You are carrying: a {self.held}." if self.held else "You are not carrying anything."

    def unseen(self) -> list[str]:
        """Names of the receptacles whose content has not been told yet, in display order."""
        return list(self._unseen)

    # ── the state ────────────────────────────────────────────────────────────────────────────────────────────────────

    def state_key(self) -> str:
        """The exact state: the engine's facts that differ from the start. Left out are only those that no rule and no sentence
        reads: ``checked``, and negations that the game's grammar does not name."""
        if self._key is None:
            now = self._facts()
            gained = [f"+{self._shown(fact)}" for fact in now - self._first]
            self._key = ";".join(sorted([*gained, *(f"-{self._shown(fact)}" for fact in self._first - now)]))
        return self._key

    def plan(self) -> list[str]:
        """Commands that reach the goal from here, by the engine's own planner (Fast Downward); empty where it finds none."""
        return [str(command) for command in self._pddl._pddl_state.replan(self._pddl._entity_infos)]

    def _facts(self) -> set[Any]:
        facts = self._state["_facts"]
        return {
            fact
            for fact in facts
            if fact.name != "checked" and (not fact.name.startswith("not_") or fact.name in self._negations)
        }

    def _shown(self, fact: Any) -> str:
        return f"{fact.name}({','.join(map(self._name, fact.arguments))})"

    def _name(self, variable: Any) -> str:
        info = self._pddl._entity_infos.get(variable.name)
        return str(info.name if info is not None else variable.name).strip()
