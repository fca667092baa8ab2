"""How far the policy has moved on a task: what it last answered there, and how likely that was then and is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agentrl.errors import CheckpointError
from agentrl.learning.learner import Learner, TokenData
from agentrl.learning.samples import Sample, make_samples
from agentrl.types import Trajectory

_KEPT = ("token_ids", "loss_mask", "logprobs", "temperature")


class LastResponses:
    """Remembers the samples of each task's last visit with the log-probs of the policy after that iteration's updates.

    Memory: the tokens of one visit a task, 17 bytes each.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.last: dict[str, list[Sample]] = {}

    def moved(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """D of each task among these that was visited before: the mean of |log p then - log p now| over the tokens that were
        sampled at its last visit. Call it after the updates; these trajectories are then the last visit."""
        visited: dict[str, list[Trajectory]] = {}
        for trajectory in trajectories:
            visited.setdefault(trajectory.task.id, []).append(trajectory)
        distances: dict[str, float] = {}
        known = {task: self.last[task] for task in visited if task in self.last}
        for task, (then, now) in self._compare(known).items():
            distances[task] = float(np.abs(then - now).mean())
        new = {task: samples for task, members in visited.items() if (samples := make_samples(members))}
        for task, (_, now) in self._compare(new).items():
            self.last[task] = _with_logprobs(new[task], now)
        return distances

    def _compare(self, samples: Mapping[str, Sequence[Sample]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The log-probs that the samples of each task hold, and those of the policy now."""
        flat = [sample for each in samples.values() for sample in each]
        data = TokenData.of(flat, None, None)
        now = self.learner.logprobs(flat, data)[0]
        found, first = {}, 0
        for task, each in samples.items():
            tokens = data.tokens_of(range(first, first + len(each)))
            found[task] = (data.logp_sampler[tokens], now[tokens])
            first += len(each)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors by task."""
        return {
            task: [{name: torch.from_numpy(getattr(sample, name)) for name in _KEPT} for sample in samples]
            for task, samples in self.last.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError for what ``state_dict`` did not give."""
        try:
            self.last = {
                task: [_sample(**{name: part[name].numpy() for name in _KEPT}) for part in parts]
                for task, parts in state.items()
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint's last responses cannot be read: {error!r}") from error


def _with_logprobs(samples: Sequence[Sample], logp: np.ndarray) -> list[Sample]:
    """Copies that hold these log-probs [N], and nothing of the run they come from."""
    ends = np.cumsum([sample.n_trained for sample in samples])[:-1]
    kept = []
    for sample, values in zip(samples, np.split(logp, ends), strict=True):
        logprobs = np.full(sample.length, np.nan, dtype=np.float32)
        logprobs[sample.loss_mask] = values
        kept.append(_sample(sample.token_ids, sample.loss_mask, logprobs, sample.temperature))
    return kept


def _sample(token_ids: np.ndarray, loss_mask: np.ndarray, logprobs: np.ndarray, temperature: np.ndarray) -> Sample:
    return Sample(token_ids, loss_mask, logprobs, temperature, np.where(loss_mask, 0, -1), trajectory=0)
