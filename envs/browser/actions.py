"""BrowserGym's actions, as a grammar: what a model writes is read, never evaluated.

    >>> parse("click('a12')")
    Action(name='click', args=('a12',))
    >>> parse("click(bid='a12', button='left')") == parse('click("a12")')
    True
    >>> to_text(Action("select_option", ("48", ("red", "blue"))))
    "select_option('48', ['red', 'blue'])"

An action is a name and arguments in brackets: texts as Python writes them (either quote, tripled ones, all escapes), numbers,
``True``, ``False`` and lists of texts; by position or by name. Text behind ``#``, and a fence of backticks around the whole, are
passed over. ``ACTIONS`` is the table of what there is, ``SUBSETS`` names parts of it as BrowserGym does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import AgentRLError, ConfigError, did_you_mean

__all__ = [
    "ACTIONS",
    "SUBSETS",
    "Action",
    "BadAction",
    "Signature",
    "chosen",
    "described",
    "parse",
    "parse_all",
    "to_text",
]

Value = str | float | bool | tuple[str, ...]
Kind = Literal["bid", "text", "key", "url", "number", "whole", "button", "modifiers", "texts", "flag"]

MAX_CHARS = 20_000  # of an action
MAX_NUMBER = 1e6
BUTTONS = ("left", "middle", "right")
MODIFIERS = ("Alt", "Control", "ControlOrMeta", "Meta", "Shift")
_WANTED: Mapping[Kind, str] = {
    "bid": "an id in quotes, such as 'a12'",
    "text": "a text in quotes",
    "key": "a key in quotes, such as 'Enter' or 'Control+a'",
    "url": "an address in quotes",
    "number": "a number",
    "whole": "a whole number",
    "button": "one of 'left', 'middle', 'right'",
    "modifiers": "a list among 'Alt', 'Control', 'ControlOrMeta', 'Meta', 'Shift'",
    "texts": "a text in quotes, or a list of such",
    "flag": "True or False",
}


class BadAction(AgentRLError):
    """A text that is no action. Its message is for the model: what was wanted, what came."""


@dataclass(frozen=True, slots=True)
class Action:
    """A call: its name, and its arguments in the order of the signature, without those at the end that are the defaults.

    A list is a tuple here; a number is an int where it was written as one.
    """

    name: str
    args: tuple[Value, ...] = ()

    def named(self) -> dict[str, Value]:
        """All arguments by name, the defaults too."""
        parameters = ACTIONS[self.name].parameters
        given = dict(zip((one.name for one in parameters), self.args, strict=False))
        return {one.name: given.get(one.name, one.default) for one in parameters}  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument; without a default (None) it must be given."""

    name: str
    kind: Kind
    default: Value | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """How an action is written, and what it does."""

    name: str
    parameters: tuple[Parameter, ...]
    about: str
    example: str

    def __str__(self) -> str:
        shown = (one.name if one.default is None else f"{one.name}={_literal(one.default)}" for one in self.parameters)
        return f"{self.name}({', '.join(shown)})"


_BID = Parameter("bid", "bid")
_BUTTON = Parameter("button", "button", "left")
_MODIFIERS = Parameter("modifiers", "modifiers", ())
_XY = (Parameter("x", "number"), Parameter("y", "number"))


def _table(*rows: tuple[str, tuple[Parameter, ...], str, str]) -> dict[str, Signature]:
    return {name: Signature(name, parameters, about, example) for name, parameters, about, example in rows}


