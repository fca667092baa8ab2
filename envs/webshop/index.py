"""BM25 as Lucene ranks: what pyserini's LuceneSearcher gives for WebShop's documents, without Java.

The English analyser of Anserini (Unicode words, possessives off, lower case, 33 stop words, Porter's stems), k1 = 0.9 and b = 0.4,
and two details that decide ties and near ties: lengths of documents are kept in one byte as Lucene keeps them (exact to 40, then
in steps), and sums are in single precision. Hits of equal scores are ordered by place.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

from agentrl.envs.webshop.stem import stem

K1, B = 0.9, 0.4
MAX_QUERY_WORDS = 1024  # Lucene's own bound
_STOP = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with
"""
STOP = frozenset(_STOP.split())
# Unicode's word rule (UAX 29) as far as shops' texts need it: 'x', '.' and ':' join letters, '.', ',' and ';' join digits.
_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])['’.:·](?=[^\W\d_])|(?<=\d)['’.,;](?=\d))\w+)*")
_EXACT = 40 - 16  # SmallFloat.intToByte4: integers below 24 as they are, above them four significant bits


def terms_of(text: str) -> list[str]:
    """What is looked for, or found, of a text: stems in its order.

    >>> terms_of("The women's 3.4oz bottles of 18x18, and X-Large")
    ['women', '3.4oz', 'bottl', '18x18', 'x', 'larg']
    """
    found = []
    for word in _WORD.findall(text):
        word = word[:-2] if word[-2:] in ("'s", "'S", "’s", "’S") else word
        word = word.lower()
        if word not in STOP:
            found.append(stem(word))
    return found


def kept_length(length: int) -> int:
    """A document's length as Lucene's one byte gives it back.

    >>> [kept_length(n) for n in (7, 39, 40, 41, 42, 100, 1000)]
    [7, 39, 40, 40, 42, 96, 984]
    """
    if length < _EXACT:
        return length
    rest = length - _EXACT
    shift = max(0, rest.bit_length() - 4)
    return _EXACT + ((rest >> shift) << shift)


class Index:
    """An inverted index over documents given once, in their order.

    ``add`` takes a document, ``close`` ends that; then ``search``. Memory is 8 bytes for each different term of a document, and the
    vocabulary.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._terms, self._documents, self._counts = array("i"), array("i"), array("i")
        self._lengths = array("i")

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text: str) -> None:
        """A document, the next in order."""
        place = len(self._lengths)
        counts = Counter(terms_of(text))
        for term, count in counts.items():
            self._terms.append(self._known.setdefault(term, len(self._known)))
            self._documents.append(place)
            self._counts.append(count)
        self._lengths.append(sum(counts.values()))

    def close(self) -> None:
        """Turns what was added into postings with their parts of the score."""
        terms = np.frombuffer(self._terms, np.int32) if self._terms else np.zeros(0, np.int32)
        order = np.argsort(terms, kind="stable")
        self._starts = np.searchsorted(terms[order], np.arange(len(self._known) + 1)).astype(np.int64)
        documents = np.frombuffer(self._documents, np.int32) if self._documents else np.zeros(0, np.int32)
        counts = np.frombuffer(self._counts, np.int32) if self._counts else np.zeros(0, np.int32)
        self._postings = documents[order]
        lengths = np.array([kept_length(length) for length in self._lengths], np.float32)
        average = np.float32(sum(self._lengths) / max(1, sum(length > 0 for length in self._lengths)))
        # Lucene adds weight - weight / (1 + freq * (1 / (k1 ((1 - b) + b length / average)))), all single precision.
        inverse = np.float32(1) / (
            np.float32(K1) * (np.float32(1 - B) + np.float32(B) * lengths / max(average, np.float32(1)))
        )
        self._shares = counts[order].astype(np.float32) * inverse[self._postings]
        self._terms, self._documents, self._counts = array("i"), array("i"), array("i")

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The best ``k`` documents that share a term with the query, as (place, score), best first."""
        asked = Counter(self._known[term] for term in terms_of(query)[:MAX_QUERY_WORDS] if term in self._known)
        total = len(self._lengths)
        scores = np.zeros(total, np.float64)
        for term, times in asked.items():
            first, last = self._starts[term], self._starts[term + 1]
            weight = np.float32(times * np.log(1 + (total - (last - first) + 0.5) / ((last - first) + 0.5)))
            part = weight - weight / (np.float32(1) + self._shares[first:last])
            scores[self._postings[first:last]] += part
        scores = scores.astype(np.float32)
        found = np.flatnonzero(scores > 0)
        if len(found) > k:
            least = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= least]
        order = np.lexsort((found, -scores[found]))[:k]
        return [(int(found[place]), float(scores[found[place]])) for place in order]


def index_of(texts: Iterable[str]) -> Index:
    """The index of documents."""
    index = Index()
    for text in texts:
        index.add(text)
    index.close()
    return index
