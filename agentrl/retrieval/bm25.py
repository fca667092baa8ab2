"""BM25 by the library bm25s, with an order that is always the same."""

from __future__ import annotations

import functools
import heapq
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from agentrl.errors import GameError, MissingExtra
from agentrl.retrieval.base import Hit, Passage
from agentrl.retrieval.kept import keep, signature_of

K1, B = 0.9, 0.4  # Anserini's values, which Search-R1's BM25 server uses
MAX_QUERY_WORDS = 1024  # Lucene's own bound; each takes a look at the whole corpus
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """What is indexed of a text: its words in lower case, without English function words.

    >>> words_of("Who founded the Alder-Mill of 1921?")
    ['who', 'founded', 'alder', 'mill', '1921']
    """
    stop = _stop_words()
    return [word for word in _WORD.findall(text.lower()) if word not in stop]


class Bm25:
    """BM25 (Robertson and Zaragoza 2009, in Lucene's form) over the titles and texts of a corpus.

    ``index`` is a folder that keeps the index between runs and from which it is mapped, not read; where it is missing or belongs
    to another corpus, it is made. Hits are ordered by score, those of equal scores by id (shorter first, then alphabetically, so
    that 9 stands before 10); a passage that shares no word with the query is none. Of a query the first ``MAX_QUERY_WORDS`` words
    that the corpus knows are looked for. Searches of several threads do not disturb
    each other. Raises MissingExtra without bm25s, GameError for a corpus without words and an index that cannot be kept.
    """

    remote = False

    def __init__(self, corpus: Sequence[Passage], index: str | os.PathLike[str] | None = None) -> None:
        self._library = library()
        self.corpus = corpus
        folder = None if index is None else Path(index)
        signature = getattr(corpus, "signature", "")
        if folder is None:
            self._index: Any = self._built()
            return
        if not signature or signature_of(folder) != signature:
            keep(folder, signature or "unknown", lambda draft: self._built().save(draft / "bm25", show_progress=False))
        self._index = self._library.BM25.load(folder / "bm25", mmap=True, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query at most ``k`` hits, best first."""
        return [self._found(query, k) for query in queries]

    def close(self) -> None:
        """Nothing is held that does not go by itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, query: str, k: int) -> list[Hit]:
        known = self._index.vocab_dict
        words = [word for word in words_of(query) if word in known]
        ids = sorted(known[word] for word in words[:MAX_QUERY_WORDS])  # sorted: the sum has one order
        if not ids or k < 1:
            return []
        scores = self._index.get_scores_from_ids(ids)
        hits = (Hit(*self.corpus[int(place)], float(scores[place])) for place in _candidates(scores, k))
        return heapq.nsmallest(k, hits, key=lambda hit: (-hit.score, len(hit.id), hit.id))

    def _built(self) -> Any:
        known: dict[str, int] = {}
        rows = list(_numbered(self.corpus, known))
        if not known:
            raise GameError("the corpus has no words to search for")
        index = self._library.BM25(k1=K1, b=B, method="lucene")
        index.index((rows, known), create_empty_token=False, show_progress=False)
        return index


def _candidates(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of all scores above 0 that are at least the k-th largest, ties with it included."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k] if k < len(scores) else 0.0
    return np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores > 0)


def _numbered(corpus: Sequence[Passage], known: dict[str, int]) -> Iterator[list[int]]:
    """The words of each passage as numbers, which ``known`` collects."""
    for passage in corpus:
        yield [known.setdefault(word, len(known)) for word in words_of(f"{passage.title} {passage.text}")]


@functools.cache
def _stop_words() -> frozenset[str]:
    library()
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)


@functools.cache
def library() -> ModuleType:
    """The package bm25s. Raises MissingExtra without it."""
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtra("search", "BM25") from error
    return bm25s
