"""What a purchase is worth: WebShop's formula (Yao et al. 2022, arXiv 2207.01206; the variant that verl-agent runs).

    score = r_type * (n_attributes + n_options + (price <= cap)) / (attributes + options + 1)

A purchase of the wrong type is worth 0.5, 0.1 or 0 times that. The type is right where the goal's query is the product's, or two of
the categories are, or more than a fifth of the nouns of the goal's title stand in the product's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from agentrl.envs.webshop.catalogue import Product
from agentrl.errors import ConfigError, did_you_mean

ALIKE = 85  # a token set ratio above it is a match
NO_CAP = 1_000_000.0
Nouns = Callable[[str], Iterable[str]]

# The colours that upstream looks for, in its order: the first that stands in a value is what the value means.
_COLOURS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo caramel
champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal dark denim
eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender
lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom mustard natural navy nude
olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone
stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
COLOURS = tuple(_COLOURS.split())
# Words of titles that are no nouns: function words, units, and adjectives that shops use.
_NO_NOUN_WORDS = """
a about above after all also an and any are as at be both but by can each for free from has have if in into is it its more
most new no non not of off on one only or other our out over per plus so such than that the their them then this to too under
up upon very via was we were will with within without you your cm mm m ft inch inches in oz ounce ounces lb lbs kg g ml l w v
mah hz ghz mp pcs pc x xl xxl large small medium big mini long short slim thin thick wide narrow high low deep light heavy
soft hard hot cool cold warm dry wet clean fresh easy quick fast slow portable adjustable removable reusable washable
wireless wired waterproof resistant natural organic pure real genuine classic modern vintage retro casual formal elegant cute
sexy beautiful comfortable breathable lightweight durable sturdy stretchy loose fitted solid plain full half double single
dual multi various different best great good perfect premium professional original compatible suitable ideal personalized
funny sleeveless black white red blue green yellow pink purple gray grey brown orange beige golden dark bright clear
"""
_NO_NOUNS = frozenset(_NO_NOUN_WORDS.split())


@dataclass(frozen=True)
class Goal:
    """What is to be bought: a product of the query with these attributes and options, no dearer than ``price_upper``. ``asin``
    is the product that it was made of ("" where nobody said)."""

    asin: str
    instruction: str
    query: str
    title: str
    category: str
    category_path: str
    attributes: tuple[str, ...]
    options: Mapping[str, str]
    price_upper: float = NO_CAP


@dataclass(frozen=True)
class Score:
    """A purchase's score and what it is made of."""

    total: float
    r_type: float
    n_attributes: int
    n_options: int
    price: bool
    title: float


def score(
    product: Product, price: float, options: Mapping[str, str], goal: Goal, nouns: Nouns, mended: bool = False
) -> Score:
    """What it is worth to have bought ``product`` with ``options`` for ``price``. ``mended`` compares the options that were bought
    and wanted in the same form; upstream does not, and 458 of its 6,910 goals cannot be reached."""
    r_type, title = type_score(product, goal, nouns)
    attributes = n_attributes(product, goal)
    matched = n_options(options.values(), goal.options, mended)
    cheap = price <= goal.price_upper
    total = (attributes + matched + cheap) / (len(goal.attributes) + len(goal.options) + 1)
    return Score(total * r_type, r_type, attributes, matched, cheap, title)


def type_score(product: Product, goal: Goal, nouns: Nouns) -> tuple[float, float]:
    """(r_type, share of the goal title's nouns that stand in the product's title; 0.2 for a title without nouns)."""
    wanted = set(nouns(goal.title))
    title = len(wanted & set(nouns(product.title))) / len(wanted) if wanted else 0.2
    if title == 0.0:
        return 0.0, title
    if title < 0.1:
        return 0.1, title
    paths = [{part.strip() for part in path.split("›")} for path in (product.category_path, goal.category_path)]
    right = product.query == goal.query or len(paths[0] & paths[1]) >= 2 or title > 0.2
    return (1.0 if right else 0.5), title


def n_attributes(product: Product, goal: Goal) -> int:
    """How many wanted attributes the product has: one like it is listed, or it stands in a text of the product."""
    texts = [product.title.lower(), " ".join(product.features).lower(), product.description.lower()]
    return sum(
        any(token_set_ratio(has, wanted) > ALIKE for has in product.attributes) or any(wanted in text for text in texts)
        for wanted in goal.attributes
    )


def n_options(bought: Iterable[str], wanted: Mapping[str, str], mended: bool = False) -> int:
    """How many wanted options were bought, by upstream's comparison: of what was bought the colour counts where there is one; of
    what is wanted the colour where that is all it says, else name and value together."""
    have = [colour_of(value) for value in bought]
    need = [colour_of(value) if mended else _tuple_form(name, value) for name, value in wanted.items()]
    return sum(any(token_set_ratio(value, text) > ALIKE for value in have) for text in need)


