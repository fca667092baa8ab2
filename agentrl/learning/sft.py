"""Demonstrations and supervised learning: the same agent, samples and learner as in reinforcement learning.

agentrl demos configs/warmstart.toml --out runs/demos        an expert's episodes, written as the chat agent's completions
agentrl sft configs/warmstart.toml --demos runs/demos        a model that imitates them
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agentrl import seeding
from agentrl.learning.learner import Learner, TokenData
from agentrl.learning.samples import Sample, make_samples
from agentrl.types import Trajectory


def verb_weights(samples: Sequence[Sample], trajectories: Sequence[Trajectory]) -> np.ndarray:
    """Probability of drawing each sample, [S]: 1/√(count of the first word of its last action). Verbs that matter most are
    rare (an episode looks around often and takes once). A demonstrator's noise keeps its natural share, whatever its verb."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    last = [turns[int(sample.row.max())] for sample in samples]
    verbs = [re.split(r"\s", turn.action.strip(), maxsplit=1)[0] for turn in last]
    noise = np.array([bool(turn.info.get("noise")) for turn in last])
    counts = Counter(verb for verb, stray in zip(verbs, noise, strict=True) if not stray)
    weights = np.array([1 / np.sqrt(counts[verb] or 1) for verb in verbs])
    if noise.any() and not noise.all():
        weights[noise] = weights[~noise].mean()
    return weights / weights.sum()


def supervise(
    learner: Learner,
    trajectories: Sequence[Trajectory],
    *,
    updates: int,
    batch_size: int,
    balance: str,
    context_weight: float = 0.0,
    seed: int,
    on_update: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """``updates`` optimiser steps on batches of samples of ``trajectories``, drawn with replacement from the named stream
    ``sft``. A batch holds samples of similar length: four batches are drawn together and cut by length, so padding is small
    and the expectation is unchanged. ``context_weight`` is the weight of a prompt's token against 1 for a demonstrated one:
    a model that starts from nothing learns to copy names sooner when it also predicts what it reads."""
    samples = make_samples(trajectories)
    weights = verb_weights(samples, trajectories) if balance == "verb" else np.full(len(samples), 1 / len(samples))
    cumulative = np.cumsum(weights)
    n_rows = sum(trajectory.n_turns for trajectory in trajectories)
    pool: list[list[Sample]] = []
    for update in range(updates):
        if not pool:
            rng = seeding.stream(seed, "sft", update)
            drawn = np.searchsorted(cumulative, rng.random(4 * batch_size) * cumulative[-1], side="right")
            by_length = sorted((samples[int(index)] for index in drawn), key=lambda sample: sample.length)
            pool = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
            pool = [pool[int(index)] for index in rng.permutation(len(pool))]
        batch = pool.pop()
        metrics = learner.update(batch, _targets(batch, n_rows, context_weight), None)
        if on_update is not None:
            on_update(update, metrics)


def _targets(batch: Sequence[Sample], n_rows: int, context_weight: float) -> TokenData:
    """Token data whose advantages are the weights of the tokens; the demonstrated ones weigh 1 on average over the update."""
    if not context_weight:
        return TokenData.of(batch, np.ones(n_rows), None)
    whole = []
    for sample in batch:
        mask = np.arange(sample.length) > 0  # nothing predicts the first token
        whole.append(replace(sample, loss_mask=mask, row=np.full(sample.length, sample.row.max())))
    data = TokenData.of(whole, np.ones(n_rows), None)
    demonstrated = np.concatenate([sample.loss_mask[1:] for sample in batch])
    data.advantage = np.where(demonstrated, 1.0, context_weight) * len(demonstrated) / demonstrated.sum()
    return data
