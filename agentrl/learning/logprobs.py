"""From hidden states to the log-probs and entropies of tokens, without ever holding all logits.

For a vocabulary of 150,000 the logits of one update's tokens are gigabytes, so they are made ``chunk`` positions at a time:
forward keeps two numbers a token, backward makes each chunk's logits once more. Whatever the weights are, the softmax, the
temperature and the sums are float32 (float64 for a float64 model); the logits come out of the output embedding in the weights'
own precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from agentrl.errors import ConfigError
from agentrl.learning.lora import causal_lm

MOST_LOGITS = 2**26  # of a chunk, where no other is asked for: 256 MiB of float32

# What models of transformers do to the output of their head, by the name in their config.
FACTORS = ("logits_scaling", "logit_scale", "lm_head_multiplier")  # some multiply by it, some divide
CAP = "final_logit_softcapping"


@dataclass(frozen=True)
class Head:
    """What a model does behind its output embedding: logits = cap · tanh(scale · W h / cap), or scale · W h without a cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a causal language model, found in its config and compared with the model's own logits.

        Raises ConfigError for a model that does something else to its logits: the learner, which computes them at trained
        positions only, would train another distribution than the one that is sampled.
        """
        model = causal_lm(model).eval()
        ids = torch.tensor([[0, 1]], device=next(model.parameters()).device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            for head in cls._candidates(model):
                if torch.allclose(logits, head.raw_logits(model, hidden), rtol=1e-3, atol=1e-3):
                    return head
            gap = float((logits - cls().raw_logits(model, hidden)).abs().max())
        raise ConfigError(
            f"{type(model).__name__} changes its logits behind the output embedding (by up to {gap:.3g}) in a way that the "
            f"learner does not know; use a model that does not, or scales or caps them by {', '.join((*FACTORS, CAP))}"
        )

    @classmethod
    def _candidates(cls, model: Any) -> list[Head]:
        settings = model.config.get_text_config()
        numbers = [float(value) for name in FACTORS if isinstance(value := getattr(settings, name, None), (int, float))]
        scales = [scale for number in numbers if number for scale in (number, 1 / number)]
        cap = getattr(settings, CAP, None)
        caps = [float(cap), None] if cap else [None]
        return [cls(scale, cap) for cap in caps for scale in (*scales, 1.0)]

    def raw_logits(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of ``hidden [..., H]`` in the precision of the model, as its own forward pass gives them."""
        logits = model.get_output_embeddings()(hidden)
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class LogProbs:
    """Log-probs and entropies of tokens. ``chunk`` bounds the positions whose logits exist at a time (None: as many as make
    ``MOST_LOGITS``); it changes memory and speed, never the gradient. ``entropy_gradient``: whether the entropy carries one."""

    head: Head
    chunk: int | None = None
    entropy_gradient: bool = False

    def __call__(
        self, model: Any, hidden: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob of ``targets [n]`` at ``temperature [n]`` and entropy in nats, [n] each, from ``hidden [n, H]``."""
        chunk = self.chunk or max(1, MOST_LOGITS // model.get_output_embeddings().weight.shape[0])
        parts = zip(hidden.split(chunk), targets.split(chunk), temperature.split(chunk), strict=True)
        again = len(hidden) > chunk and torch.is_grad_enabled()
        found = [
            checkpoint(self._whole, model, *part, use_reentrant=False, preserve_rng_state=False)
            if again
            else self._whole(model, *part)
            for part in parts
        ]
        logp, entropy = zip(*found, strict=True)
        return torch.cat(logp), torch.cat(entropy)

    def _whole(
        self, model: Any, hidden: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head.raw_logits(model, hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logp = (logits / temperature.to(logits).unsqueeze(1)).log_softmax(-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.entropy_gradient):
            entropy = -(logp.exp() * logp).sum(-1)
        return logp.gather(1, targets.unsqueeze(1)).squeeze(1), entropy


class TokenScores(torch.nn.Module):
    """A model as a learner computes with it: log-probs and entropies of tokens in one forward pass, around which the weights of a
    model that is held in parts can be gathered."""

    def __init__(self, model: Any, log_probs: LogProbs) -> None:
        super().__init__()
        self.model = model
        self.log_probs = log_probs

    def forward(
        self,
        ids: torch.Tensor,
        row: torch.Tensor,
        position: torch.Tensor,
        temperature: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob at ``temperature [n]`` and entropy of the tokens at ``position [n]`` of the rows ``row [n]`` of ``ids [B, L]``,
        [n] each. ``places [B, L]``: the position of each token in its own sequence, where a row holds several."""
        inner = causal_lm(self.model)
        hidden = inner.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
        return self.log_probs(inner, hidden[row, position - 1], ids[row, position], temperature)


def keeps_apart(model: Any) -> bool:
    """Whether a model computes several sequences in a row, told apart by positions that begin at 0 again, as it would each alone.
    transformers does so for models with attention masks; what carries a state from token to token does not."""
    model = causal_lm(model).eval()
    ids = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]], device=next(model.parameters()).device)
    places = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]], device=ids.device)
    with torch.no_grad():
        together = model.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
        alone = torch.zeros_like(together)
        for row, start, end in ((0, 0, 3), (0, 3, 5), (1, 0, 1), (1, 1, 5)):
            alone[row, start:end] = model.base_model(input_ids=ids[row : row + 1, start:end], use_cache=False)[0][0]
    scale = float(alone.abs().max())
    return bool(
        torch.allclose(together, alone, rtol=0, atol=(0.05 if together.dtype == torch.bfloat16 else 1e-3) * scale)
    )
