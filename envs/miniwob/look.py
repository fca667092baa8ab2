"""What an oracle sees of a page, and the actions that it takes on what it sees."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from agentrl.envs.browser.actions import Action
from agentrl.envs.browser.tree import Node, walk

ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")


class Puzzled(Exception):
    """An oracle does not find what it looks for."""


@dataclass(slots=True)
class Look:
    """The page as it is now: the goal, the fields that some tasks name (``fields``), and the tree. Renewed after each action."""

    goal: str
    fields: Mapping[str, str] = field(default_factory=dict)
    root: Node = field(default_factory=lambda: Node("RootWebArea"))

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def all(self, *roles: str, name: str | None = None, **states: str) -> list[Node]:
        """The nodes of these roles (none: of any), of that name, with those states."""
        return [
            node
            for node in walk(self.root)
            if (not roles or node.role in roles)
            and (name is None or node.name == name)
            and all(node.states.get(key) == value for key, value in states.items())
        ]

    def one(self, *roles: str, name: str | None = None, **states: str) -> Node:
        """The first of them. Raises Puzzled where there is none."""
        found = self.all(*roles, name=name, **states)
        if not found:
            raise Puzzled(f"no {'/'.join(roles) or 'element'} {name or ''} {states or ''} on the page of {self.goal!r}")
        return found[0]

    def named(self, name: str) -> Node:
        """The first element with an id of that name. Raises Puzzled."""
        found = [node for node in self.all(name=name) if node.bid]
        if not found:
            raise Puzzled(f"nothing is called {name!r} on the page of {self.goal!r}")
        return found[0]

    def texts(self) -> list[str]:
        """What stands on the page beside elements, in order."""
        told = {id(child) for node in walk(self.root) for child in node.children if child.name in node.name}
        return [node.name for node in self.all("StaticText") if id(node) not in told]

    @property
    def quoted(self) -> list[str]:
        """What the goal has between quotes."""
        return re.findall(r'"([^"]*)"', self.goal)

    @property
    def ordinal(self) -> int:
        """The goal's "3rd", from 0. Raises Puzzled."""
        return int(self.match(ORDINAL.pattern)[1]) - 1

    def match(self, pattern: str) -> re.Match[str]:
        """Where a pattern stands in the goal. Raises Puzzled."""
        if (found := re.search(pattern, self.goal)) is None:
            raise Puzzled(f"{pattern!r} is not in the goal {self.goal!r}")
        return found

    def has(self, *roles: str, name: str | None = None, **states: str) -> bool:
        """Whether there is one."""
        return bool(self.all(*roles, name=name, **states))

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, name: str = "Submit") -> Action:
        """The click on the button of that name."""
        return click(self.one("button", name=name))


Oracle = Generator[Action, None, None]
Solver = Callable[[Look], Oracle]


def click(node: Node) -> Action:
    """A click on an element."""
    return Action("click", (_bid(node),))


def fill(node: Node, text: str) -> Action:
    """A text into a field."""
    return Action("fill", (_bid(node), text))


def press(node: Node, key: str) -> Action:
    """A key with an element focused."""
    return Action("press", (_bid(node), key))


def hover(node: Node) -> Action:
    """The mouse over an element."""
    return Action("hover", (_bid(node),))


def choose(node: Node, *options: str) -> Action:
    """Options of a list."""
    return Action("select_option", (_bid(node), options[0] if len(options) == 1 else options))


def drag(start: tuple[float, float], end: tuple[float, float]) -> Action:
    """A drag from a point to a point."""
    return Action("mouse_drag_and_drop", (*start, *end))


def click_at(x: float, y: float) -> Action:
    """A click at a point."""
    return Action("mouse_click", (round(x, 2), round(y, 2)))


def center(node: Node) -> tuple[float, float]:
    """The middle of an element. Raises Puzzled where it has no box."""
    if node.box is None:
        raise Puzzled(f"{node.role} {node.name!r} has no box")
    left, top, width, height = node.box
    return round(left + width / 2, 2), round(top + height / 2, 2)


def under(node: Node, root: Node) -> list[str]:
    """The texts below a node."""
    return [found.name for found in walk(node) if found.role == "StaticText"] or [node.name]


def _bid(node: Node) -> str:
    if node.bid is None:
        raise Puzzled(f"{node.role} {node.name!r} takes no action")
    return node.bid