ACTIONS: Mapping[str, Signature] = _table(
    ("noop", (Parameter("wait_ms", "number", 1000),), "Do nothing, and wait.", "noop()"),
    ("click", (_BID, _BUTTON, _MODIFIERS), "Click an element.", "click('a12')"),
    ("dblclick", (_BID, _BUTTON, _MODIFIERS), "Click an element twice.", "dblclick('a12')"),
    ("hover", (_BID,), "Move the mouse over an element.", "hover('a12')"),
    ("fill", (_BID, Parameter("value", "text")), "Replace the text of a field.", "fill('a12', 'red shoes')"),
    ("clear", (_BID,), "Empty a field.", "clear('a12')"),
    ("focus", (_BID,), "Give an element the keyboard.", "focus('a12')"),
    (
        "select_option",
        (_BID, Parameter("options", "texts")),
        "Choose one option of a list, or several, by their texts or values.",
        "select_option('a48', 'blue')",
    ),
    ("check", (_BID,), "Tick a box or choose a radio button.", "check('a12')"),
    ("uncheck", (_BID,), "Take the tick from a box.", "uncheck('a12')"),
    (
        "press",
        (_BID, Parameter("key_comb", "key")),
        "Press a key, or several joined by +, with an element focused.",
        "press('a88', 'Control+a')",
    ),
    (
        "drag_and_drop",
        (Parameter("from_bid", "bid"), Parameter("to_bid", "bid")),
        "Drag an element onto another.",
        "drag_and_drop('a5', 'a9')",
    ),
    (
        "scroll",
        (Parameter("delta_x", "number"), Parameter("delta_y", "number")),
        "Scroll by pixels, to the right and down.",
        "scroll(0, 200)",
    ),
    ("mouse_move", _XY, "Move the mouse to a point.", "mouse_move(65, 158)"),
    ("mouse_click", (*_XY, _BUTTON), "Click at a point.", "mouse_click(65, 158)"),
    ("mouse_dblclick", (*_XY, _BUTTON), "Click twice at a point.", "mouse_dblclick(65, 158)"),
    ("mouse_down", (*_XY, _BUTTON), "Press a mouse button at a point and hold it.", "mouse_down(65, 158)"),
    ("mouse_up", (*_XY, _BUTTON), "Release a mouse button at a point.", "mouse_up(65, 158)"),
    (
        "mouse_drag_and_drop",
        tuple(Parameter(name, "number") for name in ("from_x", "from_y", "to_x", "to_y")),
        "Drag from a point to another.",
        "mouse_drag_and_drop(10, 20, 60, 80)",
    ),
    ("keyboard_press", (Parameter("key", "key"),), "Press a key where the focus is.", "keyboard_press('Backspace')"),
    ("keyboard_down", (Parameter("key", "key"),), "Press a key and hold it.", "keyboard_down('Shift')"),
    ("keyboard_up", (Parameter("key", "key"),), "Release a key.", "keyboard_up('Shift')"),
    ("keyboard_type", (Parameter("text", "text"),), "Type a text, key by key.", "keyboard_type('Hello')"),
    ("keyboard_insert_text", (Parameter("text", "text"),), "Insert a text at once.", "keyboard_insert_text('Hello')"),
    ("goto", (Parameter("url", "url"),), "Open an address.", "goto('https://example.org')"),
    ("go_back", (), "Go to the page before.", "go_back()"),
    ("go_forward", (), "Go to the page after.", "go_forward()"),
    ("new_tab", (), "Open a tab.", "new_tab()"),
    ("tab_focus", (Parameter("index", "whole"),), "Show the tab of that number, from 0.", "tab_focus(1)"),
    ("tab_close", (), "Close the tab.", "tab_close()"),
    ("send_msg_to_user", (Parameter("text", "text"),), "Say something to the user.", "send_msg_to_user('It is 42.')"),
    (
        "report_infeasible",
        (Parameter("reason", "text"),),
        "Say that it cannot be done.",
        "report_infeasible('No button.')",
    ),
)
_BIDS = ("click", "dblclick", "hover", "fill", "clear", "focus", "select_option", "check", "uncheck", "press")
_MOUSE = ("mouse_move", "mouse_click", "mouse_dblclick", "mouse_down", "mouse_up", "mouse_drag_and_drop")
_KEYBOARD = ("keyboard_press", "keyboard_down", "keyboard_up", "keyboard_type", "keyboard_insert_text")
# BrowserGym's names of action sets; its files to upload are not among the actions here.
SUBSETS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(ACTIONS),
    "bid": (*_BIDS, "drag_and_drop", "scroll"),
    "coord": (*_MOUSE, *_KEYBOARD, "scroll"),
    "nav": ("goto", "go_back", "go_forward"),
    "tab": ("new_tab", "tab_focus", "tab_close"),
    "chat": ("send_msg_to_user",),
    "infeas": ("report_infeasible",),
    "miniwob_all": ("noop", *_BIDS, "drag_and_drop", "scroll", *_MOUSE, *_KEYBOARD),
    "miniwob_liu18": ("noop", "click", "fill"),
    "miniwob_shi17": (
        "noop",
        "scroll",
        "mouse_move",
        "mouse_click",
        "mouse_dblclick",
        "mouse_down",
        "mouse_up",
        *_KEYBOARD,
    ),
}


def chosen(names: Collection[str]) -> tuple[str, ...]:
    """The actions that names of actions and of ``SUBSETS`` stand for, each once, in the table's order.

    Raises ConfigError for a name that is neither.
    """
    wanted: set[str] = set()
    for name in (names,) if isinstance(names, str) else names:
        if name not in ACTIONS and name not in SUBSETS:
            raise ConfigError(f"no action and no set of actions '{name}'.{did_you_mean(name, [*ACTIONS, *SUBSETS])}")
        wanted.update(SUBSETS.get(name, (name,)))
    return tuple(name for name in ACTIONS if name in wanted)


