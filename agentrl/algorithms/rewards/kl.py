"""The distance from the reference policy as a price in the reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agentrl.algorithms.coefficient import State, Weighted
from agentrl.algorithms.table import TurnTable
from agentrl.registry import register


@register("reward", "kl")
@dataclass(frozen=True, kw_only=True)
class KLInReward(Weighted):
    """reward_t -= coef · kl_t, kl_t = Σ over the turn's sampled tokens of (logp_old - logp_ref).

    The estimator is k1 without gradient, which in the reward gives the gradient of KL(policy ‖ reference). It is part of the
    reward: discounting and the statistics of the group hold it, which the KL in the loss (``regularizers``) stays out of.

    The learner measures the column ``kl`` where a method reads it, against the policy as it was at the start of the run.

    ``coef`` may be constant, scheduled or steered by the metric "kl/sampled" (see ``agentrl.algorithms.coefficient``).

    Source: Ziegler et al. (1909.08593) eq. 2; RLOO (2402.14740) and REINFORCE++ (2501.03262) charge it the same way.
    """

    stage = "reward"
    reads = ("reward", "kl")
    writes = ("reward",)
    formula = "reward_t -= coef * sum over the turn's tokens of (logp_old - logp_ref)"
    source = "Ziegler et al. (arXiv 1909.08593) eq. 2"
    measures = "kl/sampled"
    raises = False
    unbounds = True

    def __call__(self, table: TurnTable, state: State | None = None) -> dict[str, np.ndarray]:
        """The column ``reward`` [K]."""
        return {"reward": table["reward"] - self.weight(state) * table["kl"]}
