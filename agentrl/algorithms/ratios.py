"""Importance ratios of tokens and of the units that they form.

A unit is a token, the tokens of one turn within a sample, or a whole sample. A turn with calls of several roles stands in
several samples and is one unit in each of them: so every unit lies within one sample, which no micro-batch cuts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentrl.algorithms.inputs import LossInputs

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_RATIO = 20.0  # log-ratios are clamped to ± this before exp, as in verl; beyond it the gradient is 0
Level = Literal["token", "turn", "sequence"]


def ratio(log_ratio: Tensor) -> Tensor:
    """exp of the clamped log-ratio, same shape."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def units(inputs: LossInputs, level: Level) -> Tensor:
    """The unit of each token, [N] int64 from 0."""
    if level == "token":
        return inputs.sequence.new_ones(len(inputs)).cumsum(0) - 1
    names = inputs.sequence
    if level == "turn" and len(inputs):
        names = names * (inputs.row.max() + 1) + inputs.row
    return names.unique(return_inverse=True)[1]


def total(values: Tensor, unit: Tensor) -> Tensor:
    """The sum of ``values`` [N] over each unit, [U]."""
    n_units = int(unit.max()) + 1 if len(unit) else 0
    return values.new_zeros(n_units).index_add(0, unit, values)


def mean(values: Tensor, unit: Tensor) -> Tensor:
    """The mean of ``values`` [N] over each unit, [U]."""
    return total(values, unit) / total(values.new_ones(values.shape), unit)


def importance(inputs: LossInputs, numerator: str, level: Level, *, geometric: bool = False) -> Tensor:
    """w [N] = π(numerator) / π(sampler) of each token's unit, without gradient: the product over the unit's tokens, or with
    ``geometric`` its geometric mean. ``numerator`` is "logp_old" (the old policy by the trainer's arithmetic) or "logp" (the
    policy now). Log-ratios are summed before they are clamped. Raises ConfigError where a log-prob was not computed."""
    log_ratio = (inputs.require(numerator) - inputs.require("logp_sampler")).detach()
    unit = units(inputs, level)
    return ratio((mean if geometric else total)(log_ratio, unit))[unit]


def clip_metrics(advantage: Tensor, ratios: Tensor, low: float, high: float) -> dict[str, float]:
    """Shares of these tokens that the bounds 1 - low and 1 + high hold back, and the ratio; {} where there are none."""
    if not len(ratios):
        return {}
    ratios = ratios.detach().double()
    held_low = (advantage < 0) & (ratios < 1 - low)
    held_high = (advantage > 0) & (ratios > 1 + high)
    found = {"clip_ratio/low": held_low.double().mean(), "clip_ratio/high": held_high.double().mean()}
    found |= {"ratio/mean": ratios.mean(), "ratio/max": ratios.max()}
    return {name: float(value) for name, value in found.items()}
