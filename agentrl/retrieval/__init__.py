"""Passages and who finds them: one interface, BM25 on this machine, and Search-R1's HTTP API as client and as server.

    with open_retriever("corpus.jsonl") as retriever:            # or "http://127.0.0.1:8000/retrieve"
        [hits] = retriever.search(["who wrote the silver orchard"], k=3)
        hits[0].title, hits[0].text, hits[0].score

``corpus`` reads passages · ``bm25`` ranks them by words, ``dense`` by embeddings, for which ``encoder`` has a transformers model ·
``client`` and ``server`` speak ``POST /retrieve``.
"""

from __future__ import annotations

import os

from agentrl.errors import ConfigError, MissingExtra
from agentrl.retrieval.base import Hit, Passage, Retriever
from agentrl.retrieval.client import HttpRetriever
from agentrl.retrieval.corpus import Corpus, open_corpus
from agentrl.retrieval.dense import Dense, Encode

__all__ = [
    "Corpus",
    "Dense",
    "Hit",
    "HttpRetriever",
    "Passage",
    "Retriever",
    "open_corpus",
    "open_retriever",
    "retriever_of",
]


def open_retriever(
    where: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    encoder: str | os.PathLike[str] | None = None,
) -> Retriever:
    """What finds passages: a server where ``where`` is an address, else BM25 over that corpus file, or, with ``encoder`` (a folder
    of a transformers model), the nearest embeddings. ``index``: a folder that keeps the index between runs. Raises ConfigError for
    an address with an index or an encoder, GameError for a corpus that cannot be read, CheckpointError for a folder without a model
    and MissingExtra without the packages bm25s or torch."""
    if str(where).startswith(("http://", "https://")):
        if index is not None or encoder is not None:
            what = "an index" if encoder is None else "an encoder"
            raise ConfigError(f"{what} belongs to a corpus on this machine; '{where}' is a server and has its own")
        return HttpRetriever(str(where))
    return retriever_of(open_corpus(where), index, encoder)


def retriever_of(
    corpus: Corpus, index: str | os.PathLike[str] | None = None, encoder: str | os.PathLike[str] | None = None
) -> Retriever:
    """What finds passages of a corpus that is open already; as ``open_retriever``."""
    if encoder is not None:
        return Dense(corpus, _encoder(os.fspath(encoder)), index)
    from agentrl.retrieval.bm25 import Bm25

    return Bm25(corpus, index)


def _encoder(folder: str) -> Encode:
    try:
        from agentrl.retrieval.encoder import load_encoder
    except ModuleNotFoundError as error:
        raise MissingExtra("train", "an encoder") from error
    return load_encoder(folder)
