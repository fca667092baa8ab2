"""Sampling with a Hugging Face causal language model, on the CPU or one GPU.

Batches hold live requests only. The log-prob of every sampled token is that of the distribution it was drawn from:
log-softmax(logits / temperature). Each request has its own random stream (``Sampling.key``), so what it draws does not
depend on who shares its batch. Equal prompts are read once, prompts are padded on the left, rows that have stopped leave
the batch. With ``kv_cache_bytes`` an episode whose next prompt extends what it has read so far reads only what is new.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agentrl import seeding
from agentrl.errors import ConfigError
from agentrl.policies.base import Request
from agentrl.policies.prefix_cache import Past, PrefixStore, joined, plain_layers, stacked
from agentrl.registry import register
from agentrl.types import Completion, Sampling
from agentrl.work import Work


@dataclass(slots=True)
class _Batch:
    """Rows that generate together. W: what has been read, padding on the left included."""

    cache: Any
    mask: torch.Tensor  # [B, W]
    positions: torch.Tensor  # [B, what was read last]
    logits: torch.Tensor = field(default_factory=lambda: torch.zeros(0))  # [B, V] after the last token

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; a row may be taken more than once."""
        chosen = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(chosen)
        self.logits, self.mask, self.positions = self.logits[chosen], self.mask[chosen], self.positions[chosen]


def _stacked(batches: Sequence[_Batch], room: int) -> _Batch:
    """Batches as one, the rows of the first on top."""
    width = max(batch.mask.shape[1] for batch in batches)
    masks = [torch.nn.functional.pad(batch.mask, (width - batch.mask.shape[1], 0)) for batch in batches]
    last = torch.cat([batch.positions[:, -1:] for batch in batches])
    cache = stacked([batch.cache for batch in batches], room)
    return _Batch(cache, torch.cat(masks), last, torch.cat([batch.logits for batch in batches]))


