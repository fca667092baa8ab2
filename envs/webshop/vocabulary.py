"""Every word that a shop can say or understand, for a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from agentrl.envs.webshop import generate
from agentrl.envs.webshop.categories import BRANDS
from agentrl.envs.webshop.goals import Shop
from agentrl.envs.webshop.site import BACK, BUY, NEXT, PREV, SUB_PAGES

_PAGES = (
    "WebShop [SEP] Instruction: [SEP] Find me x, x with x: x, and price lower than 1.00 dollars [SEP] Search",
    f"{BACK} [SEP] {PREV} [SEP] {NEXT} [SEP] {BUY} [SEP] {' [SEP] '.join(SUB_PAGES)} [SEP] Rating: N.A. [SEP] Price: $1.0 to $1.0",
    f"Instruction: {BACK} Page 1 (Total results: 1)",
    "Search [button] x [button_]\n  [clicked button] x [clicked button_]\nYou have clicked x.\n",
    "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk interface.) [SEP] Purchased",
    ' asin [SEP] options [SEP] {"x": "x", "x": "x"} [SEP] attrs [SEP] category [SEP] query [SEP] product category [SEP] Target',
    " price upper instuction text [SEP] Goal [SEP] Reward [SEP] Your score (min 0.0, max 1.0) [SEP] Reward Details",
    "search[Find me x] find find search[find] search[x] click[x] click[< prev] click[next >] click[back to search]",
    "click[buy now] click[search] 'click[x]',\n",
    "click[description] click[features] click[reviews] click[attributes] search[<your query>]",
)
_NUMBERS = 131  # prices and caps, numbers of results
_PLAIN_NUMBERS = (*range(23), *range(25, 136, 5))


def texts(level: str, mode: str) -> Iterator[str]:
    """Texts that hold every word of a level's pages and instructions, each at the start of a text and after a space."""
    yield from _PAGES
    if mode == "text_rich":
        yield "Page 1\nPrice: $1.0\nRating: N.A."  # at the starts of lines
    rules = generate.LEVELS[level]
    words: set[str] = set()
    for split in ("train", "valid_unseen"):
        for kind in generate.kinds_of(level, split):
            names = list(kind.options)[: rules.options]
            words |= {kind.query, kind.noun, kind.category, kind.path, *kind.attributes, *names}
            words |= {value for name in names for value in kind.options[name]}
    for text in sorted(words):
        yield f"{text} {text}"
        if not rules.plain:
            titled = text.title().replace("'S ", "'s ")
            yield f"{titled} {titled}"
    if rules.plain:
        yield from (f"{number} {number}" for number in _PLAIN_NUMBERS)
        yield from ("B1 B1", "b1 b1")  # an asin and how it is clicked; the number is one of those above
        return
    yield from (f"{number} {number}" for number in range(_NUMBERS))
    yield from (f"{brand} {brand} A x by {brand}. It is x. {brand} makes each x with care." for brand in BRANDS)
    yield from (f"{number:02d}" for number in range(100))
    yield from (f"{letter}{letter.lower()}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def of_shop(shop: Shop) -> Iterator[str]:
    """The instructions and products of a folder."""
    yield from _PAGES
    for goal in shop.goals:
        yield f" {goal.instruction}"
    for place in range(len(shop.catalogue)):
        product = shop.catalogue.product(place)
        yield f" {product.title} {product.price_tag} {product.asin} {product.asin.lower()} {product.description}"
        yield from (f" {feature}" for feature in product.features)
        yield from (f"{name} {' '.join(values)}" for name, values in product.options.items())
