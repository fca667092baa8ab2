"""The back end ``bank``: accounts, payments and cards."""

from __future__ import annotations

from random import Random
from typing import Annotated

from pydantic import Field

from agentrl.envs.functions.service import Draw, Said, Service, among, request, wanted
from agentrl.errors import ToolError
from agentrl.tool import tool
from agentrl.types import Json

ACCOUNTS = ("daily", "savings", "holiday", "family", "business", "rent")
COMPANIES = ("Aqua", "Volt", "Telia", "Metro", "Sport", "Cinema")
NOTES = ("gift", "bill", "refund", "fee")
AMOUNTS = tuple(range(10, 100, 10))
LIMITS = tuple(range(100, 1000, 100))
Amount = Annotated[int, Field(ge=1)]


class Bank(Service):
    """Balances by account, in whole euros; payments; cards by number."""

    name = "bank"

    @classmethod
    def start(cls, random: Random, size: int) -> dict[str, Json]:
        """About ``size`` accounts, each with a card, some with a payment."""
        names = sorted(random.sample(ACCOUNTS, min(size, len(ACCOUNTS) - 1)))
        numbers = random.sample(range(11, 60), len(names))
        cards = {
            str(number): {"account": name, "limit": random.choice(LIMITS), "frozen": False}
            for number, name in sorted(zip(numbers, names, strict=True))
        }
        payments = [[name, random.choice(COMPANIES), random.choice(AMOUNTS)] for name in names if random.random() < 0.5]
        return {
            "accounts": {name: random.choice(range(300, 800, 10)) for name in names},
            "payments": payments,
            "cards": cards,
        }

    @tool
    def get_balance(self, account: str) -> dict[str, Json]:
        """Gives how much money is on an account.

        Args:
            account: The account's name.
        """
        return {"account": account, "balance": wanted(self.state["accounts"], account, "account")}

    @tool
    def list_payments(self, account: str) -> dict[str, Json]:
        """Lists the payments of an account to companies.

        Args:
            account: The account's name.
        """
        wanted(self.state["accounts"], account, "account")
        return {"account": account, "payments": [rest for name, *rest in self.state["payments"] if name == account]}

    @tool
    def transfer_money(self, source: str, target: str, amount: Amount, note: str = "") -> dict[str, Json]:
        """Moves money from one account to another.

        Args:
            source: The account that pays.
            target: The account that gets it.
            amount: How much, in euros.
            note: What it is for.
        """
        wanted(self.state["accounts"], target, "account")
        if source == target:
            raise ToolError("the two accounts are the same")
        self._take(source, amount)
        self.state["accounts"][target] += amount
        return {"from": source, "to": target, "amount": amount, "note": note}

    @tool
    def pay_company(self, account: str, company: str, amount: Amount) -> dict[str, Json]:
        """Pays a company.

        Args:
            account: The account that pays.
            company: The company's name.
            amount: How much, in euros.
        """
        among(company, COMPANIES, "company")
        self._take(account, amount)
        self.state["payments"] = sorted([*self.state["payments"], [account, company, amount]])
        return {"account": account, "paid": company, "amount": amount}

    @tool
    def find_card(self, account: str) -> dict[str, Json]:
        """Finds the number of the card of an account.

        Args:
            account: The account's name.
        """
        found = [int(number) for number, card in self.state["cards"].items() if card["account"] == account]
        if not found:
            raise ToolError(f"there is no card of {account[:40]}")
        return {"account": account, "card": min(found)}

    @tool
    def set_limit(self, card: int, limit: Amount) -> dict[str, Json]:
        """Sets how much a card may spend in a month.

        Args:
            card: The card's number.
            limit: How much, in euros.
        """
        wanted(self.state["cards"], str(card), "card")["limit"] = limit
        return {"card": card, "limit": limit}

    @tool
    def freeze_card(self, card: int) -> dict[str, Json]:
        """Freezes a card, so that nobody can pay with it.

        Args:
            card: The card's number.
        """
        found = wanted(self.state["cards"], str(card), "card")
        if found["frozen"]:
            raise ToolError(f"card {card} is already frozen")
        found["frozen"] = True
        return {"frozen card": card}

    @tool
    def open_account(self, account: str) -> dict[str, Json]:
        """Opens a new, empty account.

        Args:
            account: The new account's name.
        """
        if account in self.state["accounts"]:
            raise ToolError(f"there is already an account {account[:40]}")
        self.state["accounts"][account] = 0
        return {"opened": account}

    def _take(self, account: str, amount: int) -> None:
        balance = wanted(self.state["accounts"], account, "account")
        if balance < amount:
            raise ToolError(f"{account} has only {balance}")
        self.state["accounts"][account] = balance - amount


def _pair(draw: Draw) -> tuple[str, str, int]:
    """Two accounts and an amount that the first has."""
    source, target = draw.some(draw.state["accounts"], 2)
    return source, target, draw.one(n for n in AMOUNTS if n <= draw.state["accounts"][source])


