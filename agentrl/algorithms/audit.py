"""An audit of credit: how much signal there is, and where, in numbers that any method's advantages have.

    metrics = audit(table, advantages)        # once an iteration, beside the methods' own ``metrics(table)``

Plain numbers by name, for ``metrics.jsonl``. Shares are between 0 and 1; a name is absent where nothing is behind it.
"""

from __future__ import annotations

import numpy as np

from agentrl.algorithms.normalize import ZERO_RANGE
from agentrl.algorithms.table import TurnTable

SIZES = ((1, 1), (2, 3), (4, 7), (8, 15), (16, None))
TURNS = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, None))


def audit(table: TurnTable, advantages: np.ndarray) -> dict[str, float]:
    """Metrics of the advantages [K] of a table's rows.

    - ``credit/signal_share``: turns with an advantage other than 0; ``credit/silent_group_share``: groups without any.
    - ``credit/degenerate_group_share``: groups of two or more whose trajectories all have the same reward;
      ``credit/group_size_mean``, ``credit/group_singleton_share``: trajectories a group, and groups of one among them.
    - ``credit/advantage_mean``, ``_std``, ``_min``, ``_max`` over turns; ``credit/advantage_within_share``: how much of their
      variance lies within trajectories, so 0 where every turn of a trajectory gets the same.
    - ``credit/advantage_turn_A_B``: mean over the turns from A to B (from 0), which shows a bias towards early or late turns.
    """
    advantages = np.asarray(advantages, dtype=np.float64)
    if not len(table):
        return {}
    return {
        "credit/signal_share": float((advantages != 0).mean()),
        "credit/silent_group_share": float((np.bincount(table["group"], advantages != 0) == 0).mean()),
        **_groups(table),
        "credit/advantage_mean": float(advantages.mean()),
        "credit/advantage_std": float(advantages.std()),
        "credit/advantage_min": float(advantages.min()),
        "credit/advantage_max": float(advantages.max()),
        "credit/advantage_within_share": _within_share(table, advantages),
        **by_turn(table, advantages, "credit/advantage"),
    }


def group_sizes(codes: np.ndarray, prefix: str) -> dict[str, float]:
    """How large the groups are into which rows fall, from their codes [K] (-1: in none).

    ``PREFIX_size_mean`` (members a group), ``PREFIX_singleton_share`` (members alone in theirs), ``PREFIX_none_share`` (rows
    in no group), and a histogram: ``PREFIX_size_A_B`` is the share of members in groups of A to B.
    """
    inside = codes[codes >= 0]
    sizes = np.bincount(inside)
    sizes = sizes[sizes > 0]
    found = {
        f"{prefix}_size_mean": inside.size / max(sizes.size, 1),
        f"{prefix}_singleton_share": float((sizes == 1).sum()) / max(inside.size, 1),
        f"{prefix}_none_share": 1 - inside.size / max(codes.size, 1),
    }
    for low, high in SIZES:
        chosen = sizes[(sizes >= low) & (sizes <= (high or sizes.max(initial=0)))]
        found[f"{prefix}_size_{_span(low, high)}"] = float(chosen.sum()) / max(inside.size, 1)
    return found


def by_turn(table: TurnTable, values: np.ndarray, prefix: str) -> dict[str, float]:
    """The mean of ``values`` [K] over turns of a like place in their trajectory: ``PREFIX_turn_A_B``."""
    turn, found = table["turn"], {}
    for low, high in TURNS:
        here = (turn >= low) & ((turn <= high) if high is not None else True)
        if here.any():
            found[f"{prefix}_turn_{_span(low, high)}"] = float(values[here].mean())
    return found


def _groups(table: TurnTable) -> dict[str, float]:
    total, group = table.sum_by_trajectory(table["reward"]), table.group_of_trajectory
    sizes = np.bincount(group, minlength=table.n_groups)
    low, high = np.full(table.n_groups, np.inf), np.full(table.n_groups, -np.inf)
    np.minimum.at(low, group, total)
    np.maximum.at(high, group, total)
    flat = high - low <= ZERO_RANGE * np.maximum(np.abs(low), np.abs(high))
    return {
        "credit/degenerate_group_share": float((flat & (sizes > 1)).mean()),
        "credit/group_size_mean": float(sizes.mean()),
        "credit/group_singleton_share": float((sizes == 1).mean()),
    }


def _within_share(table: TurnTable, advantages: np.ndarray) -> float:
    variance = advantages.var()
    if variance == 0:
        return 0.0
    own = (table.sum_by_trajectory(advantages) / table.n_turns)[table["trajectory"]]
    return float(((advantages - own) ** 2).mean() / variance)


def _span(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}_up"
    return str(low) if low == high else f"{low}_{high}"
