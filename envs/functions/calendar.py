"""The back end ``calendar``: events with a day, a time and guests."""

from __future__ import annotations

from random import Random
from typing import Annotated

from pydantic import Field

from agentrl.envs.functions.service import Draw, Said, Service, among, request, wanted
from agentrl.errors import ToolError
from agentrl.tool import tool
from agentrl.types import Json

DAYS = tuple(f"2030-05-{day:02}" for day in range(6, 18))
TIMES = ("08:00", "09:30", "11:00", "13:00", "14:30", "16:00")
LENGTHS = (15, 30, 45, 90)
TITLES = ("standup", "lunch", "review", "dentist", "yoga", "interview", "concert", "workshop", "haircut", "retreat")
PEOPLE = ("Ana", "Ben", "Chloe", "David", "Emma", "Felix", "Grace", "Hugo")
Title = Annotated[str, Field(max_length=80)]


class Calendar(Service):
    """Events by number; no two begin at the same time."""

    name = "calendar"

    @classmethod
    def start(cls, random: Random, size: int) -> dict[str, Json]:
        """``size`` events with titles of their own."""
        times = random.sample([(day, time) for day in DAYS for time in TIMES], size)
        numbers = sorted(random.sample(range(11, 60), size))
        events = {
            str(number): {
                "title": title,
                "date": day,
                "start": time,
                "minutes": random.choice(LENGTHS),
                "guests": sorted(random.sample(PEOPLE, random.randint(0, 2))),
                "reminder": None,
            }
            for number, title, (day, time) in zip(numbers, random.sample(TITLES, size), times, strict=True)
        }
        return {"events": events, "next": 60}

    @tool
    def list_events(self, date: str) -> dict[str, Json]:
        """Lists the events of a day.

        Args:
            date: The day, as 2030-05-06.
        """
        found = [int(number) for number, event in self.state["events"].items() if event["date"] == date]
        return {"date": date, "events": sorted(found)}

    @tool
    def find_event(self, title: str) -> dict[str, Json]:
        """Finds the number of an event by its title.

        Args:
            title: The event's title.
        """
        found = [int(number) for number, event in self.state["events"].items() if event["title"] == title]
        if not found:
            raise ToolError(f"no event is called {title[:40]}")
        return {"title": title, "event": min(found)}

    @tool
    def show_event(self, event: int) -> dict[str, Json]:
        """Shows an event: title, day, start, minutes and guests.

        Args:
            event: The event's number.
        """
        return {"event": event, **self._event(event)}

    @tool
    def add_event(
        self, title: Title, date: str, start: str, minutes: Annotated[int, Field(ge=1)] = 60
    ) -> dict[str, Json]:
        """Puts a new event into the calendar.

        Args:
            title: What it is called.
            date: The day, as 2030-05-06.
            start: When it begins, as 09:30.
            minutes: How long it is.
        """
        self._free(date, start)
        number, self.state["next"] = self.state["next"], self.state["next"] + 1
        event = {"title": title, "date": date, "start": start, "minutes": minutes, "guests": [], "reminder": None}
        self.state["events"][str(number)] = event
        return {"event": number, "title": title, "date": date, "start": start, "minutes": minutes}

    @tool
    def move_event(self, event: int, date: str, start: str) -> dict[str, Json]:
        """Moves an event to another time.

        Args:
            event: The event's number.
            date: The new day, as 2030-05-06.
            start: When it begins then, as 09:30.
        """
        found = self._event(event)
        self._free(date, start)
        found.update(date=date, start=start)
        return {"moved": event, "date": date, "start": start}

    @tool
    def cancel_event(self, event: int) -> dict[str, Json]:
        """Cancels an event.

        Args:
            event: The event's number.
        """
        self._event(event)
        del self.state["events"][str(event)]
        return {"cancelled event": event}

    @tool
    def invite_guest(self, event: int, person: str) -> dict[str, Json]:
        """Invites a person to an event.

        Args:
            event: The event's number.
            person: The first name.
        """
        found = self._event(event)
        among(person, PEOPLE, "person")
        if person in found["guests"]:
            raise ToolError(f"{person} is already invited")
        found["guests"] = sorted([*found["guests"], person])
        return {"event": event, "invited": person}

    @tool
    def set_reminder(self, event: int, minutes: Annotated[int, Field(ge=0)] = 10) -> dict[str, Json]:
        """Sets a reminder before an event.

        Args:
            event: The event's number.
            minutes: How long before it.
        """
        self._event(event)["reminder"] = minutes
        return {"event": event, "reminder": minutes}

    def _event(self, number: int) -> dict[str, Json]:
        return wanted(self.state["events"], str(number), "event")

    def _free(self, date: str, start: str) -> None:
        among(date, DAYS, "open day")
        among(start, TIMES, "time")
        if any((event["date"], event["start"]) == (date, start) for event in self.state["events"].values()):
            raise ToolError(f"{date} at {start} is taken")


