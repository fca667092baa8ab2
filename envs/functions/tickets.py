"""The back end ``tickets``: a help desk. It is held out: only the split valid_unseen has it."""

from __future__ import annotations

from random import Random
from typing import Literal

from agentrl.envs.functions.service import Draw, Said, Service, among, request, wanted
from agentrl.errors import ToolError
from agentrl.tool import tool
from agentrl.types import Json

TOPICS = ("printer", "password", "screen", "network", "keyboard", "phone", "licence", "backup", "scanner", "email")
STAFF = ("Ivy", "Jonas", "Kim", "Liam", "Mona")
PRIORITIES = ("low", "normal", "high")
COMMENTS = ("waiting", "tested", "repaired", "unclear")
Priority = Literal["low", "normal", "high"]


class Tickets(Service):
    """Tickets by number."""

    name = "tickets"

    @classmethod
    def start(cls, random: Random, size: int) -> dict[str, Json]:
        """``size`` tickets of different topics."""
        numbers = sorted(random.sample(range(11, 60), size))
        tickets = {
            str(number): {
                "topic": topic,
                "priority": random.choice(PRIORITIES),
                "person": random.choice((None, *STAFF)),
                "open": True,
                "comments": [],
            }
            for number, topic in zip(numbers, random.sample(TOPICS, size), strict=True)
        }
        return {"tickets": tickets, "next": 60}

    @tool
    def create_ticket(self, topic: str, priority: Priority = "normal") -> dict[str, Json]:
        """Creates a ticket.

        Args:
            topic: What it is about.
            priority: How soon it must be done.
        """
        number, self.state["next"] = self.state["next"], self.state["next"] + 1
        ticket = {"topic": topic, "priority": priority, "person": None, "open": True, "comments": []}
        self.state["tickets"][str(number)] = ticket
        return {"ticket": number, "topic": topic, "priority": priority}

    @tool
    def find_ticket(self, topic: str) -> dict[str, Json]:
        """Finds the number of a ticket by its topic.

        Args:
            topic: What it is about.
        """
        found = [int(number) for number, ticket in self.state["tickets"].items() if ticket["topic"] == topic]
        if not found:
            raise ToolError(f"there is no ticket about {topic[:40]}")
        return {"topic": topic, "ticket": min(found)}

    @tool
    def show_ticket(self, ticket: int) -> dict[str, Json]:
        """Shows a ticket: topic, priority, person and comments.

        Args:
            ticket: The ticket's number.
        """
        return {"ticket": ticket, **wanted(self.state["tickets"], str(ticket), "ticket")}

    @tool
    def assign_ticket(self, ticket: int, person: str) -> dict[str, Json]:
        """Gives an open ticket to a person.

        Args:
            ticket: The ticket's number.
            person: The first name.
        """
        self._open(ticket)["person"] = among(person, STAFF, "person")
        return {"ticket": ticket, "person": person}

    @tool
    def set_priority(self, ticket: int, priority: Priority) -> dict[str, Json]:
        """Changes how soon an open ticket must be done.

        Args:
            ticket: The ticket's number.
            priority: How soon.
        """
        self._open(ticket)["priority"] = priority
        return {"ticket": ticket, "priority": priority}

    @tool
    def comment_ticket(self, ticket: int, text: str) -> dict[str, Json]:
        """Adds a comment to an open ticket.

        Args:
            ticket: The ticket's number.
            text: The comment.
        """
        self._open(ticket)["comments"].append(text)
        return {"ticket": ticket, "comment": text}

    @tool
    def close_ticket(self, ticket: int) -> dict[str, Json]:
        """Closes an open ticket.

        Args:
            ticket: The ticket's number.
        """
        self._open(ticket)["open"] = False
        return {"closed ticket": ticket}

    def _open(self, number: int) -> dict[str, Json]:
        found = wanted(self.state["tickets"], str(number), "ticket")
        if not found["open"]:
            raise ToolError(f"ticket {number} is closed")
        return found


