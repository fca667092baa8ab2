"""What a run needs, told before it starts: bytes of memory and floating-point operations, from the model's shape alone.

A model is laid out on the meta device, with its adapter where it has one, so one of any size costs no memory here. The formulas,
for N parameters, T of them trained (all, or an adapter's); h hidden, i feed-forward, kv = key-value heads x head size:

    weights             N x bytes of the dtype; an adapter's in float32
    masters             4 T where bfloat16 weights are trained; an adapter is float32 itself
    optimiser state     AdamW: 8 T
    critic              a second model of the policy's size: weights, masters, optimiser state, gradients
    reference policy    N x bytes; with an adapter none, or what it starts from where it was trained before
    gradients           4 T, summed over micro-batches
    new gradients       2 T where bfloat16 weights are trained: they come as activations go
    activations         what a micro-batch's tokens keep for the backward pass (``kept_by_layer``), of the last norm, too; with
                        gradient checkpointing h values a layer
    layer under way     gradients inside a layer; with gradient checkpointing also what the layer keeps
    logits              trained tokens of a micro-batch, or of a chunk where there are more, x vocabulary x 4 float32 values, 5
                        where the entropy has a gradient; on the way back one value less, and the head's gradient
    optimiser step      AdamW's denominators: on a GPU all at a time, 4 T
    KV cache            rows of a forward pass x positions x layers x 2 kv, and as much for each episode that keeps them between
                        turns, up to the bound of that
    reading             rows of a forward pass x positions x (4 h + 3 i), one layer at a time, or the probabilities of the rows
    operations          6 N a trained token (4 N with an adapter; 2 N more with gradient checkpointing), 2 N a token that is read,
                        sampled or scored; N without an untied input embedding. Attention's own share, which grows with the length,
                        is left out.

``tests/test_estimate.py`` compares this with what torch allocates. The estimate was 0.94 to 1.01 of the peak resident size of a
learner's process on a CPU, for three ways to train a model of 6.5 M parameters (``MALLOC_MMAP_THRESHOLD_=131072``, so that the C
library returns what is freed).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM

from agentrl.chat.tokenizers import first_line, is_folder
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning import lora
from agentrl.learning.logprobs import MOST_LOGITS

SIZES = {"GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10}
SPANS = {"days": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}
OPERATIONS = {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_QWEN = {"model_type": "qwen2", "num_hidden_layers": 28, "max_position_embeddings": 32768}
KNOWN: Mapping[str, Mapping[str, Any]] = {  # what the models' own config.json say, for machines that hold none
    "Qwen/Qwen2.5-1.5B-Instruct": {
        **_QWEN,
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        **_QWEN,
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides its costs. ``n_computing``: the parameters that take part in every token's product. An adapter's
    parameters are ``n_adapter``, and are no part of the other two."""

    kind: str
    n_parameters: int
    n_computing: int
    layers: int
    hidden: int
    intermediate: int
    kv: int  # key-value heads x head size
    vocabulary: int
    positions: int | None
    n_adapter: int = 0
    adapter_inputs: int = 0  # features that the adapter reads, over all layers
    adapter_ranks: int = 0  # sum of the ranks, over all layers

    @property
    def n_trained(self) -> int:
        """Parameters that the optimiser moves."""
        return self.n_adapter or self.n_parameters


