"""An accessibility tree, and its text as BrowserGym writes it.

    RootWebArea 'Sign up', focused, url='page://form'
        [3] heading 'Sign up'
        [5] textbox 'Name' value='Ann', required
        [6] checkbox 'News', checked='false'
        StaticText 'No spam.'

A line is a node: the id to act on in brackets, the role, the name as Python writes a text, what is typed in it, and its states (a
text with its value, True by its name alone; False is not shown). The text of a page stands between quotes only, with line breaks,
tabs, control and invisible characters escaped: so a page can write no line, no id and no state of its own. A text that its parent's
name already tells is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = ["Node", "error_line", "find", "observation_text", "quoted", "tree_text", "walk"]

State = str | bool
MAX_NAME_CHARS = 2_000  # of a name or a value that is shown
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_BID = re.compile(r"[A-Za-z0-9_-]{1,24}")


@dataclass(slots=True)
class Node:
    """An element or a text. ``role`` is ARIA's, "StaticText" for text. ``bid`` is the id that actions name, None where it has none.
    ``value``: what is typed or chosen in it. ``box``: left, top, width, height in pixels of the page's window."""

    role: str
    name: str = ""
    bid: str | None = None
    value: str | None = None
    states: Mapping[str, State] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None


def tree_text(
    root: Node, *, title: str, url: str, focused: str | None = None, bids: bool = True, centers: bool = False
) -> str:
    """The page as text. ``root`` stands for the page itself: its children are shown below the title. ``focused``: the id of the
    element with the keyboard (None: the page has it). Without ``bids`` the ids are left out (what two pages of the same content
    share); with ``centers`` each element with a box tells its middle, for actions on coordinates.

    Raises ValueError for a role, a state's name or an id that is no plain word: those are never a page's own text.
    """
    here = ", focused" if focused is None else ""
    lines = [f"RootWebArea {quoted(title)}{here}, url={quoted(url)}"]
    _write(root, 1, root.name, focused, bids, centers, lines)
    return "\n".join(lines)


def observation_text(tree: str, error: str = "") -> str:
    """What an agent sees: the tree, and below it what was wrong with its last action ("" for nothing)."""
    return f"{tree}\n{error_line(error)}" if error else tree


def error_line(error: str) -> str:
    """What was wrong with the last action, as one line."""
    return f"Error from previous action: {escaped(error)}"


def quoted(text: str) -> str:
    """A text as Python writes it, on one line and in quotes; beyond ``MAX_NAME_CHARS`` it is cut."""
    text = text.strip()
    if len(text) > MAX_NAME_CHARS:
        text = text[:MAX_NAME_CHARS] + "…"
    return repr(text)


def escaped(text: str) -> str:
    """A text on one line: what cannot be printed is written as its escape."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def walk(root: Node) -> Iterator[Node]:
    """All nodes below a node, and itself first, in the order of the text."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.children))


def find(root: Node, bid: str) -> Node | None:
    """The node of that id."""
    return next((node for node in walk(root) if node.bid == bid), None)


@lru_cache(maxsize=4096)
def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"a role or state is a plain word; got {text[:60]!r}")
    return text


@lru_cache(maxsize=65536)
def _mark(bid: str) -> str:
    if not _BID.fullmatch(bid):
        raise ValueError(f"an id is made of letters, digits, - and _; got {bid[:60]!r}")
    return f"[{bid}] "


def _write(
    parent: Node, depth: int, told: str, focused: str | None, bids: bool, centers: bool, lines: list[str]
) -> None:
    """Appends the lines of the nodes below ``parent``. Iterative: pages may nest deeper than Python's stack."""
    waiting = [(node, depth, told) for node in reversed(parent.children)]
    while waiting:
        node, depth, told = waiting.pop()
        if node.role == "StaticText" and (not node.name.strip() or node.name.strip() in told):
            continue
        lines.append("\t" * depth + _line(node, focused, bids, centers))
        if node.children:
            waiting.extend((child, depth + 1, node.name) for child in reversed(node.children))


def _line(node: Node, focused: str | None, bids: bool, centers: bool) -> str:
    bid = node.bid
    text = f"{_mark(bid) if bid is not None and bids else ''}{_word(node.role)} {quoted(node.name)}"
    if node.value is not None:
        text += f" value={quoted(node.value)}"
    if centers and bid is not None and node.box is not None:
        left, top, width, height = node.box
        text += f', center="({left + width / 2:.0f},{top + height / 2:.0f})"'
    for name, state in node.states.items():
        if state is True:
            text += f", {_word(name)}"
        elif state is not False:
            text += f", {_word(name)}={quoted(state)}"
    if bid is not None and bid == focused:
        text += ", focused"
    return text
