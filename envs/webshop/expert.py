"""Who shops by reading only: compares what pages say with what the instruction wants, goes on where it does not fit, and buys."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl.envs.webshop.categories import KINDS
from agentrl.envs.webshop.site import SEPARATOR, parsed
from agentrl.errors import GameError
from agentrl.seeding import stream

_WANTED = re.compile(r"Find me (.+?)(?: with ((?:[a-z]+: ).+?))?(?:, and price lower than ([\d.]+) dollars)?$")
_MARKS = re.compile(r"\[(?:clicked )?button_?\]|\[clicked button_\]")


class Expert:
    """Knows how generated instructions and pages are worded.

    Searches for what the instruction names; opens the first result that names the kind and costs no more than the cap, unless its
    title lacks a wanted attribute that titles there tell; on its page wants every option's value and, where the title does not tell
    them, the attributes among its features; chooses the options, buys. What does not fit is not opened again. ``noise`` is the
    chance of a turn at random, any of the admissible actions. Raises GameError for a noise outside [0, 1].
    """

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        if not 0 <= noise <= 1:
            raise GameError(f"wanted noise in [0, 1], got {noise!r}")
        self.noise = noise
        self._random = stream(seed, "webshop", "expert").random
        self.strayed = False  # whether the last action was noise
        self._begin("")

    def act(self, observation: str, admissible: Sequence[str], goal_text: str) -> str:
        """The next action. Raises GameError for an instruction that is worded in no known way."""
        pieces = _pieces(observation)
        if goal_text != self._goal:
            self._begin(goal_text)
        planned = self._planned(pieces, admissible)
        self.strayed = self._random() < self.noise
        action = admissible[int(self._random() * len(admissible))] if self.strayed else planned
        self._note(action, pieces)
        return action

    def _begin(self, goal: str) -> None:
        self._goal = goal
        self._rejected: set[str] = set()
        self._clicked: set[str] = set()
        self._asin = ""
        self._told: dict[str, bool] = {}  # asin -> whether its features told all that its title did not
        if not goal:
            return
        match = _WANTED.fullmatch(goal)
        named = [query for query in KINDS if match and re.search(rf"\b{re.escape(query)}\b", match[1])]
        if match is None or not named:
            raise GameError(f"the expert reads generated instructions; it knows no wording like {goal!r:.120}")
        self._kind = KINDS[max(named, key=len)]
        rest = match[1].replace(self._kind.query, ",").replace(" with ", ",")
        self._attributes = [part.strip() for part in rest.split(",") if part.strip()]
        self._options = [part.partition(": ")[2] for part in (match[2] or "").split(", and ") if part]
        self._cap = float(match[3]) if match[3] else float("inf")

    def _planned(self, pieces: list[str], admissible: Sequence[str]) -> str:
        if any(action.startswith("search[") for action in admissible):
            return f"search[{' '.join([*self._attributes, self._kind.query])}]"
        if "click[buy now]" in admissible:
            return self._on_item(pieces, admissible)
        if "click[next >]" not in admissible:
            return self._on_features(pieces)
        return self._on_results(pieces, admissible)

    def _on_results(self, pieces: list[str], admissible: Sequence[str]) -> str:
        places = [place for place, piece in enumerate(pieces) if f"click[{piece.lower()}]" in admissible]
        for place in places:
            asin, rest = pieces[place], pieces[place + 1 : place + 3]
            if len(rest) == 2 and rest[1].startswith("$") and asin not in self._rejected and self._fits(*rest):
                return f"click[{asin.lower()}]"
        last = not any(piece.startswith("$") for piece in pieces)
        if last:
            self._rejected.clear()  # all were looked at: begin again
            return "click[back to search]"
        return "click[next >]"

    def _fits(self, title: str, price: str) -> bool:
        lower = title.lower()
        if self._kind.noun not in lower or float(price.split(" ")[0].lstrip("$")) > self._cap:
            return False
        told = sum(attribute in lower for attribute in self._attributes)
        return told == len(self._attributes) or (told > 0 and title != lower)  # titles in lower case hide nothing

    def _on_item(self, pieces: list[str], admissible: Sequence[str]) -> str:
        title = next(
            (piece.lower() for piece in pieces if self._kind.noun in piece.lower() and piece != self._goal), ""
        )
        missing = [attribute for attribute in self._attributes if attribute not in title]
        offered = all(f"click[{value}]" in admissible for value in self._options)
        if not offered or not title or self._told.get(self._asin) is False:
            return "click[< prev]"
        if missing and self._asin not in self._told:
            return "click[features]"
        return next((f"click[{value}]" for value in self._options if value not in self._clicked), "click[buy now]")

    def _on_features(self, pieces: list[str]) -> str:
        page = " ".join(piece for piece in pieces if piece != self._goal).lower()
        self._told.setdefault(self._asin, all(attribute in page for attribute in self._attributes))
        return "click[< prev]"

    def _note(self, action: str, pieces: list[str]) -> None:
        """Keeps what the action changes: the product looked at, the options chosen, those that did not fit."""
        name, argument = parsed(action)
        shown = {piece.lower(): piece for piece in pieces}
        opened = argument in shown and shown[argument] == argument.upper() and re.fullmatch(r"b[0-9a-z]+", argument)
        if name == "search" or argument == "back to search":
            self._clicked.clear()
        elif opened:
            self._asin = shown[argument]
            self._clicked.clear()
        elif argument == "< prev" and "Buy Now" in pieces:
            self._rejected.add(self._asin)
            self._clicked.clear()
        else:
            self._clicked.add(argument)


def _pieces(observation: str) -> list[str]:
    """The texts of a page, whatever the mode."""
    if SEPARATOR in observation:
        return observation.split(SEPARATOR)
    return [text for line in observation.splitlines() if (text := _MARKS.sub("", line).strip())]