def _event(draw: Draw) -> tuple[int, str]:
    """The number and the title of an event that is the only one of its title."""
    titles = [event["title"] for event in draw.state["events"].values()]
    number = draw.one(n for n, event in draw.state["events"].items() if titles.count(event["title"]) == 1)
    return int(number), draw.state["events"][number]["title"]


def _slot(draw: Draw) -> tuple[str, str]:
    """A day and a time at which nothing begins."""
    taken = {(event["date"], event["start"]) for event in draw.state["events"].values()}
    return draw.one((day, time) for day in DAYS for time in TIMES if (day, time) not in taken)


def _guest(draw: Draw, number: int) -> str:
    """A person who is not invited yet."""
    return draw.one(p for p in PEOPLE if p not in draw.state["events"][str(number)]["guests"])


@request(Calendar, "list_events")
def list_events(draw: Draw) -> Said:
    """One call."""
    date = draw.one(DAYS)
    draw.call("list_events", date=date)
    text = draw.one((f"Which events are on {date}?", f"List the events of {date}."))
    return Said(text, "List the events of a day.", f"Of {date}.")


@request(Calendar, "show_event")
def show_event(draw: Draw) -> Said:
    """One call."""
    number, _ = _event(draw)
    draw.call("show_event", event=number)
    return Said(f"Show me event {number}.", "Show me an event.", f"Event {number}.")


@request(Calendar, "add_event")
def add_event(draw: Draw) -> Said:
    """One call; the length may be left to the default."""
    title, (date, start), length = draw.one(TITLES), _slot(draw), draw.one((None, *LENGTHS))
    draw.call("add_event", title=title, date=date, start=start, **({} if length is None else {"minutes": length}))
    long = "" if length is None else f" for {length} minutes"
    text = f"Add an event {title} on {date} at {start}{long}."
    return Said(text, f"Add an event {title} on {date}{long}.", f"At {start}.")


@request(Calendar, "move_event")
def move_event(draw: Draw) -> Said:
    """One call."""
    (number, _), (date, start) = _event(draw), _slot(draw)
    draw.call("move_event", event=number, date=date, start=start)
    return Said(f"Move event {number} to {date} at {start}.", f"Move event {number} to {date}.", f"At {start}.")


@request(Calendar, "cancel_event")
def cancel_event(draw: Draw) -> Said:
    """One call."""
    number, _ = _event(draw)
    draw.call("cancel_event", event=number)
    return Said(f"Cancel event {number}.", "Cancel an event.", f"Event {number}.")


@request(Calendar, "invite_guest")
def invite_guest(draw: Draw) -> Said:
    """One call."""
    number, _ = _event(draw)
    person = _guest(draw, number)
    draw.call("invite_guest", event=number, person=person)
    return Said(f"Invite {person} to event {number}.", f"Invite someone to event {number}.", f"Invite {person}.")


@request(Calendar, "set_reminder")
def set_reminder(draw: Draw) -> Said:
    """One call."""
    (number, _), minutes = _event(draw), draw.one(LENGTHS)
    draw.call("set_reminder", event=number, minutes=minutes)
    text = f"Remind me {minutes} minutes before event {number}."
    return Said(text, f"Remind me {minutes} minutes before an event.", f"Event {number}.")


@request(Calendar, "find_event", "cancel_event")
def cancel_found(draw: Draw) -> Said:
    """The first call's result says which event."""
    _, title = _event(draw)
    draw.call("cancel_event", event=draw.call("find_event", title=title)["event"])
    return Said(f"Cancel the event {title}.")


@request(Calendar, "find_event", "show_event")
def show_found(draw: Draw) -> Said:
    """The first call's result says which event."""
    _, title = _event(draw)
    draw.call("show_event", event=draw.call("find_event", title=title)["event"])
    return Said(f"Show me the event {title}.")


@request(Calendar, "find_event", "set_reminder")
def remind_found(draw: Draw) -> Said:
    """The first call's result says which event."""
    (_, title), minutes = _event(draw), draw.one(LENGTHS)
    draw.call("set_reminder", event=draw.call("find_event", title=title)["event"], minutes=minutes)
    return Said(f"Remind me {minutes} minutes before the event {title}.")


@request(Calendar, "find_event", "move_event", "invite_guest")
def move_and_invite(draw: Draw) -> Said:
    """Three calls; the first one's result says which event."""
    (number, title), (date, start) = _event(draw), _slot(draw)
    person = _guest(draw, number)
    draw.call("find_event", title=title)
    draw.call("move_event", event=number, date=date, start=start)
    draw.call("invite_guest", event=number, person=person)
    return Said(f"Move the event {title} to {date} at {start} and invite {person} to it.")
