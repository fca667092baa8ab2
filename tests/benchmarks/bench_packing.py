"""What padding costs an update, and what packing saves: rows of several samples against rows of one, padded.

    python tests/benchmarks/bench_packing.py [--json]

CPU-seconds of one update, the better of two, in four mixes of samples: the quick start's (its model, prompts of 37 to 60 tokens);
episodes of 50 to 800 tokens on the same model, all in one micro-batch and in small ones; and short samples on a model that is wide
for them. ``ratio`` = how many times faster than padded. ``bound_ratio`` = tokens of the micro-batches, padding included, over
those of the samples: 1 is no padding.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from agentrl.algorithms.losses import PPOClip
from agentrl.learning.learner import Learner, OptimizerSettings, TokenData
from agentrl.learning.samples import Sample, n_tokens

VOCABULARY, ANSWER = 400, 8


@dataclass(frozen=True)
class Mix:
    """Samples whose lengths are drawn evenly between two, and a model."""

    name: str
    n: int
    shortest: int
    longest: int
    width: int
    layers: int
    token_budget: int


MIXES = (
    Mix("quick start", 128, 37, 60, 96, 3, 16384),
    Mix("50 to 800 tokens, one micro-batch", 8, 50, 800, 96, 3, 16384),
    Mix("50 to 800 tokens, small micro-batches", 8, 50, 800, 96, 3, 2048),
    Mix("20 to 120 tokens, width 512", 32, 20, 120, 512, 2, 16384),
)


def measured(mix: Mix, packing: Any) -> tuple[float, float]:
    """CPU-seconds of an update, and tokens of its micro-batches over those of its samples."""
    torch.manual_seed(0)
    shape = {"hidden_size": mix.width, "intermediate_size": 8 * mix.width // 3, "num_hidden_layers": mix.layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCABULARY, max_position_embeddings=1024, **shape, **heads))
    budget = mix.token_budget
    settings = OptimizerSettings(lr=1e-6)
    learner = Learner(model=model, loss=PPOClip(), settings=settings, token_budget=budget, packing=packing)
    rng = np.random.default_rng(0)
    lengths = rng.integers(mix.shortest, mix.longest + 1, mix.n).tolist()
    samples = [Sample.of(rng.integers(0, VOCABULARY, n), first=n - ANSWER, row=k) for k, n in enumerate(lengths)]
    data = TokenData.of(samples, np.ones(len(samples)), None)
    data.logp_old = np.full(len(data.row), -np.log(VOCABULARY))
    batches = [rows for rows, _ in learner._micro_batches(samples, data, None)]
    seconds = []
    for _ in range(3):  # the first makes the optimiser's state
        started = time.process_time()
        learner.update(samples, data, None)
        seconds.append(time.process_time() - started)
    return min(seconds[1:]), n_tokens(batches, lengths) / sum(lengths)


def rows() -> list[dict[str, Any]]:
    """The measurements, the quick start's first."""
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for mix in MIXES:
            padded, padding = measured(mix, False)
            for packing, word in ((True, "packed"), ("auto", "auto")):
                seconds, tokens = measured(mix, packing)
                found.append(
                    {"name": f"update, {word}: {mix.name}", "value": seconds, "unit": "CPU-s",
                     "against": f"padded ({padding:.3f} x the tokens), measured now", "peer": padded, "ratio": padded / seconds,
                     "bound": "tokens without padding", "bound_ratio": tokens}
                )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return found


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = rows()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(
            f"{row['name']}: {row['value']:.3f} {row['unit']}, {row['ratio']:.2f} x {row['against']}, "
            f"{row['bound_ratio']:.3f} x the tokens of the samples"
        )


if __name__ == "__main__":
    main()
