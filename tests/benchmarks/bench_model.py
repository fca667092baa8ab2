"""What a model of real size gives here: tokens sampled and tokens trained on a second, and the MFU of an update.

    python tests/benchmarks/bench_model.py [--size "0.5 B"] [--json]

On CUDA a model of Qwen2.5-0.5B's shape in bfloat16, elsewhere one of 6 M parameters in float32 (``--size`` takes either anywhere;
the larger needs 10 GiB), with random weights. Sampling: episodes of one turn, by the transformers policy and by vLLM where it is
installed. Update: one step of PPO-clip and AdamW on samples of equal length, of which the last quarter is trained on.

``bound_ratio`` is seconds over the least seconds of that work by what this device was measured to do in a matrix product and in
reading memory, as a run's ``time/bound_*`` (agentrl/watch/bounds.py). MFU is the operations of the model (6 a parameter and token,
and 12 a layer, attended pair and feature; nothing that is computed twice; Chowdhery et al. 2022, arXiv 2204.02311, appendix B)
over the operations that the device's data sheet promises for dense products, or where this file knows none, over measured ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bench_engine import asking, device, vllm_of
from transformers import Qwen2Config, Qwen2ForCausalLM

from agentrl.algorithms.losses import PPOClip
from agentrl.learning.learner import Learner, OptimizerSettings, TokenData
from agentrl.learning.machine import costs_of, machine
from agentrl.learning.samples import Sample
from agentrl.policies.base import Request
from agentrl.policies.transformers import TransformersPolicy
from agentrl.types import Sampling
from agentrl.watch.bounds import operations, seconds_of
from agentrl.work import Work

REPEATS = 3
DATA_SHEET = {  # dense bfloat16 operations a second, by a part of the device's name; NVIDIA's data sheets
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


@dataclass(frozen=True)
class Size:
    """A shape and how much of it is measured: ``episodes`` at a time of ``prompt`` tokens read and ``answer`` sampled, ``samples``
    of ``length`` tokens in an update."""

    shape: dict[str, Any]
    dtype: str
    episodes: int
    prompt: int
    answer: int
    samples: int
    length: int

    def model(self) -> Any:
        """With random weights, where they are measured."""
        torch.manual_seed(0)
        made = Qwen2ForCausalLM(Qwen2Config(max_position_embeddings=4096, tie_word_embeddings=True, **self.shape))
        return made.to("cuda" if torch.cuda.is_available() else "cpu", getattr(torch, self.dtype)).eval()


def sizes() -> dict[str, Size]:
    """By name; a machine without CUDA is given less to do."""
    small = {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8}
    small |= {"intermediate_size": 704, "vocab_size": 1000}
    half = {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
    half |= {"intermediate_size": 4864, "vocab_size": 151936}
    if torch.cuda.is_available():
        return {
            "6 M": Size(small, "float32", 64, 64, 64, 64, 512),
            "0.5 B": Size(half, "bfloat16", 128, 512, 256, 64, 1024),
        }
    return {"6 M": Size(small, "float32", 32, 64, 32, 16, 256), "0.5 B": Size(half, "float32", 4, 32, 8, 2, 128)}


def rows(name: str | None = None) -> list[dict[str, Any]]:
    """The measurements of one size, sampling first."""
    where = device()
    name = name or ("0.5 B" if torch.cuda.is_available() else "6 M")
    size = sizes()[name]
    model = size.model()
    title = f"{name} parameters in {size.dtype}, {where}"
    return [*_sampling(size, model, title), *_update(size, model, title)]


def _sampling(size: Size, model: Any, title: str) -> list[dict[str, Any]]:
    policy = TransformersPolicy(model)
    plain = _seconds(size, policy.generate_batch)
    kinds = {kind: Work() + work for kind, work in policy.work.items()}  # of all the times
    least = sum(seconds_of(costs_of(model), machine(model), kind, work) for kind, work in kinds.items()) / (REPEATS + 1)
    n = size.episodes * size.answer
    load = f"{size.episodes} at a time, {size.prompt} tokens read and {size.answer} sampled, {title}"
    found = [
        {"name": f"sampling, transformers: {load}", "value": n / plain, "unit": "tokens/s", "against": "", "ratio": None,
         "bound": "this device's products and memory", "bound_ratio": plain / least}
    ]  # fmt: skip
    if (engine := vllm_of(model, size.prompt + size.answer + 1)) is not None:
        try:
            seconds = _seconds(size, asking(engine))
        finally:
            engine.close()
        found.append(
            {"name": f"sampling, vLLM: {load}", "value": n / seconds, "unit": "tokens/s",
             "against": "the transformers policy, measured now", "peer": n / plain, "ratio": plain / seconds,
             "bound": "this device's products and memory", "bound_ratio": seconds / least}
        )  # fmt: skip
    return found


def _seconds(size: Size, answer: Any) -> float:
    """The median of the repeats after one that warms up; each reads other tokens, so nothing is found in a cache."""
    times = []
    for repeat in range(REPEATS + 1):
        draw = np.random.default_rng(repeat)
        requests = [
            Request(
                f"r={repeat}/e={n}/turn=0",
                draw.integers(5, size.shape["vocab_size"], size.prompt).tolist(),
                Sampling(max_tokens=size.answer, key=(repeat, n, 0)),
            )
            for n in range(size.episodes)
        ]
        began = time.perf_counter()
        done = answer(requests)
        times.append(time.perf_counter() - began)
        assert all(len(completion.ids) == size.answer for completion in done)
    return statistics.median(times[1:])


def _update(size: Size, model: Any, title: str) -> list[dict[str, Any]]:
    learner = Learner(model=model.train(), loss=PPOClip(), settings=OptimizerSettings(lr=1e-6), packing="auto")
    draw = np.random.default_rng(0)
    first = size.length * 3 // 4
    samples = [
        Sample.of(draw.integers(0, size.shape["vocab_size"], size.length), first=first, row=place, trajectory=place)
        for place in range(size.samples)
    ]
    data = TokenData.of(samples, draw.normal(size=len(samples)), None)
    data.logp_old = np.full(len(data.row), -np.log(size.shape["vocab_size"]))
    times = []
    for _ in range(REPEATS + 1):  # the first makes the optimiser's state
        before = learner.work["training"].copy()
        began = time.perf_counter()
        learner.update(samples, data, None)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    seconds, work = statistics.median(times[1:]), learner.work["training"] - before
    done = operations(costs_of(model), work, 6)
    measured = machine(model).operations
    promised, source = _promised(measured)
    load = f"{size.samples} samples of {size.length} tokens, {title}"
    return [
        {"name": f"update: {load}", "value": size.samples * size.length / seconds, "unit": "tokens/s", "against": "",
         "ratio": None, "bound": f"{measured / 1e12:.3g} TFLOP/s, measured now", "bound_ratio": seconds * measured / done},
        {"name": f"update, MFU: of {promised / 1e12:.3g} TFLOP/s ({source})", "value": 100 * done / seconds / promised,
         "unit": "%", "against": "", "ratio": None, "bound": source, "bound_ratio": seconds * promised / done},
    ]  # fmt: skip


def _promised(measured: float) -> tuple[float, str]:
    if torch.cuda.is_available():
        known = torch.cuda.get_device_name()
        for part, promise in DATA_SHEET.items():
            if part in known:
                return promise, "data sheet"
    return measured, f"measured in a product, {os.cpu_count()} processors here"


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", choices=tuple(sizes()))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = rows(given.size)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(f"{row['name']}: {row['value']:,.1f} {row['unit']}, {row['bound_ratio']:.2f} times the bound")


if __name__ == "__main__":
    main()
