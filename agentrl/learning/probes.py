"""What a model does on this machine, measured: finite weights, sampler against trainer, seconds of generation and of an update;
and what torch is here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from agentrl.learning.learner import Learner, TokenData
from agentrl.learning.samples import Sample
from agentrl.policies.base import Request
from agentrl.types import Completion


def not_finite(model: Any) -> list[str]:
    """Names of the parameters that hold a NaN or an infinity."""
    return [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]


@dataclass(frozen=True, slots=True)
class Gap:
    """|log p of the sampler - log p of the trainer| over ``n`` sampled tokens, in nats. ``missing``: tokens for which the sampler
    gave no log-prob. ``worst`` is the place of the largest difference in its completion, from 0."""

    n: int
    mean: float
    max: float
    worst: int
    missing: int


def answers_of(policy: Any, requests: Sequence[Request]) -> list[Completion]:
    """One completion a request, in order, from a policy of either kind."""
    if hasattr(policy, "generate_batch"):
        return policy.generate_batch(requests)

    async def all_of_them() -> list[Completion]:
        asked = (policy.generate(request.prompt_ids, request.sampling, request.id) for request in requests)
        return list(await asyncio.gather(*asked))

    return asyncio.run(all_of_them())


def samples_of(requests: Sequence[Request], completions: Sequence[Completion]) -> list[Sample]:
    """What was sampled, one sample a request, as the learner takes it."""
    found = []
    for row, (request, completion) in enumerate(zip(requests, completions, strict=True)):
        ids, n_prompt = [*request.prompt_ids, *completion.ids], len(request.prompt_ids)
        sample = Sample.of(ids, first=n_prompt, row=row, trajectory=row)
        if completion.logprobs is not None:
            sample.logprobs[n_prompt:] = completion.logprobs
        sample.temperature[n_prompt:] = request.sampling.temperature or 1.0
        found.append(sample)
    return found


def gap(learner: Learner, requests: Sequence[Request], completions: Sequence[Completion]) -> Gap:
    """The sampler's log-probs against those that the learner computes for the same tokens."""
    samples = samples_of(requests, completions)
    data = TokenData.of(samples, None, None)
    trained, _ = learner.logprobs(samples, data)
    known = ~np.isnan(data.logp_sampler)
    differences = np.abs(data.logp_sampler - trained)[known]
    differences = np.where(np.isnan(differences), np.inf, differences)
    place = np.concatenate([np.arange(len(completion.ids)) for completion in completions])[known]
    n = int(known.sum())
    return Gap(
        n=n,
        mean=float(differences.mean()) if n else 0.0,
        max=float(differences.max(initial=0.0)),
        worst=int(place[differences.argmax()]) if n else 0,
        missing=int((~known).sum()),
    )


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds a token: of a prompt that is read, of a completion (``rows`` at a time), of a sample that is scored, and of one that
    is trained."""

    read: float
    sampled: float
    scored: float
    trained: float
    rows: int


def speed(
    policy: Any, learner: Learner, make: Callable[[int], Sequence[Request]], *, most_rows: int, enough_s: float = 1.0
) -> Speed:
    """Measured with few rows first, then with four times as many (at most ``most_rows``) as long as one measurement takes less
    than ``enough_s``: small batches are all overhead. Of two measurements the faster one counts, part by part: what disturbs a
    measurement only ever adds to it. ``make(rows)`` gives that many requests, no two alike."""
    rows = min(8, most_rows)
    answers_of(policy, make(rows))  # the first call sets up kernels and caches
    while True:
        started = time.perf_counter()
        one = _speed(policy, learner, make(rows))
        spent = time.perf_counter() - started
        if spent > enough_s or rows >= most_rows:
            other = _speed(policy, learner, make(rows))
            return Speed(*(min(getattr(one, spec.name), getattr(other, spec.name)) for spec in fields(Speed)))
        rows = min(4 * rows, most_rows)


def _speed(policy: Any, learner: Learner, requests: Sequence[Request]) -> Speed:
    """Generation of ``requests`` (one token, then all), a pass without gradient and an update of what was sampled, with an
    advantage of 0 for every token: no weight learns anything, the optimiser's weight decay aside."""
    first = [Request(request.id, request.prompt_ids, replace(request.sampling, max_tokens=1)) for request in requests]
    n_read = sum(len(request.prompt_ids) for request in requests)
    read, _ = _timed(learner, lambda: answers_of(policy, first))
    whole, completions = _timed(learner, lambda: answers_of(policy, requests))
    n_sampled = sum(len(completion.ids) for completion in completions)
    samples = samples_of(requests, completions)
    n_tokens = sum(sample.length for sample in samples)
    scored, _ = _timed(learner, lambda: learner.score(samples))
    data = learner.prepare(samples, np.zeros(len(samples)), None)
    trained, _ = _timed(learner, lambda: learner.update(samples, data, None))
    return Speed(
        read=read / n_read,
        sampled=max(whole - read, 0.0) / max(n_sampled - len(requests), 1),
        scored=scored / n_tokens,
        trained=trained / n_tokens,
        rows=len(requests),
    )


def _timed(learner: Learner, work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    if learner.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def torch_facts() -> dict[str, Any]:
    """Plain JSON: version, build ("cpu" or the CUDA version it was built for), threads, and the CUDA devices that it sees with
    their names, bytes of memory, free bytes, and whether they compute in bfloat16."""
    devices = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        devices.append({"name": torch.cuda.get_device_name(number), "bytes": total, "free": free})
    return {
        "version": torch.__version__,
        "build": torch.version.cuda or getattr(torch.version, "hip", None) or "cpu",
        "threads": torch.get_num_threads(),
        "devices": devices,
        "bfloat16": torch.cuda.is_bf16_supported() if devices else None,
    }
