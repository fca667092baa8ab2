"""Passages and who finds them: one interface, BM25 on this machine, and Search-R1's HTTP API as client and as server.

    with open_retriever("corpus.jsonl") as retriever:            # or "http://127.0.0.1:8000/retrieve"
        [hits] = retriever.search(["who wrote the silver orchard"], k=3)
        hits[0].title, hits[0].text, hits[0].score

``corpus`` reads passages · ``bm25`` ranks them · ``client`` and ``server`` speak ``POST /retrieve``.
"""

from __future__ import annotations

import os

from agentrl.errors import ConfigError
from agentrl.retrieval.base import Hit, Passage, Retriever
from agentrl.retrieval.client import HttpRetriever
from agentrl.retrieval.corpus import Corpus, open_corpus

__all__ = ["Corpus", "Hit", "HttpRetriever", "Passage", "Retriever", "open_corpus", "open_retriever"]


def open_retriever(where: str | os.PathLike[str], index: str | os.PathLike[str] | None = None) -> Retriever:
    """What finds passages: a server where ``where`` is an address, else BM25 over that corpus file (``index``: a folder that keeps
    the index between runs). Raises ConfigError for an address with an index, GameError for a corpus that cannot be read and
    MissingExtra without the package bm25s."""
    if str(where).startswith(("http://", "https://")):
        if index is not None:
            raise ConfigError(f"an index belongs to a corpus on this machine; '{where}' is a server and has its own")
        return HttpRetriever(str(where))
    from agentrl.retrieval.bm25 import Bm25

    return Bm25(open_corpus(where), index)
