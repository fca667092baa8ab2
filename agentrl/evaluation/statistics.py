"""Intervals for success rates, and for means over seeds."""

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


def student_t(degrees: int, inside: float = 0.95) -> float:
    """t with P(-t < T < t) = ``inside`` for Student's distribution of so many degrees of freedom, by bisection of its
    distribution function, which for whole degrees is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4).

    >>> round(student_t(1), 3), round(student_t(7), 3), round(student_t(200), 3)
    (12.706, 2.365, 1.972)
    """
    if degrees < 1:
        raise ValueError(f"Student's distribution wants at least one degree of freedom, got {degrees}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # to the last bit
        angle = (low + high) / 2
        low, high = (angle, high) if _student_inside(angle, degrees) < inside else (low, angle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _student_inside(angle: float, degrees: int) -> float:
    """P(|T| < t) for t = sqrt(degrees) tan(angle)."""
    odd = degrees % 2
    if degrees == 1:
        return 2 * angle / math.pi
    term = math.cos(angle) if odd else 1.0
    total = term
    for k in range(2 + odd, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean of independent measurements and its 95 % interval by Student's t (Student 1908); None for the interval of fewer than
    two, which say nothing about their spread.

    >>> mean, (low, high) = mean_interval([0.5, 0.7])
    >>> round(mean, 2), round(low, 2), round(high, 2)
    (0.6, -0.67, 1.87)
    """
    if not values:
        raise ValueError("a mean wants at least one value")
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student_t(n - 1) * spread / math.sqrt(n)
    return mean, (mean - half, mean + half)
