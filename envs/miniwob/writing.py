"""Oracles of the tasks that are won by texts, dates, numbers, drags and points."""

from __future__ import annotations

import re

from agentrl.envs.browser.actions import Action
from agentrl.envs.browser.tree import Node
from agentrl.envs.miniwob.look import Look, Oracle, Puzzled, Solver, center, click, click_at, drag, fill, press

MONTHS = (
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
)  # fmt: skip


def enter_quoted(look: Look) -> Oracle:
    """enter-text, enter-text-dynamic, enter-password: the goal's text into all fields."""
    for place in range(len(look.all("textbox"))):
        yield fill(look.all("textbox")[place], look.quoted[0])
    yield look.submit()


def enter_cased(look: Look) -> Oracle:
    """enter-text-2."""
    text = look.quoted[0]
    yield fill(look.one("textbox"), text.upper() if "upper" in look.goal else text.lower())
    yield look.submit()


def login(look: Look) -> Oracle:
    """login-user, login-user-popup: what asks in between is told no."""
    for place, text in enumerate(look.quoted[:2]):
        yield fill(look.all("textbox")[place], text)
        if look.has("button", name="Cancel"):
            yield look.submit("Cancel")
            yield fill(look.all("textbox")[place], text)
    yield click(look.one("button"))


def enter_date(look: Look) -> Oracle:
    """enter-date."""
    month, day, year = look.match(r"(\d\d)/(\d\d)/(\d{4})").groups()
    yield fill(look.one("Date"), f"{year}-{month}-{day}")
    yield look.submit()


def enter_time(look: Look) -> Oracle:
    """enter-time."""
    hour, minute, half = look.match(r"(\d+):(\d\d) ([AP])M").groups()
    yield fill(look.one("InputTime"), f"{int(hour) % 12 + 12 * (half == 'P'):02}:{minute}")
    yield look.submit()


def copy(look: Look) -> Oracle:
    """copy-paste, copy-paste-2: from the area with the text into the field without."""
    areas = [node for node in look.all("textbox") if "multiline" in node.states]
    target = next(node for node in look.all("textbox") if "multiline" not in node.states)
    source = areas[look.ordinal if re.search(r"\d", look.goal) else 0]
    yield fill(target, source.value or "")
    yield look.submit()


def find_word(look: Look) -> Oracle:
    """find-word."""
    words = " ".join(look.texts()).split()
    yield fill(look.one("textbox"), words[look.ordinal].strip(".,"))
    yield look.submit()


def last_word(look: Look) -> Oracle:
    """scroll-text."""
    source, target = look.all("textbox")[:2]
    yield fill(target, (source.value or "").split()[-1].strip(".,"))
    yield look.submit()


def transform(look: Look) -> Oracle:
    """text-transform: the letters as they stand."""
    yield fill(look.one("textbox"), "".join(look.texts()))
    yield look.submit()


def _table(look: Look) -> dict[str, str]:
    cells = [node.name for node in look.all("cell")]
    return dict(zip(cells[::2], cells[1::2], strict=False))


def read_table(look: Look) -> Oracle:
    """read-table."""
    yield fill(look.one("textbox"), _table(look)[look.match(r"value of (.+) into")[1]])
    yield look.submit()


def read_table_2(look: Look) -> Oracle:
    """read-table-2."""
    labels = [text.rstrip(":") for text in look.texts() if text.endswith(":")]
    for place, label in enumerate(labels):
        yield fill(look.all("textbox")[place], _table(look)[label])
    yield look.submit()


def arithmetic(look: Look) -> Oracle:
    """simple-arithmetic."""
    match = re.search(r"(-?\d+) ([x+-]) (-?\d+)", " ".join(look.texts()))
    if match is None:
        raise Puzzled("no sum is on the page")
    one, two = int(match[1]), int(match[3])
    yield fill(look.one("textbox"), str({"x": one * two, "+": one + two, "-": one - two}[match[2]]))
    yield look.submit()


def algebra(look: Look) -> Oracle:
    """simple-algebra: x beside a number and a plus or minus."""
    match = re.search(r"(x|-?\d+) ([+-]) (x|-?\d+) = (-?\d+)", " ".join(look.texts()))
    if match is None:
        raise Puzzled("no equation is on the page")
    left, sign, right, result = match.groups()
    if left == "x":
        value = int(result) - int(right) if sign == "+" else int(result) + int(right)
    else:
        value = int(result) - int(left) if sign == "+" else int(left) - int(result)
    yield fill(look.one("textbox"), str(value))
    yield look.submit()


def autocomplete(look: Look) -> Oracle:
    """use-autocomplete: the start, then the suggestion with the right end."""
    start, *end = look.quoted
    yield fill(look.one("textbox"), start)
    found = [node for node in look.all("menuitem", "option", "listitem", "generic") if node.bid]
    suitable = [
        node for node in found if _label(node).startswith(start) and _label(node).endswith(end[0] if end else "")
    ]
    yield click(suitable[0])
    yield look.submit()


