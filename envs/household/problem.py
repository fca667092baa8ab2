"""ALFWorld's PDDL problems as houses: the facts of ``:init`` and the goal, read without a PDDL parser.

    made = problem.house(text, sentence="put a apple in fridge.", room="Kitchen", dialect="move", meta={})

Only what the published problems use is read, and anything else raises ``Unreadable``. Thousands of games are loaded one
after the other, so what they share word for word (the list of types, and what may lie where, which is a third of a
kitchen's text) is read once and kept; the rest is cut by string methods, which run in C.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from agentrl.envs.household.house import Dialect, Goal, House, Item, Receptacle, TaskType

SENTENCES: dict[TaskType, str] = {  # ALFWorld's first template of each type
    "pick_and_place_simple": "put a {item} in {receptacle}.",
    "look_at_obj_in_light": "look at {item} under the {toggle}.",
    "pick_clean_then_place_in_recep": "put a clean {item} in {receptacle}.",
    "pick_heat_then_place_in_recep": "put a hot {item} in {receptacle}.",
    "pick_cool_then_place_in_recep": "put a cool {item} in {receptacle}.",
    "pick_two_obj_and_place": "put two {item} in {receptacle}.",
}

# The fields of an Item that are facts by themselves, in the order of the fields, and their predicates.
FLAGS = {
    "pickupable": "pickupable",
    "cleanable": "cleanable",
    "heatable": "heatable",
    "coolable": "coolable",
    "sliceable": "sliceable",
    "toggleable": "toggleable",
    "is_receptacle": "isReceptacleObject",
    "clean": "isClean",
    "hot": "isHot",
    "cool": "isCool",
    "sliced": "isSliced",
    "toggled": "isToggled",
}

_FACT = re.compile(r"\(\s*(\w+)\s+([^\s()]+)(?:\s+([^\s()]+))?\s*\)")
_OPERATOR = re.compile(r"\(\s*([^\s()?]+)")
_COMMENT = re.compile(r";[^\n]*")
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


class Unreadable(Exception):
    """What is wrong with a problem's text, for the middle of a GameError."""


def shown(value: object, limit: int = 80) -> str:
    """The repr of a value, cut to ``limit`` characters, for one line of a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def house(text: str, *, sentence: str, room: str, dialect: Dialect, meta: dict[str, str]) -> House:
    """The house of a problem's text; an empty ``sentence`` is replaced by ALFWorld's own for the goal. Raises Unreadable."""
    if ";" in text:
        text = _COMMENT.sub("", text)
    objects, init, end = text.find("(:objects"), text.find("(:init"), text.rfind("(:goal")
    if not _DOMAIN.search(text) or not 0 <= objects < init < end:
        raise Unreadable("a text without '(:domain alfred)', '(:objects', '(:init' and '(:goal' in this order")
    if _depth(text[:init]) + _depth(text[end:]) != 0:
        raise Unreadable("unbalanced parentheses, as of a truncated file")
    last = text.rfind("Type", objects, init) + 4
    types = text[objects:last]
    kinds = _kinds(types)
    facts, can_contain = _facts(text[init:end].lower(), types)
    for name in facts.names.keys() - {*text[last:init].lower().replace(")", " ").split()}:
        if name not in kinds:
            raise Unreadable(f"a fact about {shown(name)}, which '(:objects' does not list")
    receptacles, places = _receptacles(facts, kinds)
    agents = facts.locations("atLocation")
    if len(agents) != 1:
        raise Unreadable(f"{len(agents)} agents with a location where one is wanted")
    return House(
        receptacles=receptacles,
        items=_items(facts, kinds, places),
        can_contain=can_contain,
        start=next(iter(agents.values())),
        goal=_goal(text[end:], sentence, kinds),
        room=room,
        dialect=dialect,
        meta=meta,
    )


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _depth(text: str) -> int:
    """How many parentheses stay open; below 0 where more are closed."""
    return len(text.split("(")) - len(text.split(")"))  # several times faster than str.count of one character


class _Facts:
    """The facts of an ``:init`` or of a part of it. The text is in lower case, because PDDL knows no other.

    ``names`` holds id -> name as ALFWorld's Demangler gives it, over everything that any fact mentions; ``numbers`` holds
    location id -> the number in its name.
    """

    def __init__(self, text: str) -> None:
        n_opened, parts = text.count("("), text.split(")")
        if len(parts) - 1 != n_opened:
            raise Unreadable("unbalanced parentheses, as of a truncated file")
        words = " ".join(parts).split()
        self._facts = _runs(words, n_opened) or _one_by_one(text)
        self.names: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        counts: dict[str, int] = {}
        for identity in sorted([word for word in {*words} if "_bar_" in word], reverse=True):
            kind = identity.partition("_bar_")[0]
            if "basin" in identity:
                kind += "basin"
            number = counts[kind] = counts.get(kind, 0) + 1
            self.names[identity] = f"{kind} {number}"
            if kind == "loc":
                self.numbers[identity] = number

    def ids(self, predicate: str) -> list[str]:
        """What a predicate of one argument holds for."""
        return [words[1] for words in self._of(predicate, 1)]

    def pairs(self, predicate: str) -> list[tuple[str, str]]:
        """What a predicate of two arguments holds for."""
        return [(words[1], words[2]) for words in self._of(predicate, 2)]

    def locations(self, predicate: str) -> dict[str, int]:
        """Thing -> number of its location."""
        try:
            return {thing: self.numbers[location] for thing, location in self.pairs(predicate)}
        except KeyError as error:
            raise Unreadable(f"a '{predicate}' whose location is not named loc_bar_...: {error}") from None

    def predicates(self) -> set[str]:
        """The predicates of all facts, in lower case."""
        return {*self._facts}

    def _of(self, predicate: str, n_arguments: int) -> list[tuple[str, ...]]:
        found = self._facts.get(predicate.lower(), [])
        if not {*map(len, found)} <= {n_arguments + 1}:
            wrong = next(words for words in found if len(words) != n_arguments + 1)
            raise Unreadable(
                f"({shown(' '.join(wrong).lstrip('('))}) where '{predicate}' has {n_arguments} argument(s)"
            )
        return found


def _runs(words: Sequence[str], n_opened: int) -> dict[str, list[tuple[str, ...]]] | None:
    """Predicate -> its facts, each with the predicate first, from the words of a text without closing parentheses.

    Published games write the facts of a predicate one after the other, so a whole run of them is cut at once. None where
    that fails: where facts of one predicate differ in length, or a parenthesis does not stand directly before a word.
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    start, n_cut = 0, 0
    while start < len(words):
        head, size = words[start], 1
        while start + size < len(words) and words[start + size][0] != "(":
            size += 1
        end = start + size
        while end < len(words) and words[end] == head:
            end += size
        run = list(zip(*[iter(words[start:end])] * size, strict=False))  # an incomplete last fact shows in the count
        found.setdefault(head[1:], []).extend(run)
        n_cut += len(run)
        start = end
    return found if n_cut == n_opened and "" not in found else None


