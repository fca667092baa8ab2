"""The shop's site: its pages as visible pieces, what can be clicked on them, and what a search or a click leads to.

The pages are those of WebShop's simulator as verl-agent runs it: search, results, item, and the item's description, features and
reviews (and attributes, where they are shown), and the page after a purchase. ``text`` joins the pieces by " [SEP] "; ``text_rich``
has one a line and marks what can be clicked and what was.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agentrl.envs.webshop.catalogue import Catalogue, Product
from agentrl.seeding import seed

PageName = Literal["search", "results", "item", "sub", "done"]
Kind = Literal["text", "button", "link", "option"]
BACK, PREV, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews", "Attributes")
SEPARATOR = " [SEP] "
_NO_QUERY = str.maketrans(dict.fromkeys("[]\n", " "))
# What the page after a purchase says between the options and the score; upstream fills none of it.
_UNFILLED = (
    "attrs None category None query None product_category None Target asin options attrs price_upper instuction_text category "
    "product_category query Goal_ None Reward"
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A visible text of a page. ``name`` is the option that a value belongs to."""

    kind: Kind
    text: str
    name: str = ""


@dataclass(frozen=True)
class State:
    """Where a visitor is. ``words`` are the last query's, ``hits`` the places of what it found, ``number`` the page of them;
    ``place`` is the product looked at, ``sub`` the page about it, ``options`` what was chosen, ``visited`` every product opened
    since the search page; ``score`` is that of the purchase."""

    page: PageName = "search"
    words: tuple[str, ...] = ()
    hits: tuple[int, ...] = ()
    number: int = 1
    place: int = -1
    sub: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    visited: frozenset[int] = frozenset()
    score: float = 0.0


def parsed(action: str) -> tuple[str, str]:
    """(name, argument) of ``search[…]`` or ``click[…]``, both in lower case; ("", "") for anything else.

    >>> parsed("click[Buy Now]"), parsed("search[[red] rug] and more"), parsed("look")
    (('click', 'buy now'), ('search[', 'red] rug'), ('', ''))
    """
    line = action.strip().partition("\n")[0]
    close = line.rfind("]")
    start = line.rfind("[", 1, max(close - 1, 0))
    return (line[:start].lower(), line[start + 1 : close].lower()) if start > 0 else ("", "")


def searchable(text: str) -> str:
    """A text as ``search[…]`` can hold it: on one line, without brackets, which no search looks for.

    >>> searchable("a [red]\\nrug")
    'a  red  rug'
    """
    return text.translate(_NO_QUERY).strip()


