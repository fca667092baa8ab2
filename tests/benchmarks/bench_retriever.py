"""How long a query takes: on the real passages of the shared data, where there are any, and on generated ones.

    python tests/benchmarks/bench_retriever.py [--passages 1000000] [--json]

``rows()`` gives one dictionary a measurement, as in bench_household: ``bound`` is the most that a query may take and
``bound_ratio`` how many times faster ours is. The median of single queries counts, top 3, in one thread. Real queries are the
questions of the data; generated words follow Zipf's law, and a query has ten of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.env import shared_folder
from agentrl.retrieval import HttpRetriever, Passage, Retriever
from agentrl.retrieval.bm25 import Bm25
from agentrl.retrieval.corpus import open_corpus, written
from agentrl.seeding import stream

N_QUERIES = 200
REAL_MS, GENERATED_MS = 1.0, 20.0
WORDS, LENGTH, QUERY_LENGTH = 50_000, 60, 10
PEER_MS = 10.0  # Search-R1's BM25 server, as its users report


def milliseconds(retriever: Retriever, queries: Sequence[str]) -> float:
    """Median time of one query."""
    times = []
    for query in queries:
        started = time.perf_counter()
        retriever.search([query], 3)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def row(name: str, value: float, bound: float) -> dict[str, Any]:
    """One measurement."""
    against = "Search-R1's BM25 server, as reported"
    plain = {"name": name, "value": value, "unit": "ms", "against": against, "peer": PEER_MS, "ratio": PEER_MS / value}
    return {**plain, "bound": f"{bound:g} ms", "bound_ratio": bound / value}


def real() -> list[dict[str, Any]]:
    """On the shared data's passages; nothing where they are not here."""
    folder = Path(shared_folder()) / "data" / "qa"
    if not folder.is_dir():
        return []
    queries = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            queries += [found["question"] for found in map(json.loads, lines) if "question" in found]
    retriever = Bm25(open_corpus(folder / "corpus.jsonl.gz"))
    return [
        row(f"query of {len(retriever.corpus):,} real passages", milliseconds(retriever, queries[:N_QUERIES]), REAL_MS)
    ]


def generated(n: int) -> list[dict[str, Any]]:
    """On ``n`` passages in a file, whose index is mapped; and the same through HTTP."""
    import threading

    from agentrl.retrieval.server import RetrievalServer

    rng = stream(0, "bench", "retriever")
    chances = 1 / np.arange(1, WORDS + 1)
    drawn = rng.choice(WORDS, size=(n + N_QUERIES, LENGTH), p=chances / chances.sum())
    texts = [" ".join(f"w{word}" for word in line) for line in drawn.tolist()]
    queries = [" ".join(text.split()[:QUERY_LENGTH]) for text in texts[n:]]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        corpus.write_bytes(written([Passage(str(i), f"t{i}", text) for i, text in enumerate(texts[:n])]))
        del drawn, texts
        retriever = Bm25(open_corpus(corpus), Path(folder) / "index")
        result = [
            row(f"query of {n:,} generated passages, index mapped", milliseconds(retriever, queries), GENERATED_MS)
        ]
        with RetrievalServer(retriever, port=0) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                with HttpRetriever(server.url) as client:
                    found = milliseconds(client, queries)
            finally:
                server.shutdown()
                thread.join()
        return [*result, row(f"the same through HTTP, {n:,} generated passages", found, GENERATED_MS)]


def rows(n_passages: int = 100_000) -> list[dict[str, Any]]:
    """The measurements."""
    return [*real(), *generated(n_passages)]


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--passages", type=int, default=100_000)
    given = parser.parse_args()
    found = rows(given.passages)
    if given.json:
        print(json.dumps(found))
        return
    for entry in found:
        print(f"{entry['name']}: {entry['value']:.3g} {entry['unit']} (bound {entry['bound']})")


if __name__ == "__main__":
    main()
