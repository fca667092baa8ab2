"""What a room holds, drawn with what real ALFWorld rooms hold and where they keep it (``priors.json``, ``make_priors.py``).

A draw is made of three steps: the kinds of the receptacles, the receptacles, and the items in them. ``random`` gives
numbers in [0, 1); equal numbers give equal rooms.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

from agentrl.envs.household.house import Item, Receptacle

LAMP = "DeskLamp"  # ALFWorld's floor lamps stand in no receptacle and so can never count
Random = Callable[[], float]
Placed = list[tuple[str, int]]  # item kind, index of the receptacle it is in
T = TypeVar("T")


@cache
def priors() -> Mapping[str, Any]:
    """The content of ``priors.json``."""
    return json.loads(Path(__file__).with_name("priors.json").read_text(encoding="utf-8"))


@cache
def can_contain() -> frozenset[tuple[str, str]]:
    """(receptacle kind, item kind) for all that ALFWorld's rules allow."""
    return frozenset((place, item) for place, items in priors()["can_contain"].items() for item in items)


def receptacle_kinds(room: str, needed: Sequence[str], size: int, random: Random) -> list[str]:
    """``size`` receptacle kinds: the needed ones, and others as a real room has them, repeats being rarer."""
    known = priors()["rooms"][room]["receptacles"]
    counts = Counter(needed)
    kinds = list(needed)
    while len(kinds) < size:
        weights = [
            (kind, share * mean / (1 + counts[kind]))
            for kind, (share, mean, most) in known.items()
            if counts[kind] < most
        ]
        kind = weighted(weights, random)
        counts[kind] += 1
        kinds.append(kind)
    return kinds


def real_receptacle_kinds(room: str, needed: Sequence[str], size: int, random: Random) -> list[str]:
    """``size`` receptacle kinds in a real room's proportions: each kind is there as often as in real rooms, and the
    further ones are of the kinds of which real rooms have several. Where ``size`` is too small, the rarer kinds stay away."""
    known = priors()["rooms"][room]["receptacles"]
    present = [kind for kind, (share, _, _) in known.items() if kind not in needed and random() < share]
    present.sort(key=lambda kind: -known[kind][0])
    kinds = [*needed, *present][: max(size, len(needed))]
    counts = Counter(kinds)
    while len(kinds) < size:
        weights = [
            (kind, known[kind][1] - 1) for kind, n in counts.items() if n < known[kind][2] and known[kind][1] > 1
        ]
        if not weights:  # a room of single things: it gets what it lacks
            return receptacle_kinds(room, kinds, size, random)
        kind = weighted(weights, random)
        counts[kind] += 1
        kinds.append(kind)
    return kinds


def real_size(room: str, what: Literal["receptacles", "items"], random: Random) -> int:
    """How many receptacles, or items that can be picked up, a real room has: drawn from between its measured quantiles."""
    quantiles = priors()["sizes"][room][what]
    step, part = divmod(random() * (len(quantiles) - 1), 1)
    below, above = quantiles[int(step)], quantiles[int(step) + 1]
    return round(below + part * (above - below))


def receptacles(kinds: list[str], shared: float, random: Random) -> tuple[Receptacle, ...]:
    """Named receptacles in the engine's order (class ascending, number descending), closed, each at its own location
    but for the share that real rooms show together. Locations are counted from 1, without a gap."""
    left, pairs, shares = Counter(kinds), priors()["co_located"], priors()["openable"]
    built: list[Receptacle] = []
    free = 1
    for kind in kinds:
        location = free
        if shared and random() < shared:
            location = next((b.location for b in built if sorted((b.kind, kind)) in pairs), location)
        free += location == free
        openable = kind in shares and random() < shares[kind]
        built.append(Receptacle(f"{kind.lower()} {left[kind]}", kind, location, openable))
        left[kind] -= 1
    return tuple(built)


def items(placed: Placed, receptacles: Sequence[Receptacle]) -> tuple[Item, ...]:
    """Items in the engine's order. Their numbers follow their places, so they do not tell which one is sought."""
    left = Counter(kind for kind, _ in placed)
    built = []
    for kind, place in sorted(placed, key=lambda pair: (pair[0].lower(), pair[1])):
        built.append(
            Item(
                name=f"{kind.lower()} {left[kind]}",
                kind=kind,
                location=receptacles[place].location,
                within=(place,),
                pickupable=kind != LAMP,
                **_properties(kind),
            )
        )
        left[kind] -= 1
    return tuple(built)


@cache
def _properties(kind: str) -> dict[str, Any]:
    return {name: kind in kinds for name, kinds in priors()["properties"].items()}


def in_kind(kind: str, receptacles: Sequence[Receptacle], random: Random) -> int:
    """The index of one receptacle of that kind."""
    return one([i for i, r in enumerate(receptacles) if r.kind == kind], random)


def between(least_most: tuple[int, int], random: Random) -> int:
    """A whole number from the first to the second, both included."""
    least, most = least_most
    return least + int(random() * (most - least + 1))


def one(options: Sequence[T], random: Random) -> T:
    """One of the options, each as likely as the others."""
    return options[int(random() * len(options))]


def weighted(options: Sequence[tuple[str, float]], random: Random) -> str:
    """One of the names, in proportion to its weight."""
    sums = list(accumulate(weight for _, weight in options))
    return options[bisect(sums, random() * sums[-1], hi=len(sums) - 1)][0]
