"""Questions about a world: chains of relations, and comparisons of what two chains end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.envs.search.world import RELATIONS, Draw, Relation, World, one

TYPES = ("single", "bridge", "comparison", "compositional")


@dataclass(frozen=True, slots=True)
class Hop:
    """A look-up that the answer needs: the passage ``title`` says it, and is found by ``query``."""

    title: str
    query: str
    relation: str


@dataclass(frozen=True, slots=True)
class Question:
    """``called`` are the things that go by another name, in the question and in the passages of its hops; ``hops`` stand in an
    order in which each query is known from the question and the hops before it."""

    type: str
    text: str
    answers: tuple[str, ...]
    hops: tuple[Hop, ...]
    called: dict[str, str]


@dataclass
class _Path:
    """A chain: where it begins, the relations that are followed, and the names that it goes through (one more)."""

    names: list[str]
    relations: list[Relation]

    def phrase(self, called: dict[str, str]) -> str:
        """The thing at its end, in words."""
        text = called.get(self.names[0], self.names[0])
        for relation in self.relations:
            text = f"the {relation.noun} of {text}"
        return text

    def hops(self, called: dict[str, str]) -> list[Hop]:
        """A look-up for each relation."""
        pairs = zip(self.names, self.relations, strict=False)
        return [Hop(name, called.get(name, name), relation.name) for name, relation in pairs]


def ask(world: World, type: str, hops: int, draw: Draw) -> Question | None:
    """A question of that type and so many hops; None where this draw came to no good one: draw again."""
    if type == "comparison" or (type == "compositional" and hops == 4 and draw() < 0.5):
        return _comparison(world, type, hops // 2 - 1, draw)
    path = _walk(world, hops, draw, last=True)
    if path is None:
        return None
    called = _called(world, path.names)
    *before, last = path.relations
    text = last.question.format(s=_Path(path.names[:-1], before).phrase(called))
    answer = path.names[-1]
    answers = (answer, world[answer].alias) if answer in world and world[answer].alias else (answer,)
    return Question(type, text, answers, tuple(path.hops(called)), called)


def _comparison(world: World, type: str, before: int, draw: Draw) -> Question | None:
    """Which of two came first, each at the end of a chain of ``before`` relations."""
    one_path, other = (_walk(world, before, draw) for _ in range(2))
    if one_path is None or other is None:
        return None
    left, right = world[one_path.names[-1]], world[other.names[-1]]
    years = [relation for relation in RELATIONS.values() if relation.first and relation.name in left.facts]
    if left.kind != right.kind or {*one_path.names} & {*other.names} or not years:
        return None
    year = one(years, draw)
    if left.facts[year.name] == right.facts[year.name]:
        return None
    called = _called(world, [*one_path.names, *other.names])
    phrases = [path.phrase(called) for path in (one_path, other)]
    first = min(left, right, key=lambda entity: int(entity.facts[year.name]))
    hops = [hop for path in (one_path, other) for hop in _Path(path.names, [*path.relations, year]).hops(called)]
    answers = (first.name, first.alias) if first.alias else (first.name,)
    return Question(type, year.first.format(a=phrases[0], b=phrases[1]), answers, tuple(hops), called)


def _walk(world: World, n: int, draw: Draw, last: bool = False) -> _Path | None:
    """A chain of ``n`` relations through different things; ``last``: it may end in a year. None at a dead end."""
    names = [one(list(world), draw)]
    relations: list[Relation] = []
    for step in range(n):
        facts = world[names[-1]].facts
        usable = [name for name in facts if RELATIONS[name].noun or (last and step == n - 1)]
        if not usable:
            return None
        relations.append(RELATIONS[one(usable, draw)])
        target = facts[relations[-1].name]
        if target in names:
            return None
        names.append(target)
    return _Path(names, relations)


def _called(world: World, names: Sequence[str]) -> dict[str, str]:
    return {name: world[name].alias for name in names if name in world and world[name].alias}
