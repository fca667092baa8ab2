"""How the losses of tokens become the loss of an update: one fixed coefficient a token, loss = Σ_n coef_n · l_n.

The coefficients are computed once over all tokens of the update, on the CPU, before it is cut into
micro-batches or spread over ranks; so neither can change the gradient.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.errors import ConfigError

Aggregate = Literal["token_mean", "sequence_mean", "turn_mean", "trajectory_mean", "constant"]


def coefficients(
    kind: Aggregate,
    sequence: np.ndarray,
    row: np.ndarray,
    trajectory: np.ndarray,
    constant: float | None = None,
) -> np.ndarray:
    """The coefficient of each of the N trained tokens of a whole update, [N] float64.

    kind: "token_mean" 1/N (DAPO); "sequence_mean" the mean over samples of the mean over their tokens (GRPO);
    "turn_mean" and "trajectory_mean" the same over turns and over trajectories; "constant" 1/constant (Dr. GRPO:
    number of samples times the longest allowed). All but "constant" sum to 1.
    sequence, row, trajectory: [N] integers that name the sample, the turn and the trajectory of each token.
    """
    n_tokens = len(sequence)
    if kind == "token_mean":
        return np.full(n_tokens, 1.0 / max(n_tokens, 1))
    if kind == "constant":
        if constant is None or constant <= 0:
            raise ConfigError(f'aggregate = "constant" wants a constant above 0 to divide by, got {constant}')
        return np.full(n_tokens, 1.0 / constant)
    units = {"sequence_mean": sequence, "turn_mean": row, "trajectory_mean": trajectory}
    if kind not in units:
        raise ConfigError(f"aggregate must be token_mean, constant or one of {', '.join(units)}; got {kind!r}")
    _, unit, size = np.unique(np.asarray(units[kind]), return_inverse=True, return_counts=True)
    return 1.0 / (size[unit] * float(max(size.size, 1)))
