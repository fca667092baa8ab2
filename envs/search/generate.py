"""Questions and worlds drawn from a seed.

>>> tiny = tasks("tiny", "train")
>>> len(tiny), tiny[17].id
(100000, 'search-tiny-train-17')
>>> puzzle(tiny[17]) == puzzle(task_by_id("search-tiny-train-17"))
True

Every task has a world of its own, so nothing of it can be learned by heart. Levels are tiny (one or two hops, eight passages), easy
(two, 24), medium (two or three, 80, second names) and full (two to four, 240, second names). The splits differ by rule:

- names: a stable hash holds one in four out; ``valid_unseen`` has only those, the others none of them;
- questions: ``train`` and ``valid_seen`` draw from the same names, and the hash of its text says whose a question is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agentrl.env import LazyTasks
from agentrl.envs.search.questions import TYPES, Question, ask
from agentrl.envs.search.world import RELATIONS, SMALL, Draw, Entity, Kind, World, passage, people_it, some
from agentrl.errors import GameError, did_you_mean
from agentrl.retrieval import Passage
from agentrl.seeding import seed, stable_hash, stream
from agentrl.types import Task

SPLIT_SIZES = {"train": 100_000, "valid_seen": 1_000, "valid_unseen": 1_000}
SEEN_QUESTIONS = 5  # one in so many belongs to valid_seen
WORLDS, DRAWS = 500, 20  # how many worlds are tried for a question, and how often each
CORE = 6  # things of a kind that a question may be about; the others only stand beside it
_ID = re.compile(r"search-([a-z]+)-(train|valid_seen|valid_unseen)(?:-([a-z+]+))?-(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Level:
    """How large worlds are and what is asked. ``hops``: question type -> the numbers of hops to draw from."""

    sizes: dict[Kind, int]
    hops: dict[str, tuple[int, ...]]
    facts: int  # that a passage tells, those asked for included
    relations: frozenset[str] = frozenset(RELATIONS)
    words: int = 30  # of each list of names
    aliases: float = 0.0  # share of people, places and firms with a second name


LEVELS: dict[str, Level] = {
    "tiny": Level(
        sizes={"person": 3, "place": 3, "work": 2},
        hops={"single": (1,), "bridge": (2,)},
        facts=2,
        relations=SMALL,
        words=16,
    ),
    "easy": Level(
        sizes={"person": 8, "place": 6, "work": 6, "firm": 4}, hops={"bridge": (2,), "comparison": (2,)}, facts=3
    ),
    "medium": Level(
        sizes={"person": 28, "place": 20, "work": 18, "firm": 14},
        hops={"bridge": (2,), "comparison": (2,), "compositional": (3,)},
        facts=4,
        aliases=0.3,
    ),
    "full": Level(
        sizes={"person": 84, "place": 60, "work": 54, "firm": 42},
        hops={"bridge": (2,), "comparison": (2,), "compositional": (3, 4)},
        facts=5,
        aliases=0.5,
    ),
}


@dataclass(frozen=True)
class Puzzle:
    """A question and the passages that it is asked over."""

    question: Question
    passages: tuple[Passage, ...]


class TaskList(LazyTasks):
    """The tasks of one level and split, made when asked for. ``task_types`` cycle."""

    def __init__(self, level: str, split: str, task_types: tuple[str, ...]) -> None:
        self.level, self.split, self.task_types = level, split, task_types
        names = "" if task_types == tuple(LEVELS[level].hops) else "+".join(task_types) + "-"
        self._prefix = f"search-{level}-{split}-{names}"

    def __len__(self) -> int:
        return SPLIT_SIZES[self.split]

    def make(self, place: int) -> Task:
        kind = self.task_types[place % len(self.task_types)]
        question = drawn(self.level, self.split, kind, place)[0]
        return Task(
            id=f"{self._prefix}{place}",
            seed=seed(0, "search", self.level, self.split, kind, place),
            type=kind,
            split=self.split,
            options={"level": self.level, "split": self.split, "type": kind, "index": place},
            reference=list(question.answers),
        )

    def __repr__(self) -> str:
        return f"TaskList({self.level!r}, {self.split!r}, {self.task_types!r})"


def tasks(level: str, split: str, task_types: Sequence[str] | None = None) -> Sequence[Task]:
    """The tasks of a level and split, lazily; all its types, or the given ones (their order does not matter).

    Raises GameError for an unknown level or split and for a type that the level does not have.
    """
    known(level, LEVELS, "level")
    known(split, SPLIT_SIZES, "split")
    for task_type in task_types or ():
        known(task_type, LEVELS[level].hops, f"task type at the level {level}")
    return TaskList(level, split, tuple(t for t in LEVELS[level].hops if not task_types or t in task_types))


def task_by_id(task_id: str) -> Task:
    """The task of an id of ``tasks``. Raises GameError for any other."""
    match = _ID.fullmatch(task_id)
    if match is None or match[1] not in LEVELS:
        raise GameError(f"no task '{task_id}'; generated ones are called like 'search-tiny-train-17'")
    types = match[3].split("+") if match[3] else None
    found = tasks(match[1], match[2], types)
    if int(match[4]) >= len(found) or found[int(match[4])].id != task_id:
        raise GameError(f"no task '{task_id}': {match[2]} has {len(found)} tasks, numbered from 0")
    return found[int(match[4])]


def puzzle(task: Task) -> Puzzle:
    """What a task asks and over which passages. Raises GameError for a task that is none of ``tasks``."""
    try:
        level, split, kind = (str(task.options[key]) for key in ("level", "split", "type"))
        index = int(task.options["index"])
    except (KeyError, TypeError, ValueError) as error:
        raise GameError(f"task '{task.id}' is no generated one and has no options['question']") from error
    known(level, LEVELS, "level")
    known(split, SPLIT_SIZES, "split")
    known(kind, LEVELS[level].hops, f"task type at the level {level}")
    return _puzzle(level, split, kind, index)


@lru_cache(maxsize=64)  # the members of a group play one task
def _puzzle(level: str, split: str, kind: str, index: int) -> Puzzle:
    question, core = drawn(level, split, kind, index)
    draw = stream(0, "search", "passages", level, split, kind, index).random
    rules = LEVELS[level]
    return Puzzle(question, _passages(question, _world(rules, rules.sizes, split, draw, core), rules, draw))


@lru_cache(maxsize=512)
def drawn(level: str, split: str, kind: str, index: int) -> tuple[Question, World]:
    """The question of a task and the part of its world that it is about."""
    rules = LEVELS[level]
    draw = stream(0, "search", level, split, kind, index).random
    hops = rules.hops[kind][int(draw() * len(rules.hops[kind]))]
    sizes: dict[Kind, int] = {name: min(size, CORE) for name, size in rules.sizes.items()}
    for _ in range(WORLDS):
        world = _world(rules, sizes, split, draw)
        for _ in range(DRAWS):
            question = ask(world, kind, hops, draw)
            if question is not None and split in ("valid_unseen", _owner(question.text)):
                return question, world
    raise GameError(f"no question of the type {kind} came out of {WORLDS} worlds for {level}, {split}, {index}")


def _world(rules: Level, sizes: dict[Kind, int], split: str, draw: Draw, core: World | None = None) -> World:
    unseen = split == "valid_unseen"
    return people_it(sizes, rules.words, unseen, rules.relations, rules.aliases, draw, core)


def _owner(text: str) -> str:
    """Whose a question about names in common is."""
    return "valid_seen" if stable_hash("search", "question", text) % SEEN_QUESTIONS == 0 else "train"


def _passages(question: Question, world: World, level: Level, draw: Draw) -> tuple[Passage, ...]:
    """A passage for each thing, in any order. Objects go by a second name only where the question goes through: told
    elsewhere too, it would crowd out the passage that explains it."""
    asked: dict[str, list[str]] = {}
    for hop in question.hops:
        asked.setdefault(hop.title, []).append(hop.relation)
    entities: list[Entity] = some(list(world.values()), len(world), draw)
    found = []
    for number, entity in enumerate(entities):
        wanted = asked.get(entity.name, [])
        others = [name for name in entity.facts if name not in wanted]
        told = some([*wanted, *some(others, level.facts - len(wanted), draw)], level.facts, draw)
        called = question.called if wanted else {}
        found.append(passage(entity, number, told, called, draw))
    return tuple(found)


def known(name: str, names: Iterable[str], what: str) -> None:
    """Raises GameError for a name that is none of them."""
    if name not in names:
        raise GameError(f"no {what} is called '{name}'.{did_you_mean(name, names)}")


assert all(kind in TYPES for level in LEVELS.values() for kind in level.hops)
