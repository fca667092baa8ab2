"""Success rates: intervals, also where episodes come in clusters, pass@k, paired tests; and means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
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


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of ``k`` episodes succeeds, without bias from ``c`` successes in ``n`` >= k episodes of one
    task: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, equation 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    _check_draw(n, c, k)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """The chance that all of ``k`` episodes succeed (pass^k of τ-bench, Yao et al. 2024), without bias: C(c, k) / C(n, k).

    >>> pass_hat_k(4, 2, 2) == 1 / 6
    True
    """
    _check_draw(n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def _check_draw(n: int, c: int, k: int) -> None:
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"wanted 1 <= k <= n and 0 <= c <= n; got n = {n}, c = {c}, k = {k}")


def clustered_wilson(
    successes: Sequence[float], counts: Sequence[int], n_episodes: int | None = None
) -> tuple[float, float]:
    """The 95 % interval of a share whose episodes come in clusters (tasks): Wilson's at the effective number of episodes.

    ``successes`` [m] and ``counts`` [m] are the clusters' sums and sizes; a sum may be a fraction (pass@k: one value a task,
    counts 1, with ``n_episodes`` behind them; default: Σn). The effective number is p (1 - p) / V with the cluster-robust
    variance V of the ratio Σs / Σn (design effect: Kish 1965), at most the number of episodes and at least Kish's number of
    clusters, (Σn)² / Σn², which also stands where all or none succeed and V says nothing. With one episode a task this is
    ``wilson``.

    >>> clustered_wilson([1, 1, 0], [1, 1, 1]) == wilson(2, 3)
    True
    """
    total = sum(counts)
    if total == 0:
        return wilson(0, 0)
    share = min(1.0, max(0.0, math.fsum(successes) / total))
    least = total**2 / sum(count**2 for count in counts)
    n_clusters = sum(count > 0 for count in counts)
    effective = least
    if n_clusters > 1 and 0 < share < 1:
        variance = _clustered_variance(successes, counts)
        most = share * (1 - share) / variance if variance > 0 else math.inf
        effective = max(least, min(n_episodes or total, most))
    return wilson(share * effective, effective)


def clustered_mean(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, tuple[float, float] | None]:
    """The mean over the episodes of several clusters, Σx / Σn, and its cluster-robust 95 % interval by Student's t with as many
    degrees of freedom as there are clusters, less one; None for the interval of fewer than two clusters.

    >>> clustered_mean([1.0, 3.0], [1, 1])[0]
    2.0
    """
    kept = [(value, count) for value, count in zip(sums, counts, strict=True) if count]
    if not kept:
        raise ValueError("a mean wants at least one value")
    total = sum(count for _, count in kept)
    mean = math.fsum(value for value, _ in kept) / total
    if len(kept) < 2:
        return mean, None
    half = student_t(len(kept) - 1) * math.sqrt(_clustered_variance(sums, counts))
    return mean, (mean - half, mean + half)


def _clustered_variance(sums: Sequence[float], counts: Sequence[int]) -> float:
    """Of the ratio Σx / Σn, by linearisation, clusters drawn independently (Cochran 1977, chapter 6); of two or more clusters."""
    total, m = sum(counts), sum(count > 0 for count in counts)
    ratio = math.fsum(sums) / total
    squares = math.fsum((value - ratio * count) ** 2 for value, count in zip(sums, counts, strict=True))
    return m / (m - 1) * squares / total**2


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test (McNemar 1947): of the pairs that differ, each way is equally likely. 1 where
    none differ.

    >>> mcnemar(5, 0)
    0.0625
    """
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0


Ratio = tuple[Sequence[float], Sequence[float]]  # numerators [m] and denominators [m] of m clusters


def paired_bootstrap(
    before: Ratio, after: Ratio, rng: np.random.Generator, draws: int = 5000
) -> tuple[float, tuple[float, float] | None]:
    """The difference of two ratios Σx / Σn over the same clusters, ``after`` - ``before``, and its 95 % percentile interval by the
    bootstrap over clusters (Efron and Tibshirani 1993, chapter 13): each draw takes the same clusters of both. None for the
    interval of fewer than two clusters. Draws in which a denominator is 0 are left out."""
    sides = np.array([*before, *after], dtype=np.float64)  # [4, m]
    m = sides.shape[1]
    if m == 0 or not (sides[1].sum() and sides[3].sum()):
        raise ValueError("a difference wants at least one value on both sides")
    value = float(sides[2].sum() / sides[3].sum() - sides[0].sum() / sides[1].sum())
    if m < 2:
        return value, None
    found = []
    for first in range(0, draws, 500):  # the weights of all draws at once may not fit
        weights = rng.multinomial(m, np.full(m, 1 / m), size=min(500, draws - first)).astype(np.float64)
        sums = weights @ sides.T  # [draws, 4]
        sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
        found.append(sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1])
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return value, (float(low), float(high))
