"""Every word that the household game can say or understand, for a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from agentrl.envs.household.generate import priors
from agentrl.envs.household.house import TASK_TYPES
from agentrl.envs.household.world import HELP, LOOKS, MIDDLE_OF_ROOM, NOTHING_HAPPENS, WELCOME

LARGEST_NUMBER = 40  # real rooms number their drawers and cabinets up to 27
_SENTENCES = (
    WELCOME,
    MIDDLE_OF_ROOM + "nothing.",
    "Your task is to: ",
    NOTHING_HAPPENS,
    HELP,
    "You are carrying: a ",
    "You are not carrying anything.",
    "You are facing the x, and y. Next to it, you see nothing.",
    "You arrive at loc 1. The x is closed. The x is open. In it, you see a y, and a z. On the x, you see nothing.",
    "You open the x. You close the x. You pick up the y from the x. You move the y to the x. You put the y in/on the x.",
    "You heat the y using the x. You cool the y using the x. You clean the y using the x.",
    "You turn on the y. You sliced the y with the z. This is a normal y. This y is on. This y is off.",
    "This is a sliced y. There's nothing special about y. nothing",
)
_COMMANDS = (
    "look", "inventory", "help", "go to x", "open x", "close x", "examine x", "take y from x", "move y to x", "put y in/on x",
    "clean y with x", "heat y with x", "cool y with x", "use y", "slice y with z",
)  # fmt: skip


def texts() -> Iterator[str]:
    """Texts that hold every word, each at the start of a text and after a space."""
    yield from _SENTENCES
    yield from (f"This is a {words} y." for _, words in LOOKS)
    for command in _COMMANDS:
        yield command
        yield f" {command}"
    for task_type in TASK_TYPES:
        for sentence in priors()["sentences"][task_type]:
            text = sentence.format(obj="y", recep="x", toggle="z")
            yield from (f"{text}.", f" {text}.")
    places, items = priors()["can_contain"], {item for found in priors()["can_contain"].values() for item in found}
    for kind in sorted({*places, *items, *priors()["locations"]}):
        yield f"{kind.lower()} {kind.lower()}"
    yield from (f" {number}" for number in range(LARGEST_NUMBER + 1))
