"""A calendar: a week of days, entries at hours, to add, to move and to delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, combobox, dialog, form, heading, items, link, text, textbox
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.words import DAYS, HOURS, Words

TYPES = ("calendar_add", "calendar_delete", "calendar_move")
FIELDS = ("title", "day", "hour")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal about one entry of a week."""
    random = words.random
    days = list(DAYS[: 3 if level.tabs == 2 else 5 if level.tabs == 3 else 7])
    hours = list(HOURS[: 3 if level.tabs == 2 else len(HOURS)])
    n = random.randint(*level.items)
    topics = words.some("topic", n + 1)
    entries = [[topic, random.choice(days), random.choice(hours)] for topic in topics[:n]]
    title, day, hour = random.choice(entries)
    other = random.choice([one for one in days if one != day])
    spec: dict[str, Any] = {"kind": kind, "days": days, "hours": hours, "entries": entries, "confirm": level.confirm}
    if kind == "calendar_add":
        new = [topics[n], other, random.choice(hours)]
        spec |= {"target": None, "wanted": new}
        return f"Add {new[0]} on {other} at {new[2]}.", spec
    place = entries.index([title, day, hour])
    if kind == "calendar_delete":
        spec |= {"target": place, "wanted": None}
        return f"Delete {title} on {day}.", spec
    spec |= {"target": place, "wanted": [title, other, hour]}
    return f"Move {title} from {day} to {other}.", spec


class CalendarPage(Page):
    """A week of ``spec["days"]`` with ``spec["entries"]`` ([title, day, hour]). The one at ``target`` (None: a new one) is to
    become ``wanted`` (None: deleted); ``confirm``: a dialog asks before one is deleted."""

    url = "/calendar"
    title = "Calendar"

    def start(self) -> dict[str, Any]:
        return {"day": None, "open": None, "asks": False}  # open: an entry's number, -1 for a new one

    @property
    def place(self) -> str:
        day, number = self.state["day"], self.state["open"]
        path = "/calendar" if day is None else f"/calendar/{day}"
        return path if number is None else f"{path}/{'new' if number < 0 else number + 1}"

    def view(self) -> Sequence[Element]:
        if self.state["open"] is not None:
            return self._entry()
        return self._week() if self.state["day"] is None else self._day()

    def _week(self) -> list[Element]:
        entries = self.spec["entries"]
        rows = [
            [link(day, f"d{n}", f"day:{day}"), text(f"{sum(entry[1] == day for entry in entries)} entries")]
            for n, day in enumerate(self.spec["days"])
        ]
        return [heading("Calendar"), items(*rows)]

    def _day(self) -> list[Element]:
        day = self.state["day"]
        found = [(n, entry) for n, entry in enumerate(self.spec["entries"]) if entry[1] == day]
        rows = [[link(f"{title} at {hour}", f"e{n}", f"open:{n}")] for n, (title, _, hour) in found]
        return [heading(day), items(*rows), button("New", "new"), link("Week", "week")]

    def _entry(self) -> list[Element]:
        number = self.state["open"]
        title, day, hour = (
            ("", self.state["day"], self.spec["hours"][0]) if number < 0 else self.spec["entries"][number]
        )
        fields = [
            textbox("Title", "title", title),
            combobox("Day", "day", self.spec["days"], day),
            combobox("Hour", "hour", self.spec["hours"], hour),
        ]
        delete = [] if number < 0 else [button("Delete", "delete")]
        shown = [
            heading("New" if number < 0 else title),
            form(*fields, button("Save", "save", submit=True), *delete, button("Back", "back")),
        ]
        if self.state["asks"]:
            shown.append(dialog("Delete it?", "ask", button("No", "no"), button("Yes", "yes"), cancel="no"))
        return shown

    def _content(self) -> list[str]:
        """What the fields of the entry say."""
        number = self.state["open"]
        at_first = ("", self.state["day"], self.spec["hours"][0]) if number < 0 else self.spec["entries"][number]
        return [self.written(key, value) for key, value in zip(FIELDS, at_first, strict=True)]

    def handle(self, event: str) -> None:
        name, _, argument = event.partition(":")
        state = self.state
        if name == "day":
            state["day"] = argument
        elif name == "week":
            state["day"] = None
        elif name in ("open", "new"):
            state["open"] = -1 if name == "new" else int(argument)
            self.forget(*FIELDS)
        elif name == "back":
            state["open"] = None
        elif name == "no" or (name == "delete" and self.spec["confirm"]):
            state["asks"] = name == "delete"
        else:
            target, wanted = self.spec["target"], self.spec["wanted"]
            here = state["open"] == (-1 if target is None else target)
            self.end(here and (self._content() == wanted if name == "save" else wanted is None))

    def wish(self) -> Wish:
        state, target, wanted = self.state, self.spec["target"], self.spec["wanted"]
        here = state["open"] == (-1 if target is None else target)
        if state["asks"]:
            return Wish("click", "yes" if here and wanted is None else "no")
        if state["open"] is not None and not here:
            return Wish("click", "back")
        if state["open"] is not None:
            if wanted is None:
                return Wish("click", "delete")
            for key, value, right in zip(FIELDS, self._content(), wanted, strict=True):
                if value != right:
                    return Wish("fill" if key == "title" else "select_option", key, right)
            return Wish("click", "save")
        day = wanted[1] if target is None else self.spec["entries"][target][1]
        if state["day"] is None:
            return Wish("click", f"d{self.spec['days'].index(day)}")
        if state["day"] != day and target is not None:
            return Wish("click", "week")
        return Wish("click", "new" if target is None else f"e{target}")

    def sought(self) -> str:
        target = self.spec["target"]
        return "title" if target is None else f"e{target}"
