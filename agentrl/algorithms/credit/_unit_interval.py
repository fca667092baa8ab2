"""Rewards as shares of what can be had, for methods that treat them as success rates."""

from __future__ import annotations

import numpy as np

from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError

ROUNDING = 1e-9  # of the larger bound


def unit_rewards(table: TurnTable, low: float, high: float, who: str) -> np.ndarray:
    """(R_i - low) / (high - low) of each row's trajectory, [K] in [0, 1]. Raises ConfigError for a reward outside, by more than
    the rounding of a sum: twenty turns of 0.05 add up to a little more than 1."""
    check_range(low, high, who)
    total = table.sum_by_trajectory(table["reward"])
    rounding = ROUNDING * max(abs(low), abs(high))
    outside = (total < low - rounding) | (total > high + rounding)
    if outside.any():
        raise ConfigError(
            f"{who} wants the reward of a trajectory between r_min = {low:g} and r_max = {high:g}; got "
            f"{total[outside][0]:g}; set them to the least and the largest that can be had"
        )
    return ((total - low) / (high - low)).clip(0.0, 1.0)[table["trajectory"]]


def check_range(low: float, high: float, who: str) -> None:
    """Raises ConfigError unless low < high."""
    if not low < high:
        raise ConfigError(f"{who} wants r_min below r_max; got {low:g} and {high:g}")
