"""Search-R1's retrieval API from the asking side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import httpx

from agentrl.errors import GameError, ToolFault
from agentrl.retrieval.base import Hit, passage_of


class HttpRetriever:
    """Asks a server: ``POST url`` with ``{"queries", "topk", "return_scores"}``, up to ``batch`` queries a request.

    Replies with scores and without are read; without them, a hit's score is 1 / its place. A request that is not answered (no
    connection, ``timeout_s`` without a reply, status 429 or 5xx) is repeated ``retries`` times, after ``backoff_s``, twice that,
    and so on. Raises ToolFault, a fault of the machinery, where that does not help and for any other reply that is no result: no
    query of a model can bring about either.
    """

    remote = True

    def __init__(
        self, url: str, *, batch: int = 64, timeout_s: float = 30.0, retries: int = 4, backoff_s: float = 0.5
    ) -> None:
        self.url, self.batch, self.retries, self.backoff_s = url, batch, retries, backoff_s
        self._client = httpx.Client(timeout=timeout_s, trust_env=False)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query at most ``k`` hits, in the server's order."""
        found: list[list[Hit]] = []
        for first in range(0, len(queries), self.batch):
            found += self._asked(list(queries[first : first + self.batch]), k)
        return found

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, queries: list[str], k: int) -> list[list[Hit]]:
        sent = [query.encode(errors="replace").decode() for query in queries]  # half a surrogate pair cannot be sent
        body = {"queries": sent, "topk": k, "return_scores": True}
        problem = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff_s * 2 ** (attempt - 1))
            try:
                reply = self._client.post(self.url, json=body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if reply.status_code == 429 or reply.status_code >= 500:
                problem = f"status {reply.status_code}: {reply.text:.200}"
                continue
            return self._read(reply, len(queries), k)
        raise ToolFault(f"the retriever {self.url} does not answer ({self.retries + 1} tries): {problem}")

    def _read(self, reply: httpx.Response, n: int, k: int) -> list[list[Hit]]:
        try:
            rows = reply.raise_for_status().json()["result"]
            if not isinstance(rows, list) or len(rows) != n:
                raise ValueError(f"wanted {n} lists of results")
            return [[_hit(entry, place) for place, entry in enumerate(row[:k], 1)] for row in rows]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, GameError) as error:
            raise ToolFault(f"the retriever {self.url} gave no result: {error}; it said {reply.text:.200}") from error


def _hit(entry: Any, place: int) -> Hit:
    if isinstance(entry, dict) and "document" in entry:
        return Hit(*passage_of(entry["document"]), float(entry.get("score", 1 / place)))
    return Hit(*passage_of(entry), 1 / place)
