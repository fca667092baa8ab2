"""Normalisation over the whole batch, which several methods end with."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.terms import Comparison

Unit = Literal["token", "turn", "trajectory"]


def whitening(
    values: np.ndarray, table: TurnTable, unit: Unit, *, eps: float, ddof: int = 1, eps_inside: bool = True, of: str
) -> Comparison:
    """(x - mean) / sqrt(var + eps), or / (std + eps), over all rows of the table; ``of`` is the symbol of the values [K].

    unit: what counts once: each sampled token (a row counts ``n_tokens`` times), each turn, or each trajectory.
    """
    return Comparison(
        values=values,
        groups=np.zeros(len(table), dtype=np.int64),
        trajectory=table["trajectory"] if unit == "trajectory" else None,
        times=table["n_tokens"] if unit == "token" else None,
        ddof=ddof,
        eps=eps,
        eps_placement="inside" if eps_inside else "outside",
        of=of,
        name="batch",
        short="B",
        listed=False,
    )
