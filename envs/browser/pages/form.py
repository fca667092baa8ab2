"""Forms: fields to fill, lists to choose from, boxes to tick, and a button that sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, checkbox, dialog, form, heading
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.pages.fields import amiss, listed, mend, widget
from agentrl.envs.browser.words import Words

TYPES = ("form_write", "form_choose", "form_tick", "form_mixed")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal and a form in which it is reached by changing some of the fields."""
    random, n = words.random, words.random.randint(*level.fields)
    kinds = {"form_write": ["text"], "form_choose": ["choice", "radio"], "form_tick": ["tick"]}
    allowed = kinds.get(kind, ["text", "choice", "radio", "tick"])
    row = {"form_write": "field", "form_choose": "choice", "form_tick": "food"}.get(kind, "field")
    fields = [
        _field(random.choice(allowed), place, name, words, 2 if level.tabs == 2 else 3)
        for place, name in enumerate(words.some(row, n))
    ]
    chosen = random.sample(fields, min(len(fields), random.randint(*level.asked)))
    wanted = {field["key"]: _other(field, words) for field in chosen}
    spec = {"fields": fields, "wanted": wanted, "agree": level.confirm, "confirm": level.confirm}
    asked = [_asked(field, wanted[field["key"]]) for field in chosen]
    if kind == "form_tick":
        asked = []
        for on, word in ((True, "tick"), (False, "untick")):
            if names := [field["name"] for field in chosen if wanted[field["key"]] == on]:
                asked.append(f"{word} {listed(names)}")
    sentence = f"{listed(asked)}, then press Send."
    return sentence[0].upper() + sentence[1:], spec


def _field(kind: str, place: int, name: str, words: Words, n_options: int) -> dict[str, Any]:
    field: dict[str, Any] = {"kind": kind, "key": f"f{place}", "name": name, "value": ""}
    if kind == "tick":
        field["value"] = words.random.random() < 0.25
    elif kind != "text":
        field["options"] = words.some("colour" if kind == "choice" else "speed", n_options)
        field["value"] = field["options"][0] if kind == "choice" else ""
    return field


def _other(field: dict[str, Any], words: Words) -> str | bool:
    """What a field is to hold, which it does not hold yet."""
    if field["kind"] == "tick":
        return not field["value"]
    if field["kind"] == "text":
        return words.some("name" if words.random.random() < 0.5 else "city", 1)[0]
    return words.random.choice([option for option in field["options"] if option != field["value"]])


def _asked(field: dict[str, Any], wanted: str | bool) -> str:
    if field["kind"] == "tick":
        return f"{'tick' if wanted else 'untick'} {field['name']}"
    verb, into = ("write", "into") if field["kind"] == "text" else ("choose", "as")
    return f"{verb} {wanted} {into} {field['name']}"


class FormPage(Page):
    """A form of ``spec["fields"]`` that is right with ``spec["wanted"]`` in them. ``agree``: Send is disabled until a box is
    ticked; ``confirm``: a dialog asks before it is sent."""

    url = "/form"
    title = "Form"

    def start(self) -> dict[str, Any]:
        return {"asks": False}

    def view(self) -> Sequence[Element]:
        agree = [checkbox("I agree", "agree", "agree")] if self.spec["agree"] else []
        send = button("Send", "send", submit=True, disabled=bool(agree) and not self.ticked("agree"))
        shown = [
            heading("Form"),
            form(*map(widget, self.spec["fields"]), *agree, send, button("Clear", "clear")),
        ]
        if self.state["asks"]:
            ask = dialog("Send it?", "ask", button("No", "no"), button("Yes", "yes"), cancel="no")
            shown.append(ask)
        return shown

    def handle(self, event: str) -> None:
        if event == "clear":
            self.values.clear()
        elif event == "no":
            self.state["asks"] = False
        elif event == "yes" or (event == "send" and not self.spec["confirm"]):
            self.end(not amiss(self, self.spec["fields"], self.spec["wanted"]))
        elif event == "send":
            self.state["asks"] = True

    def wish(self) -> Wish:
        wrong, wanted = amiss(self, self.spec["fields"], self.spec["wanted"]), self.spec["wanted"]
        if self.state["asks"]:
            return Wish("click", "no" if wrong else "yes")
        for field in wrong:
            if field["kind"] == "radio" and field["key"] not in wanted:
                return Wish("click", "clear")  # nothing else takes the choice back
            return mend(field, wanted.get(field["key"], field["value"]))
        return Wish("check", "agree") if self.spec["agree"] and not self.ticked("agree") else Wish("click", "send")

    def sought(self) -> str:
        return "send"