def _card(draw: Draw) -> tuple[int, str]:
    """The number of a card that is not frozen, and its account."""
    number = draw.one(n for n, card in draw.state["cards"].items() if not card["frozen"])
    return int(number), draw.state["cards"][number]["account"]


def _limit(draw: Draw, number: int) -> int:
    """Another limit than the card's."""
    return draw.one(n for n in LIMITS if n != draw.state["cards"][str(number)]["limit"])


@request(Bank, "get_balance")
def get_balance(draw: Draw) -> Said:
    """One call."""
    account = draw.one(draw.state["accounts"])
    draw.call("get_balance", account=account)
    text = draw.one((f"How much is on my {account} account?", f"What is the balance of {account}?"))
    return Said(text, "How much is on my account?", f"The {account} account.")


@request(Bank, "list_payments")
def list_payments(draw: Draw) -> Said:
    """One call."""
    account = draw.one(draw.state["accounts"])
    draw.call("list_payments", account=account)
    return Said(f"Which companies did I pay from {account}?", "Which companies did I pay?", f"From {account}.")


@request(Bank, "transfer_money")
def transfer_money(draw: Draw) -> Said:
    """One call; the note may be left out."""
    (source, target, amount), note = _pair(draw), draw.one(("", "", *NOTES))
    draw.call("transfer_money", source=source, target=target, amount=amount, **({"note": note} if note else {}))
    noted = f" with the note {note}" if note else ""
    text = draw.one((f"Transfer {amount} from {source} to {target}", f"Move {amount} euros from {source} to {target}"))
    return Said(f"{text}{noted}.", f"Transfer money from {source} to {target}{noted}.", f"Transfer {amount}.")


@request(Bank, "pay_company")
def pay_company(draw: Draw) -> Said:
    """One call."""
    (account, _, amount), company = _pair(draw), draw.one(COMPANIES)
    draw.call("pay_company", account=account, company=company, amount=amount)
    return Said(f"Pay {amount} to {company} from {account}.", f"Pay {amount} to {company}.", f"From {account}.")


@request(Bank, "set_limit")
def set_limit(draw: Draw) -> Said:
    """One call."""
    number, _ = _card(draw)
    limit = _limit(draw, number)
    draw.call("set_limit", card=number, limit=limit)
    text = f"Set the limit of card {number} to {limit}."
    return Said(text, f"Change the limit of card {number}.", f"To {limit}.")


@request(Bank, "freeze_card")
def freeze_card(draw: Draw) -> Said:
    """One call."""
    number, _ = _card(draw)
    draw.call("freeze_card", card=number)
    return Said(f"Freeze card {number}.", "Freeze a card.", f"Card {number}.")


@request(Bank, "open_account")
def open_account(draw: Draw) -> Said:
    """One call."""
    account = draw.one(name for name in ACCOUNTS if name not in draw.state["accounts"])
    draw.call("open_account", account=account)
    return Said(f"Open a new account called {account}.", "Open a new account.", f"It is called {account}.")


@request(Bank, "find_card", "freeze_card")
def freeze_found(draw: Draw) -> Said:
    """The first call's result says which card."""
    _, account = _card(draw)
    draw.call("freeze_card", card=draw.call("find_card", account=account)["card"])
    return Said(f"Freeze the card of my {account} account.")


@request(Bank, "find_card", "set_limit")
def limit_found(draw: Draw) -> Said:
    """The first call's result says which card."""
    number, account = _card(draw)
    limit = _limit(draw, number)
    draw.call("set_limit", card=draw.call("find_card", account=account)["card"], limit=limit)
    return Said(f"Set the limit of the card of {account} to {limit}.")


@request(Bank, "get_balance", "transfer_money")
def transfer_all(draw: Draw) -> Said:
    """The first call's result says how much."""
    source, target, _ = _pair(draw)
    amount = draw.call("get_balance", account=source)["balance"]
    draw.call("transfer_money", source=source, target=target, amount=amount)
    return Said(f"Transfer everything on {source} to {target}.")


@request(Bank, "open_account", "transfer_money")
def open_and_fill(draw: Draw) -> Said:
    """The second call needs what the first has made."""
    account = draw.one(name for name in ACCOUNTS if name not in draw.state["accounts"])
    source = draw.one(draw.state["accounts"])
    amount = draw.one(n for n in AMOUNTS if n <= draw.state["accounts"][source])
    draw.call("open_account", account=account)
    draw.call("transfer_money", source=source, target=account, amount=amount)
    return Said(f"Open a new account called {account} and transfer {amount} to it from {source}.")


@request(Bank, "get_balance", "transfer_money", "get_balance")
def transfer_and_tell(draw: Draw) -> Said:
    """Three calls; the first one's result says how much."""
    source, target, _ = _pair(draw)
    amount = draw.call("get_balance", account=source)["balance"]
    draw.call("transfer_money", source=source, target=target, amount=amount)
    draw.call("get_balance", account=target)
    return Said(f"Transfer everything on {source} to {target}, then tell me the balance of {target}.")