@dataclass(frozen=True, slots=True)
class Turns:
    """An upper bound of an iteration's tokens: every episode lasts all its turns, every completion is as long as it may be."""

    episodes: int
    turns: int  # of all episodes
    samples: int
    longest: int  # positions of the longest sample
    read: int  # prompt tokens that generation reads
    sampled: int
    trained_on: int  # tokens of all samples, context included


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a run file decides its memory besides the model. ``kept_rows`` episodes keep their keys and values between turns, in
    at most ``kept_bytes``. ``continued``: the adapter was trained before. ``ahead``: generation goes on while it trains."""

    token_budget: int
    rows: int  # of a forward pass in generation
    dtype: str = "float32"
    reference: bool = False
    continued: bool = False
    cuda: bool = False
    gradient_checkpointing: bool = False
    logit_chunk: int | None = None
    entropy_gradient: bool = False
    kept_rows: int = 0
    kept_bytes: int = 0
    critic: bool = False
    ahead: bool = False


def shape_of(
    path: str | None,
    config: Mapping[str, Any] | None,
    vocabulary: int | None,
    adapter: Mapping[str, Any] | None = None,
) -> tuple[Shape, str]:
    """The shape of the model at ``path`` (of an adapter's: the one below it), or that of ``config`` with a tokenizer of
    ``vocabulary`` tokens, with an ``adapter`` (rank, alpha, targets) where there is one; and where its config was found.

    Raises CheckpointError where no config is at hand, ConfigError for one that makes no model or has no such targets.
    """
    if path is not None and is_adapter(path):
        path = lora.base_of(path)
    try:
        if path is None:
            fields = {"vocab_size": vocabulary, **(config or {})}
            made, found = AutoConfig.for_model(fields.pop("model_type", ""), **fields), "model.config"
        else:
            made, found = _config_at(path)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(made)
    except CheckpointError:
        raise
    except Exception as error:  # each family of models checks its config in its own way
        raise ConfigError(f"the model's config makes no model: {first_line(error)}") from error
    shape = _shape(model)
    if adapter is None:
        return shape, found
    with torch.device("meta"):
        adapted = lora.add_adapter(model, **adapter, base=path or "", seed=0)
    layers = [module for module in adapted.modules() if hasattr(module, "lora_A")]
    return replace(
        shape,
        n_adapter=sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad),
        adapter_inputs=sum(module.in_features for module in layers),
        adapter_ranks=sum(module.r["default"] for module in layers),
    ), found


def is_adapter(path: str) -> bool:
    """Whether a path is the folder of an adapter."""
    return (Path(path) / "adapter_config.json").is_file()


def _config_at(path: str) -> tuple[Any, str]:
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True), f"the config.json of {path}"
    except (OSError, ValueError) as error:
        if path in KNOWN:
            fields = dict(KNOWN[path])
            return AutoConfig.for_model(
                fields.pop("model_type"), **fields
            ), "agentrl's own table (no config.json is at hand)"
        raise CheckpointError(
            f"the config of {path} is not at hand, so its size is unknown: give a folder with its config.json as model.path, "
            f"or put the model into Hugging Face's cache (known without one: {', '.join(KNOWN)})"
        ) from error


def _shape(model: Any) -> Shape:
    settings = model.config.get_text_config()
    heads = settings.num_attention_heads
    size = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    tied = tied or bool(getattr(settings, "tie_word_embeddings", False))
    embedding = model.get_input_embeddings().weight.numel()
    return Shape(
        kind=settings.model_type,
        n_parameters=n_parameters,
        n_computing=n_parameters - (0 if tied else embedding),
        layers=settings.num_hidden_layers,
        hidden=settings.hidden_size,
        intermediate=getattr(settings, "intermediate_size", None) or 4 * settings.hidden_size,
        kv=(getattr(settings, "num_key_value_heads", None) or heads) * size,
        vocabulary=settings.vocab_size,
        positions=getattr(settings, "max_position_embeddings", None),
    )


def weights_at_hand(path: str) -> bool:
    """Whether the weights of a model, or of an adapter and the model below it, can be loaded without a download."""
    if is_adapter(path):
        return (Path(path) / "adapter_model.safetensors").is_file() and weights_at_hand(lora.base_of(path))
    if is_folder(path):
        return any((Path(path) / name).is_file() for name in _WEIGHTS)
    return any(isinstance(try_to_load_from_cache(path, name), str) for name in _WEIGHTS)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory(shape: Shape, turns: Turns, plan: Plan) -> dict[str, tuple[int, str]]:
    """(bytes, how they come about) of each part."""
    size, n, trained = BYTES[plan.dtype], shape.n_parameters, shape.n_trained
    half = size == 2 and not shape.n_adapter  # bfloat16 weights are trained
    whole_copy = plan.reference and not shape.n_adapter
    start = plan.reference and shape.n_adapter and plan.continued
    beside = f" + {shape.n_adapter:,} of the adapter x 4" if shape.n_adapter else ""
    return {
        "weights": (n * size + 4 * shape.n_adapter, f"{n:,} x {size} bytes ({plan.dtype}){beside}"),
        "masters": (4 * trained * half, "4 bytes a trained parameter" if half else "what is trained is float32 itself"),
        "optimiser state": (8 * trained, f"AdamW: two float32 values for each of {trained:,} trained parameters"),
        "reference policy": (
            n * size if whole_copy else 8 * shape.n_adapter if start else 0,
            "a frozen copy" if whole_copy else "where the adapter began, and its values now" if start
            else "the model without its adapter" if plan.reference else "no method reads it",
        ),
        "critic": (
            n * (size + (4 if size == 2 else 0) + 12) if plan.critic else 0,
            "weights, masters where they are bfloat16, two values, gradients" if plan.critic else "the run file has none",
        ),
        "sampler's copy": (
            (n * size + 4 * shape.n_adapter) * plan.ahead,
            "generation goes on while weights change" if plan.ahead else "it shares the learner's weights",
        ),
        "gradients": (4 * trained, "their sum over micro-batches, in float32"),
        "new gradients": (2 * trained * half, "of one micro-batch, in bfloat16" if half else "are the sum's own"),
        "activations": _activations(shape, turns, plan),
        "layer under way": _under_way(shape, turns, plan),
        "logits": _logits(shape, turns, plan),
        "optimiser step": (4 * trained * plan.cuda, "AdamW's denominators" if plan.cuda else "one tensor at a time"),
        "KV cache": _cache(shape, turns, plan),
        "reading": _reading(shape, turns, plan),
    }  # fmt: skip


def kept_by_layer(shape: Shape, dtype: str) -> int:
    """Bytes that a Llama-like layer keeps of each token for its backward pass, with fused attention (counted by autograd's hooks in
    ``tests/test_estimate.py``; layers with more norms keep up to a quarter more).

    All weights trained: 8 h + 4 i + 2 kv values, in 16-bit formats 2 h more, because norms compute in float32. With an adapter the
    frozen weights' own inputs are not needed, but those of the adapter are, in float32, and its inner values.
    """
    size, h, i, kv = BYTES[dtype], shape.hidden, shape.intermediate, shape.kv
    if not shape.n_adapter:
        return size * (8 * h + 4 * i + 2 * kv + (0 if size == 4 else 2 * h))
    inputs, inner = (count // shape.layers for count in (shape.adapter_inputs, shape.adapter_ranks))
    common = 4 * 2 * h + size * (2 * h + 3 * i + 2 * kv)  # norms in float32; queries, attention's output; feed-forward
    read = min(inputs, 2 * h + i) if size == 4 else inputs  # layers that read the same share it, unless each casts it
    return common + 4 * read + 4 * inner


def _tokens(turns: Turns, plan: Plan) -> int:
    """Of the largest micro-batch: a sample above the budget comes alone."""
    return max(plan.token_budget, turns.longest)


def _activations(shape: Shape, turns: Turns, plan: Plan) -> tuple[int, str]:
    tokens, size = _tokens(turns, plan), BYTES[plan.dtype]
    layer = shape.hidden * size if plan.gradient_checkpointing else kept_by_layer(shape, plan.dtype)
    last = shape.hidden * (3 * size + (0 if size == 4 else size))
    how = f"{tokens:,} tokens x ({shape.layers} layers x {layer:,} + {last:,} bytes)"
    return tokens * (shape.layers * layer + last), how


def _under_way(shape: Shape, turns: Turns, plan: Plan) -> tuple[int, str]:
    tokens, size = _tokens(turns, plan), BYTES[plan.dtype]
    gradients = shape.intermediate * (4 + (size if shape.n_adapter and size == 2 else 0))
    kept = kept_by_layer(shape, plan.dtype) if plan.gradient_checkpointing else 0
    return tokens * (gradients + kept), f"{tokens:,} tokens x {gradients + kept:,} bytes"


def _logits(shape: Shape, turns: Turns, plan: Plan) -> tuple[int, str]:
    trained = math.ceil(_tokens(turns, plan) * turns.sampled / max(turns.trained_on, 1))
    at_once = min(trained, plan.logit_chunk or max(1, MOST_LOGITS // shape.vocabulary))
    values = 5 if plan.entropy_gradient else 4
    one = at_once * shape.vocabulary * 4
    head = 0 if shape.n_adapter else shape.vocabulary * shape.hidden * BYTES[plan.dtype]
    back = (values - 1) * one + head * (2 if at_once < trained else 1)  # chunks add up theirs
    how = f"{at_once:,} of {trained:,} trained tokens x {shape.vocabulary:,}"
    if back > values * one:
        return back, f"{how} x {values - 1} values x 4 bytes, and the head's gradient"
    return values * one, f"{how} x {values} values x 4 bytes"


def _cache(shape: Shape, turns: Turns, plan: Plan) -> tuple[int, str]:
    row = turns.longest * shape.layers * 2 * shape.kv * BYTES[plan.dtype]
    kept = min(plan.kept_bytes, plan.kept_rows * row)
    how = f"{plan.rows:,} rows x {turns.longest:,} positions x {shape.layers} layers x 2 x {shape.kv:,} x {BYTES[plan.dtype]} bytes"
    return plan.rows * row + kept, how + (f" + {amount(kept, SIZES)} between turns" if kept else "")


def _reading(shape: Shape, turns: Turns, plan: Plan) -> tuple[int, str]:
    size = BYTES[plan.dtype]
    values = 4 * shape.hidden + 3 * shape.intermediate
    layer, drawn = plan.rows * turns.longest * values * size, plan.rows * shape.vocabulary * (24 + size)
    if drawn > layer:
        return drawn, f"{plan.rows:,} rows x {shape.vocabulary:,} x {24 + size} bytes of probabilities"
    return (
        layer,
        f"{plan.rows:,} rows x {turns.longest:,} positions x {values:,} values x {size} bytes, one layer at a time",
    )


LASTING = ("weights", "masters", "optimiser state", "reference policy", "critic", "sampler's copy")


def peak(parts: Mapping[str, tuple[int, str]]) -> int:
    """Bytes needed at a time: what lasts, and what generation and an update need: the larger where they take turns, else both."""
    found = {name: size for name, (size, _) in parts.items()}
    lasting = sum(found[name] for name in LASTING)
    generation = found["KV cache"] + found["reading"]
    together = sum if found["sampler's copy"] else max
    return lasting + together((update_peak(parts), generation))


DIVIDED = ("weights", "masters", "optimiser state", "reference policy", "critic", "gradients", "new gradients")
SAMPLES = ("sampler's copy", "KV cache", "reading")  # the first learner alone


def of_learner(
    shape: Shape, plan: Plan, parts: Mapping[str, tuple[int, str]], n: int, *, sharded: bool, first: bool
) -> dict[str, tuple[int, str]]:
    """The parts of one of ``n`` learners, of what ``memory`` gives for one alone. Only the first samples; where the model is cut,
    it keeps a whole one for that, and each holds a layer and the embeddings whole while they compute."""
    found = dict(parts)
    if sharded:
        for name in DIVIDED:
            size, how = parts[name]
            found[name] = math.ceil(size / n), f"a part of {n}: {how}" if size else how
        whole, (size, how) = shape.n_parameters * BYTES[plan.dtype], found["weights"]
        if first:
            found["weights"] = size + whole, f"{how}, and all of them, which sample"
        layer, (size, how) = (
            math.ceil(whole / shape.layers) + shape.vocabulary * shape.hidden * BYTES[plan.dtype],
            found["layer under way"],
        )
        found["layer under way"] = size + layer, f"{how}, its weights and the embeddings' gathered"
    if not first:
        found |= dict.fromkeys(SAMPLES, (0, "the first learner samples"))
    return found


def update_peak(parts: Mapping[str, tuple[int, str]]) -> int:
    """Bytes that an update needs on top of what lasts, at the largest of its moments: forth, back, and the optimiser's step."""
    found = {name: size for name, (size, _) in parts.items()}
    forth = found["activations"] + max(found["logits"], found["layer under way"])
    back = found["new gradients"] + found["layer under way"]
    return found["gradients"] + max(forth, back, found["optimiser step"])


def available(device: str) -> int | None:
    """Free bytes of a device's memory; None where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    found = [_meminfo(), _cgroup()]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        names = os.sysconf_names
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else None


def _cgroup() -> int | None:
    """What a container's limit leaves."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return int(limit) - int(used) if limit != "max" else None


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def operations(
    shape: Shape,
    turns: Turns,
    *,
    scorings: int,
    epochs: int,
    gradient_checkpointing: bool = False,
    critic_epochs: int = 0,
) -> dict[str, tuple[float, str]]:
    """(floating-point operations of an iteration, how they come about). ``scorings``: how often log-probs are computed without a
    gradient: once for the old policy where the learner recomputes it, once for the reference. ``critic_epochs``: 0 without a
    critic, which reads every turn once more before it is trained."""
    n = shape.n_computing
    passes = (4 if shape.n_adapter else 6) + (2 if gradient_checkpointing else 0)
    tokens = f"{turns.trained_on:,} tokens"
    critic = (2.0 + 6.0 * critic_epochs) * n * turns.trained_on, f"2 N x {tokens} + 6 N x {tokens} x {critic_epochs}"
    return {
        "generation": (
            2.0 * n * (turns.read + turns.sampled),
            f"2 N x ({turns.read:,} read + {turns.sampled:,} sampled)",
        ),
        "scoring": (2.0 * n * scorings * turns.trained_on, f"2 N x {turns.trained_on:,} tokens x {scorings}"),
        "training": (
            float(passes * n * epochs * turns.trained_on),
            f"{passes} N x {turns.trained_on:,} tokens x {epochs}",
        ),
        **({"critic": critic} if critic_epochs else {}),
    }


def matmul_speed(device: str, dtype: str, seconds: float = 0.2) -> float:
    """Measured floating-point operations a second of a square matrix product, the best of as many as fit the time."""
    n = 4096 if device == "cuda" else 768
    left, right = (torch.rand(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best, until = math.inf, time.perf_counter() + seconds
    torch.mm(left, right)  # the first one sets up the library
    while best == math.inf or time.perf_counter() < until:
        _wait(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * n**3 / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(parts: Mapping[str, tuple[float, str]], units: Mapping[str, float]) -> list[str]:
    """One aligned line a part: its name, its amount, how it comes about."""
    return [f"  {part:<17}{amount(value, units):>14}   {how}" for part, (value, how) in parts.items()]


def amount(value: float, units: Mapping[str, float]) -> str:
    """A number in the largest unit that it fills, else in the smallest.

    >>> amount(3 * 2**20, SIZES), amount(90, SPANS), amount(0, SPANS)
    ('3.00 MiB', '1.50 min', '0.00 s')
    """
    name = next((name for name, unit in units.items() if abs(value) >= unit), [*units][-1])
    return f"{value / units[name]:,.2f} {name}"
