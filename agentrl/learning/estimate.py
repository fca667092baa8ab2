"""What a run needs, told before it starts: bytes of memory and floating-point operations, from the model's shape alone.

A model is laid out on the meta device, so one of any size costs no memory here. The formulas:

    weights             parameters x bytes of the dtype (the reference policy: the same once more)
    critic              weights, gradients and optimiser state of a second model of the policy's size
    gradients           as much as the weights
    optimiser state     AdamW: two values a parameter
    activations         token_budget x layers x (8 h + 4 i + 2 kv) values, 2 h more in 16-bit formats; h hidden, i feed-forward,
                        kv = key-value heads x head size: what a Llama-like layer keeps for its backward pass with fused
                        attention (counted by autograd's hooks in ``tests/test_estimate.py``; more norms keep up to a quarter more)
    logits              trained tokens of a micro-batch x vocabulary x 4 float32 values
    KV cache            rows of a forward pass x positions x layers x 2 kv values
    operations          6 N a trained token, 2 N a token that is read, sampled or scored; N: all parameters but an untied input
                        embedding. Attention's own share, which grows with the length, is left out.

A learner's peak was measured within 3 % of this for three models on a CPU whose allocator returns what is freed
(``MALLOC_MMAP_THRESHOLD_=65536``); the C library's default keeps up to half as much again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM

from agentrl.chat.tokenizers import first_line, is_folder
from agentrl.errors import CheckpointError, ConfigError

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
    """What of a model decides its costs. ``n_computing``: the parameters that take part in every token's product."""

    kind: str
    n_parameters: int
    n_computing: int
    layers: int
    hidden: int
    intermediate: int
    kv: int  # key-value heads x head size
    vocabulary: int
    positions: int | None


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


def shape_of(path: str | None, config: Mapping[str, Any] | None, vocabulary: int | None) -> tuple[Shape, str]:
    """The shape of the model at ``path``, or that of ``config`` with a tokenizer of ``vocabulary`` tokens; and where its config was
    found. Raises CheckpointError where no config is at hand, ConfigError for one that makes no model."""
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
    return _shape(model), found


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
    """Whether the weights of a model can be loaded without a download."""
    if is_folder(path):
        return any((Path(path) / name).is_file() for name in _WEIGHTS)
    return any(isinstance(try_to_load_from_cache(path, name), str) for name in _WEIGHTS)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory(
    shape: Shape, turns: Turns, *, dtype: str, reference: bool, token_budget: int, rows: int, critic: bool = False
) -> dict[str, tuple[int, str]]:
    """(bytes, how they come about) of each part. ``rows``: rows of a forward pass in generation. The critic's activations are no
    more than the policy's, and are not kept at the same time."""
    size, n = BYTES[dtype], shape.n_parameters
    tokens = max(token_budget, turns.longest)  # a longer sample comes alone
    values = 8 * shape.hidden + 4 * shape.intermediate + 2 * shape.kv + (0 if size == 4 else 2 * shape.hidden)
    trained = math.ceil(tokens * turns.sampled / max(turns.trained_on, 1))
    parts = {
        "weights": (n * size, f"{n:,} x {size} bytes ({dtype})"),
        "gradients": (n * size, "as the weights"),
        "optimiser state": (2 * n * size, "AdamW: two values a parameter"),
        "reference policy": (n * size if reference else 0, "a frozen copy" if reference else "no method reads it"),
        "critic": (
            4 * n * size if critic else 0,
            "weights, gradients, two values" if critic else "the run file has none",
        ),
        "activations": (
            tokens * shape.layers * values * size,
            f"{tokens:,} tokens x {shape.layers} layers x {values:,} values x {size} bytes",
        ),
        "logits": (
            trained * shape.vocabulary * 16,
            f"{trained:,} trained tokens x {shape.vocabulary:,} x 4 values x 4 bytes",
        ),
        "KV cache": (
            rows * turns.longest * shape.layers * 2 * shape.kv * size,
            f"{rows:,} rows x {turns.longest:,} positions x {shape.layers} layers x 2 x {shape.kv:,} x {size} bytes",
        ),
    }
    return parts


def peak(parts: Mapping[str, tuple[int, str]]) -> int:
    """Bytes needed at a time: generation and training take turns, so the larger of their own parts counts."""
    training = parts["gradients"][0] + parts["activations"][0] + parts["logits"][0]
    lasting = sum(parts[name][0] for name in ("weights", "optimiser state", "reference policy", "critic"))
    return lasting + max(training, parts["KV cache"][0])


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
    shape: Shape, turns: Turns, *, scorings: int, epochs: int, critic_epochs: int = 0
) -> dict[str, tuple[float, str]]:
    """(floating-point operations of an iteration, how they come about). ``scorings``: how often log-probs are computed without a
    gradient: once for the old policy where the learner recomputes it, once for the reference. ``critic_epochs``: 0 without a
    critic, which reads every turn once more before it is trained."""
    n = shape.n_computing
    read = f"{turns.trained_on:,} tokens"
    critic = {
        "critic": (
            (2.0 + 6.0 * critic_epochs) * n * turns.trained_on,
            f"2 N x {read} + 6 N x {read} x {critic_epochs}",
        )
    }
    return {
        "generation": (
            2.0 * n * (turns.read + turns.sampled),
            f"2 N x ({turns.read:,} read + {turns.sampled:,} sampled)",
        ),
        "scoring": (2.0 * n * scorings * turns.trained_on, f"2 N x {turns.trained_on:,} tokens x {scorings}"),
        "training": (6.0 * n * epochs * turns.trained_on, f"6 N x {turns.trained_on:,} tokens x {epochs}"),
        **(critic if critic_epochs else {}),
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
