"""Tables: rows of people to open, to read from and to mark, some lines at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, checkbox, heading, table, textbox
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.pages.fields import listed
from agentrl.envs.browser.words import Words

TYPES = ("table_open", "table_copy", "table_mark")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal and a table of names and cities."""
    random = words.random
    names = words.some("name", random.randint(*level.items))
    cities = words.some("city", max(2, len(names) // 2))
    rows = [[name, random.choice(cities)] for name in names]
    spec = {"kind": kind, "rows": rows, "shown": level.shown, "wanted": "", "marked": []}
    name, city = random.choice(rows)
    if kind == "table_open":
        spec["wanted"] = name
        return f"Open the row of {name}.", spec
    if kind == "table_copy":
        spec["wanted"] = city
        spec["from"] = name
        return f"Write the city of {name} into Answer, then press Send.", spec
    if level.asked[1] > 2 and random.random() < 0.5:
        spec["marked"] = [row[0] for row in rows if row[1] == city]
        return f"Mark every row with the city {city}, then press Save.", spec
    spec["marked"] = random.sample(names, min(len(names), random.randint(*level.asked)))
    return f"Mark {listed(spec['marked'])}, then press Save.", spec


class TablePage(Page):
    """A table of ``spec["rows"]``, ``shown`` of them at a time, with a button, a box or nothing in each, as ``spec["kind"]``
    wants it."""

    url = "/table"
    title = "People"

    def start(self) -> dict[str, Any]:
        return {"page": 0}

    def view(self) -> Sequence[Element]:
        kind, rows, size = self.spec["kind"], self.spec["rows"], self.spec["shown"]
        first = self.state["page"] * size
        body = [self._row(n) for n in range(first, min(first + size, len(rows)))]
        columns = ["Name", "City", *([] if kind == "table_copy" else ["Open" if kind == "table_open" else "Mark"])]
        turn = [button("Back", "back", disabled=first == 0)] if len(rows) > size else []
        turn += [button("Next", "next", disabled=first + size >= len(rows))] if len(rows) > size else []
        below = {
            "table_open": [],
            "table_copy": [textbox("Answer", "answer"), button("Send", "send")],
            "table_mark": [button("Save", "save")],
        }
        return [heading("People"), table(columns, body), *turn, *below[kind]]

    def _row(self, number: int) -> list[str | Element]:
        kind, (name, city) = self.spec["kind"], self.spec["rows"][number]
        if kind == "table_copy":
            return [name, Element("cell", city, f"r{number}")]
        last = (
            button("Open", f"r{number}", f"open:{number}") if kind == "table_open" else checkbox("Mark", f"r{number}")
        )
        return [name, city, last]

    def handle(self, event: str) -> None:
        name, _, number = event.partition(":")
        if name in ("back", "next"):
            self.state["page"] += 1 if name == "next" else -1
        elif name == "open":
            self.end(self.spec["rows"][int(number)][0] == self.spec["wanted"])
        elif name == "send":
            self.end(self.written("answer") == self.spec["wanted"])
        elif name == "save":
            self.end(not self._wrong())

    def _wrong(self) -> list[int]:
        """Rows that are marked and ought not to be, or the other way round."""
        marked = self.spec["marked"]
        return [n for n, row in enumerate(self.spec["rows"]) if self.ticked(f"r{n}") != (row[0] in marked)]

    def _turn_to(self, number: int) -> Wish | None:
        page = number // self.spec["shown"]
        return None if page == self.state["page"] else Wish("click", "next" if page > self.state["page"] else "back")

    def wish(self) -> Wish:
        kind, wanted, names = self.spec["kind"], self.spec["wanted"], [row[0] for row in self.spec["rows"]]
        if kind == "table_open":
            number = names.index(wanted)
            return self._turn_to(number) or Wish("click", f"r{number}")
        if kind == "table_copy":
            if self.written("answer") == wanted:
                return Wish("click", "send")
            return self._turn_to(names.index(self.spec["from"])) or Wish("fill", "answer", wanted)
        wrong = self._wrong()
        if not wrong:
            return Wish("click", "save")
        here = [number for number in wrong if self._turn_to(number) is None]
        if not here:
            return self._turn_to(wrong[0]) or Wish("click", "save")
        return Wish("uncheck" if self.ticked(f"r{here[0]}") else "check", f"r{here[0]}")

    def sought(self) -> str:
        wanted = self.spec.get("from") or self.spec["wanted"] or self.spec["marked"][-1]
        return f"r{[row[0] for row in self.spec['rows']].index(wanted)}"