def _one_by_one(text: str) -> dict[str, list[tuple[str, ...]]]:
    """The same from any text."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for part in text.replace(")", " ").split("("):
        fact = tuple(part.split())
        if fact:
            found.setdefault(fact[0], []).append(fact)
    return found


@functools.lru_cache(maxsize=64)
def _kinds(types: str) -> Mapping[str, str]:
    """Name in lower case -> kind, in the case in which a list of objects gives it. Games share this list up to its last type;
    after that come their own things."""
    return {word.lower(): word.removesuffix("Type") for word in types.split()}


def _kind(name: str, kinds: Mapping[str, str]) -> str:
    kind = kinds.get(name)
    if kind is None:
        raise Unreadable(f"a type {shown(name)}, which '(:objects' does not list")
    return kind


def _facts(text: str, types: str) -> tuple[_Facts, frozenset[tuple[str, str]]]:
    """The facts of an ``:init`` in lower case, and which (receptacle kind, item kind) its canContain facts allow."""
    start = text.find("(cancontain ")
    end = text.find(")", text.rfind("(cancontain ")) + 1
    known = _can_contain(text[start:end], types) if start >= 0 else None
    facts = _Facts(text if known is None else text[:start] + text[end:])
    others = facts.pairs("canContain")  # all of them, where they do not stand together
    if others or known is None:
        known = _pairs_of_kinds(others, _kinds(types)) | (known or frozenset())
    return facts, known


@functools.lru_cache(maxsize=512)
def _can_contain(text: str, types: str) -> frozenset[tuple[str, str]] | None:
    """The pairs of a text of canContain facts; None where it holds anything else. Games of one scene share this part."""
    different = dict.fromkeys(text.split("(")[1:])  # each receptacle of a scene repeats those of its type
    facts = _Facts("(" + "(".join(different))
    if facts.predicates() != {"cancontain"} or facts.names:
        return None
    return _pairs_of_kinds(facts.pairs("canContain"), _kinds(types))


def _pairs_of_kinds(pairs: Sequence[tuple[str, str]], kinds: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset([(_kind(place, kinds), _kind(item, kinds)) for place, item in pairs])


# ── things ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kinds_of(facts: _Facts, predicate: str, kinds: Mapping[str, str]) -> dict[str, str]:
    """Id -> kind, in the order of ids."""
    found = {identity: _kind(kind, kinds) for identity, kind in sorted(facts.pairs(predicate))}
    for identity in found:
        if identity not in facts.names:
            raise Unreadable(f"a thing called {shown(identity)} where ids look like apple_bar__plus_00_dot_50")
    return found


def _receptacles(facts: _Facts, kinds: Mapping[str, str]) -> tuple[tuple[Receptacle, ...], dict[str, int]]:
    """The receptacles, and id -> index."""
    found = _kinds_of(facts, "receptacleType", kinds)
    at, names = facts.locations("receptacleAtLocation"), facts.names
    openable, opened = {*facts.ids("openable")}, {*facts.ids("opened")}
    missing = [identity for identity in found if identity not in at]
    if missing or not found:
        raise Unreadable(f"no location for {missing[0]}" if missing else "no receptacle")
    receptacles = [
        Receptacle(names[identity], kind, at[identity], identity in openable, identity in opened)
        for identity, kind in found.items()
    ]
    return tuple(receptacles), {identity: index for index, identity in enumerate(found)}


def _items(facts: _Facts, kinds: Mapping[str, str], receptacles: Mapping[str, int]) -> tuple[Item, ...]:
    found = _kinds_of(facts, "objectType", kinds)
    within: dict[str, tuple[int, ...]] = {}
    for thing, place in facts.pairs("inReceptacle"):
        index = receptacles.get(place)
        if index is None:
            raise Unreadable(f"{thing} in {place}, which is no receptacle")
        before = within.get(thing)
        within[thing] = (index,) if before is None else tuple(sorted({*before, index}))
    spots, names = facts.locations("objectAtLocation"), facts.names
    inside = _inside(facts, {identity: index for index, identity in enumerate(found)})
    flags = {identity: [False] * len(FLAGS) for identity in found}
    for number, predicate in enumerate(FLAGS.values()):
        for identity in facts.ids(predicate):
            if identity in flags:
                flags[identity][number] = True
    return tuple(
        [
            Item(
                names[identity],
                kind,
                spots.get(identity, -1),
                within.get(identity, ()),
                *flags[identity],
                contains=inside.get(identity, ()),
            )
            for identity, kind in found.items()
        ]
    )


def _inside(facts: _Facts, items: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Id of an item that holds others -> their indices."""
    inside: dict[str, tuple[int, ...]] = {}
    for inner, outer in facts.pairs("inReceptacleObject"):
        if inner in items:
            inside[outer] = (*inside.get(outer, ()), items[inner])
    return inside


