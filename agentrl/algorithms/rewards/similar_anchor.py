"""Anchors by text similarity: turns that saw nearly the same text count as turns at the same state."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.registry import register

BINS = 64  # of the histograms that rule pairs out


@register("reward", "similar_anchor")
@dataclass(frozen=True)
class SimilarAnchor(Method):
    """anchor_it = the first cluster of the group whose representative is similar: ratio(o_it, representative) ≥ threshold.

    ratio is 2 M / (n + m), M the length of the matching blocks of two texts of n and m words (``unit``; or characters). The
    texts of a group open clusters and join them in a fixed order: the most visited first, among equals in alphabetical
    order. So the result depends on which texts were seen and how often, not on the order of the rows. Every member is
    similar to its representative, which is the most visited text of its cluster.

    It writes a column: ``gigpo`` and ``hgpo`` read it with ``key = "anchor"``.

    Equal texts are compared once. A pair is ruled out unseen where the histograms of its words bound the ratio below the
    threshold, for all representatives of a group at a time; so the slow comparison is made for near pairs only.

    Source: GiGPO (2505.10978), released code, similarity mode, default 0.95. Where it differs from this: it takes the rows as
    they come, compares characters (``unit = "character"``), and lets difflib ignore frequent characters in texts of 200
    and more, which distorts the ratio; here nothing is ignored.
    """

    stage = "reward"
    reads = ("group", "{key}")
    writes = ("anchor",)
    formula = "anchor_it = first cluster of the group with ratio(text_it, representative) >= threshold"
    source = "GiGPO (arXiv 2505.10978), released code"

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.95
    unit: Literal["word", "character"] = "word"
    key: Literal["observation", "state"] = "observation"

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        """The column ``anchor`` [K], codes from 0, and -1 for a row without text."""
        visits = table.group_by("group", self.key)  # one code for each text of each group
        anchor = np.full(int(visits.max(initial=-1)) + 1, -1, dtype=np.int64)
        rows = np.unique(visits, return_index=True)[1][-anchor.size :] if anchor.size else np.zeros(0, dtype=np.int64)
        n_visits = np.bincount(visits[visits >= 0], minlength=anchor.size)
        texts = table.labels(self.key)
        group, text = table["group"][rows], table[self.key][rows]
        parts = {code: self._split(str(texts[code])) for code in np.unique(text).tolist()}
        n_anchors = 0
        for members in np.split(np.argsort(group, kind="stable"), np.flatnonzero(np.diff(np.sort(group))) + 1):
            ranked = sorted(members.tolist(), key=lambda each: (-n_visits[each], str(texts[text[each]])))
            clusters = greedy_clusters([parts[int(text[each])] for each in ranked], self.threshold)
            anchor[ranked] = clusters + n_anchors
            n_anchors += int(clusters.max(initial=-1)) + 1
        return {"anchor": np.append(anchor, -1)[visits]}

    def _split(self, text: str) -> Sequence[str]:
        return text.split() if self.unit == "word" else text


def greedy_clusters(texts: Sequence[Sequence[str]], threshold: float) -> np.ndarray:
    """The cluster of each text, [n] from 0: the first whose representative (its first text) is similar enough."""
    histograms, lengths = _histograms(texts), np.array([len(text) for text in texts], dtype=np.int64)
    result = np.zeros(len(texts), dtype=np.int64)
    representatives: list[int] = []
    for place, text in enumerate(texts):
        known = np.array(representatives, dtype=np.int64)
        both = lengths[known] + lengths[place]
        shared = np.minimum(histograms[known], histograms[place]).sum(axis=1)
        near = np.flatnonzero(2 * shared >= threshold * both - 1e-9)  # rounding must rule nothing out
        candidates = [(int(each), texts[representatives[int(each)]]) for each in near]
        result[place] = _first_similar(text, candidates, threshold)
        if result[place] < 0:
            result[place] = len(representatives)
            representatives.append(place)
    return result


def _first_similar(text: Sequence[str], candidates: Sequence[tuple[int, Sequence[str]]], threshold: float) -> int:
    """The number of the first candidate whose text is similar enough, -1 for none."""
    if not candidates:
        return -1
    matcher: difflib.SequenceMatcher[str] = difflib.SequenceMatcher(None, "", text, autojunk=False)
    for number, other in candidates:  # difflib prepares its second text once, so the first is the one that changes
        matcher.set_seq1(other)
        if matcher.ratio() >= threshold:
            return number
    return -1


def _histograms(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """How many parts of each text fall into each bin, [n, BINS]. What two texts share by bins is never less than what they
    share in truth, so 2 · shared / (n + m) bounds their ratio from above."""
    bins: dict[str, int] = {}
    result = np.zeros((len(texts), BINS), dtype=np.int32)
    for place, text in enumerate(texts):
        for part, n in Counter(text).items():
            result[place, bins.setdefault(part, len(bins) % BINS)] += n
    return result