class Site:
    """One shop's pages. ``page_size`` results stand on a page; ``attributes`` shows the page of attributes too."""

    def __init__(self, catalogue: Catalogue, page_size: int = 10, attributes: bool = False) -> None:
        self.catalogue, self.page_size = catalogue, page_size
        self._sub_pages = SUB_PAGES if attributes else SUB_PAGES[:3]

    # ── what is seen ─────────────────────────────────────────────────────────────────────────────────────────────────

    def pieces(self, state: State) -> list[Piece]:
        """What a page shows behind the instruction (the page after a purchase: all it shows)."""
        if state.page == "search":
            return [Piece("button", "Search")]
        if state.page == "results":
            return self._results(state)
        if state.page == "done":
            return self._done(state)
        start = [Piece("button", BACK), Piece("button", PREV)]
        product = self.catalogue.product(state.place)
        return start + (self._item(product) if state.page == "item" else self._sub(product, state.sub))

    def shown(self, state: State) -> tuple[int, ...]:
        """The places of the products on a page of results."""
        if state.page != "results":
            return ()
        return state.hits[max(0, (state.number - 1) * self.page_size) : max(0, state.number * self.page_size)]

    def _results(self, state: State) -> list[Piece]:
        found = [Piece("button", BACK), Piece("text", f"Page {state.number} (Total results: {len(state.hits)})")]
        if state.number > 1:
            found.append(Piece("button", PREV))
        found.append(Piece("button", NEXT))
        for place in self.shown(state):
            product = self.catalogue.product(place)
            found += [Piece("link", product.asin), Piece("text", product.title), Piece("text", product.price_tag)]
        return found

    def _item(self, product: Product) -> list[Piece]:
        found = []
        for name, values in product.options.items():
            found.append(Piece("text", name))
            found += [Piece("option", value, name) for value in values]
        found += [
            Piece("text", product.title),
            Piece("text", f"Price: {product.price_tag}"),
            Piece("text", "Rating: N.A."),
        ]
        return found + [Piece("button", name) for name in (*self._sub_pages, BUY)]

    def _sub(self, product: Product, name: str) -> list[Piece]:
        if name == "Description":
            return [Piece("text", product.description)]
        if name == "Features":
            return [Piece("text", f" {feature}") for feature in product.features]
        if name == "Reviews":
            return []
        listed = [Piece("text", f" {attribute}") for attribute in product.attributes]
        return listed + [Piece("text", text) for text in (product.category, product.query, product.category_path)]

    def _done(self, state: State) -> list[Piece]:
        options = json.dumps(dict(sorted(state.options.items())))
        for sign in "<>&'":  # what Flask's filter writes for them
            options = options.replace(sign, f"\\u{ord(sign):04x}")
        asin = self.catalogue.product(state.place).asin
        texts = [
            "Thank you for shopping with us!",
            "Your code: ",
            "None",
            " (Paste it in your MTurk interface.)",
            "Purchased",
        ]
        texts += ["asin", asin, "options", options, *(text.replace("_", " ") for text in _UNFILLED.split())]
        texts += ["Your score (min 0.0, max 1.0)", str(state.score), "Reward Details ", "None"]
        return [Piece("text", text) for text in texts]

    def text(self, state: State, instruction: str) -> str:
        """A page in the mode ``text``."""
        return SEPARATOR.join([*_heading(state, instruction), *self.texts(state)])

    def texts(self, state: State) -> list[str]:
        """The pieces of the mode ``text`` without the instruction."""
        return [piece.text.strip() for piece in self.pieces(state) if _visible(piece.text)]

    def rich(self, state: State, instruction: str) -> str:
        """A page in the mode ``text_rich``. What was chosen is marked as upstream does it: where the value stands in quotes in the
        page's address, so never where it holds a quote itself."""
        address = "+".join(state.words) + "/" + json.dumps(dict(state.options))
        lines, clicked = _heading(state, instruction, rich=True), []
        for piece in self.pieces(state):
            if not _visible(piece.text):
                continue
            mark = "button"
            if piece.kind == "option" and f'"{piece.text}"' in address:
                clicked.insert(0, f"You have clicked {piece.text}.")
                mark = "clicked button"
            elif piece.kind == "link" and self.catalogue.place(piece.text) in state.visited:
                mark = "clicked button"
            lead = {"option": "  ", "link": "\n"}.get(piece.kind, "")
            lines.append(piece.text if piece.kind == "text" else f"{lead}[{mark}] {piece.text} [{mark}_]")
        return "\n".join([*clicked, *lines, ""])

    # ── what can be done ─────────────────────────────────────────────────────────────────────────────────────────────

    def clickables(self, state: State) -> dict[str, Piece]:
        """What can be clicked, by the text that an action names: buttons, then products, then the values of options."""
        pieces = self.pieces(state) if state.page != "done" else []
        found = {piece.text.lower(): piece for kind in ("button", "link") for piece in pieces if piece.kind == kind}
        found.update((piece.text, piece) for piece in pieces if piece.kind == "option")
        return found

    def search(self, state: State, argument: str, task: str) -> State:
        """What a search leads to."""
        words = tuple(argument.split(" "))
        hits = self.catalogue.search(words, random.Random(seed(0, "webshop", "any", task, argument)))
        return replace(state, page="results", words=words, hits=hits, number=1, place=-1, sub="", options={})

    def click(self, state: State, piece: Piece) -> State:
        """What a click on a piece of this page leads to; "Buy Now" leaves the score open."""
        name = piece.text.lower()
        if name == BUY.lower():
            return replace(state, page="done")
        if name == BACK.lower():
            return State()
        if name in (NEXT.lower(), PREV.lower()) and state.page == "results":
            return replace(state, number=state.number + (1 if name == NEXT.lower() else -1))
        if name == PREV.lower():
            if state.page == "sub":
                return replace(state, page="item", sub="")
            return replace(state, page="results", place=-1, options={})
        sub = next((page for page in SUB_PAGES if page.lower() == name), None)
        if sub is not None:
            return replace(state, page="sub", sub=sub)
        if piece.kind == "link":
            place = self.catalogue.place(piece.text)
            assert place is not None, "results show what the catalogue has"
            return replace(state, page="item", place=place, sub="", visited=state.visited | {place})
        return replace(state, page="item", options={**state.options, piece.name.lower(): piece.text})


def _heading(state: State, instruction: str, rich: bool = False) -> list[str]:
    """What stands before a page's pieces."""
    if state.page == "done":
        return []
    if state.page == "search":
        return ["WebShop", "Instruction: " if rich else "Instruction:", instruction]
    return ["Instruction:", instruction]


def _visible(text: str) -> bool:
    """Whether a browser's parser keeps a text: not where it is empty, or spaces with a line's end."""
    return bool(text) and not (not text.strip(" \t\n\r\f\v") and "\n" in text)


def available(clickables: Sequence[str], has_search_bar: bool) -> str:
    """The list of actions as verl-agent's prompt shows it.

    >>> available(["buy now"], False)
    "'click[buy now]'"
    """
    actions = (["search[<your query>]"] if has_search_bar else []) + [f"click[{text}]" for text in clickables]
    return ",\n".join(f"'{action}'" for action in actions if action != "click[search]")
