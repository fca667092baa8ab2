"""Bias and variance of an estimator, and intervals for both.

Updates of several groups are independent, so everything is a function of sums over updates, and resampling those (the
bootstrap) gives the intervals. All estimators of a scenario are resampled alike, so their ratios have intervals too.

Two kinds of numbers, two kinds of intervals:

    a plain number (scale, noise)    the percentiles of its replicates
    the length of a vector (bias)    length ± q, with q the quantile of |replicate - vector|. By the triangle inequality it holds
                                     the true length at least as often as it says, also where that is 0; percentiles would
                                     not, since noise makes every length larger. It begins above 0 exactly where the
                                     bootstrap rejects "no bias".

Shapes: U updates, S nodes, A actions, R replicates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from agentrl.study.estimators import GROUPS_PER_UPDATE, Batch, Credited
from agentrl.study.gradient import by_update, sharpened
from agentrl.study.tree import Exact

Array = np.ndarray
LEVEL = 0.95
ROUNDING = 1e-9  # a length of at most this is none


@dataclass(frozen=True)
class Estimate:
    """A number and what the bootstrap says about it."""

    value: float
    replicates: Array = field(repr=False)  # [R] the number again; of a length: the distances to the vector
    is_length: bool = False

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval that holds the true number with this probability."""
        if self.is_length:
            reach = float(np.quantile(self.replicates, level, method="higher"))
            return (max(0.0, self.value - reach - ROUNDING) if np.isfinite(reach) else 0.0), self.value + reach
        low = np.quantile(self.replicates, (1 - level) / 2, method="lower")
        high = np.quantile(self.replicates, (1 + level) / 2, method="higher")
        return float(low), float(high)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which knows no infinity."""
        numbers = dict(zip(("value", "low", "high"), (self.value, *self.interval()), strict=True))
        return {name: number if np.isfinite(number) else None for name, number in numbers.items()}


@dataclass(frozen=True)
class Measured:
    """What was measured of one estimator in one scenario. "rms" is over the turns that were taken.

    An estimator has its own units: c is the slope of the regression of its gradient on the true one, c_A that of its advantages.
    A number relative to them is infinite where the slope is not positive.
    """

    scale: Estimate  # c = E[ĝ] · g / |g|²
    direction_bias: Estimate  # |E[ĝ] / |E[ĝ]| - g / |g||, from 0 to 2: the chord of the angle between them
    gradient_bias_raw: Estimate  # |E[ĝ] - g| / |g|
    action_bias: Estimate  # rms of (E[Â|s,a] - b(s)) / c_A - A, over rms A, with b(s) = Σ_a π(a|s) E[Â|s,a]
    bias: Estimate  # the same with b(s) left in
    bias_raw: Estimate  # rms of E[Â|s,a] - A, over rms A
    offset: Estimate  # rms of b(s) / c_A, over rms A
    noise: Estimate  # rms of (Â - E[Â|s,a]) / c_A, over rms A
    groups: Estimate  # tr Var(ĝ of a group) / (c |g|)²: groups until the noise is as long as the signal
    mean: Array = field(repr=False)  # [1 + R, S, A] E[Â|s,a], the estimate first, then its replicates

    @property
    def cosine(self) -> tuple[float, float, float]:
        """Between E[ĝ] and g: value, and the ends of its interval."""
        low, high = self.direction_bias.interval()
        return cosine(self.direction_bias.value), cosine(high), cosine(low)


def cosine(chord: float) -> float:
    """Of the angle with this chord; a chord of 2 or more is the opposite direction.

    >>> cosine(0.0), cosine(2.0)
    (1.0, -1.0)
    """
    return 1.0 - min(chord, 2.0) ** 2 / 2


def angle(chord: float) -> float:
    """The angle with this chord, in degrees.

    >>> round(angle(1.0), 6)
    60.0
    """
    return float(np.degrees(2 * np.arcsin(min(chord, 2.0) / 2)))


def log_ratio(a: Estimate, b: Estimate) -> Estimate:
    """log(a / b) of two plain numbers above 0 of one scenario, resampled together."""
    if a.is_length or b.is_length:
        raise ValueError("the replicates of a length are distances, which have no ratio")
    return Estimate(float(np.log(a.value / b.value)), np.log(a.replicates / b.replicates))


def resampling(n_updates: int, n_replicates: int, random: np.random.Generator) -> Array:
    """How often each update counts, [1 + R, U]: once in the estimate itself, then as drawn with replacement."""
    drawn = random.multinomial(n_updates, np.full(n_updates, 1 / n_updates), size=n_replicates)
    return np.concatenate([np.ones((1, n_updates)), drawn])


@dataclass(frozen=True)
class _Sums:
    """Over the turns of each resampled set of updates, by node and action."""

    n: Array  # [1 + R, S, A] turns
    first: Array  # [1 + R, S, A] Σ Â
    second: Array  # [1 + R] Σ Â²


def measure(batch: Batch, credited: Credited, exact: Exact, controls: tuple[Array, Array], times: Array) -> Measured:
    """What the estimator's advantages say about the tree, resampled by ``times`` [1 + R, U]; the controls are the batch's."""
    gradient = by_update(batch, credited.weight * credited.advantage)
    sums = _resampled(batch, credited.advantage, times)
    mean = np.divide(sums.first, sums.n, out=np.zeros_like(sums.first), where=sums.n > 0)
    return Measured(
        **_of_gradient(gradient, sharpened(gradient, controls), exact, times),
        **_of_advantages(sums, mean, batch, exact),
        mean=mean,
    )


def _resampled(batch: Batch, advantage: Array, times: Array) -> _Sums:
    shape, n_updates = batch.scenario.tree.policy.shape, batch.n_updates

    def add_up(values: Array | None) -> Array:
        sums = np.bincount(batch.cell, values, n_updates * shape[0] * shape[1]).reshape(n_updates, -1)
        return (times @ sums.astype(np.float64)).reshape(len(times), *shape)

    second = times @ np.bincount(batch.update, advantage**2, n_updates)
    return _Sums(n=add_up(None), first=add_up(advantage), second=second)


def _of_gradient(gradient: Array, sharp: Array, exact: Exact, times: Array) -> dict[str, Estimate]:
    """Bias from the sharpened gradients, variance from those as they are, both [U, S · A]."""
    n_updates, true = len(gradient), exact.gradient.ravel()
    length = np.linalg.norm(true)
    found = times @ sharp / n_updates
    scale = found @ true / length**2
    own_length = np.linalg.norm(found, axis=1, keepdims=True)
    direction = np.divide(found, own_length, out=np.zeros_like(found), where=own_length > 0)
    square = times @ (gradient**2).sum(axis=1) / n_updates - ((times @ gradient / n_updates) ** 2).sum(axis=1)
    variance = square * n_updates / (n_updates - 1) * GROUPS_PER_UPDATE  # of a group
    return {
        "scale": _plain(scale),
        "direction_bias": _length(direction - true / length),
        "gradient_bias_raw": _length((found - true) / length),
        "groups": _plain(_relative(variance, scale**2 * length**2, scale)),
    }


def _of_advantages(sums: _Sums, mean: Array, batch: Batch, exact: Exact) -> dict[str, Estimate]:
    policy, true = batch.scenario.tree.policy, exact.advantage
    share = sums.n / sums.n.sum(axis=(1, 2), keepdims=True)
    size = np.sqrt((share * true**2).sum(axis=(1, 2)))
    scale = (share * mean * true).sum(axis=(1, 2)) / size**2
    offset = np.broadcast_to((policy * mean).sum(axis=2, keepdims=True), mean.shape)

    def relative(values: Array, scaled: bool = True) -> Array:
        """Values [1 + R, S, A] over c_A and the rms of A, so weighted that the length of all is an rms."""
        shown = np.sqrt(share) * values / size[:, None, None]
        if scaled:
            shown = _relative(shown, scale[:, None, None], scale[:, None, None])
        return shown.reshape(len(shown), -1)

    spread = (sums.second - (sums.n * mean**2).sum(axis=(1, 2))).clip(min=0) / sums.n.sum(axis=(1, 2))
    own = scale[:, None, None] * true
    return {
        "action_bias": _length(relative(mean - offset - own)),
        "bias": _length(relative(mean - own)),
        "bias_raw": _length(relative(mean - true, scaled=False)),
        "offset": _length(relative(offset)),
        "noise": _plain(_relative(np.sqrt(spread), scale * size, scale)),
    }


def _relative(values: Array, to: Array, scale: Array) -> Array:
    """values / to, infinite where the scale is not positive."""
    to = np.broadcast_to(to, values.shape)
    return np.divide(values, to, out=np.full(values.shape, np.inf), where=np.broadcast_to(scale > 0, values.shape))


def _plain(values: Array) -> Estimate:
    """Of values [1 + R]."""
    return Estimate(float(values[0]), values[1:])


def _length(vectors: Array) -> Estimate:
    """Of vectors [1 + R, n]."""
    value = float(np.linalg.norm(vectors[0]))
    if not np.isfinite(value):
        return Estimate(np.inf, np.full(len(vectors) - 1, np.inf), is_length=True)
    return Estimate(value, np.linalg.norm(vectors[1:] - vectors[0], axis=1), is_length=True)