def described(names: Collection[str] = ("all",)) -> str:
    """One line an action, for a prompt: how it is written, what it does, an example."""
    rows = (ACTIONS[name] for name in chosen(names))
    return "\n".join(f"{row}: {row.about} Example: {row.example}" for row in rows)


def parse(text: str, allowed: Collection[str] | None = None) -> Action:
    """The one action of a text. ``allowed``: names of actions that count (None: all).

    Raises BadAction for anything else.
    """
    found = parse_all(text, allowed)
    if len(found) > 1:
        raise BadAction(f"wanted one action; got {len(found)}: {', '.join(one.name for one in found[:5])}")
    return found[0]


def parse_all(text: str, allowed: Collection[str] | None = None) -> list[Action]:
    """The actions of a text, one or more, as they stand behind one another. Raises BadAction where one is none."""
    if len(text) > MAX_CHARS:
        raise BadAction(f"wanted an action of at most {MAX_CHARS} characters; got {len(text)}")
    reader = _Reader(_unfenced(text))
    found: list[Action] = []
    while not reader.at_end():
        found.append(_call(reader, allowed))
    if not found:
        raise BadAction("wanted an action such as click('a12'); got nothing")
    return found


def to_text(action: Action) -> str:
    """The action as it is written; ``parse`` gives it back."""
    return f"{action.name}({', '.join(_literal(value) for value in action.args)})"


def _literal(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(repr, value))}]"
    return repr(value)


# ── the grammar ──────────────────────────────────────────────────────────────────────────────────────────────────────

_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z_0-9]*)\s*=")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?(?![\w.])")
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_FENCE = re.compile(r"\s*```[a-z]*\n?(.*?)```\s*", re.DOTALL)
_OPEN = re.compile(r"\"\"\"|'''|\"|'")
_ESCAPE = re.compile(
    r"\\(?:(?P<octal>[0-7]{1,3})|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})"
    r"|N\{(?P<name>[^{}]{1,100})\}|(?P<simple>.))",
    re.DOTALL,
)
_SIMPLE = {
    "\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
}  # fmt: skip


def _unfenced(text: str) -> str:
    fenced = _FENCE.fullmatch(text)
    return fenced[1] if fenced else text


class _Reader:
    """A text and a place in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def skip(self) -> None:
        if match := _SPACE.match(self.text, self.place):
            self.place = match.end()

    def at_end(self) -> bool:
        self.skip()
        return self.place >= len(self.text)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The match that begins here, behind spaces; the place moves behind it."""
        self.skip()
        if match := pattern.match(self.text, self.place):
            self.place = match.end()
        return match

    def eat(self, character: str) -> bool:
        self.skip()
        if not self.text.startswith(character, self.place):
            return False
        self.place += len(character)
        return True

    def need(self, character: str, where: str) -> None:
        if not self.eat(character):
            raise BadAction(f"wanted {character!r} {where}; got {self.rest()}")

    def rest(self) -> str:
        """What comes next, to show."""
        self.skip()
        shown = self.text[self.place : self.place + 40]
        return repr(shown) if shown else "the end"


def _call(reader: _Reader, allowed: Collection[str] | None) -> Action:
    match = reader.take(_NAME)
    if match is None:
        raise BadAction(f"wanted an action such as click('a12'); got {reader.rest()}")
    name = match[0]
    known = [one for one in ACTIONS if allowed is None or one in allowed]
    if name not in known:
        raise BadAction(f"there is no action {name[:40]!r}.{did_you_mean(name[:40], known)}")
    signature = ACTIONS[name]
    reader.need("(", f"behind {name}")
    values: list[Value] = []
    named: dict[str, Value] = {}
    while not reader.eat(")"):
        if values or named:
            reader.need(",", f"or ')' between the arguments of {name}")
            if reader.eat(")"):
                break
        if keyword := reader.take(_KEYWORD):
            if keyword[1] in named:
                raise BadAction(f"{signature}: {keyword[1][:40]} came twice")
            named[keyword[1]] = _value(reader)
        elif named:
            raise BadAction(f"{signature}: an argument without a name came behind one with a name")
        else:
            values.append(_value(reader))
    reader.eat(";")
    return Action(name, _bound(signature, values, named))


