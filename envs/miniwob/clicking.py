"""Oracles of the tasks that are won by clicks: buttons, links, boxes, tabs, menus, colours, shapes."""

from __future__ import annotations

import re

from agentrl.envs.browser.tree import Node
from agentrl.envs.miniwob.look import Look, Oracle, Puzzled, Solver, center, choose, click, hover

SHAPES = {"circle": "circle", "rect": "rectangle", "polygon": "triangle"}


def click_first_button(look: Look) -> Oracle:
    """click-test."""
    yield click(look.one("button"))


def click_button_one(look: Look) -> Oracle:
    """click-test-2, click-test-transfer: the button that the goal names in capitals."""
    yield click(look.one("button", name=look.match(r"button (\w+)")[1]))


def click_quoted_button(look: Look) -> Oracle:
    """click-button, unicode-test."""
    yield click(look.one("button", name=look.quoted[0]))


def click_sequence(look: Look) -> Oracle:
    """click-button-sequence."""
    for name in re.findall(r"button (\w+)", look.goal):
        yield click(look.one("button", name=name))


def click_quoted(look: Look) -> Oracle:
    """click-link."""
    yield click(look.named(look.quoted[0]))


def click_dialog(look: Look) -> Oracle:
    """click-dialog, click-dialog-2: the cross is called Close."""
    name = look.quoted[0]
    yield click(look.one("button", name="Close" if name == "x" else name))


def click_color(look: Look) -> Oracle:
    """click-color."""
    yield click(look.one(color=look.match(r"on the (\w+) colored")[1]))


def click_widget(look: Look) -> Oracle:
    """click-widget: a kind of field."""
    kind = look.quoted[0]
    if kind in ("text", "textarea"):
        fields = look.all("textbox")
        yield click(next(node for node in fields if ("multiline" in node.states) == (kind == "textarea")))
    else:
        yield click(look.one(kind))


def focus(look: Look) -> Oracle:
    """focus-text, focus-text-2."""
    yield click(look.all("textbox")[look.ordinal if re.search(r"\d", look.goal) else 0])


def ascending(look: Look) -> Oracle:
    """ascending-numbers."""
    yield click(look.one("graphics-symbol", name="1"))
    while rest := look.all("graphics-symbol"):  # the numbers are hidden now, in the same order
        yield click(rest[0])


def _is(node: Node, words: list[str], large: bool) -> bool:
    kind = SHAPES.get(node.name) or ("digit" if node.name.isdigit() else "letter")
    size, (color, *_) = "large" if large else "small", [str(node.states.get("fill"))]
    kinds = {kind, node.name, "item", "shape" if node.name in SHAPES else "item"}
    return all(word in kinds or word in (size, color) or (len(word) > 1 and word[:-1] in kinds) for word in words)


def _matching(look: Look, words: list[str]) -> list[Node]:
    """The shapes and signs that are all that the words say."""
    shapes = look.all("graphics-symbol")
    large = {id(node): float(str(node.states["size"]).split("x")[1]) > 14 for node in shapes}
    return [node for node in shapes if _is(node, words, large[id(node)])]


def click_shape(look: Look) -> Oracle:
    """click-shape."""
    words = look.match(r"Click on an? (.+)")[1].rstrip(".").split()
    yield click(_matching(look, words)[0])


def count_shape(look: Look) -> Oracle:
    """count-shape."""
    words = look.match(r"How many (.+) are there")[1].split()
    yield click(look.one("button", name=str(len(_matching(look, words)))))


def identify_shape(look: Look) -> Oracle:
    """identify-shape."""
    name = look.one("graphics-symbol").name
    kind = SHAPES.get(name) or ("number" if name.isdigit() else "letter")
    yield click(look.one("button", name=kind.capitalize()))


def shades(look: Look) -> Oracle:
    """click-shades: the boxes whose strongest channel is the goal's."""
    wanted = ("red", "green", "blue").index(look.match(r"shades of (\w+)")[1])
    for node in [node for node in look.all() if "color" in node.states]:
        channels = [int(part) for part in re.findall(r"\d+", str(node.states["color"]))]
        if max(channels) == channels[wanted]:
            yield click(node)
    yield look.submit()


