"""Lists: entries to tick, to add and to remove."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, checkbox, dialog, form, heading, items, textbox
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.pages.fields import listed
from agentrl.envs.browser.words import Words

TYPES = ("list_tick", "list_add", "list_remove")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal and a list in which it is reached by changing some of the entries."""
    random = words.random
    n, asked = random.randint(*level.entries), random.randint(*level.asked)
    if kind == "list_add":
        asked = min(asked, 2)
        found = words.some("food", n + asked)
        entries, chosen = found[:-asked], found[-asked:]
    else:
        entries = words.some("food", n)
        chosen = random.sample(entries, min(asked, n))
    goals = {
        "list_tick": f"Tick {listed(chosen)}, then press Save.",
        "list_add": f"Add {listed(chosen)} to the list, then press Save.",
        "list_remove": f"Remove {listed(chosen)} from the list, then press Save.",
    }
    spec = {
        "kind": kind,
        "entries": entries,
        "chosen": chosen,
        "shown": 2 * level.shown,
        "confirm": level.confirm,
    }
    return goals[kind], spec


class ListPage(Page):
    """A list of ``spec["entries"]``, to change by ``spec["chosen"]`` as ``spec["kind"]`` says; ``shown`` of them before one
    scrolls to the end; ``confirm``: a dialog asks before an entry is removed."""

    url = "/list"
    title = "List"

    def start(self) -> dict[str, Any]:
        entries = [[f"e{place}", word] for place, word in enumerate(self.spec["entries"])]
        return {"entries": entries, "next": len(entries), "shown": self.spec["shown"], "asks": ""}

    @property
    def ticks(self) -> bool:
        return self.spec["kind"] == "list_tick"

    @property
    def more(self) -> str:
        return "more" if self.state["shown"] < len(self.state["entries"]) else ""

    def view(self) -> Sequence[Element]:
        rows = [self._row(key, word) for key, word in self.state["entries"][: self.state["shown"]]]
        new = [] if self.ticks else [form(textbox("New", "new"), button("Add", "add", submit=True))]
        shown = [heading("List"), *new, button("Save", "save"), items(*rows)]
        if self.state["asks"]:
            shown.append(dialog("Remove it?", "ask", button("No", "no"), button("Yes", "yes"), cancel="no"))
        return shown

    def _row(self, key: str, word: str) -> list[Element]:
        if self.ticks:
            return [checkbox(word, key)]
        return [button(f"Remove {word}", f"remove:{key}")]

    def handle(self, event: str) -> None:
        name, _, key = event.partition(":")
        state = self.state
        if name == "more":
            state["shown"] += self.spec["shown"]
        elif name == "add":
            self._add(self.written("new"))
        elif name == "remove" and self.spec["confirm"]:
            state["asks"] = key
        elif name in ("remove", "yes"):
            removed = key or state["asks"]
            state["entries"], state["asks"] = [entry for entry in state["entries"] if entry[0] != removed], ""
        elif name == "no":
            state["asks"] = ""
        elif name == "save":
            self.end(self._missing() == self._unwanted() == [])

    def _add(self, word: str) -> None:
        if word and word not in (entry[1] for entry in self.state["entries"]):
            self.state["entries"].insert(0, [f"e{self.state['next']}", word])
            self.state["next"] += 1
        self.forget("new")

    def _wanted(self) -> list[str]:
        chosen, entries = self.spec["chosen"], self.spec["entries"]
        if self.ticks:
            return chosen
        return [*entries, *chosen] if self.spec["kind"] == "list_add" else [e for e in entries if e not in chosen]

    def _present(self) -> dict[str, str]:
        """The words that are there (ticked, where it is about that), with their keys."""
        return {word: key for key, word in self.state["entries"] if not self.ticks or self.ticked(key)}

    def _missing(self) -> list[str]:
        present = self._present()
        return [word for word in self._wanted() if word not in present]

    def _unwanted(self) -> list[str]:
        wanted = self._wanted()
        return [key for word, key in self._present().items() if word not in wanted]

    def wish(self) -> Wish:
        missing, unwanted = self._missing(), self._unwanted()
        if self.state["asks"]:
            return Wish("click", "yes" if self.state["asks"] in unwanted else "no")
        keys = {word: key for key, word in self.state["entries"]}
        if missing and not self.ticks:
            return Wish("click", "add") if self.written("new") == missing[0] else Wish("fill", "new", missing[0])
        wished = [("check", keys[word]) for word in missing] if self.ticks else []
        wished += [("uncheck", key) if self.ticks else ("click", f"remove:{key}") for key in unwanted]
        if not wished:
            return Wish("click", "save")
        shown = [key for key, _ in self.state["entries"][: self.state["shown"]]]
        for action, key in wished:
            if key.removeprefix("remove:") in shown:
                return Wish(action, key)
        return Wish("scroll")

    def sought(self) -> str:
        keys = {word: key for key, word in self.state["entries"]}
        last = keys.get(self.spec["chosen"][-1], "")
        return ("" if self.ticks else "remove:") + last if last else "save"
