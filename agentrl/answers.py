"""How near an answer is to the accepted ones: normal forms, exact match and F1 of words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Match = Literal["exact", "f1"]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal_form(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks (SQuAD, arXiv 1606.05250, section 6.1).

    >>> normal_form("The  Eiffel-Tower!")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def agreement(answer: str, references: Sequence[str], match: Match) -> float:
    """The best agreement with any reference, in [0, 1], of normal forms: 1 where they are equal ("exact"), or the harmonic mean of
    precision and recall of their words, counted with repetitions ("f1"). An empty form agrees with nothing.

    >>> agreement("in Paris, France", ["Paris"], "exact"), agreement("in Paris, France", ["Paris"], "f1")
    (0.0, 0.5)
    """
    found = normal_form(answer)
    pairs = [(found, wanted) for wanted in map(normal_form, references) if wanted and found]
    if match == "exact":
        return float(any(one == other for one, other in pairs))
    return max((_f1(one.split(), other.split()) for one, other in pairs), default=0.0)


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))
