"""A shop: products, their choices, a cart, and a button that pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentrl.envs.browser.elements import Element, button, combobox, heading, items, link, text
from agentrl.envs.browser.levels import Level
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.words import Words

TYPES = ("shop_buy", "shop_amount", "shop_cart")
AMOUNTS = ("1", "2", "3", "4")


def draw(kind: str, level: Level, words: Words) -> tuple[str, dict[str, Any]]:
    """A goal about one product. Things stand there in several colours, so both have to be read."""
    random = words.random
    n = random.randint(*level.items)
    things = words.some("thing", max(2, (n + 1) // 2))
    colours = words.some("colour", 3)
    pairs = [f"{colour} {thing}" for thing in things for colour in colours]
    products = random.sample(pairs, min(n, len(pairs)))
    prices = random.sample(range(2, 60), len(products))
    wanted = random.choice(products)
    amount = random.choice(AMOUNTS[1:]) if kind == "shop_amount" else "1"
    others = [one for one in products if one != wanted]
    cart = (
        [[one, "1"] for one in random.sample([wanted, *others], min(3, len(products)))] if kind == "shop_cart" else []
    )
    if cart and wanted not in (row[0] for row in cart):
        wanted = cart[0][0]
    spec = {
        "products": [[name, price] for name, price in zip(products, prices, strict=True)],
        "cart": cart,
        "wanted": [row for row in cart if row[0] != wanted] if kind == "shop_cart" else [[wanted, amount]],
        "shown": level.shown,
        "target": wanted,
    }
    goals = {
        "shop_buy": f"Buy the {wanted}.",
        "shop_amount": f"Buy the {wanted}, amount {amount}.",
        "shop_cart": f"Take the {wanted} out of the cart, then pay.",
    }
    return goals[kind], spec


class ShopPage(Page):
    """A shop of ``spec["products"]`` ([name, price]), ``shown`` at a time, with ``spec["cart"]`` already chosen. Paying is
    right where the cart then is ``spec["wanted"]`` ([name, amount])."""

    url = "/shop"
    title = "Shop"

    def start(self) -> dict[str, Any]:
        return {"at": "shop", "page": 0, "open": 0, "cart": [list(row) for row in self.spec["cart"]]}

    @property
    def place(self) -> str:
        at = self.state["at"]
        return {"shop": "/shop", "cart": "/cart"}.get(at, f"/shop/{self.state['open'] + 1}")

    def view(self) -> Sequence[Element]:
        at = self.state["at"]
        return self._cart() if at == "cart" else self._product() if at == "product" else self._shop()

    def _shop(self) -> list[Element]:
        products, size = self.spec["products"], self.spec["shown"]
        first = self.state["page"] * size
        numbers = range(first, min(first + size, len(products)))
        rows = [[link(products[n][0], f"p{n}", f"open:{n}"), text(f"{products[n][1]} euro")] for n in numbers]
        turn = [button("Back", "back", disabled=first == 0)] if len(products) > size else []
        turn += [button("Next", "next", disabled=first + size >= len(products))] if len(products) > size else []
        return [heading("Shop"), items(*rows), *turn, link("Cart", "cart")]

    def _product(self) -> list[Element]:
        name, price = self.spec["products"][self.state["open"]]
        return [
            heading(name),
            text(f"{price} euro"),
            combobox("Amount", "amount", AMOUNTS),
            button("Add to cart", "add"),
            link("Shop", "shop"),
        ]

    def _cart(self) -> list[Element]:
        cart = self.state["cart"]
        rows = [
            [text(f"{amount} {name}"), button(f"Remove {name}", f"remove:{name}", f"remove:{name}")]
            for name, amount in cart
        ]
        return [heading("Cart"), items(*rows), button("Pay", "pay", disabled=not cart), link("Shop", "shop")]

    def handle(self, event: str) -> None:
        name, _, argument = event.partition(":")
        state = self.state
        if name in ("back", "next"):
            state["page"] += 1 if name == "next" else -1
        elif name == "open":
            state["at"], state["open"] = "product", int(argument)
            self.forget("amount")
        elif name in ("cart", "shop"):
            state["at"] = name
        elif name == "add":
            state["cart"].append([self.spec["products"][state["open"]][0], self.written("amount", AMOUNTS[0])])
            state["at"] = "cart"
        elif name == "remove":
            state["cart"] = [row for row in state["cart"] if row[0] != argument]
        elif name == "pay":
            self.end(sorted(state["cart"]) == sorted(self.spec["wanted"]))

    def wish(self) -> Wish:
        state, wanted = self.state, self.spec["wanted"]
        bad = [row for row in state["cart"] if row not in wanted or state["cart"].count(row) > 1]
        missing = [row for row in wanted if row not in state["cart"]]
        if bad or not missing:
            if state["at"] == "cart":
                return Wish("click", f"remove:{bad[0][0]}" if bad else "pay")
            return Wish("click", "shop" if state["at"] == "product" else "cart")
        number = [product[0] for product in self.spec["products"]].index(missing[0][0])
        if state["at"] == "product" and state["open"] == number:
            if self.written("amount", AMOUNTS[0]) != missing[0][1]:
                return Wish("select_option", "amount", missing[0][1])
            return Wish("click", "add")
        if state["at"] != "shop":
            return Wish("click", "shop")
        page = number // self.spec["shown"]
        if page != state["page"]:
            return Wish("click", "next" if page > state["page"] else "back")
        return Wish("click", f"p{number}")

    def sought(self) -> str:
        target = self.spec["target"]
        if self.spec["cart"]:
            return f"remove:{target}"
        return f"p{[product[0] for product in self.spec['products']].index(target)}"