# ── the goal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _goal(text: str, sentence: str, kinds: Mapping[str, str]) -> Goal:
    text = text.lower()
    words = frozenset(_OPERATOR.findall(text)) - {":goal"}
    if "inreceptacleobject" in words or "isreceptacleobject" in words:
        raise Unreadable("a goal with a movable receptacle, which ALFWorld's text engine leaves out too")
    sliced = words >= _SLICED
    task_type = _GOALS.get(words - _SLICED)
    if task_type is None or (words & _SLICED and (not sliced or task_type == "look_at_obj_in_light")):
        raise Unreadable(f"a goal that is none of ALFWorld's six: {shown(' '.join(text.split()), 120)}")
    facts = _FACT.findall(text)
    types = {variable: kind for predicate, variable, kind in facts if predicate == "objecttype"}
    of = {predicate: (first, second) for predicate, first, second in facts}
    n_types, n_kinds = {"look_at_obj_in_light": (2, 2), "pick_two_obj_and_place": (2, 1)}.get(task_type, (1, 1))
    if len(types) != n_types or (n_kinds == 1 and len(set(types.values())) != 1):
        raise Unreadable(f"a goal about {len(types)} items where {task_type} has {n_types}")
    lamp = receptacle = ""
    if task_type == "look_at_obj_in_light":
        item, lamp = types.get(of.get("holds", ("", ""))[1], ""), types.get(of.get("istoggled", ("", ""))[0], "")
    else:
        item, receptacle = next(iter(types.values())), of.get("receptacletype", ("", ""))[1]
    if not item or not (lamp or receptacle):
        raise Unreadable("a goal without the type of what it asks for")
    item, lamp, receptacle = (_kind(name, kinds) if name else "" for name in (item, lamp, receptacle))
    if not sentence:
        sentence = SENTENCES[task_type].format(item=item.lower(), receptacle=receptacle.lower(), toggle=lamp.lower())
    return Goal(type=task_type, item=item, text=sentence, receptacle=receptacle, toggle=lamp, sliced=sliced)
