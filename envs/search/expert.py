"""Who plays generated questions from texts alone: reads the question, searches for what it names, notes what it is told."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl.envs.search.world import RELATIONS, Relation
from agentrl.errors import GameError
from agentrl.seeding import stream

_DOCUMENT = re.compile(r'Doc \d+\(Title: "([^"\n]*)"\) (.*)')
_ALSO = re.compile(r", also called ([^,]+),")
_NESTED = re.compile(r"the (\w+) of (.+)")
_NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")


def _pattern(template: str) -> re.Pattern[str]:
    """What a template says, with a group for each field."""
    pieces = re.split(r"\{(\w)\}", template)
    return re.compile("".join(f"(?P<{p}>.+)" if i % 2 else re.escape(p) for i, p in enumerate(pieces)))


_QUESTIONS = [(relation, _pattern(relation.question)) for relation in RELATIONS.values()]
_COMPARISONS = [(relation, _pattern(relation.first)) for relation in RELATIONS.values() if relation.first]
_SENTENCES = [(relation, _pattern(relation.sentence)) for relation in RELATIONS.values()]
_NOUNS = {relation.noun: relation for relation in RELATIONS.values() if relation.noun}


class Unknown(Exception):
    """A fact that has not been read yet; the message is the name of the thing whose it is."""


class Expert:
    """Knows how questions and passages are worded, and nothing of the world but what it was shown.

    ``noise`` is the chance of a turn at random: a search for any name that was seen, or, one time in four, one of them as the
    answer. A question seen for the first time starts new notes. Raises GameError for a noise outside [0, 1].
    """

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        if not 0 <= noise <= 1:
            raise GameError(f"wanted noise in [0, 1], got {noise!r}")
        self.noise = noise
        self._random = stream(seed, "search", "expert").random
        self.strayed = False  # whether the last action was noise
        self._begin("")

    def act(self, observation: str, admissible: Sequence[str], goal_text: str) -> str:
        """The next action. Raises GameError for a question that is worded in no known way."""
        if goal_text != self._goal:
            self._begin(goal_text)
        self._read(observation)
        self.strayed = self._random() < self.noise
        if self.strayed:
            return self._stray()
        try:
            return f"<answer> {self._answer()} </answer>"
        except Unknown as missing:
            name = str(missing)
        if name in self._asked:  # it was looked for and not found: a guess is better than the same again
            return f"<answer> {self._any()} </answer>"
        self._asked.add(name)
        return f"<search> {name} </search>"

    def read(self, question: str, texts: Sequence[str]) -> None:
        """Starts new notes: on the question, and on what the texts tell."""
        self._begin(question)
        for text in texts:
            self._read(text)

    def answer(self) -> str | None:
        """What the notes say to the question; None where a passage is missing. Raises GameError as ``act`` does."""
        try:
            return self._answer()
        except Unknown:
            return None

    def missing(self) -> str | None:
        """The name of the thing whose passage has to be read next; None where the notes answer the question."""
        try:
            self._answer()
        except Unknown as missing:
            return str(missing)
        return None

    @property
    def names(self) -> list[str]:
        """Every name that was seen."""
        return list(self._names)

    def _begin(self, goal: str) -> None:
        self._goal = goal
        self._names = dict.fromkeys(_NAME.findall(goal))  # every name that was seen
        self._facts: dict[tuple[str, str], str] = {}  # (title, relation) -> object
        self._titles: dict[str, str] = {}  # a second name -> title
        self._asked: set[str] = set()

    def _read(self, text: str) -> None:
        for title, body in _DOCUMENT.findall(text):
            if also := _ALSO.search(body):
                self._titles[also[1]] = title
                self._names.setdefault(also[1])
            self._names.setdefault(title)
            for sentence in re.findall(r"[^.]+\.", body):
                for relation, pattern in _SENTENCES:
                    told = pattern.fullmatch(sentence.strip())
                    if told and told["s"] == title:
                        self._facts[title, relation.name] = told["o"]
                        if relation.target != "year":
                            self._names.setdefault(told["o"])

    def _any(self) -> str:
        names = list(self._names)
        return names[int(self._random() * len(names))]

    def _stray(self) -> str:
        tag = "answer" if self._random() < 0.25 else "search"
        return f"<{tag}> {self._any()} </{tag}>"

    def _answer(self) -> str:
        """Raises Unknown where a fact is missing."""
        for relation, pattern in _COMPARISONS:
            if asked := pattern.fullmatch(self._goal):
                names = [self._thing(asked[side]) for side in ("a", "b")]
                years = [int(self._fact(name, relation)) for name in names]
                return names[0] if years[0] < years[1] else names[1]
        for relation, pattern in _QUESTIONS:
            if asked := pattern.fullmatch(self._goal):
                return self._fact(self._thing(asked["s"]), relation)
        raise GameError(f"the expert reads generated questions; it knows no wording like {self._goal!r:.120}")

    def _thing(self, phrase: str) -> str:
        """The name of what a phrase means."""
        nested = _NESTED.fullmatch(phrase)
        return self._fact(self._thing(nested[2]), _NOUNS[nested[1]]) if nested and nested[1] in _NOUNS else phrase

    def _fact(self, name: str, relation: Relation) -> str:
        fact = self._facts.get((self._titles.get(name, name), relation.name))
        if fact is None:
            raise Unknown(name)
        return fact
