"""From trajectories to what is trained on.

A ``Sample`` is one unbroken token history with a mask over what was sampled. A turn whose prompt extends the history so far
joins it; otherwise a new sample opens. Every sampled trainable token stands in exactly one sample, under any memory.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.types import Call, Trajectory

Packing = bool | Literal["auto"]
WORTH = 0.1  # what "auto" wants to save (agentrl bench packing)


@dataclass(slots=True)
class Sample:
    """One token history, [L].

    >>> sample = Sample.of([5, 6, 7, 2], first=2, row=0)
    >>> sample.loss_mask.tolist()
    [False, False, True, True]
    """

    token_ids: np.ndarray  # [L] int64
    loss_mask: np.ndarray  # [L] bool: sampled by the policy
    logprobs: np.ndarray  # [L] float32 under the sampling policy; NaN on context and where it gave none
    temperature: np.ndarray  # [L] float32; 1 on context
    row: np.ndarray  # [L] int64: row in the turn table; -1 on context
    trajectory: int  # index into the list that the samples were made from
    policy_version: int = 0
    calls: Sequence[Call] = ()  # whose completions are the trained tokens, in order

    @classmethod
    def of(cls, token_ids: Sequence[int], *, first: int, row: int, trajectory: int = 0) -> Sample:
        """A sample whose tokens from ``first`` on were sampled in one turn."""
        call = Call(role="", prompt_ids=token_ids[:first], completion_ids=token_ids[first:])
        return _close([(call, row)], trajectory)

    @property
    def length(self) -> int:
        return len(self.token_ids)

    @property
    def n_trained(self) -> int:
        return int(self.loss_mask.sum())

    def positions(self) -> np.ndarray:
        """Indices of the trained tokens. The first token of a history has no prediction and is never one of them."""
        return np.flatnonzero(self.loss_mask)


def make_samples(trajectories: Sequence[Trajectory]) -> list[Sample]:
    """The samples of all trainable calls, [S]; forced completions were not sampled and are context only.

    Rows count the turns of all trajectories, in order, as ``TurnTable.from_trajectories`` does.
    """
    samples: list[Sample] = []
    row = 0
    for index, trajectory in enumerate(trajectories):
        chains: dict[str, list[tuple[Call, int]]] = {}
        for turn in trajectory.turns:
            for call in turn.calls:
                if not call.trainable or call.source == "forced" or not len(call.completion_ids):
                    continue
                chain = chains.setdefault(call.role, [])
                if chain and not _extends(chain, call):
                    samples.append(_close(chain, index))
                    chain.clear()
                chain.append((call, row))
            row += 1
        samples.extend(_close(chain, index) for chain in chains.values() if chain)
    return samples


def _extends(chain: Sequence[tuple[Call, int]], call: Call) -> bool:
    last = chain[-1][0]
    n_prompt, n_completion = len(last.prompt_ids), len(last.completion_ids)
    ids = call.prompt_ids
    return (
        len(ids) >= n_prompt + n_completion
        and list(ids[n_prompt : n_prompt + n_completion]) == list(last.completion_ids)
        and list(ids[:n_prompt]) == list(last.prompt_ids)
    )


def _close(chain: Sequence[tuple[Call, int]], trajectory: int) -> Sample:
    last = chain[-1][0]
    ids = np.asarray([*last.prompt_ids, *last.completion_ids], dtype=np.int64)
    mask = np.zeros(len(ids), dtype=bool)
    logprobs = np.full(len(ids), np.nan, dtype=np.float32)
    temperature = np.ones(len(ids), dtype=np.float32)
    rows = np.full(len(ids), -1, dtype=np.int64)
    for call, row in chain:
        place = slice(len(call.prompt_ids), len(call.prompt_ids) + len(call.completion_ids))
        mask[place] = True
        rows[place] = row
        if call.logprobs is not None:
            logprobs[place] = call.logprobs
        # Greedy completions are trained at temperature 1: their log-probs were recorded untempered.
        temperature[place] = call.sampling.get("temperature", 1.0) or 1.0
    if mask[0]:
        raise ValueError("a sampled token has no prompt before it: prompt_ids must hold at least one token")
    calls = [call for call, _ in chain]
    return Sample(ids, mask, logprobs, temperature, rows, trajectory, last.policy_version, calls)


def record_logprobs(samples: Sequence[Sample], logprobs: np.ndarray) -> None:
    """Writes the learner's log-probs of all trained tokens, [N] sample after sample, into the calls that sampled them, so that
    the record shows where sampler and learner differ."""
    place = 0
    for sample in samples:
        for call in sample.calls:
            values = logprobs[place : place + len(call.completion_ids)]
            call.learner_logprobs = [float(f"{value:.6g}") for value in values.tolist()]
            place += len(values)


def micro_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices of sequences, similar lengths together, each batch padded to at most ``token_budget`` tokens (a longer
    sequence comes alone). The gradient does not depend on the split: see ``Learner``."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    batch: list[int] = []
    for index in order:
        if batch and lengths[index] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def layouts(
    lengths: Sequence[int], token_budget: int, packing: Packing = False, width: int = 0
) -> list[list[list[int]]]:
    """Micro-batches of at most ``token_budget`` tokens, padding included; each is a list of rows, a row the indices of the
    sequences that stand in it one after the other.

    Without packing a row holds one sequence. With it rows are filled up to the longest sequence, or to a quarter of the model's
    ``width``, below which attention is cheap. "auto" packs where that saves a share of ``WORTH`` of the work.

    >>> layouts([4, 1, 2, 3], 8), layouts([4, 1, 2, 3], 8, True)
    ([[[1], [2]], [[3], [0]]], [[[2], [0]], [[3, 1]]])
    """
    padded = [[[index] for index in batch] for batch in micro_batches(lengths, token_budget)]
    if not packing:
        return padded
    rows = _filled(lengths, max(width // 4, *lengths, 0))
    totals = [sum(lengths[index] for index in row) for row in rows]
    packed = [[rows[place] for place in batch] for batch in micro_batches(totals, token_budget)]
    worth = work(packed, lengths, width) <= (1 - WORTH) * work(padded, lengths, width)
    return packed if packing is True or worth else padded


def n_tokens(batches: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int]) -> int:
    """How many tokens the micro-batches of ``layouts`` have, padding included."""
    return sum(n_rows * longest for n_rows, longest in _sizes(batches, lengths))


def work(batches: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int], width: int = 0) -> float:
    """What micro-batches cost, in tokens without attention. For rows of L that adds L / (12 ``width``) a token where each token
    looks back to the row's beginning, and twice that where a row holds several sequences: attention then looks at all of the row
    and leaves out what is another's. Width 0: attention is not counted."""
    total = 0.0
    for batch, (n_rows, longest) in zip(batches, _sizes(batches, lengths), strict=True):
        several = any(len(row) > 1 for row in batch)
        total += n_rows * longest * (1 + (longest / ((6 if several else 12) * width) if width else 0))
    return total


def _sizes(batches: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The rows of each micro-batch, and the tokens of the longest."""
    return [(len(batch), max(sum(lengths[index] for index in row) for row in batch)) for batch in batches]


def _filled(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Rows of at most ``most`` tokens: the longest sequence first, each into the row with the least room that it fits in."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, row), ascending
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect.bisect_left(rooms, (lengths[index], -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
            rows[row].append(index)
        else:
            room, row = most, len(rows)
            rows.append([index])
        bisect.insort(rooms, (room - lengths[index], row))
    return rows


def pad_right(rows: Iterable[np.ndarray], fill: int = 0) -> np.ndarray:
    """[B, longest] int64. With causal attention nothing real ever looks at padding on the right, so no mask is needed."""
    rows = list(rows)
    padded = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
