"""Fields as a task's content describes them, and the widgets that they are on a page.

A field is {"kind", "key", "name"} and, by kind: "text" {"value"}; "choice" and "radio" {"options", "value"}; "tick" {"value"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, checkbox, combobox, radio, textbox
from agentrl.envs.browser.page import Page, Value, Wish

Field = Mapping[str, Any]


def widget(field: Field) -> Element:
    """The widget of a field, as it is at first."""
    kind, key, name, value = field["kind"], field["key"], field["name"], field["value"]
    if kind == "text":
        return textbox(name, key, value)
    if kind == "tick":
        return checkbox(name, key, checked=value)
    if kind == "choice":
        return combobox(name, key, field["options"], value)
    buttons = [
        radio(option, f"{key}-{place}", key, checked=option == value) for place, option in enumerate(field["options"])
    ]
    return Element("radiogroup", name, children=buttons)


def held(page: Page, field: Field) -> Value:
    """What a field holds now: a text without spaces around it, an option, or whether it is ticked."""
    key, value = field["key"], field["value"]
    if field["kind"] == "tick":
        return page.ticked(key, value)
    if field["kind"] == "radio" and key in page.values:
        return field["options"][int(str(page.values[key]).rpartition("-")[2])]
    return value if field["kind"] == "radio" else page.written(key, value)


def amiss(page: Page, fields: Sequence[Field], wanted: Mapping[str, Value]) -> list[Field]:
    """The fields that do not hold what is wanted (those not named: what they held at first)."""
    return [field for field in fields if held(page, field) != wanted.get(field["key"], field["value"])]


def mend(field: Field, wanted: Value) -> Wish:
    """The action that gives a field what is wanted."""
    key = field["key"]
    if field["kind"] == "tick":
        return Wish("check" if wanted else "uncheck", key)
    if field["kind"] == "choice":
        return Wish("select_option", key, str(wanted))
    if field["kind"] == "radio":
        return Wish("click", f"{key}-{field['options'].index(wanted)}")
    return Wish("fill", key, str(wanted))


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["bread", "milk", "tea"])
    'bread, milk and tea'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
