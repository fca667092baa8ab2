"""Real ALFWorld games as houses: reads ``game.tw-pddl`` files and rows of JSON; needs no alfworld package.

    house = load("json_2.1.1/valid_seen/pick_cool_.../trial_T2019.../game.tw-pddl")
    for game in find("json_2.1.1"):
        print(game.id, game.type, game.split)
        house = load(game.source)

Things get the names that ALFWorld's ``Demangler`` gives them: of n things of a class, the smallest id is number n and
the largest number 1; a class is what stands before ``_bar_``, with "basin" added where the id contains it. Receptacles
and items come out in the order of their ids, locations as the numbers of their names ("loc 12" is 12).

Everything that cannot be read raises one ``GameError`` that says what was wanted, what came and what to do.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, get_args

from agentrl.envs.household.house import TASK_TYPES, Dialect, Goal, House, Item, Receptacle, TaskType
from agentrl.errors import GameError

Source = str | os.PathLike[str] | Mapping[str, Any]
GAME_FILE, TRAJECTORY_FILE = "game.tw-pddl", "traj_data.json"
ROW_FILES = (".jsonl", ".jsonl.gz")
# ALFWorld's folders; "valid_train" holds training games that its authors set aside for quick checks.
SPLIT_NAMES = {"train": "train", "valid_train": "train", "valid_seen": "valid_seen", "valid_unseen": "valid_unseen"}
ROOMS = {0: "Kitchen", 2: "LivingRoom", 3: "Bedroom", 4: "Bathroom"}  # hundreds of a FloorPlan number
SENTENCES: dict[TaskType, str] = {  # ALFWorld's first template of each type
    "pick_and_place_simple": "put a {item} in {receptacle}.",
    "look_at_obj_in_light": "look at {item} under the {toggle}.",
    "pick_clean_then_place_in_recep": "put a clean {item} in {receptacle}.",
    "pick_heat_then_place_in_recep": "put a hot {item} in {receptacle}.",
    "pick_cool_then_place_in_recep": "put a cool {item} in {receptacle}.",
    "pick_two_obj_and_place": "put two {item} in {receptacle}.",
}

_FACT = re.compile(r"\(\s*(\w+)\s+([^\s()]+)(?:\s+([^\s()]+))?\s*\)")
_OPERATOR = re.compile(r"\(\s*([^\s()?]+)")
_COMMENT = re.compile(r";[^\n]*")
_SENTENCE = re.compile(r'"rhs"\s*:\s*("Your task is to: (?:[^"\\]|\\.)*")')
_DOMAIN = re.compile(r"\(\s*:domain\s+alfred\s*\)", re.IGNORECASE)

_PLACE = {"and", "exists", "inreceptacle", "objecttype", "receptacletype"}
_LOOK = {"and", "exists", "inreceptacle", "objecttype", "receptacleatlocation", "atlocation", "toggleable", "istoggled"}
_SLICED = frozenset({"sliceable", "issliced"})
# The words of a goal name its type: they are the six of alfworld.gen.goal_library, whose look_at_obj_in_light_slice is
# left out because it names a variable that nothing binds and the engine itself cannot load it.
_GOALS: dict[frozenset[str], TaskType] = {
    frozenset(_PLACE): "pick_and_place_simple",
    frozenset(_PLACE | {"cleanable", "isclean"}): "pick_clean_then_place_in_recep",
    frozenset(_PLACE | {"heatable", "ishot"}): "pick_heat_then_place_in_recep",
    frozenset(_PLACE | {"coolable", "iscool"}): "pick_cool_then_place_in_recep",
    frozenset(_PLACE | {"not", "="}): "pick_two_obj_and_place",
    frozenset(_LOOK | {"holds"}): "look_at_obj_in_light",
}
# The flags of an Item, from pickupable on, in the order of its fields.
_FLAGS = ("pickupable", "cleanable", "heatable", "coolable", "sliceable", "toggleable", "isReceptacleObject")
_FLAGS += ("isClean", "isHot", "isCool", "isSliced", "isToggled")
_READ_ERRORS = (OSError, EOFError, zlib.error, ValueError, RecursionError)  # ValueError: JSON, Unicode, a NUL in a path


@dataclass(frozen=True, slots=True)
class GameFile:
    """A game that ``find`` saw. ``source`` is JSON and is what ``load`` takes; ``split`` is "" where unknown."""

    id: str
    type: str
    split: str
    source: str | dict[str, Any]


def load(source: Source, *, dialect: Dialect | None = None) -> House:
    """The house of a game.

    ``source`` is the path of a ``game.tw-pddl``, a row with ``pddl_problem`` (and ``task``, the goal sentence), the
    text of either as JSON, or ``{"file": path, "row": number}`` as in ``GameFile.source``. The dialect is that of the
    game's grammar, "move" where it has none. Raises GameError.
    """
    if dialect is not None and dialect not in get_args(Dialect):
        raise GameError(f"a dialect is one of {', '.join(get_args(Dialect))}; got '{dialect}'")
    row, origin = _read(source)
    problem, grammar = row.get("pddl_problem"), row.get("grammar", "")
    if not isinstance(problem, str) or not isinstance(grammar, str):
        raise GameError(
            f"{origin}: wanted a game with a text 'pddl_problem'; got keys {_shown(sorted(map(str, row)))}; "
            f"give a {GAME_FILE} or a row of an ALFWorld games.jsonl"
        )
    try:
        return _house(problem, row, dialect or _dialect(grammar), grammar, origin)
    except _Unreadable as error:
        raise GameError(
            f"{origin}: wanted an ALFWorld problem; got {error}; get the games again with alfworld-download"
        ) from None


def read(source: Source) -> Mapping[str, Any]:
    """The game as a dictionary: a row, or the content of a ``game.tw-pddl``. Raises GameError for what is no JSON object."""
    return _read(source)[0]


def human_goals(source: Source) -> list[str]:
    """The goal sentences that people wrote for a game, in the order of the data, each with one final full stop.

    ``source`` is what ``load`` takes. They stand in the row itself (``human_goals``, or ALFRED's ``turk_annotations``), or
    in the ``traj_data.json`` beside a game's file. [] where there is none. Raises GameError for what cannot be read.
    """
    row, origin = _read(source)
    if "human_goals" not in row and "turk_annotations" not in row and os.path.basename(origin) == GAME_FILE:
        beside = os.path.join(os.path.dirname(origin), TRAJECTORY_FILE)
        row = _read(beside)[0] if os.path.exists(beside) else {}
    found = row.get("human_goals")
    if found is None:
        annotations = row.get("turk_annotations")
        notes = annotations.get("anns") if isinstance(annotations, Mapping) else None
        found = [note.get("task_desc") for note in _listed(notes) if isinstance(note, Mapping)]
    texts = [" ".join(text.split()).rstrip(" .") for text in _listed(found) if isinstance(text, str)]
    return [f"{text}." for text in texts if text]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def find(folder: str | os.PathLike[str]) -> list[GameFile]:
    """The games below a folder, or in one file, sorted by id, each id once.

    A folder as ``alfworld-download`` leaves it (``.../TASK/TRIAL/game.tw-pddl`` beside ``traj_data.json``) gives the
    games that ALFWorld itself plays: not those marked unsolvable, nor those with sliced items or movable receptacles.
    Files ``*.jsonl`` and ``*.jsonl.gz`` give a game a row. Raises GameError for a folder that has neither, and for a
    row that is no game.
    """
    root = os.path.abspath(_path(folder))
    games: dict[str, GameFile] = {}
    if os.path.isfile(root) and root.endswith(ROW_FILES):
        found: Iterator[GameFile] = _row_games(root)
    elif os.path.isdir(root):
        found = _folder_games(root)
    else:
        raise GameError(f"wanted a folder of ALFWorld games; '{folder}' does not exist; get one with alfworld-download")
    for game in found:
        games.setdefault(game.id, game)
    if not games:
        raise GameError(
            f"wanted a folder with {GAME_FILE} files beside traj_data.json, or *.jsonl[.gz] rows; '{folder}' has none; "
            "get games with alfworld-download"
        )
    return [games[key] for key in sorted(games)]


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Unreadable(Exception):
    """What is wrong with a problem's text, for the middle of a GameError."""


def _path(path: object) -> str:
    try:
        return os.fsdecode(path)  # type: ignore[arg-type]
    except (TypeError, UnicodeError):
        raise GameError(f"wanted the path of a game or a row; got {type(path).__name__}; see games.load") from None


def _shown(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _read(source: Source) -> tuple[Mapping[str, Any], str]:
    """The game as a dictionary, and what to call it in messages."""
    if isinstance(source, Mapping):
        if "file" not in source:
            return source, " ".join(str(source.get("trial") or "game").split())[:80]
        return _row(_path(source["file"]), source.get("row"))
    if isinstance(source, str) and source.lstrip()[:1] in ("{", "["):
        return _parsed(source, "game")
    path = _path(source)
    try:
        with open(path, encoding="utf-8") as file:
            return _parsed(file.read(), path)
    except _READ_ERRORS as error:
        raise _cannot_read(path, error) from error


def _parsed(text: str | bytes, origin: str) -> tuple[Mapping[str, Any], str]:
    try:
        row = json.loads(text)
    except _READ_ERRORS as error:
        raise _cannot_read(origin, error) from error
    if not isinstance(row, dict):
        raise GameError(f"{origin}: wanted a JSON object; got {type(row).__name__}; give one game, not a list of games")
    return row, origin


def _cannot_read(path: str, error: BaseException) -> GameError:
    reason = " ".join(str(error).split()) or type(error).__name__
    wanted = "wanted the JSON of an ALFWorld game"
    return GameError(f"{_shown(path, 200)}: {wanted}; got: {reason[:200]}; get the file again")


def _row(path: str, number: object) -> tuple[Mapping[str, Any], str]:
    rows = _rows(path)
    if not isinstance(number, int) or not 0 <= number < len(rows):
        raise GameError(f"{path}: wanted a row from 0 to {len(rows) - 1}; got {_shown(number)}; see games.find")
    return _parsed(rows[number], f"{path} row {number}")


def _rows(path: str) -> Sequence[bytes]:
    """The lines of a JSONL file that hold something."""
    try:
        status = os.stat(path)
        return _rows_of(path, status.st_mtime_ns, status.st_size)
    except _READ_ERRORS as error:
        raise _cannot_read(path, error) from error


@functools.lru_cache(maxsize=4)
def _rows_of(path: str, _changed: int, _size: int) -> Sequence[bytes]:
    # Kept in memory because a row of a compressed file cannot be reached without reading all before it.
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rb") as file:
        return [line for line in file.read().split(b"\n") if line.strip()]


def _row_games(path: str) -> Iterator[GameFile]:
    for number, line in enumerate(_rows(path)):
        row, origin = _parsed(line, f"{path} row {number}")
        task_dir, trial = row.get("task_dir"), row.get("trial")
        if not isinstance(row.get("pddl_problem"), str):
            keys = _shown(sorted(row))
            raise GameError(f"{origin}: wanted a row with a text 'pddl_problem'; got keys {keys}; remove the row")
        name = f"{task_dir}/{trial}" if task_dir and trial else f"{os.path.basename(path)}:{number}"
        split = SPLIT_NAMES.get(str(row.get("split")), "")
        yield GameFile(name, str(row.get("task_type") or ""), split, {"file": path, "row": number})


def _folder_games(root: str) -> Iterator[GameFile]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.endswith(ROW_FILES):
                yield from _row_games(os.path.join(folder, name))
        if GAME_FILE not in files or TRAJECTORY_FILE not in files:
            continue
        path = os.path.join(folder, GAME_FILE)
        task_dir, trial = folder.split(os.sep)[-2:]
        if "movable" in task_dir or "Sliced" in task_dir or _unsolvable(path):
            continue
        splits = [SPLIT_NAMES[part] for part in folder.split(os.sep) if part in SPLIT_NAMES]
        yield GameFile(f"{task_dir}/{trial}", _folder_type(folder, task_dir), splits[-1] if splits else "", path)


def _unsolvable(path: str) -> bool:
    """Whether ALFWorld's own check marked a game so. The mark stands at the end, so the file is not read whole."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            return re.search(rb'"solvable"\s*:\s*false', file.read()) is not None
    except OSError as error:
        raise _cannot_read(path, error) from error


def _folder_type(folder: str, task_dir: str) -> str:
    """The folder's name begins with the task type; ``traj_data.json`` says it too where somebody renamed the folder."""
    prefix = task_dir.split("-")[0]
    if prefix in TASK_TYPES:
        return prefix
    path = os.path.join(folder, TRAJECTORY_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return str(_parsed(file.read(), path)[0].get("task_type") or "")
    except _READ_ERRORS as error:
        raise _cannot_read(path, error) from error


# ── the problem ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _dialect(grammar: str) -> Dialect:
    return "put" if '"put {o} in/on {r}"' in grammar else "move"


class _Facts:
    """The facts of a problem's ``:init``. The text is in lower case, because PDDL knows no other."""

    def __init__(self, text: str) -> None:
        self._lists: defaultdict[str, list[list[str]]] = defaultdict(list)
        facts = [words for chunk in text.replace(")", " ").split("(") if (words := chunk.split())]
        for words in facts:
            self._lists[words[0]].append(words)
        self.names = _names({word for word in {*chain.from_iterable(facts)} if "_bar_" in word})

    def ids(self, predicate: str) -> frozenset[str]:
        """What a predicate of one argument holds for."""
        return frozenset([words[1] for words in self._of(predicate, 1)])

    def pairs(self, predicate: str) -> list[tuple[str, str]]:
        """What a predicate of two arguments holds for."""
        return [(words[1], words[2]) for words in self._of(predicate, 2)]

    def locations(self, predicate: str) -> dict[str, int]:
        """Thing -> number of its location."""
        try:
            return {thing: int(self.names[location].removeprefix("loc ")) for thing, location in self.pairs(predicate)}
        except (KeyError, ValueError) as error:
            raise _Unreadable(f"a '{predicate}' whose location is not named loc_bar_...: {error}") from None

    def _of(self, predicate: str, n_arguments: int) -> list[list[str]]:
        found = self._lists.get(predicate.lower(), [])
        if not {*map(len, found)} <= {n_arguments + 1}:
            wrong = next(words for words in found if len(words) != n_arguments + 1)
            raise _Unreadable(f"({_shown(' '.join(wrong))}) where '{predicate}' has {n_arguments} argument(s)")
        return found


@functools.lru_cache(maxsize=64)
def _type_names(text: str) -> Mapping[str, str]:
    """Type in lower case -> kind, in the case in which a list of objects names it. Games share this part of their text."""
    return {word.lower() + "type": word for part in text.split("Type")[:-1] for word in part.rsplit(None, 1)[-1:]}


@functools.lru_cache(maxsize=256)
def _can_contain(text: str, types: str) -> frozenset[tuple[str, str]]:
    """The pairs of a text of canContain facts alone. Games of one room share this part of their text, which is long."""
    kinds = _type_names(types)
    words = text.replace("(", " ").replace(")", " ").split()
    if {*words[::3]} == {"cancontain"} and len(words) % 3 == 0:  # nothing else, as in published games
        pairs: Iterable[tuple[str, str]] = zip(words[1::3], words[2::3], strict=True)
    else:
        pairs = _Facts(text).pairs("canContain")
    return frozenset([(kinds.get(place, place), kinds.get(item, item)) for place, item in pairs])


def _without_can_contain(text: str) -> tuple[str, str]:
    """The text of an ``:init`` cut in two: (its canContain facts, all others). They stand together in published games;
    where they do not, the first part is the whole text."""
    start, last = text.find("(cancontain "), text.rfind("(cancontain ")
    end = text.find(")", last) + 1
    together, others = text[start:end], text[:start] + text[end:]
    if start < 0 or "cancontain" in others or together.count("(") != together.count("(cancontain "):
        return text, text
    return together, others


def _house(problem: str, row: Mapping[str, Any], dialect: Dialect, grammar: str, origin: str) -> House:
    if ";" in problem:
        problem = _COMMENT.sub("", problem)
    start, end = problem.find("(:init"), problem.find("(:goal")
    if not _DOMAIN.search(problem) or start < 0 or end < start:
        raise _Unreadable("a text without '(:domain alfred)', '(:init' and '(:goal' in this order")
    if problem.count("(") != problem.count(")"):
        raise _Unreadable("unbalanced parentheses, as of a truncated file")
    can_contain, others = _without_can_contain(problem[start:end].lower())
    facts = _Facts(others)
    types = problem[problem.find("(:objects", 0, start) : problem.rfind("Type", 0, start) + 4]
    kinds = _type_names(types)
    at, opened, openable = facts.locations("receptacleAtLocation"), facts.ids("opened"), facts.ids("openable")
    receptacle_kinds = _kinds_of(facts, "receptacleType", kinds)
    missing = [identity for identity in receptacle_kinds if identity not in at]
    if missing or not receptacle_kinds:
        raise _Unreadable(f"no location for {missing[0]}" if missing else "no receptacle")
    agents = facts.locations("atLocation")
    if len(agents) != 1:
        raise _Unreadable(f"{len(agents)} agents with a location where one is wanted")
    task_dir = str(row.get("task_dir") or "")
    return House(
        receptacles=tuple(
            Receptacle(facts.names[identity], kind, at[identity], identity in openable, identity in opened)
            for identity, kind in receptacle_kinds.items()
        ),
        items=_items(facts, kinds, {identity: index for index, identity in enumerate(receptacle_kinds)}),
        can_contain=_can_contain(can_contain, types),
        start=next(iter(agents.values())),
        goal=_goal(problem[end:], _sentence(row, grammar), kinds),
        room=_room(task_dir or _task_folder(origin)),
        dialect=dialect,
        meta={"source": origin, "task_dir": task_dir, "trial": str(row.get("trial") or "")},
    )


def _names(ids: set[str]) -> dict[str, str]:
    """Id -> name as ALFWorld's Demangler gives it, over everything that any fact mentions."""
    counts: defaultdict[str, int] = defaultdict(int)
    names: dict[str, str] = {}
    for identity in sorted(ids, reverse=True):
        kind = identity.split("_bar_", 1)[0]
        if "basin" in identity:
            kind += "basin"
        counts[kind] += 1
        names[identity] = f"{kind} {counts[kind]}"
    return names


def _kinds_of(facts: _Facts, predicate: str, kinds: Mapping[str, str]) -> dict[str, str]:
    """Id -> kind, in the order of ids."""
    found = {identity: kinds.get(kind, kind) for identity, kind in sorted(facts.pairs(predicate))}
    for identity in found:
        if identity not in facts.names:
            raise _Unreadable(f"a thing called {_shown(identity)} where ids look like apple_bar__plus_00_dot_50")
    return found


def _items(facts: _Facts, kinds: Mapping[str, str], receptacles: Mapping[str, int]) -> tuple[Item, ...]:
    item_kinds = _kinds_of(facts, "objectType", kinds)
    numbers = {identity: index for index, identity in enumerate(item_kinds)}
    within: dict[str, tuple[int, ...]] = {}
    for thing, place in facts.pairs("inReceptacle"):
        if place not in receptacles:
            raise _Unreadable(f"{thing} in {place}, which is no receptacle")
        within[thing] = tuple(sorted({*within.get(thing, ()), receptacles[place]}))
    inside: dict[str, tuple[int, ...]] = {}
    for inner, outer in facts.pairs("inReceptacleObject"):
        if inner in numbers:
            inside[outer] = (*inside.get(outer, ()), numbers[inner])
    spots = facts.locations("objectAtLocation")
    flags = {identity: [False] * len(_FLAGS) for identity in item_kinds}
    for number, predicate in enumerate(_FLAGS):
        for identity in facts.ids(predicate) & item_kinds.keys():
            flags[identity][number] = True
    return tuple(
        Item(
            facts.names[identity],
            kind,
            spots.get(identity, -1),
            within.get(identity, ()),
            *flags[identity],
            contains=inside.get(identity, ()),
        )
        for identity, kind in item_kinds.items()
    )


def _goal(text: str, sentence: str, kinds: Mapping[str, str]) -> Goal:
    text = text.lower()
    words = frozenset(_OPERATOR.findall(text)) - {":goal"}
    if "inreceptacleobject" in words or "isreceptacleobject" in words:
        raise _Unreadable("a goal with a movable receptacle, which ALFWorld's text engine leaves out too")
    sliced = words >= _SLICED
    task_type = _GOALS.get(words - _SLICED)
    if task_type is None or (words & _SLICED and (not sliced or task_type == "look_at_obj_in_light")):
        raise _Unreadable(f"a goal that is none of ALFWorld's six: {_shown(' '.join(text.split()), 120)}")
    facts = _FACT.findall(text)
    types = {variable: kind for predicate, variable, kind in facts if predicate == "objecttype"}
    of = {predicate: (first, second) for predicate, first, second in facts}
    n_types, n_kinds = {"look_at_obj_in_light": (2, 2), "pick_two_obj_and_place": (2, 1)}.get(task_type, (1, 1))
    if len(types) != n_types or (n_kinds == 1 and len(set(types.values())) != 1):
        raise _Unreadable(f"a goal about {len(types)} items where {task_type} has {n_types}")
    lamp = receptacle = ""
    if task_type == "look_at_obj_in_light":
        item, lamp = types.get(of.get("holds", ("", ""))[1], ""), types.get(of.get("istoggled", ("", ""))[0], "")
    else:
        item, receptacle = next(iter(types.values())), of.get("receptacletype", ("", ""))[1]
    if not item or not (lamp or receptacle):
        raise _Unreadable("a goal without the type of what it asks for")
    item, lamp, receptacle = (kinds.get(name, name) for name in (item, lamp, receptacle))
    if not sentence:
        sentence = SENTENCES[task_type].format(item=item.lower(), receptacle=receptacle.lower(), toggle=lamp.lower())
    return Goal(type=task_type, item=item, text=sentence, receptacle=receptacle, toggle=lamp, sliced=sliced)


def _sentence(row: Mapping[str, Any], grammar: str) -> str:
    """The goal sentence of a row or of a game's grammar; "" where there is none."""
    if isinstance(row.get("task"), str):
        return row["task"]
    match = _SENTENCE.search(grammar)
    if match is None or "UNKNOWN GOAL" in match[1]:
        return ""
    try:
        return json.loads(match[1]).removeprefix("Your task is to: ")
    except ValueError:
        raise _Unreadable(f"a goal sentence that is no JSON string: {_shown(match[1])}") from None


def _task_folder(path: str) -> str:
    """The TASK of .../TASK/TRIAL/game.tw-pddl, "" for any other path."""
    parts = os.path.normpath(path).split(os.sep)
    return parts[-3] if parts[-1] == GAME_FILE and len(parts) >= 3 else ""


def _room(task_dir: str) -> str:
    """The kind of room from the number of its FloorPlan, which ends a task folder's name."""
    match = re.search(r"-(\d{1,3})$", task_dir)
    return ROOMS.get(int(match[1]) // 100, "") if match else ""
