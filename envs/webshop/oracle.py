"""Who knows which product is wanted: the shortest way there that the site offers."""

from __future__ import annotations

from collections.abc import Iterator

from agentrl.envs.webshop.reward import Goal
from agentrl.envs.webshop.site import Site, State, searchable


def plan(site: Site, state: State, goal: Goal, instruction: str) -> list[str]:
    """The actions that buy the goal's product with its options, from a state; the first are those that lead to its page. Where
    neither the instruction nor the title finds it, a search for the instruction and no more; after the purchase none."""
    place = site.catalogue.place(goal.asin)
    if state.page == "done":
        return []
    if state.page in ("item", "sub") and state.place == place:
        return [*(["click[< prev]"] if state.page == "sub" else []), *_bought(site, state, goal)]
    if place in state.hits and state.page != "search":
        return _from_results(site, state, goal, state.hits.index(place) // site.page_size + 1)
    for query in dict.fromkeys((instruction, goal.title)):
        query = searchable(query).lower()
        found = site.search(state, query, "")
        if place in found.hits:
            return [
                f"search[{query}]",
                *_from_results(site, found, goal, found.hits.index(place) // site.page_size + 1),
            ]
    return [f"search[{searchable(instruction)}]"]


def _from_results(site: Site, state: State, goal: Goal, number: int) -> list[str]:
    """From a page of results, or of a product found by them, to the page ``number`` and through it."""
    back = {"results": 0, "item": 1, "sub": 2}[state.page]
    turned = "click[next >]" if number > state.number else "click[< prev]"
    place = site.catalogue.place(goal.asin)
    assert place is not None, "it is among the hits"
    pages = [*["click[< prev]"] * back, *[turned] * abs(number - state.number)]
    return [*pages, f"click[{goal.asin.lower()}]", *_bought(site, State(page="item", place=place), goal)]


def _bought(site: Site, state: State, goal: Goal) -> Iterator[str]:
    """The options of the goal that the product has and that are not chosen yet, then the purchase."""
    clickables = site.clickables(State(page="item", place=state.place))
    for name, value in goal.options.items():
        piece = clickables.get(value)
        if piece is not None and state.options.get(piece.name.lower()) != value and piece.name.lower() == name:
            yield f"click[{value}]"
    yield "click[buy now]"
