"""Shops and goals drawn from a seed.

>>> tiny = tasks("tiny", "train")
>>> len(tiny), tiny[17].id
(100000, 'webshop-tiny-train-17')
>>> shop_of(tiny[17])[1].instruction == shop_of(task_by_id("webshop-tiny-train-17"))[1].instruction
True

At the levels tiny and easy every goal has a shop of its own, so nothing of it can be learned by heart; a larger shop has many
visitors. Each goal's product stands among look-alikes: one too dear, one with another attribute, one without a wanted option. The
splits differ by rule: ``valid_unseen`` sells kinds of products that the others never do, and of instructions about kinds in
common a hash says whether ``train`` or ``valid_seen`` has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from agentrl.env import LazyTasks
from agentrl.envs.webshop.catalogue import Catalogue, Product, catalogue_of
from agentrl.envs.webshop.categories import BRANDS, HELD_OUT, KINDS, Kind
from agentrl.envs.webshop.goals import cap_text, goal_of, options_text
from agentrl.envs.webshop.reward import Goal
from agentrl.errors import GameError, did_you_mean
from agentrl.seeding import seed, stable_hash, stream
from agentrl.types import Task

SPLIT_SIZES = {"train": 100_000, "valid_seen": 1_000, "valid_unseen": 1_000}
SEEN_GOALS = 5  # one instruction in so many belongs to valid_seen
_ID = re.compile(r"webshop-([a-z]+)-(train|valid_seen|valid_unseen)-(0|[1-9][0-9]*)")
FIRST_NAME = 10  # of the products of a plain shop: B10, B11 …
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Level:
    """How large shops are and what is asked for. ``goals`` visitors share a shop; ``look_alikes`` stand around each goal's product;
    ``attributes`` and ``options`` are how many a goal wants, at most; ``hidden`` is the share of a product's attributes that
    only its features tell, where no search finds them; ``plain`` names and titles are short, the latter in lower case, and
    prices round."""

    products: int
    goals: int
    look_alikes: int
    attributes: int
    options: int
    values: int  # of an option that a product has
    kinds: int  # that are sold, of those of the split
    page_size: int
    max_turns: int
    hidden: float = 0.0
    plain: bool = False


LEVELS: dict[str, Level] = {
    "tiny": Level(12, 1, 3, 1, 1, values=3, kinds=6, page_size=3, max_turns=8, plain=True),
    "easy": Level(50, 1, 4, 2, 2, values=4, kinds=10, page_size=5, max_turns=10),
    "medium": Level(500, 25, 6, 3, 2, values=5, kinds=16, page_size=10, max_turns=15, hidden=0.3),
    "full": Level(2_000, 100, 9, 4, 3, values=6, kinds=16, page_size=10, max_turns=15, hidden=0.5),
}


class TaskList(LazyTasks):
    """The tasks of one level and split, made when asked for."""

    def __init__(self, level: str, split: str) -> None:
        self.level, self.split = level, split

    def __len__(self) -> int:
        return SPLIT_SIZES[self.split]

    def make(self, place: int) -> Task:
        return Task(
            id=f"webshop-{self.level}-{self.split}-{place}",
            seed=seed(0, "webshop", self.level, self.split, place),
            type="buy",
            split=self.split,
            options={"level": self.level, "split": self.split, "index": place},
            max_turns=LEVELS[self.level].max_turns,
        )

    def __repr__(self) -> str:
        return f"TaskList({self.level!r}, {self.split!r})"


def tasks(level: str, split: str) -> Sequence[Task]:
    """The tasks of a level and split, lazily. Raises GameError for an unknown level or split."""
    known(level, LEVELS, "level")
    known(split, SPLIT_SIZES, "split")
    return TaskList(level, split)


def task_by_id(task_id: str) -> Task:
    """The task of an id of ``tasks``. Raises GameError for any other."""
    match = _ID.fullmatch(task_id)
    if match is None or match[1] not in LEVELS:
        raise GameError(f"no task '{task_id}'; generated ones are called like 'webshop-tiny-train-17'")
    found = tasks(match[1], match[2])
    if int(match[3]) >= len(found):
        raise GameError(f"no task '{task_id}': {match[2]} has {len(found)} tasks, numbered from 0")
    return found[int(match[3])]


def shop_of(task: Task) -> tuple[Catalogue, Goal]:
    """The shop of a task and what is to be bought there. Raises GameError for a task that is none of ``tasks``."""
    try:
        level, split = str(task.options["level"]), str(task.options["split"])
        index = int(task.options["index"])
    except (KeyError, TypeError, ValueError) as error:
        raise GameError(f"task '{task.id}' is no generated one: it wants level, split and index as options") from error
    known(level, LEVELS, "level")
    known(split, SPLIT_SIZES, "split")
    catalogue, goals = shop(level, split, index // LEVELS[level].goals)
    return catalogue, goals[index % LEVELS[level].goals]


@lru_cache(maxsize=48)  # the members of a group visit one shop
def shop(level: str, split: str, number: int) -> tuple[Catalogue, tuple[Goal, ...]]:
    """A shop and its goals."""
    rules = LEVELS[level]
    draw = stream(0, "webshop", "shop", level, split, number)
    kinds = kinds_of(level, split)
    maker = _Maker(rules, draw)
    wares: list[Product] = []
    goals: list[Goal] = []
    for _ in range(rules.goals):
        target, goal, upper = maker.goal(kinds, split)
        wares += [target, *maker.look_alikes(target, goal, upper)]
        goals.append(goal)
    while len(wares) < rules.products:
        wares.append(maker.product(kinds[int(draw.integers(len(kinds)))]))
    order = [wares[place] for place in draw.permutation(len(wares))]
    if not rules.plain:
        return catalogue_of(order), tuple(goals)
    # Few and small names, the same in each shop: a small model learns to copy them soon. They follow the shop's random order.
    named = {product.asin: f"B{FIRST_NAME + place}" for place, product in enumerate(order)}
    products = (replace(product, asin=named[product.asin]) for product in order)
    return catalogue_of(products), tuple(replace(goal, asin=named[goal.asin]) for goal in goals)


def wares(n: int, number: int = 0) -> Iterable[Product]:
    """``n`` products of all kinds, one at a time: a large catalogue to measure with."""
    maker = _Maker(LEVELS["full"], stream(0, "webshop", "wares", number))
    kinds = list(KINDS.values())
    return (maker.product(kinds[place % len(kinds)]) for place in range(n))


def kinds_of(level: str, split: str) -> list[Kind]:
    """What the shops of a level and split sell."""
    unseen = split == "valid_unseen"
    found = [kind for kind in KINDS.values() if (kind.query in HELD_OUT) == unseen]
    return found[: LEVELS[level].kinds]


class _Maker:
    """Draws products and goals."""

    def __init__(self, rules: Level, draw: np.random.Generator) -> None:
        self._rules, self._draw = rules, draw
        self._asins: set[str] = set()

    def _some(self, items: Sequence[str], n: int) -> tuple[str, ...]:
        """``n`` of the items, in their order."""
        chosen = sorted(int(place) for place in self._draw.permutation(len(items))[:n])
        return tuple(items[place] for place in chosen)

    def _asin(self) -> str:
        while True:
            asin = "B0" + "".join(_LETTERS[place] for place in self._draw.integers(len(_LETTERS), size=8))
            if asin not in self._asins:
                self._asins.add(asin)
                return asin

    def _price(self, kind: Kind) -> float:
        tens = int(self._draw.integers(kind.prices[0], kind.prices[1] + 1))
        return self._rounded(10 * tens - 10)

    def _rounded(self, tens: float) -> float:
        """A price between ``tens`` and ten more."""
        return tens + 5.0 if self._rules.plain else round(tens + 0.99 + 8 * float(self._draw.random()), 2)

    def product(self, kind: Kind, attributes: Sequence[str] | None = None, price: float | None = None) -> Product:
        """Any product of a kind, or one with these attributes or this price."""
        rules, draw = self._rules, self._draw
        if attributes is None:
            attributes = self._some(kind.attributes, rules.attributes if rules.plain else rules.attributes + 1)
        names = list(kind.options)[: rules.options]
        options = {name: self._some(kind.options[name], rules.values) for name in names}
        price = self._price(kind) if price is None else price
        return self._written(kind, tuple(attributes), options, price, BRANDS[int(draw.integers(len(BRANDS)))])

    def _written(
        self, kind: Kind, attributes: tuple[str, ...], options: dict[str, tuple[str, ...]], price: float, brand: str
    ) -> Product:
        hidden = int(self._rules.hidden * len(attributes))
        told, kept = attributes[: len(attributes) - hidden], attributes[len(attributes) - hidden :]
        if self._rules.plain:
            title = f"{' '.join(told)} {kind.noun}"
            features: tuple[str, ...] = told
        else:
            title = f"{brand} {' '.join(told)} {kind.noun}".title().replace("'S ", "'s ")
            features = (f"A {kind.noun} by {brand}.", *(f"It is {attribute}." for attribute in (*kept, *told)))
        return Product(
            asin=self._asin(),
            title=title,
            category=kind.category,
            query=kind.query,
            category_path=kind.path,
            description="" if self._rules.plain else f"{brand} makes each {kind.noun} with care.",
            features=features,
            prices=(price,),
            options=options,
            attributes=attributes,
        )

    def goal(self, kinds: Sequence[Kind], split: str) -> tuple[Product, Goal, float]:
        """A product, a goal that it meets and that belongs to the split, and the price cap."""
        rules, draw = self._rules, self._draw
        while True:
            product = self.product(kinds[int(draw.integers(len(kinds)))])
            wanted = self._some(product.attributes, rules.attributes)
            options = {
                name: values[int(draw.integers(len(values)))] for name, values in sorted(product.options.items())
            }
            upper = 10.0 * (int(product.prices[0] // 10) + 1 + int(draw.integers(2)))
            text = f"{sentence(product.query, wanted)}{options_text(options)}{cap_text(upper)}"
            if split == "valid_unseen" or split == _owner(text):
                return product, goal_of(product, text, wanted, options, upper), upper
            self._asins.discard(product.asin)

    def look_alikes(self, product: Product, goal: Goal, upper: float) -> list[Product]:
        """Products that are nearly what is wanted: too dear, with another attribute, without a wanted option, in turns."""
        found = []
        for number in range(self._rules.look_alikes):
            twin = replace(product, asin=self._asin())
            kind = KINDS[product.query]
            if number % 3 == 0:
                twin = replace(twin, prices=(self._rounded(upper + 10 * int(self._draw.integers(2))),))
            elif number % 3 == 1:
                twin = replace(self._otherwise(twin, kind, goal), asin=twin.asin)
            else:
                twin = self._without(twin, kind, goal)
            found.append(twin)
        return found

    def _otherwise(self, product: Product, kind: Kind, goal: Goal) -> Product:
        """The product with another attribute in place of one that is wanted."""
        lost = goal.attributes[int(self._draw.integers(len(goal.attributes)))]
        others = [attribute for attribute in kind.attributes if attribute not in product.attributes]
        gained = others[int(self._draw.integers(len(others)))]
        changed = tuple(gained if each == lost else each for each in product.attributes)
        twin = self.product(kind, changed, product.prices[0])
        self._asins.discard(twin.asin)
        return replace(twin, options=product.options)

    def _without(self, product: Product, kind: Kind, goal: Goal) -> Product:
        """The product without a wanted value of one of its options."""
        name = list(goal.options)[int(self._draw.integers(len(goal.options)))]
        rest = [value for value in kind.options[name] if value != goal.options[name]]
        return replace(product, options={**product.options, name: self._some(rest, self._rules.values)})


def sentence(query: str, attributes: Sequence[str]) -> str:
    """How an instruction names what is wanted.

    >>> sentence("area rugs", ("non slip", "low pile", "easy care"))
    'Find me non slip, low pile area rugs with easy care'
    """
    before, after = ", ".join(attributes[:2]), ", ".join(attributes[2:])
    return f"Find me {before} {query}" + (f" with {after}" if after else "")


def _owner(text: str) -> str:
    """Whose an instruction about kinds in common is."""
    return "valid_seen" if stable_hash("webshop", "goal", text) % SEEN_GOALS == 0 else "train"


def known(name: str, names: Iterable[str], what: str) -> None:
    """Raises GameError for a name that is none of them."""
    if name not in names:
        raise GameError(f"no {what} is called '{name}'.{did_you_mean(name, names)}")
