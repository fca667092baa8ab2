"""A checkpoint as a server that other machines ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from agentrl import build, config
from agentrl.chat import Renderer
from agentrl.errors import CheckpointError, MissingExtra
from agentrl.policies.server import Answers, Batching, PolicyServer, serve
from agentrl.run_files import holds_model

Engine = Literal["transformers", "vllm"]


def serve_policy(
    path: str,
    *,
    engine: Engine = "transformers",
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "policy",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    say: Callable[[str], None] = print,
) -> None:
    """Serves a run folder's last checkpoint, one of its checkpoints, or any model in Hugging Face's layout, until it is
    interrupted. Raises CheckpointError and ConfigError for what cannot be served."""
    with answering(path, engine=engine, name=name, seed=seed, device=device) as answers:
        server = PolicyServer(answers, host, port)
        file = _run_file(Path(path))
        usage = f"agentrl eval ENV --policy openai:{server.url}#{answers.name} --config {file}"
        serve(server, say, "" if file is None else f"prompted as in its run: {usage}")


@contextmanager
def answering(
    path: str, *, engine: Engine, name: str, seed: int, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> Iterator[Answers]:
    """What answers for the model at ``path``, in the block."""
    folder = Path(path) / "checkpoints" / "latest"
    model, renderer = _loaded(str(folder if folder.is_dir() and not holds_model(Path(path)) else path))
    limit = build.context_limit(model)
    # A run file of defaults says what an engine is told that nobody asks about here.
    tables = {"run": {"seed": seed}, "resources": {"device": device}, "rollout": {"policy": engine}}
    settings = config.parse({"env": {"id": "served"}, **tables})
    policy = build.policy(settings, model.to(build.device(settings)).eval())
    try:
        made = policy if engine == "vllm" else Batching(policy, settings.rollout.batch_size)
        yield Answers(made, renderer, name, limit)
    finally:
        policy.close()


def _loaded(path: str) -> tuple[Any, Renderer]:
    try:
        from agentrl.learning import checkpoint, lora
    except ImportError as error:
        raise MissingExtra("train", "a model") from error
    tokenizer = checkpoint.load_tokenizer(path)
    model = checkpoint.load_model(path, _dtype(path))
    if lora.has_adapter(model):
        model = lora.merged(model)
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stop_ids = [ends] if isinstance(ends, int) else list(ends or ())
    return model, Renderer(tokenizer, options=_template_options(Path(path)), stop_ids=stop_ids)


def _dtype(path: str) -> str:
    """The weights' own type where it is one of those that models are run in, else float32."""
    file = Path(path) / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    found = settings.get("dtype") or settings.get("torch_dtype")
    return found if found in ("float32", "bfloat16", "float16") else "float32"


def _template_options(folder: Path) -> dict[str, Any]:
    """Variables of the chat template that the model was trained with, where a run file beside it says so."""
    file = _run_file(folder)
    return {} if file is None else dict(config.load(file).agent.template_options)


def _run_file(folder: Path) -> Path | None:
    """The run file in a run folder, or beside one of its checkpoints."""
    places = (folder, *folder.resolve().parents[:2])
    return next((place / "config.toml" for place in places if (place / "config.toml").is_file()), None)
