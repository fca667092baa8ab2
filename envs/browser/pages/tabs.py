"""Tabs: settings and buttons that stand in panels, of which one is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, heading, panel, tab, tabs, text, textbox
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.pages.fields import amiss, held, listed, mend, widget
from agentrl.envs.browser.words import Words

TYPES = ("tabs_press", "tabs_set", "tabs_copy")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal and panels in one or more of which it is reached."""
    random = words.random
    names = words.some("tab", level.tabs)
    panels: list[dict[str, Any]] = [{"name": name, "fields": [], "buttons": [], "code": ""} for name in names]
    spec: dict[str, Any] = {"kind": kind, "panels": panels, "wanted": {}}
    place = random.randrange(len(panels))
    if kind == "tabs_press":
        for one in panels:
            one["buttons"] = words.some("press", random.randint(2, 3))
        spec["wanted"] = {"press": f"{place}.{random.randrange(len(panels[place]['buttons']))}"}
        chosen = panels[place]["buttons"][int(spec["wanted"]["press"].partition(".")[2])]
        return f"Press {chosen} on the tab {names[place]}.", spec
    if kind == "tabs_copy":
        for one, code in zip(panels, words.some("city", len(panels)), strict=False):
            one["code"] = code
        spec["wanted"] = {"answer": panels[place]["code"]}
        return f"Write the code on the tab {names[place]} into Answer, then press Save.", spec
    for number, one in enumerate(panels):
        for each, name in enumerate(words.some("setting", 2 if level.tabs < 4 else 3)):
            value = random.random() < 0.3
            one["fields"].append({"kind": "tick", "key": f"f{number}.{each}", "name": name, "value": value})
    fields = [(one["name"], field) for one in panels for field in one["fields"]]
    chosen_fields = random.sample(fields, min(random.randint(*level.asked), 3))
    spec["wanted"] = {field["key"]: not field["value"] for _, field in chosen_fields}
    asked = [
        f"turn {'off' if field['value'] else 'on'} {field['name']} on the tab {name}" for name, field in chosen_fields
    ]
    sentence = f"{listed(asked)}, then press Save."
    return sentence[0].upper() + sentence[1:], spec


class TabsPage(Page):
    """Panels ``spec["panels"]``, each with fields, buttons and a code. What ``spec["wanted"]`` says has to be pressed, set or
    copied."""

    url = "/tabs"
    title = "Settings"

    def start(self) -> dict[str, Any]:
        return {"tab": 0}

    def view(self) -> Sequence[Element]:
        shown, panels, kind = self.state["tab"], self.spec["panels"], self.spec["kind"]
        handles = [tab(one["name"], f"t{n}", f"tab:{n}", selected=n == shown) for n, one in enumerate(panels)]
        bodies = [self._panel(number, one, hidden=number != shown) for number, one in enumerate(panels)]
        below = [textbox("Answer", "answer")] if kind == "tabs_copy" else []
        save = [] if kind == "tabs_press" else [button("Save", "save")]
        return [heading("Settings"), tabs(*handles), *bodies, *below, *save]

    def _panel(self, number: int, content: dict[str, Any], *, hidden: bool) -> Element:
        buttons = [button(name, f"b{number}.{n}", f"press:{number}.{n}") for n, name in enumerate(content["buttons"])]
        code = [text(f"Code {content['code']}")] if content["code"] else []
        return panel(content["name"], f"p{number}", *map(widget, content["fields"]), *buttons, *code, hidden=hidden)

    def handle(self, event: str) -> None:
        name, _, argument = event.partition(":")
        if name == "tab":
            self.state["tab"] = int(argument)
        elif name == "press":
            self.end(argument == self.spec["wanted"]["press"])
        elif name == "save":
            self.end(not self._wrong())

    def _wrong(self) -> list[tuple[int, Any]]:
        """What is not as it is wanted, with the panel that it stands in."""
        wanted = self.spec["wanted"]
        if self.spec["kind"] == "tabs_copy":
            return [] if self.written("answer") == wanted["answer"] else [(self._place(), None)]
        pairs = enumerate(self.spec["panels"])
        return [(number, field) for number, one in pairs for field in amiss(self, one["fields"], wanted)]

    def _place(self) -> int:
        """The panel that what is asked for stands in."""
        wanted, panels = self.spec["wanted"], self.spec["panels"]
        if "press" in wanted:
            return int(wanted["press"].partition(".")[0])
        if "answer" in wanted:
            return next(number for number, one in enumerate(panels) if one["code"] == wanted["answer"])
        keys = [[field["key"] for field in one["fields"]] for one in panels]
        return max(number for number, found in enumerate(keys) if set(found) & set(wanted))

    def wish(self) -> Wish:
        wanted, shown = self.spec["wanted"], self.state["tab"]
        if "press" in wanted:
            place = self._place()
            return Wish("click", f"b{wanted['press']}" if place == shown else f"t{place}")
        wrong = self._wrong()
        if not wrong:
            return Wish("click", "save")
        here = [field for number, field in wrong if number == shown]
        if not here:
            return Wish("click", f"t{wrong[0][0]}")
        if here[0] is None:
            return Wish("fill", "answer", wanted["answer"])
        return mend(here[0], not held(self, here[0]))

    def sought(self) -> str:
        wanted, place = self.spec["wanted"], self._place()
        if "press" in wanted:
            return f"b{wanted['press']}"
        if "answer" in wanted:
            return f"p{place}"
        return next(field["key"] for field in self.spec["panels"][place]["fields"] if field["key"] in wanted)
