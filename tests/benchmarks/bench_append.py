"""What an appending memory costs against a window, and what keeping keys and values between turns saves.

    python tests/benchmarks/bench_append.py [--json]

``rows()`` gives one dictionary a measurement, the main one first: ``name``, ``value`` and ``unit``; ``against`` names
the peer, measured now, ``peer`` is its value and ``ratio`` says how many times better ours is; ``bound`` and ``bound_ratio`` as in
bench_household (no bound is given here). Ways that are compared take turns, and the median of their repeats counts, so
that what else the machine does reaches all of them. Models have random weights: completions have their full
length, episodes all their turns, and both memories sample the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from agentrl import build
from agentrl.agents import Append, ChatAgent, Window
from agentrl.chat import Renderer
from agentrl.config import EnvTable
from agentrl.learning.checkpoint import build_model, load_tokenizer
from agentrl.policies.transformers import TransformersPolicy
from agentrl.rollouts import Limits, Rollouts
from agentrl.types import RolloutRequest, Sampling

REPEATS = 3
N_TASKS, GROUP_SIZE, N_TURNS, N_TOKENS = 8, 4, 15, 12
WARMSTART = Path(__file__).parents[2] / "configs" / "warmstart"
PROMPT = "{places}\n{history}\n{unseen}\nYou hold {held}\n{observation}\n{goal}"
MODELS = {  # the quick start's, and one with the shape of larger ones
    "0.4 M": {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256},
    "6 M": {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 704},
}
WAYS = {  # memory, whether keys and values are kept
    "append, kept": (Append(next="{unseen}\nYou hold {held}\n{observation}"), True),
    "append": (Append(next="{unseen}\nYou hold {held}\n{observation}"), False),
    "window": (Window(turns=4, item="{action}; "), False),
    "window, kept": (Window(turns=4, item="{action}; "), True),
}


def measured(shape: dict[str, int]) -> dict[str, dict[str, float]]:
    """Of each way: seconds of generation, tokens sampled, prompt tokens asked and prompt tokens read."""
    tokenizer = load_tokenizer(str(WARMSTART))
    config = {"model_type": "qwen2", "max_position_embeddings": 2048, "tie_word_embeddings": True, **shape}
    model = build_model({**config, "num_key_value_heads": shape["num_attention_heads"]}, tokenizer, 0).eval()
    pool = build.env_pool(EnvTable(id="agentrl/Household-v0", options={"difficulty": "tiny"}))
    requests = [RolloutRequest(task, GROUP_SIZE) for task in build.tasks_of(pool, "train")[:N_TASKS]]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, dict[str, float]] = {}
    for repeat in range(REPEATS):
        for name, (memory, kept) in WAYS.items():
            policy = TransformersPolicy(model, kv_cache_bytes=2**32 if kept else 0)
            agent = ChatAgent(Renderer(tokenizer), memory, prompt=PROMPT, context=2048)
            rollouts = Rollouts(
                pool, agent, policy, limits=Limits(max_turns=N_TURNS), sampling=Sampling(max_tokens=N_TOKENS)
            )
            started = time.process_time()
            rollouts.run(requests, ("bench", repeat))
            seconds[name].append(time.process_time() - started)
            found[name] = {
                "tokens": rollouts.stats.n_sampled_tokens,
                "asked": policy.n_prompt_tokens,
                "read": policy.n_read_tokens,
            }
    for name, times in seconds.items():
        found[name]["rate"] = found[name]["tokens"] / statistics.median(times)
    return found


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    result = []
    size = f"{N_TASKS * GROUP_SIZE} episodes of {N_TURNS} turns"
    for model, shape in MODELS.items():
        found = measured(shape)
        pairs = [
            ("append, kept", "append"),
            ("append, kept", "window"),
            ("append", "window"),
            ("window, kept", "window"),
        ]
        for ours, peer in pairs:
            result.append(
                row(
                    f"rollouts: {ours}, {model} parameters, {size}",
                    found[ours]["rate"],
                    "tokens/CPU-s",
                    peer,
                    found[peer]["rate"],
                )
            )
        for ours, peer in pairs[:2]:
            read, other = found[ours]["read"], found[peer]["read"]
            result.append(
                row(
                    f"prompt tokens computed: {ours}, {model} parameters, {size}",
                    read,
                    "tokens",
                    peer,
                    other,
                    less=True,
                )
            )
    return result


def row(name: str, value: float, unit: str, against: str, peer: float, *, less: bool = False) -> dict[str, Any]:
    """One measurement; ``less`` where less is better."""
    ratio = peer / value if less else value / peer
    plain = {"name": name, "value": value, "unit": unit, "against": f"{against}, measured now", "peer": peer}
    return {**plain, "ratio": ratio, "bound": "", "bound_ratio": None}


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
        print(f"{entry['name']}: {entry['value']:,.0f} {entry['unit']}; {entry['ratio']:.2f} x {entry['against']}")


if __name__ == "__main__":
    main()
