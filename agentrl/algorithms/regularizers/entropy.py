"""The entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl.algorithms.coefficient import State, Weighted
from agentrl.algorithms.inputs import LossInputs
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("regularizer", "entropy")
@dataclass(frozen=True, kw_only=True)
class EntropyBonus(Weighted):
    """-coef · H, H the entropy over the whole vocabulary at each trained token, in nats: the loss falls as it rises.

    ``coef`` may be constant, scheduled or steered by the metric "entropy" (see ``agentrl.algorithms.coefficient``); with
    ``rule = "stepwise"`` and ``gate = true`` it holds the entropy at a target, as Skywork-OR1 does. AEPO steers
    the entropy by the temperature of further rollouts instead, which is no regularizer.

    Source: A3C (1602.01783) section 4; PPO (1707.06347) eq. 9.
    """

    stage = "regularizer"
    scope = "token"
    reads = ("entropy",)
    formula = "-coef * H"
    source = "A3C (arXiv 1602.01783) section 4; PPO (1707.06347) eq. 9"
    measures = "entropy"
    raises = True

    def __call__(self, inputs: LossInputs, state: State | None = None) -> Tensor:
        """What is added to the loss of each token, [N], the coefficient included."""
        return -self.weight(state) * inputs.require("entropy")

    def metrics(self, inputs: LossInputs, state: State | None = None) -> dict[str, float]:
        """The coefficient where it may change; the learner measures the entropy."""
        return {} if state is None else {"entropy/coef": self.weight(state)}
