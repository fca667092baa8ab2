"""Intervals for success rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927); (0, 1) for n = 0.

    >>> [round(x, 4) for x in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if n == 0:
        return 0.0, 1.0
    share, square = successes / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(
        1.0, max(share, centre + half)
    )  # rounding must not exclude the share


def paired_difference(
    before: Sequence[bool], after: Sequence[bool], z: float = Z95
) -> tuple[float, tuple[float, float]]:
    """The difference of two success rates on the same tasks, and its interval by Agresti and Min (2005): a Wald interval
    after half a task was added to each of the four cells.

    >>> value, (low, high) = paired_difference([False] * 60 + [True] * 40, [True] * 50 + [False] * 10 + [True] * 40)
    >>> round(value, 2), round(low, 3), round(high, 3)
    (0.5, 0.391, 0.589)
    """
    if len(before) != len(after):
        raise ValueError(f"paired results must be of one length, got {len(before)} and {len(after)}")
    n = len(before)
    if n == 0:
        return 0.0, (-1.0, 1.0)
    gained = sum(1 for b, a in zip(before, after, strict=True) if a and not b)
    lost = sum(1 for b, a in zip(before, after, strict=True) if b and not a)
    more, less, total = gained + 0.5, lost + 0.5, n + 2
    centre = (more - less) / total
    half = z * math.sqrt(more + less - (more - less) ** 2 / total) / total
    return (gained - lost) / n, (max(-1.0, centre - half), min(1.0, centre + half))
