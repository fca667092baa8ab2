"""Mail: an inbox, mails to open, to delete, to answer and to pass on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, dialog, form, heading, items, link, text, textbox
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.words import Words

TYPES = ("mail_delete", "mail_answer", "mail_forward")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal about one mail of an inbox. Where several are from one person, the goal tells the subject too."""
    random = words.random
    n = random.randint(*level.items)
    topics = words.some("topic", n)
    senders = words.some("name", n if level.asked[1] <= 2 else max(2, n // 2))
    known = [*senders, *(random.choice(senders) for _ in range(n - len(senders)))]
    random.shuffle(known)
    mails = [[name, topic] for name, topic in zip(known, topics, strict=True)]
    place = random.randrange(n)
    name, topic = mails[place]
    only = sum(mail[0] == name for mail in mails) == 1
    which = f"the mail from {name}" + ("" if only else f" about {topic}")
    answer = words.some("answer", 1)[0]
    other = random.choice([one for one in words.known("name") if one != name])
    spec = {
        "kind": kind,
        "mails": mails,
        "place": place,
        "wanted": other if kind == "mail_forward" else answer,
        "shown": level.shown,
        "confirm": level.confirm,
    }
    goals = {
        "mail_delete": f"Delete {which}.",
        "mail_answer": f"Answer {answer} to {which}.",
        "mail_forward": f"Forward {which} to {other}.",
    }
    return goals[kind], spec


class MailPage(Page):
    """An inbox of ``spec["mails"]`` ([from, subject]), ``shown`` at a time. The one at ``place`` is to be deleted, answered or
    passed on, as ``kind`` says; ``confirm``: a dialog asks before one is deleted."""

    url = "/mail"
    title = "Mail"

    def start(self) -> dict[str, Any]:
        return {"page": 0, "open": None, "writes": "", "asks": False}

    @property
    def place(self) -> str:
        state = self.state
        if state["open"] is None:
            return f"/mail?page={state['page'] + 1}" if state["page"] else "/mail"
        return f"/mail/{state['open'] + 1}" + (f"/{state['writes']}" if state["writes"] else "")

    def view(self) -> Sequence[Element]:
        state = self.state
        if state["open"] is None:
            return self._inbox()
        sender, topic = self.spec["mails"][state["open"]]
        if state["writes"]:
            field = textbox("Text", "text") if state["writes"] == "answer" else textbox("To", "to")
            head = f"Re {topic}" if state["writes"] == "answer" else f"Fwd {topic}"
            return [heading(head), form(field, button("Send", "send", submit=True), button("Cancel", "cancel"))]
        shown = [
            heading(topic),
            text(f"From {sender}"),
            button("Answer", "answer"),
            button("Forward", "forward"),
            button("Delete", "delete"),
            link("Inbox", "inbox"),
        ]
        if state["asks"]:
            shown.append(dialog("Delete it?", "ask", button("No", "no"), button("Yes", "yes"), cancel="no"))
        return shown

    def _inbox(self) -> list[Element]:
        mails, size = self.spec["mails"], self.spec["shown"]
        first = self.state["page"] * size
        numbers = range(first, min(first + size, len(mails)))
        rows = [[link(f"{mails[n][0]}: {mails[n][1]}", f"m{n}", f"open:{n}")] for n in numbers]
        turn = [button("Newer", "newer", disabled=first == 0)] if len(mails) > size else []
        turn += [button("Older", "older", disabled=first + size >= len(mails))] if len(mails) > size else []
        return [heading("Inbox"), items(*rows), *turn]

    def handle(self, event: str) -> None:
        name, _, number = event.partition(":")
        state = self.state
        if name in ("newer", "older"):
            state["page"] += 1 if name == "older" else -1
        elif name == "open":
            state["open"] = int(number)
        elif name in ("inbox", "cancel", "no"):
            state["open"] = None if name == "inbox" else state["open"]
            state["writes"], state["asks"] = "", False
        elif name in ("answer", "forward"):
            state["writes"] = name
            self.forget("text", "to")
        elif name == "delete" and self.spec["confirm"]:
            state["asks"] = True
        else:  # yes, delete and send are what cannot be undone
            self.end(self._is_right("delete" if name == "yes" else name))

    def _is_right(self, done: str) -> bool:
        kind, wanted, writes = self.spec["kind"], self.spec["wanted"], self.state["writes"]
        if self.state["open"] != self.spec["place"]:
            return False
        if done == "delete":
            return kind == "mail_delete"
        return kind == f"mail_{writes}" and self.written("text" if writes == "answer" else "to") == wanted

    def wish(self) -> Wish:
        state, place, kind = self.state, self.spec["place"], self.spec["kind"]
        if state["open"] is None:
            page = place // self.spec["shown"]
            if page != state["page"]:
                return Wish("click", "older" if page > state["page"] else "newer")
            return Wish("click", f"m{place}")
        at_home, wanted = state["open"] == place, kind.removeprefix("mail_")
        if state["asks"]:
            return Wish("click", "yes" if at_home and wanted == "delete" else "no")
        if state["writes"]:
            if not at_home or state["writes"] != wanted:
                return Wish("click", "cancel")
            key = "text" if wanted == "answer" else "to"
            if self.written(key) != self.spec["wanted"]:
                return Wish("fill", key, self.spec["wanted"])
            return Wish("click", "send")
        return Wish("click", wanted if at_home else "inbox")

    def sought(self) -> str:
        return f"m{self.spec['place']}"
