"""Passages by meaning: the nearest embeddings, found exactly, with an order that is always the same.

    finder = Dense(open_corpus("corpus.jsonl"), encode, "corpus.index")
    [hits] = finder.search(["who wrote the silver orchard"], k=3)

``encode(texts, kind)`` gives an array [n, d] of numbers, ``kind`` being "query" or "passage": any function does;
``agentrl.retrieval.encoder.load_encoder(FOLDER)`` makes one of a transformers model.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from agentrl.errors import ConfigError
from agentrl.retrieval.base import Hit, Passage
from agentrl.retrieval.kept import keep, signature_of

Encode = Callable[[Sequence[str], Literal["query", "passage"]], np.ndarray]
BLOCK = 1 << 16  # embeddings that are scored at a time
FILE = "embeddings.npy"


class Dense:
    """Ranks a corpus by the inner product s = e_query · e_passage of embeddings, over all passages (exact search).

    ``index`` is a folder that keeps the embeddings between runs and from which they are mapped, not read; where it is missing,
    belongs to another corpus or to another encoder (known by its attribute ``name``; one without is never known again), it is made.
    Products are computed in float32, those that may be among the best again in float64: hits are ordered by that score, equal
    ones by id as in ``Bm25``. Queries are encoded one by one, for an encoder's numbers depend on what shares its batch.
    Searches of several threads do not disturb each other.

    Raises ConfigError where the encoder gives something else than [n, d] finite numbers, GameError for an index that cannot be
    kept.
    """

    remote = False

    def __init__(
        self, corpus: Sequence[Passage], encode: Encode, index: str | os.PathLike[str] | None = None, *, batch: int = 32
    ) -> None:
        self.corpus, self._encode, self._batch = corpus, encode, batch
        self._one_at_a_time = threading.Lock()
        folder = None if index is None else Path(index)
        known = (getattr(corpus, "signature", ""), getattr(encode, "name", ""))
        signature = " ".join(known) if all(known) else ""
        if folder is None:
            self._rows = self._embedded(None)
        else:
            if not signature or signature_of(folder) != signature:
                keep(folder, signature or "unknown", lambda draft: self._embedded(draft).flush())
            self._rows = np.load(folder / FILE, mmap_mode="r")
        blocks = range(0, len(self._rows), BLOCK)
        self._longest = max(float(np.linalg.norm(self._rows[start : start + BLOCK], axis=1).max()) for start in blocks)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query the ``k`` hits nearest to it, best first."""
        return [self._found(query, k) for query in queries]

    def close(self) -> None:
        """Nothing is held that does not go by itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, query: str, k: int) -> list[Hit]:
        if k < 1:
            return []
        with self._one_at_a_time:
            asked = self._checked(self._encode([query], "query"), 1)[0]
        if len(asked) != self._rows.shape[1]:
            raise ConfigError(f"the encoder gave a query {len(asked)} numbers; passages have {self._rows.shape[1]}")
        places = self._candidates(asked, k)
        exact = (self._rows[places].astype(np.float64) * asked.astype(np.float64)).sum(axis=1)
        hits = (Hit(*self.corpus[int(place)], float(score)) for place, score in zip(places, exact, strict=True))
        return heapq.nsmallest(k, hits, key=lambda hit: (-hit.score, len(hit.id), hit.id))

    def _candidates(self, asked: np.ndarray, k: int) -> np.ndarray:
        """Places of all passages that may be among the ``k`` best once rounding is undone."""
        # |float32 product - exact one| is at most about d · eps · |e_query| · |e_passage|; two products differ by twice that.
        slack = 4 * len(asked) * np.finfo(np.float32).eps * float(np.linalg.norm(asked)) * self._longest
        scores = np.concatenate(
            [self._rows[start : start + BLOCK] @ asked for start in range(0, len(self._rows), BLOCK)]
        )
        if k >= len(scores):
            return np.arange(len(scores))
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        return np.flatnonzero(scores >= least - slack)

    def _embedded(self, folder: Path | None) -> Any:
        """The embeddings of all passages, [n, d] float32; in ``folder``, mapped, where there is one."""
        rows: Any = None
        for start in range(0, len(self.corpus), self._batch):
            texts = [passage.contents for passage in self.corpus[start : start + self._batch]]
            found = self._checked(self._encode(texts, "passage"), len(texts))
            if rows is None:
                shape = (len(self.corpus), found.shape[1])
                rows = (
                    np.empty(shape, np.float32)
                    if folder is None
                    else np.lib.format.open_memmap(folder / FILE, mode="w+", dtype=np.float32, shape=shape)
                )
            if found.shape[1] != rows.shape[1]:
                raise ConfigError(f"the encoder gave {found.shape[1]} numbers a text, and {rows.shape[1]} before")
            rows[start : start + len(texts)] = found
        return rows

    @staticmethod
    def _checked(found: Any, n: int) -> np.ndarray:
        rows = np.asarray(found, np.float32)
        if rows.ndim != 2 or len(rows) != n or not rows.shape[1] or not np.isfinite(rows).all():
            raise ConfigError(f"the encoder gave {list(rows.shape)} for {n} texts; wanted [{n}, d] finite numbers")
        return rows
