"""The back end ``orders``: a shop's stock and what was ordered from it."""

from __future__ import annotations

from random import Random
from typing import Annotated, Literal

from pydantic import Field

from agentrl.envs.functions.service import Draw, Said, Service, among, request, wanted
from agentrl.errors import ToolError
from agentrl.tool import tool
from agentrl.types import Json

ITEMS = ("chair", "desk", "kettle", "mirror", "pillow", "radio", "blanket", "clock", "basket", "vase", "rug", "toaster")
CITIES = ("Lisbon", "Oslo", "Vienna", "Prague", "Athens", "Dublin")
PRICES = (20, 30, 40, 50, 60, 80)
REASONS = ("broken", "late", "unwanted")


class Orders(Service):
    """Stock by item, orders by number."""

    name = "orders"

    @classmethod
    def start(cls, random: Random, size: int) -> dict[str, Json]:
        """``size`` orders of different items, and two more items."""
        items = random.sample(ITEMS, min(size + 2, len(ITEMS)))
        numbers = sorted(random.sample(range(11, 60), size))
        orders = {
            str(number): {
                "item": item,
                "count": random.randint(1, 4),
                "city": random.choice(CITIES),
                "express": random.random() < 0.3,
                "status": random.choice(("open", "open", "delivered")),
            }
            for number, item in zip(numbers, items[:size], strict=True)
        }
        stock = {item: {"price": random.choice(PRICES), "left": random.randint(5, 9)} for item in sorted(items)}
        return {"stock": stock, "orders": orders, "next": 60}

    @tool
    def check_item(self, item: str) -> dict[str, Json]:
        """Gives the price of an item and how many are left.

        Args:
            item: The item's name.
        """
        return {"item": item, **wanted(self.state["stock"], item, "item")}

    @tool
    def find_order(self, item: str) -> dict[str, Json]:
        """Finds the number of the order of an item.

        Args:
            item: The item's name.
        """
        found = [int(number) for number, order in self.state["orders"].items() if order["item"] == item]
        if not found:
            raise ToolError(f"there is no order of {item[:40]}")
        return {"item": item, "order": min(found)}

    @tool
    def show_order(self, order: int) -> dict[str, Json]:
        """Shows an order: item, count, city and status.

        Args:
            order: The order's number.
        """
        return {"order": order, **self._order(order)}

    @tool
    def place_order(
        self, item: str, city: str, count: Annotated[int, Field(ge=1)] = 1, express: bool = False
    ) -> dict[str, Json]:
        """Orders an item.

        Args:
            item: The item's name.
            city: Where it is sent.
            count: How many.
            express: Whether it is sent by express.
        """
        stock = wanted(self.state["stock"], item, "item")
        among(city, CITIES, "city")
        if stock["left"] < count:
            raise ToolError(f"only {stock['left']} of {item} are left")
        stock["left"] -= count
        number, self.state["next"] = self.state["next"], self.state["next"] + 1
        order = {"item": item, "count": count, "city": city, "express": express, "status": "open"}
        self.state["orders"][str(number)] = order
        return {"order": number, **order}

    @tool
    def cancel_order(self, order: int) -> dict[str, Json]:
        """Cancels an open order.

        Args:
            order: The order's number.
        """
        found = self._with_status(order, "open")
        found["status"] = "cancelled"
        self.state["stock"][found["item"]]["left"] += found["count"]
        return {"cancelled order": order}

    @tool
    def change_city(self, order: int, city: str) -> dict[str, Json]:
        """Changes where an open order is sent.

        Args:
            order: The order's number.
            city: Where it is sent now.
        """
        found = self._with_status(order, "open")
        found["city"] = among(city, CITIES, "city")
        return {"order": order, "city": city}

    @tool
    def change_count(self, order: int, count: Annotated[int, Field(ge=1)]) -> dict[str, Json]:
        """Changes how many of its item an open order has.

        Args:
            order: The order's number.
            count: How many now.
        """
        found = self._with_status(order, "open")
        stock = self.state["stock"][found["item"]]
        if stock["left"] + found["count"] < count:
            raise ToolError(f"only {stock['left']} of {found['item']} are left")
        stock["left"] += found["count"] - count
        found["count"] = count
        return {"order": order, "count": count}

    @tool
    def return_order(self, order: int, reason: Literal["broken", "late", "unwanted"]) -> dict[str, Json]:
        """Sends a delivered order back.

        Args:
            order: The order's number.
            reason: Why.
        """
        found = self._with_status(order, "delivered")
        found["status"] = f"returned: {reason}"
        return {"order": order, "returned": reason}

    def _order(self, number: int) -> dict[str, Json]:
        return wanted(self.state["orders"], str(number), "order")

    def _with_status(self, number: int, status: str) -> dict[str, Json]:
        found = self._order(number)
        if found["status"] != status:
            raise ToolError(f"order {number} is {found['status']}, not {status}")
        return found


