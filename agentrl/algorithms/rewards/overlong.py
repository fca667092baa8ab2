"""What an answer costs as it nears the longest length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import register


@register("reward", "overlong")
@dataclass(frozen=True, kw_only=True)
class Overlong(Method):
    """reward += coef · u(y): u = 0 up to longest - buffer, then falls as (longest - buffer - y) / buffer, and is -1 beyond
    longest.

    y counts sampled tokens: of the trajectory, charged to its last turn ("trajectory"), or of each turn, charged to it
    ("turn"). It is part of the reward, so a group's statistics hold it; filters run before and judge by the task's own reward.

    Source: soft overlong punishment, DAPO (2503.14476) eq. 13, where longest = 20480 and buffer = 4096. Where paper and code
    differ: verl has no floor at -1 (``floor = False``), for its answers are never longer than the longest.
    """

    stage = "reward"
    reads = ("reward", "n_tokens", "trajectory", "turn")
    writes = ("reward",)
    formula = "reward += coef max(-1, min(0, (longest - buffer - y) / buffer))"
    source = "DAPO (arXiv 2503.14476) eq. 13"

    longest: Annotated[int, Field(ge=1)]
    buffer: Annotated[int, Field(ge=1)]
    coef: Annotated[float, Field(ge=0)] = 1.0
    level: Literal["trajectory", "turn"] = "trajectory"
    floor: bool = True

    def __post_init__(self) -> None:
        if self.buffer > self.longest:
            raise ConfigError(f"overlong.buffer = {self.buffer} is more than overlong.longest = {self.longest}")

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        """The column ``reward`` [K]."""
        if self.level == "turn":
            return {"reward": table["reward"] + self.coef * self.punishment(table["n_tokens"])}
        trajectory = table["trajectory"][table.order]
        last = table.order[np.flatnonzero(np.diff(trajectory, append=-1))]
        length = table.sum_by_trajectory(table["n_tokens"])[table["trajectory"][last]]
        reward = table["reward"].copy()
        reward[last] += self.coef * self.punishment(length)
        return {"reward": reward}

    def punishment(self, length: np.ndarray) -> np.ndarray:
        """u of lengths in tokens, same shape."""
        value = np.minimum(0.0, (self.longest - self.buffer - np.asarray(length, dtype=np.float64)) / self.buffer)
        return np.maximum(value, -1.0) if self.floor else value
