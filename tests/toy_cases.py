"""Trajectories without a policy or environment behind them, and models small enough to differentiate in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from toys import tokenizer

from agentrl.algorithms.table import TurnTable
from agentrl.learning.checkpoint import build_model
from agentrl.learning.learner import Learner
from agentrl.learning.samples import Sample, make_samples
from agentrl.types import Call, Task, Trajectory, Turn


def gpt2(dtype: str) -> Any:
    """GPT-2 norms in its own dtype (Qwen2 in float32), so that float64 is float64 throughout. Its dropout is 0.1."""
    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    return build_model(config, tokenizer(), 0).to(getattr(torch, dtype))


@dataclass
class Case:
    trajectories: list[Trajectory]
    samples: list[Sample]
    table: TurnTable
    advantages: np.ndarray


def case(seed: int = 0, n: int = 5) -> Case:
    """Trajectories of both memories and of very different lengths, in two groups."""
    rng = np.random.default_rng(seed)
    words = lambda size: rng.integers(10, 40, size).tolist()  # noqa: E731
    trajectories = []
    for index in range(n):
        turns, history = [], words(rng.integers(1, 12))
        for _ in range(rng.integers(1, 4)):
            completion = words(rng.integers(1, 6))
            logprobs = rng.normal(-3, 0.3, len(completion)).tolist()
            sampling = {"temperature": float(rng.choice([0.5, 1.0, 1.5]))}
            turns.append(Turn("o", calls=[Call("agent", history, completion, logprobs, sampling)]))
            history = [*history, *completion, *words(3)] if index % 2 else words(rng.integers(1, 12))
        trajectories.append(Trajectory(f"t{index}", "toy", Task("a"), group=f"g{index % 2}", turns=turns))
    table = TurnTable.from_trajectories(trajectories)
    return Case(trajectories, make_samples(trajectories), table, rng.normal(size=len(table)))


def gradient_of(model: Any) -> np.ndarray:
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None]).numpy()


def snapshot(learner: Learner) -> dict[str, Any]:
    return copy.deepcopy({"model": learner.model.state_dict(), **learner.state_dict()})
