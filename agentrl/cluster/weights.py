"""A model's weights as flat arrays of bytes, which Ray's store takes as they are and workers of one machine read without a copy.

packed = pack(model)        what is trained: all weights, or an adapter's
load(other, packed)         into a model of the same shape
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentrl.errors import AgentRLError


@dataclass(frozen=True, slots=True)
class Packed:
    """By a parameter's name: its type ("bfloat16"), its shape, and its bytes [n]."""

    arrays: dict[str, tuple[str, tuple[int, ...], np.ndarray]]

    @property
    def n_bytes(self) -> int:
        return sum(array.nbytes for _, _, array in self.arrays.values())


def pack(model: Any) -> Packed:
    """The parameters that are trained (of an adapted model: the adapter's), or all where none is; shared ones once. Parameters on
    the CPU are not copied: what is packed changes with them."""
    named = list(model.named_parameters())
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad] or named
    return Packed({name: _bytes_of(parameter) for name, parameter in trained})


def _bytes_of(parameter: torch.Tensor) -> tuple[str, tuple[int, ...], np.ndarray]:
    flat = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return str(parameter.dtype).removeprefix("torch."), tuple(parameter.shape), flat.numpy()


@torch.no_grad()
def load(model: Any, packed: Packed) -> None:
    """Copies the weights into the model's. Raises AgentRLError where they are those of another model."""
    here = dict(model.named_parameters())
    for name, (dtype, shape, array) in packed.arrays.items():
        target = here.get(name)
        if target is None or tuple(target.shape) != shape:
            found = "has none of that name" if target is None else f"has one of shape {tuple(target.shape)}"
            raise AgentRLError(
                f"the training process sent the parameter {name} of shape {shape}, and the worker's model {found}: they read "
                "different files; give every machine the same checkpoint and environments"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the store's memory is read-only, and is only read
            source = torch.from_numpy(array)
        target.copy_(source.view(getattr(torch, dtype)).view(shape))
