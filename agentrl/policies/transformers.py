"""Sampling with a Hugging Face causal language model, on the CPU or one GPU.

Batches hold live requests only. The log-prob of every sampled token is that of the distribution it was drawn from:
log-softmax(logits / temperature). Each request has its own random stream (``Sampling.key``), so what it draws does not
depend on who shares its batch. Equal prompts are read once, prompts are padded on the left, rows that have stopped leave
the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agentrl import seeding
from agentrl.errors import ConfigError
from agentrl.policies.base import Request
from agentrl.registry import register
from agentrl.types import Completion, Sampling


@register("policy", "transformers")
class TransformersPolicy:
    """``model`` is shared with the learner: after an update there is nothing to copy, only ``version`` moves.

    ``batch_size`` bounds the rows of one forward pass, ``root_seed`` is the run's seed.
    """

    capabilities: frozenset[str] = frozenset({"logprobs", "batch", "trainable"})

    def __init__(self, model: Any, *, root_seed: int = 0, batch_size: int = 256) -> None:
        self.model = model
        self.root_seed = root_seed
        self.batch_size = batch_size
        self.version = 0

    @torch.inference_mode()
    def generate_batch(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order. Requests of similar length share a forward pass.

        Raises ConfigError for top_p below 1: the log-probs of a truncated distribution are not the learner's.
        """
        if any(request.sampling.top_p < 1 for request in requests):
            raise ConfigError("the transformers policy samples from the whole distribution; set top_p = 1")
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
        device = next(self.model.parameters()).device
        prompts = {tuple(request.prompt_ids): None for request in requests}  # members of a group begin alike
        place = {prompt: row for row, prompt in enumerate(prompts)}
        rows = torch.tensor([place[tuple(request.prompt_ids)] for request in requests], device=device)
        inputs, mask = _pad_left(list(prompts), device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        uniforms = [self._uniforms(request) for request in requests]
        done = [Completion(ids=[], logprobs=[], finish="length", version=self.version) for _ in requests]
        live = list(range(len(requests)))
        cache: Any = None
        for number in range(max(request.sampling.max_tokens for request in requests)):
            output = self.model(
                input_ids=inputs,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache, logits, position = output.past_key_values, output.logits[:, -1], positions[:, -1:]
            if number == 0 and len(prompts) < len(requests):
                cache.batch_select_indices(rows)
                logits, mask, position = logits[rows], mask[rows], position[rows]
            samplings = [requests[index].sampling for index in live]
            drawn = [uniforms[index][number] for index in live]
            tokens, logprobs = sample(logits, [s.temperature for s in samplings], drawn)
            keep = [
                row for row, index in enumerate(live) if _add(done[index], tokens[row], logprobs[row], samplings[row])
            ]
            if not keep:
                break
            if len(keep) < len(live):
                kept = torch.tensor(keep, device=device)
                cache.batch_select_indices(kept)
                mask, position = mask[kept], position[kept]
                live = [live[row] for row in keep]
            inputs = torch.tensor([tokens[row] for row in keep], device=device).unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            positions = position + 1
        return done

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


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
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
