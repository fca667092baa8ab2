"""Batches of trained tokens for tests of losses: the toy batch B0 of the method sheet, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from agentrl.algorithms.aggregate import coefficients
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.table import TurnTable

LENGTHS = [3, 2, 3, 1]
LOGP_OLD = [-0.5, -1.0, -0.2, -0.7, -0.3, -1.2, -0.4, -0.9, -0.1]
LOGP = [-0.4, -0.6, -0.25, -0.9, -0.3, -1.0, -0.8, -0.9, -0.35]
LOGP_REF = [-0.6, -0.9, -0.2, -0.8, -0.5, -1.1, -0.6, -1.0, -0.2]
LOGP_SAMPLER = [-0.55, -0.95, -0.2, -0.7, -1.6, -1.3, -0.1, -0.9, -1.9]
ENTROPY = [0.9, 1.4, 0.1, 0.2, 0.05, 1.1, 0.6, 0.3, 0.4]
A_GRPO = [0.8660239, -0.8660239, -0.8660239, 0.8660239]
A_MEAN = [0.5, -0.5, -0.5, 0.5]
SEQUENCE = np.repeat(np.arange(4), LENGTHS)


def b0(kind: Any = "token_mean", advantage=A_GRPO, constant=None, logp=LOGP, **more: Any) -> LossInputs:
    """B0, flat: one group, four samples of one turn each, of which the first and the last are right."""
    coef = coefficients(kind, SEQUENCE, SEQUENCE, SEQUENCE, constant)
    index = torch.tensor(SEQUENCE)
    table = TurnTable(
        group=[0] * 4, trajectory=[0, 1, 2, 3], turn=[0] * 4, reward=[1.0, 0, 0, 1], success=[True, False, False, True]
    )
    given = {
        "logp": torch.tensor(logp, dtype=torch.float64, requires_grad=True),
        "logp_old": torch.tensor(LOGP_OLD, dtype=torch.float64),
        "logp_ref": torch.tensor(LOGP_REF, dtype=torch.float64),
        "logp_sampler": torch.tensor(LOGP_SAMPLER, dtype=torch.float64),
        "entropy": torch.tensor(ENTROPY, dtype=torch.float64, requires_grad=True),
        "advantage": torch.tensor(advantage, dtype=torch.float64)[index],
        "coef": torch.tensor(coef),
        "row": index,
        "sequence": index,
        "trajectory": index,
        "group": torch.zeros(9, dtype=torch.int64),
        "table": table,
    }
    return LossInputs(**{**given, **more})


def one_token(ratio: float, advantage: float) -> LossInputs:
    """A single token of that ratio."""
    zero = torch.zeros(1, dtype=torch.int64)
    logp = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    return LossInputs(
        logp=logp,
        logp_old=torch.zeros(1, dtype=torch.float64),
        advantage=torch.tensor([advantage], dtype=torch.float64),
        coef=torch.ones(1, dtype=torch.float64),
        row=zero,
        sequence=zero,
        trajectory=zero,
        group=zero,
    )


def random_batch(seed: int, kind: Any = "token_mean", constant: float | None = None) -> LossInputs:
    """Groups of trajectories of samples of turns, their tokens in any order. Now and then a turn stands in two samples, as
    the turns of two roles do, and a group has no right or no wrong member."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, bool]] = []  # group, trajectory, turn, success
    tokens: list[tuple[int, int, int, int]] = []  # row, sequence, trajectory, group
    sequence = trajectory = 0
    for group in range(rng.integers(1, 4)):
        for _ in range(rng.integers(1, 5)):
            success, turn = bool(rng.random() < 0.5), 0
            for _ in range(rng.integers(1, 3)):
                for _ in range(rng.integers(1, 3)):
                    shared = turn > 0 and rng.random() < 0.2
                    if not shared:
                        rows.append((group, trajectory, turn, success))
                        turn += 1
                    tokens += [(len(rows) - 1, sequence, trajectory, group)] * int(rng.integers(1, 4))
                sequence += 1
            trajectory += 1
    flat = np.array(tokens)[rng.permutation(len(tokens))]
    columns = list(zip(*rows, strict=True))
    table = TurnTable(
        group=columns[0], trajectory=columns[1], turn=columns[2], reward=np.zeros(len(rows)), success=columns[3]
    )
    n = len(flat)
    old = -rng.exponential(1.0, n)

    def near(scale: float) -> torch.Tensor:
        return torch.tensor(old + scale * rng.normal(size=n))

    return LossInputs(
        logp=near(0.4).requires_grad_(),
        logp_old=torch.tensor(old),
        logp_ref=near(0.3),
        logp_sampler=near(0.3),
        entropy=torch.tensor(rng.exponential(1.0, n)).requires_grad_(),
        advantage=torch.tensor(rng.normal(size=len(rows))[flat[:, 0]]),
        coef=torch.tensor(coefficients(kind, flat[:, 1], flat[:, 0], flat[:, 2], constant)),
        row=torch.tensor(flat[:, 0]),
        sequence=torch.tensor(flat[:, 1]),
        trajectory=torch.tensor(flat[:, 2]),
        group=torch.tensor(flat[:, 3]),
        table=table,
    )


def lists(batch: LossInputs) -> dict[str, list[Any]]:
    """The tensors of a batch as plain lists."""
    return {
        name: value.tolist()
        for name, value in vars(batch).items()
        if torch.is_tensor(value)
    }  # fmt: skip


def total(batch: LossInputs, loss: torch.Tensor) -> torch.Tensor:
    return (batch.coef * loss).sum()


def gradient_of(batch: LossInputs) -> torch.Tensor:
    assert batch.logp.grad is not None
    return batch.logp.grad


def rows_of(text: str) -> list[float]:
    """A vector of the method sheets, "[[1, 2]; [3]]", flat."""
    return [float(part) for part in text.translate(str.maketrans("[];,", "    ")).split()]
