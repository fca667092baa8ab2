"""One normaliser for every method: (x - mean of its group) / (std of its group + eps), in float64.

What it averages over is always stated: with ``trajectory`` each trajectory counts once however many rows it has,
without it each row counts once.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Array = np.ndarray
ZERO_RANGE = 1e-12  # a range of at most this times max|x| is rounding noise


def normalize(
    values: Array,
    groups: Array,
    *,
    trajectory: Array | None = None,
    scale: Literal["std", "none"] = "std",
    ddof: int = 1,
    eps: float = 1e-6,
    eps_placement: Literal["outside", "inside"] = "outside",
    singleton: Literal["zero", "raw"] = "zero",
    count: Array | None = None,
) -> Array:
    """Each value compared with its group, [K].

    values: [K]. groups: [K] codes from 0, -1 for a row that is in no group and gets 0.
    trajectory: [K] codes; each of the T_i rows of trajectory i in a group weighs 1/T_i, so that

        mean = (1/n) Σ_i (1/T_i) Σ_t x_it        var = Σ_i (1/T_i) Σ_t (x_it - mean)² / (n - ddof)

    over n trajectories: exactly the statistics of trajectories where x is constant within each, and still defined where
    a penalty makes it differ between turns. None: every row is a unit of its own (T_i = 1).
    scale: "std" divides by std + eps (eps_placement "outside") or sqrt(var + eps) ("inside"); "none" only centres.
    singleton: a group with at most one unit gives 0, or with "raw" the value itself (mean 0, std 1).
    count: [K] bool, the rows that enter the statistics; the others are normalised by them. None: all.

    A group whose counted values have a range of at most 1e-12 max|x| has no variance and gives exactly 0.
    """
    values, groups = np.asarray(values, dtype=np.float64), np.asarray(groups)
    result = np.zeros_like(values)
    inside = groups >= 0
    if not inside.any():
        return result
    x, group = values[inside], groups[inside]
    counted = np.ones(x.size, dtype=bool) if count is None else np.asarray(count, dtype=bool)[inside]
    size = int(group.max()) + 1
    units = None if trajectory is None else np.asarray(trajectory)[inside]
    weight, n = _weights(group, units, counted, size)

    mean = np.bincount(group, weight * x, size) / np.maximum(n, 1)
    centred = x - mean[group]
    if scale == "std":
        variance = np.bincount(group, weight * centred**2, size) / np.maximum(n - ddof, 1)
        spread = np.sqrt(variance + eps) if eps_placement == "inside" else np.sqrt(variance) + eps
        # a group without spread is set to 0 below: keep 0 / 0 out of the arithmetic
        normalized = centred / np.where(spread > 0, spread, 1.0)[group]
    else:
        normalized = centred
    flat = _is_flat(x, group, counted, size)[group]
    normalized[flat & (counted | (scale == "std"))] = 0.0
    alone = n[group] <= 1
    normalized[alone] = x[alone] if singleton == "raw" else 0.0
    result[inside] = normalized
    return result


def dense(codes: Array) -> Array:
    """Codes [K] without gaps, 0 … n-1, equal where the given integers ≥ 0 are equal, in their order.

    Counting, linear, where their range is of the order of K; sorting where it is far larger.
    """
    size = int(codes.max(initial=-1)) + 1
    if size > 16 * codes.size:
        return np.unique(codes, return_inverse=True)[1]
    present = np.zeros(size, dtype=np.int64)
    present[codes] = 1
    return (np.cumsum(present) - 1)[codes]


def _weights(group: Array, units: Array | None, counted: Array, size: int) -> tuple[Array, Array]:
    """The weight of each row, 0 where it is not counted, and the number of units of each group."""
    if units is None:
        return counted.astype(np.float64), np.bincount(group[counted], minlength=size)
    pair = dense(group * (int(units.max()) + 1) + units)
    n_rows = np.bincount(pair[counted], minlength=int(pair.max()) + 1)
    weight = counted / np.maximum(n_rows, 1)[pair]
    group_of_pair = np.zeros(n_rows.size, dtype=np.int64)
    group_of_pair[pair] = group
    return weight, np.bincount(group_of_pair[n_rows > 0], minlength=size)


def _is_flat(x: Array, group: Array, counted: Array, size: int) -> Array:
    """[groups] True where the counted values differ by no more than rounding noise."""
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, group[counted], x[counted])
    np.maximum.at(high, group[counted], x[counted])
    seen = high >= low
    low, high = np.where(seen, low, 0.0), np.where(seen, high, 0.0)
    return high - low <= ZERO_RANGE * np.maximum(np.abs(low), np.abs(high))