def grid(look: Look) -> Oracle:
    """grid-coordinate: five columns and rows around the middle."""
    x, y = (int(part) for part in look.match(r"\((-?\d+),(-?\d+)\)").groups())
    points = [(node, center(node)) for node in look.all("graphics-symbol", name="circle")]
    columns = sorted({round(left) for _, (left, _) in points})
    rows = sorted({round(top) for _, (_, top) in points}, reverse=True)
    yield click(
        next(node for node, (left, top) in points if (round(left), round(top)) == (columns[x + 2], rows[y + 2]))
    )


def _names(look: Look, pattern: str) -> list[str]:
    text = look.match(pattern)[1]
    return [] if text == "nothing" else text.split(", ")


def option(look: Look) -> Oracle:
    """click-option."""
    yield click(look.one("radio", name=look.match(r"Select (.+) and click Submit")[1]))
    yield look.submit()


def checkboxes(look: Look) -> Oracle:
    """click-checkboxes, -large, -transfer."""
    names = _names(look, r"Select (.+) and click Submit")
    for node in look.all("checkbox"):
        if (node.name in names) != (node.states["checked"] == "true"):
            yield click(node)
    yield look.submit()


def scroll_list(look: Look) -> Oracle:
    """click-scroll-list, choose-list."""
    yield choose(look.one("listbox", "combobox"), *_names(look, r"Select (.+) from the"))
    yield look.submit()


def tab(look: Look) -> Oracle:
    """click-tab."""
    yield click(look.one("tab", name=look.match(r"(Tab #\d+)")[1]))


def tabs(look: Look) -> Oracle:
    """click-tab-2 and its kin, click-collapsible-2: opens one after the other until the link is there."""
    name = look.quoted[0]

    def links() -> list[Node]:
        return [node for node in look.all("generic", "link", name=name) if node.bid]

    places = range(len(look.all("tab")))
    for place in places:
        if found := [node for node in links() if not _inside_tab(look, node)]:
            yield click(found[0])
            return
        if look.all("tab")[place].states.get("expanded") != "true":
            yield click(look.all("tab")[place])
    yield click(next(node for node in links() if not _inside_tab(look, node)))


def _inside_tab(look: Look, node: Node) -> bool:
    return any(child is node for head in look.all("tab") for child in head.children)


def collapsible(look: Look) -> Oracle:
    """click-collapsible."""
    yield click(look.one("tab"))
    yield look.submit()


def menu(look: Look) -> Oracle:
    """click-menu: the mouse opens what lies below."""
    *parents, last = look.match(r"Select (.+)")[1].rstrip(".").split(">")
    for name in parents:
        yield hover(look.one("menuitem", name=name))
    yield click(look.one("menuitem", name=last))


def navigate_tree(look: Look) -> Oracle:
    """navigate-tree: opens folders until the name is there."""
    name = look.quoted[0]
    while not (found := [node for node in look.all("generic", "listitem") if name in (node.name, *_own(node))]):
        closed = [node for node in look.all() if "expandable-hitarea" in str(node.states.get("class", "")).split()]
        if not closed:
            raise Puzzled(f"no folder is closed, and {name!r} is not there")
        yield click(closed[0])
    yield click(next((node for node in found if node.role == "generic"), found[0]))


def _own(node: Node) -> list[str]:
    return [child.name for child in node.children if child.role == "StaticText"]


def phone_book(look: Look) -> Oracle:
    """phone-book: leafs through until the name stands at the top."""
    name, wanted = look.match(r"Find (\w+) in the contact book and click on their ([\w ]+)\.").groups()
    while not look.has("heading", name=name):
        yield click(look.one("link", name=">"))
    place = {"phone number": 0, "email": 1, "address": 2}[wanted]
    yield click([node for node in look.all("generic") if node.states.get("clickable")][place])


