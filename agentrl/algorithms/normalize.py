"""One normaliser for every method: (x - mean of its group) / (std of its group + eps), in float64.

What it averages over is always stated: with ``trajectory`` each trajectory counts once however many rows it has, with
``times`` each row counts so many times (its tokens), and without either each row counts once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Array = np.ndarray
ZERO_RANGE = 1e-12  # a range of at most this times max|x| is rounding noise


def normalize(
    values: Array,
    groups: Array,
    *,
    trajectory: Array | None = None,
    times: Array | None = None,
    scale: Literal["std", "none"] = "std",
    ddof: int = 1,
    eps: float = 1e-6,
    eps_placement: Literal["outside", "inside"] = "outside",
    singleton: Literal["zero", "raw"] = "zero",
    count: Array | None = None,
    leave_one_out: bool = False,
    virtual: tuple[float, int | Array] = (0.0, 0),
) -> Array:
    """Each value compared with its group, [K].

    values: [K]. groups: [K] codes from 0, -1 for a row that is in no group and gets 0.
    trajectory: [K] codes; each of the T_i rows of trajectory i in a group weighs 1/T_i, so that

        mean = (1/n) Σ_i (1/T_i) Σ_t x_it        var = Σ_i (1/T_i) Σ_t (x_it - mean)² / (n - ddof)

    over n trajectories: exactly the statistics of trajectories where x is constant within each, and still defined where
    a penalty makes it differ between turns. None: every row is a unit of its own (T_i = 1).
    times: [K] how often each row counts (n = Σ times), in place of ``trajectory``.
    scale: "std" divides by std + eps (eps_placement "outside") or sqrt(var + eps) ("inside"); "none" only centres.
    singleton: a group with at most one unit gives 0, or with "raw" the value itself (mean 0, std 1).
    count: [K] bool, the rows that enter the statistics; the others are normalised by them. None: all.
    leave_one_out: the mean is the one over the other units; the std stays that of the whole group. A row without any
    other unit is a singleton.
    virtual: (value, m): m further units of that value, one number or [groups], enter mean and std of a group.

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
    units = _units(group, None if trajectory is None else np.asarray(trajectory)[inside], counted, size)
    if times is not None:
        units = _repeated(group, np.asarray(times, dtype=np.float64)[inside] * counted, size)
    extra, n_extra = virtual[0], np.broadcast_to(virtual[1], size)
    n = units.n + n_extra
    mean = (np.bincount(group, units.weight * x, size) + n_extra * extra) / np.maximum(n, 1)
    centred = x - mean[group]
    normalized, alone = centred, units.n[group] <= 1
    if leave_one_out:
        normalized, alone = _without_own(centred, n[group], units)
    if scale == "std":
        squares = np.bincount(group, units.weight * centred**2, size) + n_extra * (extra - mean) ** 2
        variance = squares / np.where(n > ddof, n - ddof, 1)
        spread = np.sqrt(variance + eps) if eps_placement == "inside" else np.sqrt(variance) + eps
        # a group without spread is set to 0 below: keep 0 / 0 out of the arithmetic
        normalized = normalized / np.where(spread > 0, spread, 1.0)[group]
    flat = _is_flat(x, group, counted, extra, n_extra)[group]
    normalized[flat & (counted | (scale == "std"))] = 0.0
    normalized[alone] = x[alone] if singleton == "raw" else 0.0
    result[inside] = normalized
    return result


def _without_own(centred: Array, n: Array, units: _Units) -> tuple[Array, Array]:
    """Each value less the mean over the other units, from x - mean and n of its group, and where there are none; all [K].

    x - (n mean - own) / left, written without its cancellation.
    """
    left = n - units.own_weight
    own = np.bincount(units.code, units.weight * centred)[units.code]
    return centred + own / np.where(left > 0, left, 1.0), left <= 0


def group_means(values: Array, groups: Array, trajectory: Array | None = None) -> Array:
    """The mean of each group [groups], 0 for one without rows; ``trajectory`` [K] as in ``normalize``."""
    values, groups = np.asarray(values, dtype=np.float64), np.asarray(groups)
    inside = groups >= 0
    size = int(groups.max(initial=-1)) + 1
    group = groups[inside]
    units = _units(group, None if trajectory is None else trajectory[inside], np.ones(group.size, dtype=bool), size)
    return np.bincount(group, units.weight * values[inside], size) / np.maximum(units.n, 1)


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


class _Units(NamedTuple):
    """What counts as one: a row, a trajectory within a group, a token."""

    weight: Array  # [K] of each row, 0 where it is not counted
    n: Array  # [groups] how many there are
    code: Array  # [K] the unit of each row, from 0
    own_weight: Array  # [K] how much of ``n`` the row's own unit is


def _units(group: Array, trajectory: Array | None, counted: Array, size: int) -> _Units:
    if trajectory is None:
        return _repeated(group, counted.astype(np.float64), size)
    pair = dense(group * (int(trajectory.max(initial=0)) + 1) + trajectory)
    n_rows = np.bincount(pair[counted], minlength=int(pair.max(initial=-1)) + 1)
    group_of_pair = np.zeros(n_rows.size, dtype=np.int64)
    group_of_pair[pair] = group
    n = np.bincount(group_of_pair[n_rows > 0], minlength=size)
    return _Units(counted / np.maximum(n_rows, 1)[pair], n, pair, (n_rows > 0)[pair])


def _repeated(group: Array, times: Array, size: int) -> _Units:
    """Every row a unit that counts so many times."""
    return _Units(times, np.bincount(group, times, size), np.arange(group.size), times)


def _is_flat(x: Array, group: Array, counted: Array, extra: float, n_extra: Array) -> Array:
    """[groups] True where the counted and the virtual values differ by no more than rounding noise."""
    low, high = np.full(n_extra.size, np.inf), np.full(n_extra.size, -np.inf)
    np.minimum.at(low, group[counted], x[counted])
    np.maximum.at(high, group[counted], x[counted])
    seen = high >= low
    low, high = np.where(seen, low, 0.0), np.where(seen, high, 0.0)
    low = np.where(n_extra > 0, np.minimum(low, extra), low)
    high = np.where(n_extra > 0, np.maximum(high, extra), high)
    return high - low <= ZERO_RANGE * np.maximum(np.abs(low), np.abs(high))
