"""AdamW and what it needs for weights of half precision.

A bfloat16 number has 8 significant bits: a weight of 0.1 next moves by 0.0005, and an update of 1e-6 is rounded away, every time.
So the optimiser moves a float32 copy of every trained bfloat16 weight (the master), gradients are summed over micro-batches in
float32, and the model gets the rounded masters after each update. Forward and backward run in bfloat16 throughout, in sampling and
in learning. Memory by parameter: 2 bytes weight, 2 gradient, 4 gradient sum, 4 master, 8 AdamW; float32 weights take 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agentrl.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. ``warmup`` counts updates; ``schedule`` runs from there to update ``total``, down to ``floor`` times lr."""

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8
    warmup: int = 0
    max_grad_norm: float = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    floor: float = 0.0
    total: int = 0

    def __post_init__(self) -> None:
        if self.schedule != "constant" and self.total <= 0:
            raise ConfigError(f"a {self.schedule} schedule needs the number of updates (total); got {self.total}")

    def lr_at(self, update: int) -> float:
        """The learning rate of an update, counted from 0."""
        if update < self.warmup:
            return self.lr * (update + 1) / self.warmup
        if self.schedule == "constant" or self.total <= self.warmup:
            return self.lr
        done = min(1.0, (update - self.warmup) / (self.total - self.warmup))
        shape = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (self.floor + (1 - self.floor) * shape)

    def optimizer(self, parameters: Sequence[torch.Tensor]) -> torch.optim.AdamW:
        """AdamW over ``parameters``; norms and biases (fewer than two dimensions) do not decay."""
        decayed = [p for p in parameters if p.dim() >= 2]
        plain = [p for p in parameters if p.dim() < 2]
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


class Masters:
    """The trained parameters as the optimiser sees them: float32 masters of bfloat16 weights, every other one itself.

    Raises ConfigError for a model without trained parameters, or with float16 ones, whose gradients underflow.
    """

    def __init__(self, model: Any) -> None:
        self.parameters: list[torch.Tensor] = []  # in the model's order
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # (the model's, its master)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            master = parameter
            if parameter.dtype == torch.float16:
                raise ConfigError('model.dtype = "float16" cannot be trained (gradients underflow); use "bfloat16"')
            if parameter.dtype == torch.bfloat16:
                master = parameter.detach().float().requires_grad_()
                self.pairs.append((parameter, master))
            self.parameters.append(master)
        if not self.parameters:
            raise ConfigError("the model has no parameter that is trained (all have requires_grad = False)")

    def collect(self) -> None:
        """Adds the gradients of a backward pass to the masters' and takes them from the model."""
        for parameter, master in self.pairs:
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Gives the model the masters' values, rounded to nearest."""
        for parameter, master in self.pairs:
            parameter.copy_(master)

    def state(self) -> list[torch.Tensor]:
        """The masters, which the model's weights do not tell."""
        return [master.detach() for _, master in self.pairs]

    @torch.no_grad()
    def load_state(
        self, state: Sequence[torch.Tensor], part: Callable[[Any, Any], Any] = lambda value, _: value
    ) -> None:
        """``part(value, master)`` cuts a value into what its master here is. Raises CheckpointError for the masters of another
        model."""
        shapes = [tuple(master.shape) for _, master in self.pairs]
        if [tuple(value.shape) for value in state] != shapes:
            raise CheckpointError(
                f"the optimiser's state does not fit this model: it has {len(state)} float32 masters, the model wants {len(shapes)}"
            )
        for (_, master), value in zip(self.pairs, state, strict=True):
            master.copy_(part(value, master))
        self.publish()