def _ticket(draw: Draw) -> tuple[int, str]:
    """The number of an open ticket, and its topic, which no other ticket has."""
    topics = [ticket["topic"] for ticket in draw.state["tickets"].values()]
    number = draw.one(
        n for n, ticket in draw.state["tickets"].items() if ticket["open"] and topics.count(ticket["topic"]) == 1
    )
    return int(number), draw.state["tickets"][number]["topic"]


def _other(draw: Draw, number: int, key: str, known: tuple[str, ...]) -> str:
    """Another one than the ticket has."""
    return draw.one(value for value in known if value != draw.state["tickets"][str(number)][key])


@request(Tickets, "create_ticket")
def create_ticket(draw: Draw) -> Said:
    """One call; the priority may be left to its default."""
    topic, priority = draw.one(TOPICS), draw.one((None, "low", "high"))
    draw.call("create_ticket", topic=topic, **({"priority": priority} if priority else {}))
    how = f" with {priority} priority" if priority else ""
    return Said(f"Create a ticket about {topic}{how}.", f"Create a ticket{how}.", f"About {topic}.")


@request(Tickets, "show_ticket")
def show_ticket(draw: Draw) -> Said:
    """One call."""
    number, _ = _ticket(draw)
    draw.call("show_ticket", ticket=number)
    return Said(f"Show me ticket {number}.", "Show me a ticket.", f"Ticket {number}.")


@request(Tickets, "assign_ticket")
def assign_ticket(draw: Draw) -> Said:
    """One call."""
    number, _ = _ticket(draw)
    person = _other(draw, number, "person", STAFF)
    draw.call("assign_ticket", ticket=number, person=person)
    return Said(f"Give ticket {number} to {person}.", f"Give ticket {number} to someone.", f"To {person}.")


@request(Tickets, "set_priority")
def set_priority(draw: Draw) -> Said:
    """One call."""
    number, _ = _ticket(draw)
    priority = _other(draw, number, "priority", PRIORITIES)
    draw.call("set_priority", ticket=number, priority=priority)
    text = f"Set the priority of ticket {number} to {priority}."
    return Said(text, f"Change the priority of ticket {number}.", f"To {priority}.")


@request(Tickets, "comment_ticket")
def comment_ticket(draw: Draw) -> Said:
    """One call."""
    (number, _), comment = _ticket(draw), draw.one(COMMENTS)
    draw.call("comment_ticket", ticket=number, text=comment)
    return Said(f"Comment ticket {number}: {comment}", f"Comment ticket {number}.", f"The comment: {comment}")


@request(Tickets, "close_ticket")
def close_ticket(draw: Draw) -> Said:
    """One call."""
    number, _ = _ticket(draw)
    draw.call("close_ticket", ticket=number)
    return Said(f"Close ticket {number}.", "Close a ticket.", f"Ticket {number}.")


@request(Tickets, "find_ticket", "close_ticket")
def close_found(draw: Draw) -> Said:
    """The first call's result says which ticket."""
    _, topic = _ticket(draw)
    draw.call("close_ticket", ticket=draw.call("find_ticket", topic=topic)["ticket"])
    return Said(f"Close the ticket about {topic}.")


@request(Tickets, "find_ticket", "assign_ticket")
def assign_found(draw: Draw) -> Said:
    """The first call's result says which ticket."""
    number, topic = _ticket(draw)
    person = _other(draw, number, "person", STAFF)
    draw.call("assign_ticket", ticket=draw.call("find_ticket", topic=topic)["ticket"], person=person)
    return Said(f"Give the ticket about {topic} to {person}.")


@request(Tickets, "find_ticket", "set_priority", "assign_ticket")
def raise_found(draw: Draw) -> Said:
    """Three calls; the first one's result says which ticket."""
    number, topic = _ticket(draw)
    person, priority = _other(draw, number, "person", STAFF), _other(draw, number, "priority", PRIORITIES)
    draw.call("find_ticket", topic=topic)
    draw.call("set_priority", ticket=number, priority=priority)
    draw.call("assign_ticket", ticket=number, person=person)
    return Said(f"Set the priority of the ticket about {topic} to {priority} and give it to {person}.")
