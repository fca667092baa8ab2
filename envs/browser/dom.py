"""A page that is shown, without a browser: what the widgets of ``elements`` do when they are clicked, filled and typed into.

    document = Document(page)
    document.act(parse("fill('2', 'Anna')"))
    document.act(parse("press('2', 'Enter')"))

A ``Page`` is what a site's own code would be: its state, the view of that state, and what an event does to it. A ``Document``
is what the browser would be: values, ticks, choices, focus, the order of Tab, Enter that sends a form, dialogs that cover the
page, scrolling. ``chromium`` puts a real browser in the place of this class; a test plays both.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agentrl.envs.browser.actions import Action, BadAction
from agentrl.envs.browser.elements import FOCUSABLE, LINES, STACKS, Element
from agentrl.envs.browser.page import Page, Value
from agentrl.envs.browser.tree import Node
from agentrl.errors import ConfigError

HOST = "https://pages.test"
ROW, MARGIN, VIEWPORT = 28, 8, 336  # pixels: the height of a line, of the edge of a page, and of the window
CARET = 16  # pixels: the height of a field's cursor, in the middle of its line
ALLOWED = (
    "noop", "click", "dblclick", "hover", "fill", "clear", "focus", "select_option", "check", "uncheck", "press", "scroll",
    "keyboard_press", "keyboard_type", "keyboard_insert_text",
)  # fmt: skip
MAX_TEXT, MAX_TYPED = 2_000, 200  # characters of a field, and of a text that is typed key by key


class Document:
    """A page with ids on its elements ("1", "2" … in the order of the page), the key of the element in focus ("": none), and
    how far it is scrolled, in pixels.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.focus, self.scroll = "", 0
        self.marked = False  # whether the whole text of the field in focus is selected
        self.refresh()

    def refresh(self) -> None:
        """Shows the page as it is now: new ids, and the focus where it can stay."""
        view = self.page.view()
        self.dialog = view[-1] if view and view[-1].role == "dialog" else None
        self.root = [self.dialog] if self.dialog else list(view)
        self.view = view
        self.by_bid: dict[str, Element] = {}
        self.by_key: dict[str, Element] = {}
        for element in self.root:
            self._number(element, None)
        if self.focus not in self.by_key or not self.by_key[self.focus].focusable:
            self.focus = ""
            if self.dialog:
                self.focus = next((key for key, element in self.by_key.items() if element.focusable), "")
        self.scroll = min(self.scroll, self.bottom)

    def _number(self, element: Element, form: Element | None) -> None:
        if element.hidden or element.role == "StaticText":
            return
        element.bid, element.form = str(len(self.by_bid) + 1), form
        self.by_bid[element.bid] = element
        if element.key:
            self.by_key[element.key] = element
        for child in element.children:
            self._number(child, element if element.role == "form" else form)

    @property
    def bottom(self) -> int:
        """How far the page can be scrolled."""
        return max(0, 2 * MARGIN + ROW * sum(map(_lines, self.view)) - VIEWPORT)

    def _into_view(self, element: Element) -> None:
        """Scrolls as a browser does for what it is about to use: not at all where that is in sight, to the nearer edge where it
        is in part, and else so that it stands in the middle."""
        bottom = self.bottom
        line = _line_of(element, self.view) if bottom else None
        if line is None:
            return
        top = MARGIN + ROW * line - self.scroll
        if top <= -ROW or top >= VIEWPORT:
            top -= (VIEWPORT - ROW) // 2
        elif top + ROW > VIEWPORT:
            top -= VIEWPORT - ROW
        elif top >= 0:
            return
        self.scroll = min(max(0, self.scroll + top), bottom)

    def _caret_into_view(self, element: Element) -> None:
        """Scrolls as a browser does for what is typed: until the field's cursor stands at the nearer edge."""
        bottom = self.bottom
        line = _line_of(element, self.view) if bottom else None
        if line is None:
            return
        top = MARGIN + ROW * line + (ROW - CARET) // 2
        self.scroll = min(max(self.scroll, top + CARET - VIEWPORT), top)

    def tree(self) -> Node:
        """The accessibility tree of what is shown: covered by a dialog, the page is not."""
        return Node("RootWebArea", children=[self._node(element) for element in self.root if not element.hidden])

    @property
    def title(self) -> str:
        """The title of the page."""
        return self.page.title

    @property
    def url(self) -> str:
        """The address of the page."""
        return HOST + self.page.place

    @property
    def focused_bid(self) -> str | None:
        """The id of the element in focus."""
        return self.by_key[self.focus].bid if self.focus else None

    def _node(self, element: Element) -> Node:
        role = element.role
        if role == "StaticText":
            return Node(role, element.name)
        children = [self._node(child) for child in element.children if not child.hidden]
        states: dict[str, str | bool] = {}
        value = None
        if role in ("textbox", "combobox"):
            value = str(self.page.held(element))
            for option in children:
                option.states = {"selected": "true" if option.name == value else "false"}
        elif role in ("checkbox", "radio"):
            states["checked"] = "true" if self.page.held(element) else "false"
        elif role == "tab":
            states["selected"] = "true" if element.value else "false"
        elif role == "heading":
            states["level"] = "1"
        if element.disabled:
            states["disabled"] = True
        return Node(role, element.name, element.bid, value, states, children)

    def picture(self, quality: int) -> str:
        """The page as a JPEG of that quality in a data URI. Raises ConfigError: without a browser there is nothing to see."""
        raise ConfigError('a screenshot needs a browser; set engine = "chromium"')

    # ── actions ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def act(self, action: Action) -> None:
        """Does it. Raises BadAction where a browser could not, or where these pages have no use for it."""
        self.refuse(action)
        _DO[action.name](self, *action.args)

    def refuse(self, action: Action) -> None:
        """Raises BadAction for what only a layout in pixels could decide (a click on what holds other elements), for keys without a
        meaning on these pages, and for texts of more than one line."""
        arguments = action.named()
        for name in ("value", "text"):
            text, most = str(arguments.get(name, "")), MAX_TYPED if action.name == "keyboard_type" else MAX_TEXT
            if len(text) > most or not text.isprintable():
                raise BadAction(f"wanted a text of one line and at most {most} characters")
        target = self.by_bid.get(str(arguments.get("bid")))
        if action.name in ("click", "dblclick", "hover") and target is not None:
            if target.role in STACKS or target.role in LINES or (target.children and target.role != "combobox"):
                raise BadAction(f"the element {quote(target.bid)} holds others; click one of them")
            if arguments.get("button", "left") != "left" or arguments.get("modifiers"):
                raise BadAction("on these pages the left button clicks, without other keys")
        if action.name in ("focus", "press") and target is not None and target.role not in FOCUSABLE:
            raise BadAction(f"the element {quote(target.bid)} takes no keys; it is a {target.role}")
        here = self.by_key.get(self.focus)
        if action.name in ("keyboard_type", "keyboard_insert_text") and (here is None or here.role != "textbox"):
            raise BadAction("no field has the focus; click one first, or fill it")
        if (key := arguments.get("key", arguments.get("key_comb"))) is not None:
            self._refuse_key(str(key), target or here)

    def _refuse_key(self, key: str, target: Element | None) -> None:
        if not (key in KEYS or (len(key) == 1 and key.isprintable())):
            raise BadAction(f"there is no key {key[:40]!r} on these pages; there are {', '.join(KEYS)} and characters")
        if key in ("Tab", "Shift+Tab") and (target is None or self._next(target, backwards=key != "Tab") is None):
            raise BadAction(f"{key} leads out of the page from here")  # where to, depends on the browser's window
        if target is not None and target.role == "textbox" and key.startswith("Arrow"):
            raise BadAction("the cursor of a field stays at its end on these pages; fill the field anew")
        if target is not None and target.role == "combobox" and key not in _MOVES and key not in _ARROWS:
            raise BadAction(f"an option is chosen by select_option({quote(target.bid)}, …)")

    def element(self, bid: str) -> Element:
        """The element of that id. Raises BadAction where there is none."""
        if bid not in self.by_bid:
            raise BadAction(f"there is no element {quote(bid)}")
        return self.by_bid[bid]

    def click(self, bid: str, *_: Any) -> None:
        element = self.pointed(bid)
        self.focused(element)
        self.pressed(element)

    def dblclick(self, bid: str, *_: Any) -> None:
        """Two clicks at one place; the second meets what then has the same key."""
        key = self.pointed(bid).key
        self.click(bid)
        if self.page.result is None and key and key in self.by_key and not self.by_key[key].disabled:
            self.click(self.by_key[key].bid)

    def enabled(self, bid: str) -> Element:
        """The element of that id. Raises BadAction where it is disabled, too."""
        element = self.element(bid)
        if element.disabled:
            raise BadAction(f"the element {quote(bid)} is disabled")
        return element

    def pointed(self, bid: str) -> Element:
        """What the mouse can be put on. Raises BadAction for an option, which is shown only while its list is folded out."""
        element = self.enabled(bid)
        if element.role == "option":
            box = next(one for one in self.by_bid.values() if any(child is element for child in one.children))
            raise BadAction(f"an option is chosen by select_option({quote(box.bid)}, {quote(element.name)})")
        return element

    def focused(self, element: Element) -> None:
        self._into_view(element)
        self.focus, self.marked = element.key if element.focusable else "", False

    def pressed(self, element: Element) -> None:
        """What a click does to a widget, apart from the focus."""
        if element.role == "checkbox":
            self.changed(element, not self.page.held(element))
        elif element.role == "radio":
            self.changed(element, True)
        elif element.role in ("button", "link", "tab"):
            self.fire(element.on)

    def changed(self, element: Element, value: Value) -> None:
        """A new content, and the event that the page may want of it."""
        if self.page.held(element) == value:
            return
        self.page.keep(element, value)
        if element.on and element.role != "textbox":
            self.fire(element.on)

    def fire(self, event: str) -> None:
        self.page.handle(event)
        self.refresh()

    def field(self, bid: str) -> Element:
        """The textbox of that id. Raises BadAction for anything else."""
        element = self.enabled(bid)
        if element.role != "textbox":
            raise BadAction(f"the element {quote(bid)} takes no text; it is a {element.role}")
        return element

    def fill(self, bid: str, value: str, *_: Any) -> None:
        element = self.field(bid)
        self.focused(element)
        self.changed(element, value)

    def clear(self, bid: str) -> None:
        self.fill(bid, "")

    def hover(self, bid: str) -> None:
        self._into_view(self.pointed(bid))

    def noop(self, *_: Any) -> None:
        """Nothing."""

    def to_focus(self, bid: str) -> None:
        element = self.enabled(bid)
        if element.key != self.focus:
            self.focused(element)

    def select_option(self, bid: str, options: str | tuple[str, ...]) -> None:
        element = self.element(bid)
        if element.role != "combobox":
            raise BadAction(f"the element {quote(bid)} is no list to choose from; it is a {element.role}")
        wanted = [options] if isinstance(options, str) else list(options)
        if len(wanted) != 1:
            raise BadAction(f"the list {quote(bid)} takes one option; got {len(wanted)}")
        word = wanted[0] if wanted[0] in element.options else " ".join(wanted[0].split())
        if word not in element.options:
            has = ", ".join(map(quote, element.options[:20]))
            raise BadAction(f"the list {quote(bid)} has no option {quote(wanted[0])}; it has {has}")
        self.focus, self.marked = element.key, False  # a list is chosen from where it stands, in sight or not
        self.changed(element, word)

    def check(self, bid: str) -> None:
        self._ticked(bid, True)

    def uncheck(self, bid: str) -> None:
        self._ticked(bid, False)

    def _ticked(self, bid: str, value: bool) -> None:
        element = self.element(bid)
        if element.role not in ("checkbox", "radio"):
            raise BadAction(f"the element {quote(bid)} is no box to tick; it is a {element.role}")
        if element.role == "radio" and not value:
            raise BadAction("a radio button cannot be taken back; check another")
        if self.page.held(element) != value:
            self.click(bid)

    def to_scroll(self, _delta_x: float, delta_y: float) -> None:
        self.scroll = int(min(max(0, self.scroll + delta_y), self.bottom))
        if event := self.wanted(delta_y):
            self.fire(event)

    def wanted(self, delta_y: float) -> str:
        """The page's event of having scrolled down to the end, or against it; "" where that is not so."""
        return self.page.more if delta_y > 0 and self.scroll >= self.bottom else ""

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def press(self, bid: str, key: str) -> None:
        element = self.enabled(bid)
        if element.key != self.focus:
            self.focused(element)
        self.keyboard_press(key)

    def keyboard_press(self, key: str) -> None:
        """A key where the focus is."""
        element = self.by_key.get(self.focus)
        if key in ("Tab", "Shift+Tab"):
            self._move(backwards=key != "Tab")
        elif key == "Escape":
            if self.dialog:
                self.fire(self.dialog.on)
        elif element is not None and (key == "Space" or len(key) == 1):
            self._type(element, " " if key == "Space" else key)
        elif element is not None:
            self._key(element, key)

    def keyboard_type(self, text: str, *_: Any) -> None:
        for character in text:
            self.keyboard_press(character)

    def keyboard_insert_text(self, text: str) -> None:
        element = self.by_key.get(self.focus)
        if element is not None and element.role == "textbox":
            self._insert(element, text)

    def _type(self, element: Element, character: str) -> None:
        if element.role == "textbox":
            self._insert(element, character)
        elif character == " " and element.role in ("checkbox", "radio", "button", "tab"):
            self.pressed(element)

    def _insert(self, element: Element, characters: str) -> None:
        self._caret_into_view(element)
        before = "" if self.marked else str(self.page.held(element))
        self.marked = False
        self.changed(element, (before + characters)[:MAX_TEXT])

    def _key(self, element: Element, key: str) -> None:
        if key == "Enter":
            self._enter(element)
        elif element.role == "textbox":
            held = str(self.page.held(element))
            if key in ("Backspace", "Delete"):  # the cursor stands at the end
                self._caret_into_view(element)
                left = "" if self.marked else held[:-1] if key == "Backspace" else held
                self.marked = False
                self.changed(element, left)
            else:
                self.marked = key == "Control+a"
        elif key in _ARROWS and element.role == "radio":
            group = [one for one in self.by_bid.values() if one.group == element.group and one.focusable]
            chosen = group[(group.index(element) + _ARROWS[key]) % len(group)]
            self.focused(chosen)
            self.changed(chosen, True)
        elif key in _ARROWS and element.role == "combobox":
            place = element.options.index(str(self.page.held(element))) + _ARROWS[key]
            self.changed(element, element.options[min(max(place, 0), len(element.options) - 1)])

    def _enter(self, element: Element) -> None:
        """Enter presses what is in focus, or in a field the button that sends its form."""
        if element.role in ("button", "link", "tab"):
            self.fire(element.on)
        elif element.form is not None and element.role != "combobox":
            sender = next((one for one in within(element.form) if one.submit), None)
            if sender is not None and not sender.disabled:
                self.fire(sender.on)

    def _next(self, element: Element, *, backwards: bool) -> Element | None:
        """Where Tab leads from an element: the next that can be in focus, of a group of radio buttons one only. None: out of
        the page."""
        stops = [
            one
            for one in self.by_bid.values()
            if one.focusable and (one is element or self._is_stop(one, element, backwards))
        ]
        here = next((place for place, one in enumerate(stops) if one is element), None)
        place = -1 if here is None else here + (-1 if backwards else 1)
        return stops[place] if 0 <= place < len(stops) else None

    def _move(self, *, backwards: bool) -> None:
        here = self.by_key.get(self.focus)
        there = self._next(here, backwards=backwards) if here is not None else None
        if there is not None:
            self.focused(there)
            self.marked = there.role == "textbox"

    def _is_stop(self, element: Element, here: Element, backwards: bool) -> bool:
        if element.role != "radio":
            return True
        if element.group == here.group:
            return False
        group = [one for one in self.by_bid.values() if one.group == element.group and one.focusable]
        return element is next((one for one in group if self.page.held(one)), group[-1 if backwards else 0])

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> dict[str, Any]:
        """Everything that can change. JSON."""
        page = self.page
        return copy.deepcopy(
            {
                "state": page.state,
                "values": page.values,
                "result": page.result,
                "focus": self.focus,
                "marked": self.marked,
                "scroll": self.scroll,
            }
        )

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Goes back to a snapshot of this page."""
        kept = copy.deepcopy(dict(snapshot))
        self.page.state, self.page.values, self.page.result = kept["state"], kept["values"], kept["result"]
        self.refresh()
        self.focus, self.marked, self.scroll = kept["focus"], kept["marked"], kept["scroll"]


def within(element: Element) -> Iterator[Element]:
    """An element and all that is in it, but what is hidden, in the order of the page."""
    if not element.hidden:
        yield element
        for child in element.children:
            yield from within(child)


def _lines(element: Element) -> int:
    """How many lines of the page an element takes; a dialog lies before the page."""
    if element.hidden or element.role in ("dialog", "option"):
        return 0
    own = 0 if element.role in STACKS else 1
    return own if element.role in LINES else own + sum(map(_lines, element.children))


def _line_of(element: Element, view: Sequence[Element]) -> int | None:
    """The line that an element stands in, from 0; None for one in a dialog."""
    line = 0
    for top in view:
        for one, number in _placed(top, line):
            if one is element:
                return number
        line += _lines(top)
    return None


def _placed(element: Element, line: int) -> Iterator[tuple[Element, int]]:
    """What is in an element, and itself, with the lines that they begin at."""
    if element.hidden or element.role == "dialog":
        return
    yield element, line
    line += element.role == "radiogroup"  # its name stands above its buttons
    for child in element.children:
        yield from _placed(child, line)
        line += _lines(child) if element.role in STACKS or element.role == "radiogroup" else 0


def quote(text: str) -> str:
    """A text as the browser's driver shows it."""
    return json.dumps(" ".join(text.split())[:80], ensure_ascii=False)


_ARROWS = {"ArrowUp": -1, "ArrowLeft": -1, "ArrowDown": 1, "ArrowRight": 1}
_MOVES = ("Tab", "Shift+Tab", "Escape")
KEYS = ("Enter", "Space", "Backspace", "Delete", "Control+a", *_MOVES, *_ARROWS)
_DO: Mapping[str, Callable[..., None]] = {
    **{name: getattr(Document, name) for name in ALLOWED if name not in ("focus", "scroll")},
    "focus": Document.to_focus,
    "scroll": Document.to_scroll,
}
