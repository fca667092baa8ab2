"""The sampled KL divergence to a reference policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOG_RATIO = 20.0


@register("regularizer", "kl")
@dataclass(frozen=True, kw_only=True)
class KL(Method):
    """coef · k, with d = logp - logp_ref and k1 = d, k2 = d²/2, k3 = exp(-d) + d - 1.

    On tokens that the policy sampled, their expected gradients differ: that of k1 is 0 (no KL gradient at all), that of
    k2 is the gradient of KL(policy ‖ reference), that of k3 the gradient of KL(reference ‖ policy).

    Source: Schulman, "Approximating KL Divergence" (2020); k3 in GRPO (2402.03300) eq. 4. Where paper and code differ:
    d is clamped to ±20 and the value of k3 to ±``clamp``, as in verl; beyond it the gradient is 0.
    """

    stage = "regularizer"
    scope = "token"
    reads = ("logp", "logp_ref")
    formula = "coef * (exp(-d) + d - 1), d = logp - logp_ref (k3; k1 = d, k2 = d^2 / 2)"
    source = "Schulman 2020; GRPO (arXiv 2402.03300) eq. 4"

    coef: Annotated[float, Field(ge=0)]
    estimator: Literal["k1", "k2", "k3"] = "k3"
    clamp: Annotated[float, Field(gt=0)] | None = 10.0

    def __call__(self, inputs: LossInputs) -> Tensor:
        """What is added to the loss of each token, [N], the coefficient included."""
        return self.coef * self.estimate(inputs)

    def estimate(self, inputs: LossInputs) -> Tensor:
        """k [N], without the coefficient."""
        difference = (inputs.logp - inputs.require("logp_ref")).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        if self.estimator == "k1":
            return difference
        if self.estimator == "k2":
            return difference**2 / 2
        value = (-difference).exp() + difference - 1
        return value if self.clamp is None else value.clamp(-self.clamp, self.clamp)

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """The mean of k over these N tokens, without the coefficient."""
        return {"kl": float(self.estimate(inputs).detach().double().mean())} if len(inputs) else {}