@register("policy", "transformers")
class TransformersPolicy:
    """``model`` is shared with the learner: after an update there is nothing to copy, only ``version`` moves. With ``own_weights``
    the policy keeps a copy, for generation that goes on while the learner trains; ``update`` waits for a batch that is being
    answered, and renews it.

    ``batch_size`` bounds the rows of one forward pass, ``root_seed`` is the run's seed. ``kv_cache_bytes`` bounds what is kept
    between the turns of episodes (0: nothing is); a request's id then names its episode, and a change of ``version`` or
    ``forget`` ends what is kept.
    """

    capabilities: frozenset[str] = frozenset({"logprobs", "batch", "trainable", "kv_cache", "shares_weights"})

    def __init__(
        self,
        model: Any,
        *,
        root_seed: int = 0,
        batch_size: int = 256,
        kv_cache_bytes: int = 0,
        own_weights: bool = False,
    ) -> None:
        self.own_weights = own_weights
        self.model = copy.deepcopy(model).requires_grad_(False) if own_weights else model
        self.root_seed = root_seed
        self.batch_size = batch_size
        self.version = 0
        self.n_layers = plain_layers(model)
        self.store = PrefixStore(kv_cache_bytes) if kv_cache_bytes and self.n_layers is not None else None
        self.n_prompt_tokens = 0  # of all requests so far
        self.n_read_tokens = 0  # of those, what went through the model
        self._version_read = 0
        self.work = {"reading": Work(), "decoding": Work()}  # of all requests so far
        self._lock = threading.Lock()  # one batch, or one update, at a time
        self._ended: deque[str] = deque()  # episodes

    def update(self, model: Any, version: int) -> int:
        """Samples from the weights of ``model`` from now on; returns how many bytes were copied: none where shared."""
        with self._lock:
            self.version = version
            if not self.own_weights:
                self.model = model
                return 0
            pairs = list(zip(self.model.parameters(), model.parameters(), strict=True))
            with torch.no_grad():
                for mine, theirs in pairs:
                    mine.copy_(theirs)
            return sum(mine.nbytes for mine, _ in pairs)

    def sleep(self) -> None:
        """It holds no memory that the learner could use."""

    def close(self) -> None:
        """There is no process to end."""

    def forget(self, episode: str) -> None:
        """An episode has ended: nothing that was kept for its next turn is needed. While a batch is being answered that waits
        until the next."""
        self._ended.append(episode)
        if self._lock.acquire(blocking=False):
            self._drop_ended()
            self._lock.release()

    def generate_batch(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order. Requests of similar length share a forward pass. Threads take turns.

        Raises ConfigError for top_p below 1: the log-probs of a truncated distribution are not the learner's.
        """
        if any(request.sampling.top_p < 1 for request in requests):
            raise ConfigError("the transformers policy samples from the whole distribution; set top_p = 1")
        with self._lock, torch.inference_mode():
            if threading.current_thread() is not threading.main_thread():
                torch.set_flush_denormal(True)  # as `prepare_device` does; each thread has its own
            self._drop_ended()
            if self.store is not None and self._version_read != self.version:
                self.store.clear()
            self._version_read = self.version
            return self._answers(requests)

    def _drop_ended(self) -> None:
        while self._ended:
            episode = self._ended.popleft()
            if self.store is not None:
                self.store.forget(episode)

    def _answers(self, requests: Sequence[Request]) -> list[Completion]:
        order = sorted(range(len(requests)), key=lambda index: (len(requests[index].prompt_ids), index))
        completions: dict[int, Completion] = {}
        was_training = self.model.training
        self.model.eval()
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            for index, completion in zip(chunk, self._generate([requests[i] for i in chunk]), strict=True):
                completions[index] = completion
        self.model.train(was_training)
        return [completions[index] for index in range(len(requests))]

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        uniforms = [self._uniforms(request) for request in requests]
        done = [Completion(ids=[], logprobs=[], finish="length", version=self.version) for _ in requests]
        live = list(range(len(requests)))
        n_steps = max(request.sampling.max_tokens for request in requests)
        batch = self._read(requests, n_steps)
        for number in range(n_steps):
            samplings = [requests[index].sampling for index in live]
            drawn = [uniforms[index][number] for index in live]
            tokens, logprobs = sample(batch.logits, [s.temperature for s in samplings], drawn)
            goes_on = [_add(done[index], tokens[row], logprobs[row], samplings[row]) for row, index in enumerate(live)]
            if self.store is not None and not all(goes_on):
                gone = [row for row, on in enumerate(goes_on) if not on]
                self._keep(batch.cache, gone, [requests[live[row]] for row in gone], [done[live[row]] for row in gone])
            keep = [row for row, on in enumerate(goes_on) if on]
            if not keep:
                break
            if len(keep) < len(live):
                batch.select(keep)
                live = [live[row] for row in keep]
            self._feed(batch, [tokens[row] for row in keep])
            cached = sum(len(requests[index].prompt_ids) for index in live) + number * len(live)
            self.work["decoding"].add_step(len(live), cached)
        return done

    def _read(self, requests: Sequence[Request], room: int) -> _Batch:
        """The requests' prompts, read: one row a request, in order. Equal prompts are read once; those of which a beginning is
        known are read from there, apart from the others, so that nobody reads more for a neighbour's sake."""
        firsts: dict[tuple[int, ...], Request] = {}  # members of a group begin alike
        for request in requests:
            firsts.setdefault(tuple(request.prompt_ids), request)
        pasts = {prompt: self._past(request) for prompt, request in firsts.items()}
        parts = [[p for p in firsts if pasts[p] is not None], [p for p in firsts if pasts[p] is None]]
        batches = [self._read_part(part, [pasts[p] for p in part], room) for part in parts if part]
        batch = batches[0] if len(batches) == 1 else _stacked(batches, room)
        place = {prompt: row for row, prompt in enumerate([*parts[0], *parts[1]])}
        rows = [place[tuple(request.prompt_ids)] for request in requests]
        if rows != list(range(len(firsts))):
            batch.select(rows)
        self.n_prompt_tokens += sum(len(request.prompt_ids) for request in requests)
        return batch

    def _past(self, request: Request) -> Past | None:
        return None if self.store is None else self.store.find(request.id, request.prompt_ids)

    def _read_part(self, prompts: Sequence[Sequence[int]], pasts: Sequence[Past | None], room: int) -> _Batch:
        new = [prompt[past.length if past else 0 :] for prompt, past in zip(prompts, pasts, strict=True)]
        n_new = [len(ids) for ids in new]
        inputs, mask = _pad_left(new, [len(prompt) for prompt in prompts], next(self.model.parameters()).device)
        cache = None if self.n_layers is None else joined(pasts, n_new, self.n_layers, room)
        batch = _Batch(cache, mask, (mask.cumsum(1) - 1).clamp(min=0)[:, -max(n_new) :])
        self._forward(batch, inputs)
        self.n_read_tokens += sum(n_new)
        self.work["reading"].add(
            ((count, past.length if past else 0) for count, past in zip(n_new, pasts, strict=True)), len(prompts)
        )
        return batch

    def _feed(self, batch: _Batch, tokens: Sequence[int]) -> None:
        """Reads one more token a row."""
        inputs = torch.tensor(tokens, device=batch.mask.device).unsqueeze(1)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(tokens), 1)], dim=1)
        batch.positions = batch.positions[:, -1:] + 1
        self._forward(batch, inputs)

    def _forward(self, batch: _Batch, inputs: torch.Tensor) -> None:
        output = self.model(
            input_ids=inputs,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        batch.cache, batch.logits = output.past_key_values, output.logits[:, -1]

    def _keep(self, cache: Any, rows: list[int], requests: list[Request], done: list[Completion]) -> None:
        """Keeps what rows that leave the batch have read, for the episode's next turn. The token sampled last was not read."""
        assert self.store is not None
        chosen = torch.tensor(rows, device=cache.layers[0].device)
        seen = [layer.seen() for layer in cache.layers]
        layers = [(keys.index_select(0, chosen), values.index_select(0, chosen)) for keys, values in seen]
        ids = [[*request.prompt_ids, *found.ids[:-1]] for request, found in zip(requests, done, strict=True)]
        self.store.put([request.id for request in requests], ids, layers)

    def _uniforms(self, request: Request) -> np.ndarray:
        """[max_tokens] uniform numbers of the request's own stream; unused ones cost nothing."""
        return seeding.stream(self.root_seed, "sampling", *request.sampling.key).random(request.sampling.max_tokens)


def _add(completion: Completion, token: int, logprob: float, sampling: Sampling) -> bool:
    """Appends what was sampled; whether the completion goes on."""
    completion.ids.append(token)
    assert completion.logprobs is not None
    completion.logprobs.append(logprob)
    if token in sampling.stop_ids:
        completion.finish = "stop"
        return False
    return len(completion.ids) < sampling.max_tokens


def sample(
    logits: torch.Tensor, temperatures: Sequence[float], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """One token a row of ``logits [B, V]`` by inverting the cumulative distribution at a uniform number, and its log-prob.

    Temperature 0 takes the most likely token; its log-prob is that of the untempered distribution.
    """
    temperature = torch.tensor(temperatures, dtype=torch.float32, device=logits.device)
    greedy = temperature == 0
    scaled = logits.float() / temperature.masked_fill(greedy, 1.0).unsqueeze(1)
    logp = scaled.log_softmax(-1)
    cumulative = logp.double().exp().cumsum(-1)
    drawn = torch.tensor(uniforms, dtype=torch.float64, device=logits.device).unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, drawn, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
    tokens = torch.where(greedy, logits.argmax(-1), tokens)
    return tokens.tolist(), logp.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()


def _pad_left(
    new: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens to read [B, most new], and the mask over everything that stands before them and over them [B, longest]."""
    ids = np.zeros((len(new), max(map(len, new))), dtype=np.int64)
    mask = np.zeros((len(new), max(lengths)), dtype=np.int64)
    for row, (own, length) in enumerate(zip(new, lengths, strict=True)):
        ids[row, ids.shape[1] - len(own) :] = own
        mask[row, mask.shape[1] - length :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def prepare_device(wanted: str, threads: int) -> str:
    """ "cpu" or "cuda", with torch set up for it. Raises ConfigError where CUDA is wanted and there is none.

    Denormal numbers are flushed to zero: a trained attention's smallest probabilities would slow a CPU down many times.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError('resources.device = "cuda", and torch sees no CUDA device here; use "cpu" or "auto"')
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
