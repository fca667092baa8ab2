"""Keys and values that live on between turns, so that an episode whose next prompt extends the last one reads only what is new.

    turn 0   prompt ░░░░░░░░ completion ▒▒▒        read 8 tokens
    turn 1   prompt ░░░░░░░░▒▒▒██████ completion   read 1 + 6: the last sampled token was never fed, its keys are not known

Rows of one batch have kept different lengths and read different numbers of new tokens; ``JoinedLayer`` lays both out so that
each row is one unbroken run that ends at the right edge, as if all of it had been read at once.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_TURN = re.compile(r"/turn=[0-9]+")


@dataclass(slots=True)
class Past:
    """What is known of one row: for each layer its keys and values, each [H, T, D]."""

    length: int
    layers: list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(slots=True)
class _Block:
    """Rows that left a batch together: keys and values of each layer, [R, H, W, D], each row at the right edge."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    owners: set[str] = field(default_factory=set)

    @property
    def n_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for pair in self.layers for x in pair)


class PrefixStore:
    """Keys and values by episode (and by role, where a turn asks more than one). What was used longest ago goes first when
    more than ``limit_bytes`` would be kept; ``n_bytes`` is what is kept now."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.n_bytes = 0
        self._blocks: OrderedDict[int, _Block] = OrderedDict()  # oldest first
        self._rows: dict[str, tuple[int, int, list[int]]] = {}  # owner: (block, row, token ids that the row has read)
        self._owners: dict[str, set[str]] = {}  # of each episode
        self._n_blocks = 0

    def __len__(self) -> int:
        return len(self._rows)

    @staticmethod
    def owner(request_id: str) -> str:
        """Who asks: the request's id without the number of the turn.

        >>> PrefixStore.owner("iteration=2/task=a/member=0/turn=7")
        'iteration=2/task=a/member=0'
        """
        return _TURN.sub("", request_id)

    def find(self, request_id: str, prompt: Sequence[int]) -> Past | None:
        """What is known of a prompt's beginning; None where nothing is, or where the prompt does not extend it."""
        known = self._rows.get(self.owner(request_id))
        if known is None:
            return None
        number, row, ids = known
        length = len(ids)
        if length >= len(prompt) or list(prompt[:length]) != ids:
            return None
        layers = self._blocks[number].layers
        return Past(length, [(keys[row, :, -length:], values[row, :, -length:]) for keys, values in layers])

    def put(
        self, request_ids: Sequence[str], ids: Sequence[list[int]], layers: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Keeps rows whose ``ids`` have been read; ``layers`` holds keys and values of each layer, [R, H, W, D], row r of
        request r."""
        block = _Block(layers)
        self._n_blocks += 1
        for row, (request_id, read) in enumerate(zip(request_ids, ids, strict=True)):
            owner = self.owner(request_id)
            self._drop(owner)
            self._rows[owner] = (self._n_blocks, row, read)
            self._owners.setdefault(request_id.partition("/turn=")[0], set()).add(owner)
            block.owners.add(owner)
        self._blocks[self._n_blocks] = block
        self.n_bytes += block.n_bytes
        while self.n_bytes > self.limit_bytes:
            oldest = next(iter(self._blocks.values()))
            for owner in list(oldest.owners):
                self._drop(owner)

    def forget(self, episode: str) -> None:
        """Drops what belongs to an episode: it asks no more."""
        for owner in self._owners.pop(episode, ()):
            self._drop(owner)

    def clear(self) -> None:
        """Drops everything: the weights have changed."""
        self._blocks.clear()
        self._rows.clear()
        self._owners.clear()
        self.n_bytes = 0

    def _drop(self, owner: str) -> None:
        number, _, _ = self._rows.pop(owner, (0, 0, []))
        block = self._blocks.get(number)
        if block is None:
            return
        block.owners.discard(owner)
        if not block.owners:
            self.n_bytes -= block.n_bytes
            del self._blocks[number]


class JoinedLayer(DynamicLayer):
    """The keys and values of one layer for the rows of a batch, [B, H, W, D], in a buffer with ``room`` for further tokens.

    It starts from ``past`` (a row's keys and values, [H, T, D] each, or None) and tells the model that ``width`` tokens stand
    before the ones to read. Rows that read fewer new tokens than others are padded on the left; their past is laid over that
    padding, so that every row ends at the right edge without a gap.
    """

    def __init__(
        self, past: Sequence[tuple[torch.Tensor, torch.Tensor] | None], n_new: Sequence[int], width: int, room: int
    ) -> None:
        super().__init__()
        self.past = past
        self.n_new = n_new
        self.length = width
        self.room = room

    def get_seq_length(self) -> int:
        return self.length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = self._laid_out(key_states, 0), self._laid_out(value_states, 1)
            self.past, self.n_new = (), ()
            self.length += key_states.shape[2]
        else:
            end = self.length + key_states.shape[2]
            assert self.keys is not None and self.values is not None
            self.keys[:, :, self.length : end] = key_states
            self.values[:, :, self.length : end] = value_states
            self.length = end
        return self.seen()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys.index_select(0, indices), self.values.index_select(0, indices)

    def seen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of what has been read, views [B, H, W, D] of the buffer."""
        assert self.keys is not None and self.values is not None
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _laid_out(self, new: torch.Tensor, which: int) -> torch.Tensor:
        rows, heads, n_new, size = new.shape
        width = self.length + n_new
        buffer = new.new_empty(rows, heads, width + self.room, size)
        buffer[:, :, : self.length] = 0  # padding is masked, but zero times not-a-number is not a number
        buffer[:, :, self.length : width] = new
        for row, (past, own) in enumerate(zip(self.past, self.n_new, strict=True)):
            if past is not None:
                end = width - own
                buffer[row, :, end - past[which].shape[1] : end] = past[which]
        return buffer


def joined(pasts: Sequence[Past | None], n_new: Sequence[int], n_layers: int, room: int) -> Cache:
    """A cache for rows that know ``pasts`` and read ``n_new`` tokens, padded on the left to the most of them, then up to ``room``
    more. ``n_layers``: of the model."""
    lengths = [(0 if past is None else past.length) + new for past, new in zip(pasts, n_new, strict=True)]
    width = max(lengths) - max(n_new)
    layers = []
    for number in range(n_layers):
        past = [None if past is None else past.layers[number] for past in pasts]
        layers.append(JoinedLayer(past, n_new, width, room))
    return Cache(layers=layers)


def stacked(caches: Sequence[Cache], room: int) -> Cache:
    """Caches of ``joined`` as one, the rows of the first on top, with ``room`` for further tokens."""
    layers = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        seen = [part.seen() for part in parts if isinstance(part, JoinedLayer)]
        pasts = [(keys[row], values[row]) for keys, values in seen for row in range(len(keys))]
        layer = JoinedLayer(pasts, [0] * len(pasts), max(part.get_seq_length() for part in parts), room)
        nothing = seen[0][0][:1, :, :0].expand(len(pasts), -1, -1, -1)
        layer.update(nothing, nothing)
        layers.append(layer)
    return Cache(layers=layers)


def plain_layers(model: Any) -> int | None:
    """How many layers of keys and values a model has; None for a model that keeps something else (a sliding window, a recurrent
    state), whose past cannot be cut and joined."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return len(layers) if layers and all(type(layer) is DynamicLayer for layer in layers) else None
