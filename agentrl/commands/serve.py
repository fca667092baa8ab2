"""The command that serves what others ask: a retriever."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentrl.commands.words import Folder, app


@app.command
def serve(
    what: Annotated[Positional[str], arg(metavar="WHAT")],
    corpus: Annotated[Positional[Path], arg(metavar="CORPUS")],
    /,
    port: int = 8000,
    host: str = "127.0.0.1",
    index: Folder = None,
    encoder: Folder = None,
    topk: int = 3,
) -> None:
    """Serve a corpus as Search-R1's retriever does (POST /retrieve), by BM25 or by embeddings, until it is interrupted.

    Args:
        what: retriever.
        corpus: A .jsonl or .jsonl.gz file with lines of id and contents (the title in quotes, a line feed, the text).
        port: Where to listen; 0 takes a free port, which is printed.
        host: The address to listen on; 0.0.0.0 lets other machines ask.
        index: Keep the index in this folder, and map it from there next time.
        encoder: The folder of a transformers model whose embeddings rank the passages (as E5's; default: BM25).
        topk: How many passages a request gets that does not say.
    """
    from agentrl.errors import ConfigError, did_you_mean
    from agentrl.retrieval import open_retriever
    from agentrl.retrieval.server import RetrievalServer
    from agentrl.retrieval.server import serve as answer

    if what != "retriever":
        raise ConfigError(f"nothing to serve is called '{what}'.{did_you_mean(what, ['retriever'])}")
    with open_retriever(corpus, index, encoder) as retriever:
        answer(RetrievalServer(retriever, host, port, topk), partial(print, flush=True))
