"""Normalisation over the whole batch, which several methods end with."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.algorithms.normalize import normalize
from agentrl.algorithms.table import TurnTable

Unit = Literal["token", "turn", "trajectory"]


def whiten(
    values: np.ndarray, table: TurnTable, unit: Unit, *, eps: float, ddof: int = 1, eps_inside: bool = True
) -> np.ndarray:
    """(x - mean) / sqrt(var + eps), or / (std + eps), over all rows of the table, [K].

    unit: what counts once: each sampled token (a row counts ``n_tokens`` times), each turn, or each trajectory.
    """
    return normalize(
        values,
        np.zeros(len(table), dtype=np.int64),
        trajectory=table["trajectory"] if unit == "trajectory" else None,
        times=table["n_tokens"] if unit == "token" else None,
        ddof=ddof,
        eps=eps,
        eps_placement="inside" if eps_inside else "outside",
    )