def _label(node: Node) -> str:
    return node.name or " ".join(child.name for child in node.children if child.role == "StaticText")


def spinner(look: Look) -> Oracle:
    """use-spinner."""
    yield fill(look.one("spinbutton"), look.match(r"Select (-?\d+)")[1])
    yield look.submit()


def search_engine(look: Look) -> Oracle:
    """search-engine: three results a page."""
    place = look.ordinal
    yield fill(look.one("textbox"), look.quoted[0])
    yield click(look.one("button", name="Search"))
    if place // 3:
        yield click(look.one("link", name=str(place // 3 + 1)))
    results = [node for node in look.all("link") if not node.name.isdigit() and node.name not in "<>"]
    yield click(results[place % 3])


def movies(look: Look) -> Oracle:
    """multi-layouts, multi-orderings: fields in any order, under names that say what they take."""
    genre, director, year = look.match(r"Search for (\w+) movies directed by (\w+) from year (\d+)").groups()
    label = ""
    wanted: dict[str, str] = {}
    parts = look.all()
    if next(node.role for node in parts if node.role in ("StaticText", "textbox")) == "textbox":
        parts.reverse()  # the names stand below their fields
    for node in parts:
        if node.role in ("StaticText", "columnheader", "cell", "heading") and node.name:
            label = node.name.lower()
        elif node.role in ("textbox", "spinbutton") and node.bid:
            text = director if "direct" in label else genre if "genre" in label else year
            wanted[node.bid] = text
    for bid, text in wanted.items():
        yield Action("fill", (bid, text))
    last = [node for node in look.all("button", "generic") if node.bid and node.name]
    yield click(last[-1])


def choose_date(look: Look) -> Oracle:
    """choose-date and its kin: leafs back through a calendar."""
    month, day, year = (int(part) for part in look.match(r"(\d+)/(\d+)/(\d{4})").groups())
    yield click(look.one("textbox"))
    for _ in range(24):
        shown = re.search(rf"({'|'.join(MONTHS)})\s+(\d{{4}})", " ".join(look.texts()))
        if shown is None:
            raise Puzzled("no calendar is on the page")
        ahead = (int(shown[2]) - year) * 12 + MONTHS.index(shown[1]) + 1 - month
        if not ahead:
            break
        yield click(next(node for node in look.all() if node.bid and node.name == ("Prev" if ahead > 0 else "Next")))
    yield click(look.one("link", name=str(day)))
    yield look.submit()


def generate(look: Look) -> Oracle:
    """generate-number: again until it is right."""
    while not _right(look):
        yield click(look.one("button", name="Generate"))
    yield look.submit()


def _right(look: Look) -> bool:
    text = look.texts()[0]
    if not re.fullmatch(r"-?\d+", text):
        return False
    number = int(text)
    if bound := re.search(r"(less|greater) than (-?\d+)", look.goal):
        return number < int(bound[2]) if bound[1] == "less" else number > int(bound[2])
    return number % 2 == ("odd" in look.goal)


def guess(look: Look) -> Oracle:
    """guess-number: halves what is left."""
    low, high = (int(part) for part in look.match(r"between (\d+)-(\d+)").groups())
    while low <= high:
        number = (low + high) // 2
        yield fill(look.one("spinbutton"), str(number))
        yield look.submit()
        told = " ".join(look.texts())
        if "higher" in told:
            low = number + 1
        elif "lower" in told:
            high = number - 1
        else:
            return


def form_2(look: Look) -> Oracle:
    """form-sequence-2."""
    radio = look.match(r"Check the (\d+)\w\w radio")[1]
    number, box = look.match(r"number \"(-?\d+)\" into the (\d+)\w\w textbox").groups()
    yield click(look.all("radio")[int(radio) - 1])
    yield fill(look.all("textbox")[int(box) - 1], number)
    yield look.submit()


def read_email(look: Look) -> Oracle:
    """email-inbox and its kin: star, delete, reply or forward, whatever the sentence."""
    by, task, to, text = _asked(look)
    row = next(node for node in look.all("generic") if node.bid and by in [one.name for one in node.children])
    if task in ("star", "delete"):
        icon = "star" if task == "star" else "trash"
        yield click(next(node for node in row.children if icon in str(node.states.get("class", "")).split()))
        return
    yield click(row)
    yield click(look.named(task.capitalize()))
    fields = look.all("textbox")
    yield fill(fields[-1], text) if task == "reply" else fill(fields[0], to)
    yield click(look.one("generic", **{"class": f"send-{task}"}))


def _asked(look: Look) -> tuple[str, str, str, str]:
    """(sender, task, to whom, text) of an e-mail task."""
    if look.fields:
        task = look.fields.get("task", "forward")
        return look.fields["by"], task, look.fields.get("to", ""), look.fields.get("message", "")
    by = look.match(r"email by ([\w-]+)")[1]
    if "star icon" in look.goal:
        return by, "star", "", ""
    if "trash icon" in look.goal:
        return by, "delete", "", ""
    if "forward" in look.goal:
        return by, "forward", look.match(r"forward that email to ([\w-]+)")[1], ""
    return by, "reply", "", look.quoted[0]


# ── points and drags ─────────────────────────────────────────────────────────────────────────────────────────────────


def circle_center(look: Look) -> Oracle:
    """circle-center."""
    yield click_at(*center(look.one("graphics-symbol", name="circle")))
    yield look.submit()


def midpoint(look: Look) -> Oracle:
    """find-midpoint."""
    (x, y), (u, v) = (center(node) for node in look.all("graphics-symbol", name="circle")[:2])
    yield click_at((x + u) / 2, (y + v) / 2)
    yield look.submit()


def line(look: Look) -> Oracle:
    """draw-line: through the dot."""
    x, y = center(look.one("graphics-symbol", name="circle"))
    upright = "vertical" in look.goal
    yield drag((x, y - 25) if upright else (x - 25, y), (x, y + 25) if upright else (x + 25, y))
    yield look.submit()


def drag_way(look: Look) -> Oracle:
    """drag-circle, drag-single-shape: 30 pixels to where the goal says."""
    way = look.match(r"Drag the \w+ (\w+)")[1]
    x, y = center(look.one("graphics-symbol"))
    right, down = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[way]
    yield drag((x, y), (x + 30 * right, y + 30 * down))
    yield look.submit()


def drag_box(look: Look) -> Oracle:
    """drag-box: the small one into the middle of the large one."""
    yield drag(center(look.named("s")), center(look.named("L")))
    yield look.submit()


def drag_shapes(look: Look) -> Oracle:
    """drag-shapes: all of a kind into the box."""
    kind = {"circles": "circle", "squares": "rect", "rectangles": "rect", "triangles": "polygon"}[
        look.match(r"all (\w+) into")[1]
    ]
    box = next(node for node in look.all("graphics-symbol", fill="none", stroke="black"))
    for node in [
        node for node in look.all("graphics-symbol", name=kind) if node is not box and node.states.get("clickable")
    ]:
        yield drag(center(node), center(box))
    yield look.submit()


def sort_numbers(look: Look) -> Oracle:
    """drag-sort-numbers: each to its place, from the top."""
    for place in range(len(look.all("listitem"))):
        rows = look.all("listitem")
        values = [int(row.children[0].name) for row in rows]
        least = values.index(min(values[place:]), place)
        if least != place:
            x, y = center(rows[place])
            yield drag(center(rows[least]), (x, y - 8))
    yield look.submit()


def end_of_text(look: Look) -> Oracle:
    """scroll-text-2: to the top or the bottom."""
    yield press(look.one("textbox"), "Control+Home" if "top" in look.goal else "Control+End")
    yield look.submit()


SOLVERS: dict[str, Solver] = {
    "enter-text": enter_quoted,
    "enter-text-dynamic": enter_quoted,
    "enter-password": enter_quoted,
    "enter-text-2": enter_cased,
    "login-user": login,
    "login-user-popup": login,
    "enter-date": enter_date,
    "enter-time": enter_time,
    "copy-paste": copy,
    "copy-paste-2": copy,
    "find-word": find_word,
    "scroll-text": last_word,
    "text-transform": transform,
    "read-table": read_table,
    "read-table-2": read_table_2,
    "simple-arithmetic": arithmetic,
    "simple-algebra": algebra,
    "use-autocomplete": autocomplete,
    "use-autocomplete-nodelay": autocomplete,
    "use-spinner": spinner,
    "search-engine": search_engine,
    "multi-layouts": movies,
    "multi-orderings": movies,
    "choose-date": choose_date,
    "choose-date-easy": choose_date,
    "choose-date-medium": choose_date,
    "choose-date-nodelay": choose_date,
    "generate-number": generate,
    "guess-number": guess,
    "form-sequence-2": form_2,
    "email-inbox": read_email,
    "email-inbox-delete": read_email,
    "email-inbox-forward": read_email,
    "email-inbox-forward-nl": read_email,
    "email-inbox-forward-nl-turk": read_email,
    "email-inbox-important": read_email,
    "email-inbox-nl-turk": read_email,
    "email-inbox-noscroll": read_email,
    "email-inbox-reply": read_email,
    "email-inbox-star-reply": read_email,
    "circle-center": circle_center,
    "find-midpoint": midpoint,
    "draw-line": line,
    "drag-circle": drag_way,
    "drag-single-shape": drag_way,
    "drag-box": drag_box,
    "drag-shapes": drag_shapes,
    "drag-sort-numbers": sort_numbers,
    "scroll-text-2": end_of_text,
}
