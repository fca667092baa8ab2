"""What went through a model, counted as it goes, and what it costs: plain numbers, for ``agentrl.watch.bounds`` to make seconds of.

Padding is no part of it, nor is what is computed a second time to save memory: it counts what had to be done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(slots=True)
class Work:
    """``forwards`` passes through the layers, ``tokens`` that went through them, ``logits`` positions whose logits were computed,
    ``pairs`` of a token and one that it attends to (itself included), ``cached`` positions that were read from a cache."""

    forwards: int = 0
    tokens: int = 0
    logits: int = 0
    pairs: int = 0
    cached: int = 0

    def add(self, rows: Iterable[tuple[int, int]], logits: int) -> None:
        """One pass: for each row (new tokens, tokens that stand before them in a cache)."""
        self.forwards += 1
        self.logits += logits
        for new, past in rows:
            self.tokens += new
            self.pairs += new * past + new * (new + 1) // 2
            self.cached += past

    def add_step(self, rows: int, cached: int) -> None:
        """One pass that reads one token a row, on ``cached`` positions of all rows together, and computes its logits."""
        self.forwards += 1
        self.logits += rows
        self.tokens += rows
        self.pairs += cached + rows
        self.cached += cached

    def copy(self) -> Work:
        return Work(*(getattr(self, spec.name) for spec in fields(self)))

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, spec.name) + getattr(other, spec.name) for spec in fields(self)))

    def __sub__(self, before: Work) -> Work:
        return Work(*(getattr(self, spec.name) - getattr(before, spec.name) for spec in fields(self)))


@dataclass(frozen=True, slots=True)
class Costs:
    """What of a model decides its bounds. Multiply-adds: ``body`` a token (the parameters of its layers), ``head`` a position with
    logits, ``attention`` a pair (2 x layers x queries). Bytes: ``weights`` a pass, ``position`` of a cached position's keys and
    values. ``passes``: operations a multiply-add in training, 6 where all weights are trained, 4 where only an adapter is."""

    body: int
    head: int
    attention: int
    weights: int
    position: int
    passes: int = 6


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured here: floating-point operations a second of a large matrix product, and bytes a second of reading as
    many bytes as the model has."""

    operations: float
    bytes: float