def colour_of(value: str) -> str:
    """The first of COLOURS that stands in a value, wherever it stands; else the value.

    >>> colour_of("navy | red"), colour_of("rectangular"), colour_of("3x-large")
    ('navy', 'tan', '3x-large')
    """
    return next((colour for colour in COLOURS if colour in value), value)


def _tuple_form(name: str, value: str) -> str:
    """Upstream gives its normaliser a tuple: a colour must then be one of its members, and else its printed form is compared."""
    return next((colour for colour in COLOURS if colour in (name, value)), str((name, value)))


# ── likeness ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_LATIN1 = dict.fromkeys(range(128, 256))
_NO_WORD = re.compile(r"[\W_]")


@lru_cache(maxsize=65536)
def token_set_ratio(one: str, two: str) -> int:
    """How alike two texts are as sets of words, 0 to 100 (thefuzz 0.22): of the common words, the common words with the rest of
    each, the best ratio of two of the three.

    >>> token_set_ratio("machine washable cover", "machine washable"), token_set_ratio("grey", "gray"), token_set_ratio("", "a")
    (100, 75, 0)
    """
    first, second = set(_plain(one).split()), set(_plain(two).split())
    if not first or not second:
        return 0
    common = first & second
    rests = [" ".join(sorted(words - common)) for words in (first, second)]
    if common and not all(rests):
        return 100
    shared = len(" ".join(common))
    lengths = [shared + bool(shared) + len(rest) for rest in rests]
    distance = len(rests[0]) + len(rests[1]) - 2 * _common_length(*rests)
    ratios = [_ratio(distance, sum(lengths))]
    if shared:
        ratios += [_ratio(length - shared, shared + length) for length in lengths]
    return round(max(ratios))


def _plain(text: str) -> str:
    return _NO_WORD.sub(" ", text.translate(_LATIN1)).strip().lower()


def _ratio(distance: int, total: int) -> float:
    return 100 - 100 * distance / total if total else 100.0


def _common_length(one: str, two: str) -> int:
    """The length of the longest common subsequence, a word of bits at a time (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, letter in enumerate(one):
        places[letter] = places.get(letter, 0) | 1 << place
    mask = (1 << len(one)) - 1
    row = mask
    for letter in two:
        matches = row & places.get(letter, 0)
        row = ((row + matches) | (row - matches)) & mask
    return len(one) - row.bit_count()


# ── nouns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=8192)
def rule_nouns(title: str) -> frozenset[str]:
    """Words of a title that are likely nouns: all but function words, numbers, units and common adjectives.

    >>> sorted(rule_nouns("12 Pack of Soft Cotton Socks, Men's Large"))
    ['cotton', 'men', 'pack', 'socks']
    """
    words = re.findall(r"[^\W\d_]+", title.lower().replace("'s", ""))
    return frozenset(word for word in words if len(word) > 1 and word not in _NO_NOUNS)


def nouns_of(name: str) -> Nouns:
    """How nouns are found: "rule", or the name of a spaCy model such as "spacy:en_core_web_sm". Raises ConfigError for anything
    else, for a model that is not there, and without spaCy."""
    if name == "rule":
        return rule_nouns
    kind, _, model = name.partition(":")
    if kind != "spacy" or not model:
        raise ConfigError(
            f"wanted nouns as 'rule' or 'spacy:MODEL'; got '{name}'.{did_you_mean(name, ('rule', 'spacy:en_core_web_sm'))}"
        )
    return _spacy_nouns(model)


@lru_cache(maxsize=2)
def _spacy_nouns(model: str) -> Nouns:
    try:
        import spacy
    except ImportError as error:
        raise ConfigError(f"nouns = 'spacy:{model}' needs the package spacy: pip install spacy") from error
    try:
        parse = spacy.load(model)
    except OSError as error:
        raise ConfigError(f"spaCy has no model '{model}': python -m spacy download {model}") from error
    except (ImportError, ValueError) as error:
        raise ConfigError(f"spaCy cannot load the model '{model}': {str(error).strip().splitlines()[0]}") from error
    if not parse("red shoes").has_annotation("POS"):
        raise ConfigError(
            f"the spaCy model '{model}' gives no parts of speech; name one with a tagger, as en_core_web_sm"
        )

    @lru_cache(maxsize=8192)
    def nouns(title: str) -> frozenset[str]:
        return frozenset(token.text.lower() for token in parse(title) if token.pos_ in ("NOUN", "PROPN"))

    return nouns
