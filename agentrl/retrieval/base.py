"""What every retriever gives, and the form in which Search-R1 writes a passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from agentrl.errors import GameError


class Passage(NamedTuple):
    """One document of a corpus."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title and text as one, in Search-R1's form.

        >>> Passage("7", "Oslo", "A city.").contents
        '"Oslo"\\nA city.'
        """
        return f'"{self.title}"\n{self.text}'


class Hit(NamedTuple):
    """A passage that was found. A higher ``score`` is nearer; scores of different queries do not compare."""

    id: str
    title: str
    text: str
    score: float

    @property
    def passage(self) -> Passage:
        """The same without its score."""
        return Passage(self.id, self.title, self.text)


class Retriever(Protocol):
    """Finds passages. ``remote`` says that it waits for another machine, so that others should go on meanwhile."""

    remote: bool

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query at most ``k`` hits, best first. Raises ToolFault where what it stands on is down."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def passage_of(row: Any) -> Passage:
    """A passage from a row of Search-R1's form, ``{"id", "contents"}``, or from one with ``title`` and ``text``. Raises GameError
    for anything else.

    >>> passage_of({"id": 3, "contents": '"Oslo"\\nA city.'})
    Passage(id='3', title='Oslo', text='A city.')
    """
    if isinstance(row, dict) and isinstance(row.get("id"), int | str):
        contents, title, text = row.get("contents"), row.get("title"), row.get("text")
        if isinstance(contents, str):
            first, _, rest = contents.partition("\n")
            first = first.strip()
            quoted = len(first) > 1 and first[0] == first[-1] == '"'
            return Passage(str(row["id"]), first[1:-1] if quoted else first, rest)
        if isinstance(title, str) and isinstance(text, str):
            return Passage(str(row["id"]), title, text)
    raise GameError(f"wanted a passage with id and contents (or title and text); got {row!r:.120}")
