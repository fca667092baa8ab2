"""What a learner knows of the others that learn with it: who trains on which samples, and whose numbers are added up.

Each token's coefficient is fixed over the whole update, so ranks divide its samples and their gradients are *summed*, once: no
average, nothing duplicated to fill a batch, and a rank may get no sample. Numbers of tokens (log-probs, entropies) are gathered to
every rank, so what looks at a whole group or update (``Learner._whole``), token weights and metrics find what one rank would.

    "ddp"     each rank holds the model; gradients are summed once an update
    "fsdp2"   each rank holds a part of each layer (``torch.distributed.fsdp.fully_shard``) and of the optimiser's state; a layer is
              gathered while it computes, and its gradient is summed and cut after each micro-batch

``Team()`` is one learner alone. How the processes of several are started and ended: ``ranks``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from agentrl.errors import ConfigError
from agentrl.learning.samples import Packing, layouts

Sharding = Literal["ddp", "fsdp2"]
BUCKET = 2**26  # values that are summed at a time

P = ParamSpec("P")
R = TypeVar("R")


class Team:
    """One learner of ``size``; all of them call the same methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, sharding: Sharding = "ddp") -> None:
        self.rank = rank
        self.size = size
        self.sharded = sharding == "fsdp2" and size > 1

    def make(self, kind: Callable[..., R], **fields: Any) -> R:
        """``kind(**fields)`` on every rank, a part whose ``everywhere`` methods all ranks run together."""
        return kind(**fields, team=self)

    def together(self, part: Any, method: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """What a method of a part gives; every rank of the team calls it."""
        return method(part, *args, **kwargs)

    def close(self) -> None:
        """There is no process to end."""

    # ── who computes what ────────────────────────────────────────────────────────────────────────────────────────────

    def batches(
        self, lengths: Sequence[int], token_budget: int, packing: Packing = False, width: int = 0
    ) -> Iterator[list[list[int]]]:
        """The micro-batches of this rank, as ``samples.layouts`` gives them. Sharded ranks gather layers together, so each has as
        many micro-batches as the one with the most; those without a sequence are empty."""
        parts = shares(lengths, self.size)
        found = [layouts([lengths[index] for index in part], token_budget, packing, width) for part in parts]
        mine, own = parts[self.rank], found[self.rank]
        yield from ([[mine[place] for place in row] for row in rows] for rows in own)
        if self.sharded:
            yield from ([] for _ in range(max(map(len, found)) - len(own)))

    def sum(self, *values: np.ndarray) -> list[np.ndarray]:
        """Each of these arrays (float64, the same shapes on every rank), summed over the ranks."""
        if self.size == 1:
            return list(values)
        flat = torch.from_numpy(np.concatenate([np.ravel(each) for each in values]))
        dist.all_reduce(flat)
        parts = np.split(flat.numpy(), np.cumsum([np.size(each) for each in values])[:-1])
        return [part.reshape(np.shape(each)) for part, each in zip(parts, values, strict=True)]

    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Gives every rank the sum of the gradients; a parameter that has none on any rank keeps none. Sharded gradients are
        sums already."""
        if self.size == 1 or self.sharded or not parameters:
            return
        here = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        dist.all_reduce(here)
        given = [parameter for parameter, n in zip(parameters, here.tolist(), strict=True) if n]
        for bucket in _buckets(given):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([grad.detach().flatten() for grad in grads])
            dist.all_reduce(flat)
            for parameter, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = total.view_as(parameter)

    # ── who holds what ───────────────────────────────────────────────────────────────────────────────────────────────

    def own(self, model: Any) -> Any:
        """The model that this rank trains: the given one, or where it will be cut into parts a copy of it."""
        return copy.deepcopy(model) if self.sharded else model

    def shard(self, root: torch.nn.Module) -> None:
        """Cuts a module into parts, one a rank, layer by layer. All that computes with its weights must go through its forward
        pass, around which they are gathered. Raises ConfigError for a model without layers that can be told apart."""
        if not self.sharded:
            return
        layers = [module for module in root.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise ConfigError(
                'resources.sharding = "fsdp2" cuts a model layer by layer, and this one has no layers that transformers names; '
                'use "ddp"'
            )
        mesh = init_device_mesh(next(root.parameters()).device.type, (self.size,))
        half = any(parameter.dtype == torch.bfloat16 for parameter in root.parameters())
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
        # The root's weights are given back after each forward pass, too: kept, they would outlive an optimiser step.
        for module in (*layers, root):
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # a sum, no mean
                module.set_force_sum_reduction_for_comms(True)  # gloo has no sum of multiples

    def full(self, state: Any) -> Any:
        """Tables, lists and tensors with each part gathered, for a checkpoint. What is whole stays as it is."""
        if isinstance(state, dict):
            return {key: self.full(value) for key, value in state.items()}
        if isinstance(state, (list, tuple)):
            return type(state)(self.full(value) for value in state)
        return state.full_tensor().cpu() if isinstance(state, DTensor) else state

    def part(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A whole tensor, which every rank has, as what this rank holds of ``like``."""
        if not isinstance(like, DTensor):
            return value
        value = value.to(device=like.device, dtype=like.dtype)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)

    def optimizer_parts(self, state: dict[str, Any], parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
        """A whole optimiser's state as this rank's; ``parameters`` in the order of its groups."""
        if not self.sharded:
            return state

        def of(index: int, values: dict[str, Any]) -> dict[str, Any]:
            like = parameters[index]
            return {key: self.part(v, like) if v.shape == like.shape else v for key, v in values.items()}

        return {**state, "state": {index: of(index, values) for index, values in state["state"].items()}}

    @torch.no_grad()
    def gather(self, model: Any, whole: Any) -> int:
        """Writes the weights of a cut model into a whole one, which only the first rank has; returns how many bytes they are."""
        n_bytes = 0
        for part, target in zip(model.parameters(), _parameters(whole, model), strict=True):
            value = part.full_tensor()
            n_bytes += value.nbytes
            if target is not None:
                target.copy_(value)
        return n_bytes

    @torch.no_grad()
    def spread(self, whole: Any, model: Any) -> None:
        """Gives every rank the weights of the first one's ``whole`` model."""
        if self.size == 1:
            return
        if not self.sharded:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), 0)
            return
        for part, source in zip(model.parameters(), _parameters(whole, model), strict=True):
            value = torch.empty(part.shape, dtype=part.dtype, device=part.device) if source is None else source.detach()
            part.copy_(distribute_tensor(value, part.device_mesh, part.placements))


def everywhere(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method of a part of a team: called on the first rank, every rank runs it with the same arguments."""

    @functools.wraps(method)
    def run(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.team.together(self, method, args, kwargs)

    return run


def shares(lengths: Sequence[int], n: int) -> list[list[int]]:
    """Indices of the sequences of each of ``n`` ranks: the longest first, each to the rank with the fewest tokens so far.

    >>> shares([5, 1, 2, 3], 2)
    [[0], [1, 2, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(n)]
    loads = [0] * n
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rank = loads.index(min(loads))
        parts[rank].append(index)
        loads[rank] += lengths[index]
    return [sorted(part) for part in parts]


def number(value: Any) -> float:
    """A tensor of one number, in parts or whole."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


def _parameters(whole: Any, model: Any) -> list[Any]:
    """The whole model's parameters; on ranks that have none of it, None for each."""
    return [None for _ in model.parameters()] if whole is None else list(whole.parameters())


def _buckets(parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Parameters of one type and device, in order, not many more than ``BUCKET`` values together."""
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        other = bucket and (bucket[0].dtype, bucket[0].device) != (parameter.dtype, parameter.device)
        if bucket and (other or size + parameter.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
