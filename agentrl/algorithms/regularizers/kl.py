"""The sampled KL divergence to a reference policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agentrl.algorithms import ratios
from agentrl.algorithms.coefficient import State, Weighted
from agentrl.algorithms.inputs import LossInputs
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("regularizer", "kl")
@dataclass(frozen=True, kw_only=True)
class KL(Weighted):
    """coef · k, with d = logp - logp_ref and k1 = d, k2 = d²/2, k3 = exp(-d) + d - 1.

    On tokens that the policy sampled, their expected gradients differ: that of k1 is 0 (no KL gradient at all), that of
    k2 is the gradient of KL(policy ‖ reference), that of k3 the gradient of KL(reference ‖ policy). "k3+" has the value of k3
    and the gradient of k2. ``off_policy`` multiplies by ρ = exp(logp - logp_old), with its gradient: then the expectation is
    that of the policy now, also after some updates on the same samples, and the gradient of ρ k3 is ρ d, again that of
    KL(policy ‖ reference).

    ``coef`` may be constant, scheduled or steered by the metric "kl" (see ``agentrl.algorithms.coefficient``).

    Source: Schulman, "Approximating KL Divergence" (2020); k3 in GRPO (2402.03300) eq. 4; ``off_policy`` in DeepSeek-V3.2
    (2512.02556), TRL's use_bias_correction_kl. Where paper and code differ: d is clamped to ±20 and the value of k3 to
    ±``clamp``, as in verl; beyond it the gradient is 0.
    """

    stage = "regularizer"
    scope = "token"
    reads = ("logp", "logp_ref")
    formula = "coef * (exp(-d) + d - 1), d = logp - logp_ref (k3; k1 = d, k2 = d^2 / 2)"
    source = "Schulman 2020; GRPO (arXiv 2402.03300) eq. 4"
    measures = "kl"
    raises = False

    estimator: Literal["k1", "k2", "k3", "k3+"] = "k3"
    clamp: Annotated[float, Field(gt=0)] | None = 10.0
    off_policy: bool = False

    def __call__(self, inputs: LossInputs, state: State | None = None) -> Tensor:
        """What is added to the loss of each token, [N], the coefficient included."""
        estimate = self.estimate(inputs)
        if self.off_policy:
            estimate = estimate * ratios.ratio(inputs.logp - inputs.require("logp_old"))
        return self.weight(state) * estimate

    def estimate(self, inputs: LossInputs) -> Tensor:
        """k [N], without the coefficient."""
        limit = ratios.MAX_LOG_RATIO
        difference = (inputs.logp - inputs.require("logp_ref")).clamp(-limit, limit)
        if self.estimator == "k1":
            return difference
        square = difference**2 / 2
        if self.estimator == "k2":
            return square
        value = (-difference).exp() + difference - 1
        value = value if self.clamp is None else value.clamp(-self.clamp, self.clamp)
        return value if self.estimator == "k3" else value.detach() + square - square.detach()

    def metrics(self, inputs: LossInputs, state: State | None = None) -> dict[str, float]:
        """The mean of k over these N tokens, without the coefficient, and the coefficient where it may change."""
        if not len(inputs):
            return {}
        found = {"kl": float(self.estimate(inputs).detach().double().mean())}
        return found if state is None else {**found, "kl/coef": self.weight(state)}
