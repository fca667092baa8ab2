"""What a page is made of: widgets and texts, as plain data. Both renderings, Python's and HTML's, begin here.

    form(textbox("Name", "name"), checkbox("News", "news"), button("Send", "send", on="send", submit=True))

``key`` names a widget within its page and stays the same from view to view: what a user typed or ticked is kept by it. ``on``
is the event that the page gets when the element is activated: a button, link or tab that is pressed, a box or list whose choice
changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

FOCUSABLE = frozenset(("textbox", "checkbox", "radio", "combobox", "button", "link", "tab"))
STACKS = frozenset(("form", "list", "tabpanel", "table", "dialog"))  # a line below the other
LINES = frozenset(("listitem", "tablist", "row"))  # one beside the other


@dataclass(slots=True)
class Element:
    """An element: its role in the accessibility tree, its name, and what its role needs.

    ``value`` is what a widget starts with: the text of a textbox, the choice of a combobox, whether a box, radio button or tab
    is on. ``bid`` and ``form`` are set by the document that shows it: its id, and the form that it stands in.
    """

    role: str
    name: str = ""
    key: str = ""
    on: str = ""
    children: Sequence[Element] = ()
    options: tuple[str, ...] = ()
    group: str = ""
    value: str | bool = ""
    disabled: bool = False
    hidden: bool = False
    submit: bool = False
    bid: str = field(default="", compare=False)
    form: Element | None = field(default=None, compare=False, repr=False)

    @property
    def focusable(self) -> bool:
        return self.role in FOCUSABLE and not self.disabled


def heading(name: str) -> Element:
    """A title."""
    return Element("heading", name)


def text(words: str) -> Element:
    """Words that are no widget."""
    return Element("StaticText", words)


def textbox(name: str, key: str, value: str = "", *, disabled: bool = False) -> Element:
    """A field of one line."""
    return Element("textbox", name, key, value=value, disabled=disabled)


def checkbox(name: str, key: str, on: str = "", *, checked: bool = False) -> Element:
    """A box to tick; with ``on`` the page hears of each change."""
    return Element("checkbox", name, key, on, value=checked)


def radio(name: str, key: str, group: str, *, checked: bool = False) -> Element:
    """One of the buttons of a group, of which one at most is chosen."""
    return Element("radio", name, key, group=group, value=checked)


def combobox(name: str, key: str, options: Sequence[str], value: str = "", on: str = "") -> Element:
    """A list that folds out; the first option is chosen unless ``value`` names another."""
    children = [Element("option", option) for option in options]
    return Element("combobox", name, key, on, children, tuple(options), value=value or options[0])


def button(name: str, key: str, on: str = "", *, submit: bool = False, disabled: bool = False) -> Element:
    """A button; the first with ``submit`` is the one that Enter presses in a field of its form."""
    return Element("button", name, key, on or key, submit=submit, disabled=disabled)


def link(name: str, key: str, on: str = "") -> Element:
    """A link within the pages."""
    return Element("link", name, key, on or key)


def tab(name: str, key: str, on: str, *, selected: bool) -> Element:
    """The handle of a panel."""
    return Element("tab", name, key, on, value=selected)


def form(*children: Element) -> Element:
    """What one button sends."""
    return Element("form", children=children)


def items(*rows: Sequence[Element]) -> Element:
    """A list of rows."""
    return Element("list", children=[Element("listitem", children=row) for row in rows])


def tabs(*handles: Element) -> Element:
    """The handles of panels."""
    return Element("tablist", children=handles)


def panel(name: str, key: str, *children: Element, hidden: bool = False) -> Element:
    """What belongs to a tab."""
    return Element("tabpanel", name, key, children=children, hidden=hidden)


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Element]]) -> Element:
    """Columns with their heads, and rows of texts and widgets."""
    head = Element("row", children=[Element("columnheader", column) for column in columns])
    body = [Element("row", children=[_cell(cell) for cell in row]) for row in rows]
    return Element("table", children=[head, *body])


def _cell(content: str | Element) -> Element:
    if isinstance(content, str):
        return Element("cell", content)
    if content.role == "cell":
        return content
    return Element("cell", content.name if content.role == "button" else "", children=[content])


def dialog(name: str, key: str, *children: Element, cancel: str) -> Element:
    """A window before everything else, which Escape closes with the event ``cancel``."""
    return Element("dialog", name, key, cancel, children=children)
