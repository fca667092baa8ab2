"""``search``: passages of a corpus that fit a query, as text.

    [env.options]
    tools = [{ name = "search", corpus = "corpus.jsonl" }]            # or retriever = "http://127.0.0.1:8000/retrieve"

One retriever serves all environments of a process. What it finds is text and nothing else: nothing in it can act as a call.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from agentrl.errors import ConfigError, ToolError
from agentrl.retrieval import Retriever, open_retriever
from agentrl.tool import Toolset, register_tool, tool
from agentrl.types import Task

__all__ = ["Search"]


@register_tool
@dataclass
class Search(Toolset):
    """``corpus``: a file that BM25 ranks, or the embeddings of ``encoder``, a transformers model's folder (``index``: a folder that
    keeps the index), or ``retriever``: the address of a server; ``k``: how many passages a query gets."""

    corpus: str | None = None
    retriever: str | None = None
    index: str | None = None
    encoder: str | None = None
    k: Annotated[int, Field(ge=1, le=100)] = 3

    lifetime: ClassVar[Literal["episode", "task", "run"]] = "run"

    def __post_init__(self) -> None:
        if (self.corpus is None) == (self.retriever is None):
            raise ConfigError("the tool search wants either corpus = FILE or retriever = ADDRESS")
        self._opened: Retriever | None = None

    def open(self, task: Task | None) -> None:
        self._opened = open_retriever(self.corpus or self.retriever or "", self.index, self.encoder)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    @tool
    async def search(self, query: str) -> str:
        """Finds passages that fit a query, the best first.

        Args:
            query: Names and words that such a passage holds.
        """
        if not query.strip():
            raise ToolError("the query is empty; give names or words")
        assert self._opened is not None, "open comes first"
        if self._opened.remote:
            [hits] = await asyncio.to_thread(self._opened.search, [query], self.k)
        else:
            [hits] = self._opened.search([query], self.k)
        lines = [f'{place}. "{hit.title}" {hit.text}' for place, hit in enumerate(hits, 1)]
        return "\n".join(lines) or "nothing was found"