def social(look: Look) -> Oracle:
    """social-media: the button of one post, perhaps behind "more"."""
    user, name = look.match(r'For the user (@\w+), click on the "(.+)" button').groups()
    below = _posts(look)[user][0]
    if name.lower() in below:
        yield click(below[name.lower()])
    else:
        yield click(below["more"])
        rows = [node for node in look.all("listitem") if any(text.startswith(name) for text in _own(node))]
        yield click(rows[0])


def _posts(look: Look) -> dict[str, list[dict[str, Node]]]:
    """The buttons of each post, by user."""
    found: dict[str, list[dict[str, Node]]] = {}
    user = ""
    for node in look.all():
        if node.role == "StaticText" and node.name.startswith("@"):
            user = node.name
            found.setdefault(user, []).append({})
        elif user and "class" in node.states:
            found[user][-1].setdefault(str(node.states["class"]).split()[0], node)
    return found


def social_many(look: Look) -> Oracle:
    """social-media-all, social-media-some."""
    name, number, user = look.match(r'Click the "(\w+)" button on (all|\d+) posts? by (@\w+)').groups()
    posts = _posts(look)[user]
    for post in posts[: len(posts) if number == "all" else int(number)]:
        yield click(post[name.lower()])
    yield look.submit()


def ticket(look: Look) -> Oracle:
    """buy-ticket: the cheapest or the shortest."""
    buttons = look.all("button")
    costs = [int(re.findall(r"\d+", node.name)[0]) for node in buttons]
    times = [(int(a), int(b)) for a, b in re.findall(r"(\d+)h (\d+)m", " ".join(look.texts()))]
    if "cost" in look.goal:
        values: list[tuple[int, ...]] = [(cost,) for cost in costs]
        best = (max if "expensive" in look.goal else min)(values)
    else:
        values = list(times)
        best = (max if "longest" in look.goal else min)(values)
    yield click(buttons[values.index(best)])


def greatest(look: Look) -> Oracle:
    """find-greatest."""
    cards = [node for node in look.all("generic") if node.name.isdigit()]
    yield click(max(cards, key=lambda node: int(node.name)))
    yield look.submit()


def odd_or_even(look: Look) -> Oracle:
    """odd-or-even."""
    numbers = [int(text) for text in look.texts()]
    for place, number in enumerate(numbers):
        yield click(look.all("button", name="Odd" if number % 2 else "Even")[place])
    yield look.submit()


SOLVERS: dict[str, Solver] = {
    "click-test": click_first_button,
    "click-test-2": click_button_one,
    "click-test-transfer": click_button_one,
    "click-button": click_quoted_button,
    "unicode-test": click_quoted_button,
    "click-button-sequence": click_sequence,
    "click-link": click_quoted,
    "click-dialog": click_dialog,
    "click-dialog-2": click_dialog,
    "click-color": click_color,
    "click-widget": click_widget,
    "focus-text": focus,
    "focus-text-2": focus,
    "ascending-numbers": ascending,
    "click-shape": click_shape,
    "count-shape": count_shape,
    "identify-shape": identify_shape,
    "click-shades": shades,
    "grid-coordinate": grid,
    "click-option": option,
    "click-checkboxes": checkboxes,
    "click-checkboxes-large": checkboxes,
    "click-checkboxes-transfer": checkboxes,
    "click-scroll-list": scroll_list,
    "choose-list": scroll_list,
    "click-tab": tab,
    "click-tab-2": tabs,
    "click-tab-2-easy": tabs,
    "click-tab-2-medium": tabs,
    "click-tab-2-hard": tabs,
    "click-collapsible-2": tabs,
    "click-collapsible-2-nodelay": tabs,
    "click-collapsible": collapsible,
    "click-collapsible-nodelay": collapsible,
    "click-menu": menu,
    "navigate-tree": navigate_tree,
    "phone-book": phone_book,
    "social-media": social,
    "social-media-all": social_many,
    "social-media-some": social_many,
    "buy-ticket": ticket,
    "find-greatest": greatest,
    "odd-or-even": odd_or_even,
}
