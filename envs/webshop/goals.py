"""Goals: what a shop's visitors are told to buy. Those of the publisher's files, in the published order, and the splits."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentrl.envs.webshop.catalogue import UNREADABLE, Catalogue, Product, products_of, text_of, texts_of
from agentrl.envs.webshop.reward import NO_CAP, Goal
from agentrl.errors import GameError

CAPS = [10.0 * step for step in range(1, 100)]
SEED = 233  # upstream's: of the order of goals, and here of prices and caps too
TEST, EVALUATION = 500, 1_000


def cap(price: float, draw: random.Random) -> float:
    """A price cap in tens of dollars, one of the second to fourth above the price; NO_CAP where fewer than two are left."""
    above = [each for each in CAPS if each > price][:4]
    return max(draw.sample(above, 2)) if len(above) >= 2 else NO_CAP


def cap_text(price_upper: float) -> str:
    """How an instruction says it."""
    return "" if price_upper == NO_CAP else f", and price lower than {price_upper:.2f} dollars"


def options_text(options: Mapping[str, str]) -> str:
    """How an instruction says which options are wanted."""
    told = ", and ".join(f"{name}: {value}" for name, value in options.items())
    return f" with {told}" if told else ""


def goal_of(
    product: Product, instruction: str, attributes: Iterable[str], options: Mapping[str, str], upper: float
) -> Goal:
    """A goal made of a product."""
    return Goal(
        asin=product.asin,
        instruction=instruction,
        query=product.query,
        title=product.title,
        category=product.category,
        category_path=product.category_path,
        attributes=tuple(attributes),
        options=dict(options),
        price_upper=upper,
    )


@dataclass(frozen=True)
class Shop:
    """A catalogue and the goals of its visitors."""

    catalogue: Catalogue
    goals: Sequence[Goal]


@lru_cache(maxsize=4)
def read(folder: str, human: bool = False, seed: int = SEED) -> Shop:
    """The shop of a folder of the publisher's files: ``items_shuffle*.json``, ``items_ins_v2*.json`` and, for ``human`` goals,
    ``items_human_ins.json``, each plain or gzip. Prices of ranges and price caps are drawn from ``seed``. Raises GameError for
    files that are missing or cannot be read, and where no goal comes out."""
    known = mapping(found(folder, "items_ins_v2"))
    people = mapping(found(folder, "items_human_ins")) if human else {}
    catalogue = Catalogue(seed)
    made = _Goals(catalogue.random)
    for product in products_of(found(folder, "items_shuffle"), known):
        catalogue.add(product)
        made.note(product, people.get(product.asin, ()) if human else known.get(product.asin, {}), human)
    if not len(catalogue):
        raise GameError(f"no products in '{folder}'")
    catalogue.close()
    goals = made.finished(catalogue)
    if not goals:
        raise GameError(f"no product in '{folder}' has an instruction: there is no goal")
    random.Random(SEED).shuffle(goals)
    return Shop(catalogue, goals)


class _Goals:
    """Goals of products as they come: noted, and made when all prices are drawn, for that is upstream's order of draws."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._noted: list[tuple[int, str, list[Any]]] = []
        self._count = 0

    def note(self, product: Product, told: Any, human: bool) -> None:
        place, self._count = self._count, self._count + 1
        try:
            if human:
                wanted = [
                    (_instruction(each).strip("."), _wanted(each), each["instruction_options"])
                    for each in told
                    if each["instruction_attributes"]
                ]
            else:
                wanted = [(_instruction(told), _wanted(told), None)] if told.get("instruction") is not None else []
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise GameError(
                f"the instruction of '{product.asin}' cannot be read: {type(error).__name__}: {error}"
            ) from error
        if wanted:
            self._noted.append((place, product.asin, wanted))

    def finished(self, catalogue: Catalogue) -> list[Goal]:
        goals: list[Goal] = []
        for place, _, wanted in self._noted:
            product = catalogue.product(place)
            upper = None
            for text, attributes, options in wanted:
                if upper is None or options is not None:  # people's instructions have a cap each, a product's have one
                    upper = cap(catalogue.price(place), self._draw)
                for chosen in combinations(product) if options is None else [_named(product, options)]:
                    said = options_text(chosen) if options is None else ""
                    goals.append(goal_of(product, f"{text}{said}{cap_text(upper)}", attributes, chosen, upper))
        return goals


def _instruction(told: Mapping[str, Any]) -> str:
    return text_of("instruction", told["instruction"])


def _wanted(told: Mapping[str, Any]) -> tuple[str, ...]:
    return texts_of("instruction_attributes", told["instruction_attributes"])


def combinations(product: Product) -> list[dict[str, str]]:
    """Each choice of one value of every option, names in alphabetical order."""
    names = sorted(product.options)
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(product.options[name] for name in names))
    ]


def _named(product: Product, values: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """People's options are values, or values by name; the name is that of the product's option that has the value."""
    if isinstance(values, Mapping):
        return {str(name): str(value) for name, value in values.items()}
    named = {}
    for number, value in enumerate(values):
        name = next((name for name, has in product.options.items() if value in has), f"option {number + 1}")
        named[name if name not in named else f"{name} {number + 1}"] = str(value)
    return named


def split(goals: Sequence[Goal], protocol: str) -> dict[str, list[int]]:
    """The numbers of the goals of each split. The first 500 (a tenth, where there are fewer than 5,000) are ``valid_unseen``, the
    test; by the "webshop" protocol the next 1,000 (a fifth) are ``valid_seen``; the rest is ``train``. A goal that stands again in
    another split's part is in the first one only."""
    test = min(TEST, len(goals) // 10)
    evaluation = min(EVALUATION, len(goals) // 5) if protocol == "webshop" else 0
    owners: dict[tuple[Any, ...], str] = {}
    found: dict[str, list[int]] = {"train": [], "valid_seen": [], "valid_unseen": []}
    for number, goal in enumerate(goals):
        by_place = "valid_unseen" if number < test else "valid_seen" if number < test + evaluation else "train"
        key = (goal.asin, goal.attributes, tuple(sorted(goal.options.items())))
        if owners.setdefault(key, by_place) == by_place:
            found[by_place].append(number)
    return found


def found(folder: str, name: str) -> Path:
    """The one file of the folder that is called so. Raises GameError where there is none, or more."""
    paths = sorted(path for path in Path(folder).glob(f"{name}*") if path.name.endswith((".json", ".json.gz")))
    if len(paths) != 1:
        got = ", ".join(path.name for path in paths) or "none"
        raise GameError(f"'{folder}' wants one file '{name}*.json' or '{name}*.json.gz' of WebShop's data; got {got}")
    return paths[0]


def mapping(path: Path) -> Mapping[str, Any]:
    """A file that holds one JSON object. Raises GameError for anything else."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            read = json.load(file)
    except UNREADABLE as error:
        raise GameError(f"'{path}' cannot be read as JSON: {error}") from error
    if not isinstance(read, dict):
        raise GameError(f"'{path}' wants a JSON object by asin; got {type(read).__name__}")
    return read
