"""How the losses of tokens become the loss of an update: one fixed coefficient a token, loss = Σ_n coef_n · l_n.

The coefficients are computed once over all tokens of the update, on the CPU, before it is cut into
micro-batches or spread over ranks; so neither can change the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.errors import ConfigError

Aggregate = Literal[
    "token_mean",
    "sequence_mean",
    "turn_mean",
    "trajectory_mean",
    "trajectory_turn_mean",
    "sequence_sum",
    "trajectory_sum",
    "constant",
]


@dataclass(frozen=True, kw_only=True)
class Aggregated(Method):
    """A loss of tokens, and how they become one number. ``constant`` is the divisor of "constant", and a further one of
    "sequence_sum" and "trajectory_sum"."""

    aggregate: Aggregate = "token_mean"
    constant: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.aggregate == "constant" and self.constant is None:
            raise ConfigError('loss.aggregate = "constant" needs loss.constant, the number to divide by')
        if self.aggregate.endswith("_mean") and self.constant is not None:
            raise ConfigError(
                f"loss.constant = {self.constant:g} divides a sum, and loss.aggregate = {self.aggregate!r} is a mean: "
                'leave it out, or use "constant", "sequence_sum" or "trajectory_sum"'
            )


def coefficients(
    kind: Aggregate,
    sequence: np.ndarray,
    row: np.ndarray,
    trajectory: np.ndarray,
    constant: float | None = None,
) -> np.ndarray:
    """The coefficient of each of the N trained tokens of a whole update, [N] float64.

    kind:
      "token_mean"       1/N (DAPO)
      "sequence_mean"    the mean over samples of the mean over their tokens (GRPO, GSPO)
      "turn_mean"        the same over turns
      "trajectory_mean"  the same over trajectories
      "trajectory_turn_mean"  the mean over trajectories of the mean over their turns of the mean over the turn's tokens
                         (Flow-GRPO 2510.05592 eq. 5, the paper; its released code has "token_mean")
      "sequence_sum"     the mean over samples of the sum over their tokens, divided by ``constant`` where given (REINFORCE,
                         RLOO; with the longest length allowed Dr. GRPO as in its own code and in TRL)
      "trajectory_sum"   the same over trajectories: it does not depend on how a memory cuts them into samples
      "constant"         1/constant (Dr. GRPO as in verl, whose constant is the longest length allowed)
    The means sum to 1. Samples, turns and trajectories without a trained token are not counted.
    sequence, row, trajectory: [N] integers that name the sample, the turn and the trajectory of each token.
    """
    n_tokens = len(sequence)
    if kind == "token_mean":
        return np.full(n_tokens, 1.0 / max(n_tokens, 1))
    if (constant is not None and constant <= 0) or (constant is None and kind == "constant"):
        raise ConfigError(f"aggregate = {kind!r} wants a constant above 0 to divide by, got {constant}")
    if kind == "constant":
        return np.full(n_tokens, 1.0 / float(constant or 1))
    if kind not in get_args(Aggregate):
        raise ConfigError(f"aggregate must be one of {', '.join(get_args(Aggregate))}; got {kind!r}")
    if kind == "trajectory_turn_mean":
        return _by_turn_of_trajectory(np.asarray(row), np.asarray(trajectory))
    name, what = kind.split("_")
    units = np.asarray({"sequence": sequence, "turn": row, "trajectory": trajectory}[name])
    _, unit, size = np.unique(units, return_inverse=True, return_counts=True)
    if what == "sum":
        return np.full(n_tokens, 1.0 / (max(size.size, 1) * float(constant or 1)))
    return 1.0 / (size[unit] * float(max(size.size, 1)))


def _by_turn_of_trajectory(row: np.ndarray, trajectory: np.ndarray) -> np.ndarray:
    """1 / (M T_i n_t), [N]: M trajectories, T_i turns of the token's trajectory, n_t tokens of its turn."""
    _, first, turn, n_tokens = np.unique(row, return_index=True, return_inverse=True, return_counts=True)
    _, which, n_turns = np.unique(trajectory[first], return_inverse=True, return_counts=True)
    return 1.0 / (n_tokens * n_turns[which] * max(n_turns.size, 1))[turn]