def _order(draw: Draw, status: str = "") -> tuple[int, str]:
    """The number of an order of that status (any by default) and its item, which no other order has."""
    items = [order["item"] for order in draw.state["orders"].values()]
    number = draw.one(
        n
        for n, order in draw.state["orders"].items()
        if items.count(order["item"]) == 1 and status in ("", order["status"])
    )
    return int(number), draw.state["orders"][number]["item"]


def _city(draw: Draw, number: int) -> str:
    """A city that the order is not sent to."""
    return draw.one(city for city in CITIES if city != draw.state["orders"][str(number)]["city"])


def _count(draw: Draw, number: int) -> int:
    """Another count that there is enough for."""
    order = draw.state["orders"][str(number)]
    most = draw.state["stock"][order["item"]]["left"] + order["count"]
    return draw.one(n for n in range(1, min(most, 9) + 1) if n != order["count"])


@request(Orders, "check_item")
def check_item(draw: Draw) -> Said:
    """One call."""
    item = draw.one(draw.state["stock"])
    draw.call("check_item", item=item)
    text = draw.one((f"What does a {item} cost?", f"How many of the item {item} are left?"))
    return Said(text, "What does an item cost?", f"The {item}.")


@request(Orders, "show_order")
def show_order(draw: Draw) -> Said:
    """One call."""
    number, _ = _order(draw)
    draw.call("show_order", order=number)
    return Said(f"Show me order {number}.", "Show me an order.", f"Order {number}.")


@request(Orders, "place_order")
def place_order(draw: Draw) -> Said:
    """One call; count and express may be left to their defaults."""
    item, city = draw.one(draw.state["stock"]), draw.one(CITIES)
    count, express = draw.one((None, 2, 3)), draw.random.random() < 0.3
    more = ({} if count is None else {"count": count}) | ({"express": True} if express else {})
    draw.call("place_order", item=item, city=city, **more)
    what = f"a {item}" if count is None else f"{count} of the item {item}"
    how = " by express" if express else ""
    return Said(f"Order {what} to {city}{how}.", f"Order {what}{how}.", f"To {city}.")


@request(Orders, "cancel_order")
def cancel_order(draw: Draw) -> Said:
    """One call."""
    number, _ = _order(draw, "open")
    draw.call("cancel_order", order=number)
    return Said(f"Cancel order {number}.", "Cancel an order.", f"Order {number}.")


@request(Orders, "change_city")
def change_city(draw: Draw) -> Said:
    """One call."""
    number, _ = _order(draw, "open")
    city = _city(draw, number)
    draw.call("change_city", order=number, city=city)
    return Said(f"Send order {number} to {city}.", f"Send order {number} to another city.", f"To {city}.")


@request(Orders, "change_count")
def change_count(draw: Draw) -> Said:
    """One call."""
    number, _ = _order(draw, "open")
    count = _count(draw, number)
    draw.call("change_count", order=number, count=count)
    return Said(
        f"Change the count of order {number} to {count}.", f"Change the count of order {number}.", f"To {count}."
    )


@request(Orders, "return_order")
def return_order(draw: Draw) -> Said:
    """One call."""
    (number, _), reason = _order(draw, "delivered"), draw.one(REASONS)
    draw.call("return_order", order=number, reason=reason)
    return Said(
        f"Send order {number} back: it is {reason}.", f"Send an order back: it is {reason}.", f"Order {number}."
    )


@request(Orders, "find_order", "cancel_order")
def cancel_found(draw: Draw) -> Said:
    """The first call's result says which order."""
    _, item = _order(draw, "open")
    draw.call("cancel_order", order=draw.call("find_order", item=item)["order"])
    return Said(f"Cancel my order of a {item}.")


@request(Orders, "find_order", "show_order")
def show_found(draw: Draw) -> Said:
    """The first call's result says which order."""
    _, item = _order(draw)
    draw.call("show_order", order=draw.call("find_order", item=item)["order"])
    return Said(f"Show me my order of a {item}.")


@request(Orders, "find_order", "change_city")
def redirect_found(draw: Draw) -> Said:
    """The first call's result says which order."""
    number, item = _order(draw, "open")
    city = _city(draw, number)
    draw.call("change_city", order=draw.call("find_order", item=item)["order"], city=city)
    return Said(f"Send my order of a {item} to {city}.")


@request(Orders, "find_order", "return_order")
def return_found(draw: Draw) -> Said:
    """The first call's result says which order."""
    (_, item), reason = _order(draw, "delivered"), draw.one(REASONS)
    draw.call("return_order", order=draw.call("find_order", item=item)["order"], reason=reason)
    return Said(f"Send my order of a {item} back: it is {reason}.")


@request(Orders, "find_order", "cancel_order", "place_order")
def replace_found(draw: Draw) -> Said:
    """Three calls; the first one's result says which order."""
    (_, item), city = _order(draw, "open"), draw.one(CITIES)
    other = draw.one(thing for thing in draw.state["stock"] if thing != item)
    draw.call("cancel_order", order=draw.call("find_order", item=item)["order"])
    draw.call("place_order", item=other, city=city)
    return Said(f"Cancel my order of a {item} and order a {other} to {city} instead.")
