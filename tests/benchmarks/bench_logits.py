"""Peak memory and time of one update with a vocabulary of 150,000 tokens: logits in chunks against all of them at once.

    python tests/benchmarks/bench_logits.py [--json]

Each measurement is a process of its own; its memory is the peak of the process over what it held before the update. ``rows()``
as in bench_append: ``ratio`` = how many times less than all logits at once; ``bound`` is one tensor of a chunk's logits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import agentrl

VOCABULARY, N_TOKENS, CHUNKS = 150_000, 1024, (64, 256, 1024)

CHILD = f"""
import resource, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from transformers import GPT2Config, GPT2LMHeadModel
from agentrl.algorithms.losses import PPOClip
from agentrl.learning.learner import Learner, OptimizerSettings, TokenData
from agentrl.learning.samples import Sample
size = dict(n_embd=32, n_layer=1, n_head=2, n_positions=128)
model = GPT2LMHeadModel(GPT2Config(vocab_size={VOCABULARY}, bos_token_id=0, eos_token_id=0, **size))
learner = Learner(model=model, loss=PPOClip(), settings=OptimizerSettings(lr=1e-6), chunk=int(sys.argv[1]))
rng = np.random.default_rng(0)
samples = [Sample.of(rng.integers(0, {VOCABULARY}, 129 - 1), first=64, row=n) for n in range({N_TOKENS} // 64)]
data = TokenData.of(samples, np.ones(len(samples)), None)
data.logp_old = np.full(len(data.row), -np.log({VOCABULARY}))
learner.update(samples, data, None, [0])  # the optimiser's own memory
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, started = peak(), time.process_time()
learner.update(samples, data, None)
print(peak() - before, time.process_time() - started)
"""


def measured(chunk: int) -> tuple[float, float]:
    """MiB and CPU seconds of an update with logits of at most ``chunk`` tokens at a time."""
    path = os.pathsep.join([str(Path(agentrl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CHILD, str(chunk)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    mib, seconds = done.stdout.split()
    return float(mib), float(seconds)


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    found = {chunk: measured(chunk) for chunk in CHUNKS}
    whole, result = found[N_TOKENS], []
    for chunk, (mib, seconds) in found.items():
        bound = chunk * VOCABULARY * 4 / 2**20
        name = f"update of {N_TOKENS} tokens, vocabulary {VOCABULARY:,}, {chunk} at a time"
        plain = {"against": "all at once, measured now", "bound": "a chunk's logits"}
        result.append(
            {"name": f"peak memory: {name}", "value": mib, "unit": "MiB", **plain, "peer": whole[0],
             "ratio": whole[0] / mib, "bound_ratio": mib / bound}
        )  # fmt: skip
        result.append(
            {"name": f"time: {name}", "value": seconds, "unit": "CPU-s", **plain, "peer": whole[1],
             "ratio": whole[1] / seconds, "bound_ratio": None}
        )  # fmt: skip
    return result


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = rows()
    if as_json:
        print(json.dumps(found))
        return
    for row in found:
        print(f"{row['name']}: {row['value']:,.4g} {row['unit']}; {row['ratio']:.2f} x better than {row['against']}")


if __name__ == "__main__":
    main()
