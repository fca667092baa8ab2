"""What a model costs, and what this machine can do: measured once in a process."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import torch

from agentrl.learning.estimate import matmul_speed
from agentrl.learning.lora import causal_lm, has_adapter
from agentrl.work import Costs, Machine

SMALLEST, LARGEST = 2**20, 2**28  # bytes that are read to measure


def costs_of(model: Any) -> Costs:
    """The costs of a causal language model, with or without an adapter (which is counted with the weights it adds to)."""
    inner = causal_lm(model)
    settings = inner.config.get_text_config()
    embedding, output = inner.get_input_embeddings().weight, inner.get_output_embeddings().weight
    heads = settings.num_attention_heads
    size = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    kv = (getattr(settings, "num_key_value_heads", None) or heads) * size
    known = {id(parameter): parameter for parameter in inner.parameters()}  # a tied embedding is one
    known.pop(id(embedding), None)
    known.pop(id(output), None)
    body = list(known.values())
    return Costs(
        body=sum(parameter.numel() for parameter in body),
        head=output.numel(),
        attention=2 * settings.num_hidden_layers * heads * size,
        weights=sum(parameter.numel() * parameter.element_size() for parameter in [*body, output]),
        position=settings.num_hidden_layers * 2 * kv * output.element_size(),
        passes=4 if has_adapter(model) else 6,
    )


def machine(model: Any) -> Machine:
    """What the device of a model can do in its dtype, with the threads that torch has now."""
    weight = causal_lm(model).get_output_embeddings().weight
    n_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    rounded = 2 ** round(math.log2(min(max(n_bytes, SMALLEST), LARGEST)))
    return _machine(weight.device.type, str(weight.dtype).removeprefix("torch."), rounded, torch.get_num_threads())


@functools.cache
def _machine(device: str, dtype: str, n_bytes: int, threads: int) -> Machine:
    return Machine(matmul_speed(device, dtype), memory_speed(device, n_bytes))


def memory_speed(device: str, n_bytes: int, seconds: float = 0.05) -> float:
    """Measured bytes a second of reading ``n_bytes`` as a product of a matrix and a vector does, the best of as many as fit the
    time. What fits a processor's cache is read from there, as a model of that size is."""
    columns = 1024
    matrix = torch.rand(n_bytes // (4 * columns), columns, device=device)
    vector = torch.rand(columns, device=device)
    torch.mv(matrix, vector)  # the first one sets up the library
    best, until = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < until:
        _wait(device)
        started = time.perf_counter()
        torch.mv(matrix, vector)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return matrix.numel() * 4 / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
