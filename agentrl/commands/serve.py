"""The command that serves what others ask: an environment, a retriever."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from agentrl.commands.words import Folder, Isolation, Options, app, options_of

KINDS = ("env", "retriever")


@app.command
def serve(
    what: Annotated[Positional[str], arg(metavar="WHAT")],
    target: Annotated[Positional[str], arg(metavar="ENV|CORPUS")],
    /,
    port: int = 8000,
    host: str = "127.0.0.1",
    option: Options = (),
    isolation: Isolation = None,
    index: Folder = None,
    topk: int = 3,
) -> None:
    """Serve an environment, a session an episode (agentrl/Remote-v0 plays it), or a corpus as Search-R1's retriever does (POST
    /retrieve, by BM25), until it is interrupted.

    Args:
        what: env or retriever.
        target: An environment's id; or a .jsonl or .jsonl.gz file with lines of id and contents (the title in quotes, a line
            feed, the text).
        port: Where to listen; 0 takes a free port, which is printed.
        host: The address to listen on; 0.0.0.0 lets other machines ask.
        option: An option of the environment; again for more.
        isolation: process gives each session's environment a process of its own, which ends with it even where it hangs.
        index: Keep the retriever's index in this folder, and map it from there next time.
        topk: How many passages a request gets that does not say.
    """
    from agentrl.errors import ConfigError, did_you_mean

    say = partial(print, flush=True)
    if what == "env":
        _serve_env(target, options_of(option), isolation, host, port, say)
    elif what == "retriever":
        _serve_retriever(Path(target), index, topk, host, port, say)
    else:
        raise ConfigError(f"nothing to serve is called '{what}'.{did_you_mean(what, KINDS)}")


def _serve_env(env: str, options: dict[str, Any], isolation: Isolation, host: str, port: int, say: Any) -> None:
    from agentrl import build
    from agentrl.config import EnvTable
    from agentrl.remote import serve, served

    pool = build.env_pool(EnvTable(id=env, options=options, isolation=isolation or "inline"))
    try:
        serve(served(pool.take, env, host, port), say)
    finally:
        pool.close()


def _serve_retriever(corpus: Path, index: Path | None, topk: int, host: str, port: int, say: Any) -> None:
    from agentrl.retrieval import open_retriever
    from agentrl.retrieval.server import RetrievalServer, serve

    with open_retriever(corpus, index) as retriever:
        serve(RetrievalServer(retriever, host, port, topk), say)