def _value(reader: _Reader) -> Value:
    if reader.eat("["):
        items: list[str] = []
        while not reader.eat("]"):
            if items:
                reader.need(",", "or ']' in a list")
                if reader.eat("]"):
                    break
            items.append(_string(reader, "in a list"))
        return tuple(items)
    if number := reader.take(_NUMBER):
        return _number(number[0])
    if word := reader.take(_NAME):
        if word[0] in ("True", "False"):
            return word[0] == "True"
        raise BadAction(f"wanted a text in quotes, a number or a list; got {word[0][:40]}; is a quote missing?")
    return _string(reader, "or a number or a list")


def _number(text: str) -> float:
    if len(text) > 30 or abs(float(text)) > MAX_NUMBER:
        raise BadAction(f"wanted a number between {-MAX_NUMBER:,.0f} and {MAX_NUMBER:,.0f}; got {text[:40]}")
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else float(text)


def _string(reader: _Reader, where: str) -> str:
    opened = reader.take(_OPEN)
    if opened is None:
        raise BadAction(f"wanted a text in quotes {where}; got {reader.rest()}")
    quote, text = opened[0], reader.text
    start, parts = reader.place, []
    while not text.startswith(quote, start):
        character = text[start : start + 1]
        if not character or (character == "\n" and len(quote) == 1):
            raise BadAction(f"wanted {quote} at the end of the text that begins {text[reader.place :][:30]!r}")
        if character == "\\" and (escape := _ESCAPE.match(text, start)):
            parts.append(_unescaped(escape))
            start = escape.end()
        else:
            parts.append(character)
            start += 1
    reader.place = start + len(quote)
    found = "".join(parts)
    if any(0xD800 <= ord(character) < 0xE000 for character in found):
        raise BadAction("a text holds half of a character (a lone surrogate)")
    return found


def _unescaped(escape: re.Match[str]) -> str:
    if escape["octal"]:
        return chr(int(escape["octal"], 8))
    for form in ("x", "u", "U"):
        if escape[form]:
            code = int(escape[form], 16)
            if code > 0x10FFFF:
                raise BadAction(f"{escape[0]} is no character")
            return chr(code)
    if escape["name"]:
        try:
            return unicodedata.lookup(escape["name"])
        except KeyError:
            raise BadAction(f"{escape[0]} is no character") from None
    simple = escape["simple"]
    if simple in "xuUN":
        raise BadAction(f"\\{simple} wants the digits or the name of a character behind it; write \\\\ for a backslash")
    return _SIMPLE.get(simple, escape[0])  # one that Python does not know stays as it is, as Python does it


# ── arguments to parameters ──────────────────────────────────────────────────────────────────────────────────────────


def _bound(signature: Signature, values: list[Value], named: dict[str, Value]) -> tuple[Value, ...]:
    """The arguments in order, checked, without the defaults at the end."""
    parameters = signature.parameters
    if len(values) > len(parameters):
        raise BadAction(f"{signature} takes {len(parameters)} arguments at most; got {len(values)}")
    names = [one.name for one in parameters]
    for name in named:
        if name not in names:
            raise BadAction(f"{signature} has no argument {name[:40]!r}")
        if name in names[: len(values)]:
            raise BadAction(f"{signature}: {name} came twice")
    given = dict(zip(names, values, strict=False)) | named
    bound: list[Value] = []
    for one in parameters:
        value = given.get(one.name, one.default)
        if value is None:
            raise BadAction(f"{signature} wants {one.name}: {_WANTED[one.kind]}")
        bound.append(_checked(signature, one, value))
    while bound and _same(bound[-1], parameters[len(bound) - 1].default):
        bound.pop()
    return tuple(bound)


def _same(value: Value, default: Value | None) -> bool:
    return default is not None and value == default


def _checked(signature: Signature, one: Parameter, value: Value) -> Value:
    if not _fits(one.kind, value):
        raise BadAction(f"{signature}: wanted {one.name} as {_WANTED[one.kind]}; got {_literal(value)[:60]}")
    if one.kind == "modifiers":
        assert isinstance(value, tuple)
        return tuple(name for name in MODIFIERS if name in value)
    return value


def _fits(kind: Kind, value: Value) -> bool:
    if kind in ("number", "whole"):
        return not isinstance(value, bool) and isinstance(value, int if kind == "whole" else int | float)
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "modifiers":
        return isinstance(value, tuple) and all(name in MODIFIERS for name in value)
    if kind == "texts":
        return isinstance(value, str | tuple)
    if kind == "button":
        return value in BUTTONS
    return isinstance(value, str) and (kind not in ("bid", "key") or bool(value))
