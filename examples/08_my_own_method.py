"""A method of one's own: a formula in numpy, registered by a name that run files use. Under a minute on one core.

python examples/08_my_own_method.py
"""

import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

import agentrl
from agentrl.algorithms import TurnTable
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.method import Method
from agentrl.config import find
from agentrl.registry import register


@register("credit", "median")
@dataclass(frozen=True)
class Median(Method):
    """A_it = scale · (R_i - median of the rewards in the group): one lucky episode does not move the baseline."""

    stage = "credit"
    reads = ("group", "trajectory", "reward")  # checked before the first episode
    writes = ("advantage",)
    formula = "A_it = scale (R_i - median_g R)"
    source = "own"

    scale: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, table: TurnTable) -> np.ndarray:
        """Advantages [K], one a turn."""
        totals = table.sum_by_trajectory(table["reward"])
        groups = table.group_of_trajectory
        medians = np.array([np.median(totals[groups == group]) for group in range(groups.max() + 1)])
        return self.scale * (totals - medians[groups])[table["trajectory"]]


if __name__ == "__main__":
    place = np.arange(5)
    table = TurnTable(group=[0] * 5, trajectory=place, turn=[0] * 5, reward=[0.0, 0.0, 0.0, 0.0, 1.0])
    print("GRPO  ", GRPO()(table).round(2))
    print("median", Median()(table))

    shipped = find("quickstart")
    config = tomllib.loads(shipped.read_text())
    config["model"]["path"] = str(shipped.parent / "warmstart")
    config["algorithm"] |= {"credit": {"name": "median", "scale": 2.0}, "sampler": {"name": "uniform", "tasks": 2}}
    config |= {"evaluation": {"episodes": 0}, "resources": {"device": "cpu", "threads": 1}}
    with tempfile.TemporaryDirectory() as folder:
        summary = agentrl.train(config, "run.iterations=1", out=Path(folder) / "run")
    print(summary["status"], "after", summary["iterations"], "iteration")
