"""Products: what a shop sells, read from the publisher's files or generated, with their prices and the index that finds them.

A catalogue holds its index, ids and prices in memory and its products in a file on disk, so that a hundred thousand products need
tens of megabytes. ``read`` streams the publisher's JSON, plain or gzip, one product at a time.
"""

from __future__ import annotations

import codecs
import gzip
import json
import mmap
import random
import re
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO

from agentrl.envs.webshop.index import Index
from agentrl.errors import GameError

HITS = 50  # of a search
MAX_ASIN = 10
NO_PRICE = 100.0  # what a product without one costs
NO_ATTRIBUTES = ("DUMMY_ATTR",)  # upstream's, for products that the attributes' file does not know
# What comes of files that are damaged, no JSON, or nested without end.
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, RecursionError)
_CHUNK = 1 << 16
_KEPT = 1024  # products that are kept decoded
_IN_MEMORY = 2_000  # a catalogue of more products keeps them in a file


@dataclass(frozen=True)
class Product:
    """A product. ``prices`` is one price, or the ends of a range; ``options`` maps an option's name to its values, in the page's
    order; ``category_path`` is "a › b › c"."""

    asin: str
    title: str
    category: str
    query: str
    category_path: str
    description: str = ""
    features: tuple[str, ...] = ()
    prices: tuple[float, ...] = (NO_PRICE,)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: tuple[str, ...] = NO_ATTRIBUTES

    @property
    def price_tag(self) -> str:
        """The price as the pages show it."""
        return " to ".join(f"${price}" for price in self.prices)

    @property
    def document(self) -> str:
        """What a search looks through."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        first = self.features[0] if self.features else ""
        return " ".join((self.title, self.description, first, options)).lower()


class Catalogue:
    """Products in a fixed order, their prices, and a search over them. Add them all, then search."""

    def __init__(self, seed: int = 233) -> None:
        # Python's generator and this order of draws are upstream's: the same seed gives the published prices.
        self.random = random.Random(seed)
        self.index = Index()
        self._held: list[Product] | None = []
        self._file: IO[bytes] | None = None
        self._ends = array("Q", [0])
        self._places: dict[str, int] = {}
        self._prices = array("d")
        self._by: dict[tuple[str, str], list[int]] = {}
        self._map: mmap.mmap | None = None
        self._decoded = lru_cache(maxsize=_KEPT)(self._product)

    def __len__(self) -> int:
        return len(self._prices)

    def add(self, product: Product) -> None:
        """The next product. Raises GameError for an asin that is taken."""
        place = len(self._prices)
        if self._places.setdefault(product.asin.upper(), place) != place:
            raise GameError(f"two products have the asin '{product.asin}'; give each its own")
        if self._held is not None and len(self._held) < _IN_MEMORY:
            self._held.append(product)
        else:
            self._write(product)
        self.index.add(product.document)
        self._prices.append(product.prices[0] if len(product.prices) == 1 else self.random.uniform(*product.prices))
        for kind, value in (
            ("c", product.category),
            ("q", product.query),
            *(("a", each) for each in product.attributes),
        ):
            found = self._by.setdefault((kind, value.lower()), [])
            if len(found) < HITS:
                found.append(place)

    def _write(self, product: Product) -> None:
        """Keeps a product in the file; the first one takes those in memory along."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="agentrl-shop-")  # noqa: SIM115 - lives as long as the catalogue
        held, self._held = self._held or (), None
        for each in (*held, product):
            text = json.dumps(asdict(each), ensure_ascii=False).encode("utf-8", "surrogatepass")
            self._file.write(text)
            self._ends.append(self._ends[-1] + len(text))

    def close(self) -> None:
        """Ends adding. Raises GameError where nothing was added."""
        if not self._prices:
            raise GameError("a shop needs products, and there is none")
        self.index.close()
        if self._file is not None:
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def product(self, place: int) -> Product:
        """The product at a place."""
        return self._decoded(place) if self._held is None else self._held[place]

    def _product(self, place: int) -> Product:
        assert self._map is not None, "close comes first"
        row = json.loads(self._map[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass"))
        for name in ("features", "prices", "attributes"):
            row[name] = tuple(row[name])
        row["options"] = {name: tuple(values) for name, values in row["options"].items()}
        return Product(**row)

    def place(self, asin: str) -> int | None:
        """Where a product stands, whatever the case of its asin; None where there is none."""
        return self._places.get(asin.upper())

    def price(self, place: int) -> float:
        """What a product costs: of a range, the price that was drawn."""
        return self._prices[place]

    def search(self, words: Sequence[str], draw: random.Random) -> tuple[int, ...]:
        """The places of at most 50 hits, best first. Upstream's special queries: ``<r>`` any products, ``<a>`` those with an
        attribute, ``<c>`` those of a category, ``<q>`` those of a query."""
        if words[0] == "<r>":
            return tuple(draw.sample(range(len(self)), min(HITS, len(self))))
        if words[0] in ("<a>", "<c>", "<q>"):
            return tuple(self._by.get((words[0][1], " ".join(words[1:]).strip()), ()))
        return tuple(place for place, _ in self.index.search(" ".join(words), HITS))


def catalogue_of(products: Iterable[Product], seed: int = 233) -> Catalogue:
    """A catalogue of some products."""
    catalogue = Catalogue(seed)
    for product in products:
        catalogue.add(product)
    catalogue.close()
    return catalogue


def products_of(path: Path, attributes: Mapping[str, Mapping[str, Any]]) -> Iterator[Product]:
    """The products of the publisher's file, in its order: the first of each asin of at most ten characters. Raises GameError for a
    file that is none."""
    seen: set[str] = set()
    for number, row in enumerate(rows(path)):
        try:
            asin = str(row["asin"])
            if asin == "nan" or len(asin) > MAX_ASIN or asin in seen:
                continue
            seen.add(asin)
            yield _product(asin, row, attributes.get(asin, {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GameError(
                f"{path.name}, product {number}: {type(error).__name__}: {error}; wanted WebShop's form"
            ) from error


def _product(asin: str, row: Mapping[str, Any], known: Mapping[str, Any]) -> Product:
    features = row["small_description"]
    prices = [float(re.sub(r"[^\d.]", "", text)) for text in (row.get("pricing") or "").split("$")[1:]]
    options = {
        name.lower(): tuple(each["value"].strip().replace("/", " | ").lower() for each in values)
        for name, values in (row["customization_options"] or {}).items()
        if values is not None
    }
    return Product(
        asin=asin,
        title=text_of("name", row["name"]),
        category=text_of("category", row["category"]),
        query=text_of("query", row["query"]).lower().strip(),
        category_path=text_of("product_category", row["product_category"]),
        description=text_of("full_description", row["full_description"] or ""),
        features=texts_of("small_description", features if isinstance(features, list) else [features or ""]),
        prices=tuple(prices[:2]) or (NO_PRICE,),
        options=options,
        attributes=texts_of("attributes", known.get("attributes", NO_ATTRIBUTES)),
    )


def text_of(name: str, value: Any) -> str:
    """The value. Raises ValueError where it is no text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text but {value!r:.40}")
    return value


def texts_of(name: str, values: Any) -> tuple[str, ...]:
    """The values. Raises ValueError where they are no list of texts."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{name} is no list but {values!r:.40}")
    return tuple(text_of(name, value) for value in values)


def rows(path: Path) -> Iterator[Any]:
    """The elements of a JSON array in a file, plain or gzip, one at a time. Raises GameError for anything else."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = _Text(file)
            text.expect("[")
            if text.peek() == "]":
                return
            while True:
                yield text.value()
                if text.expect(",]") == "]":
                    return
    except UNREADABLE as error:
        raise GameError(f"'{path}' cannot be read as a JSON array: {error}") from error


class _Text:
    """A JSON text that is read as far as it is needed."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file, self._utf8 = file, codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder()
        self._text, self._place, self._ended = "", 0, False

    def _more(self, size: int) -> None:
        chunk = self._file.read(size)
        self._ended = not chunk
        self._text, self._place = self._text[self._place :] + self._utf8.decode(chunk, self._ended), 0

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place].isspace():
                self._place += 1
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._more(_CHUNK)

    def expect(self, wanted: str) -> str:
        """Takes one of the characters. Raises ValueError where another comes."""
        found = self.peek()
        if not found or found not in wanted:
            raise ValueError(f"wanted one of {' '.join(wanted)}, got {found!r}")
        self._place += 1
        return found

    def value(self) -> Any:
        """Takes a value. Raises ValueError where there is none."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                found, self._place = self._decoder.raw_decode(self._text, self._place)
                return found
            except json.JSONDecodeError:
                if self._ended:
                    raise
                size *= 2  # a long value is not tried again for each chunk
                self._more(size)
