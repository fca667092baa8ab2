"""The clipped value loss of PPO: what a critic is trained with."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from agentrl.algorithms.aggregate import Aggregated
from agentrl.algorithms.inputs import LossInputs
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "value")
@dataclass(frozen=True, kw_only=True)
class ValueLoss(Aggregated):
    """l = ½ max((V - T)², (clip(V, V_old - clip, V_old + clip) - T)²).

    V is the critic's value now, V_old its value before the iteration's updates, T the return to learn (advantage plus V_old,
    before any whitening). ``clip = None``: the plain square. This is the loss of a critic, not of a policy.

    Source: PPO's released code (OpenAI baselines), not its paper; verl and TRL have the factor ½ and the same maximum.
    """

    stage = "loss"
    scope = "token"
    reads = ("value", "value_old", "returns")
    formula = "l = 1/2 max((V - T)^2, (clip(V, V_old - clip, V_old + clip) - T)^2)"
    source = "released code of PPO (OpenAI baselines)"
    remedies = MappingProxyType(
        dict.fromkeys(
            ("value", "value_old", "returns"),
            "A learner with a value head gives it; the loss of a policy is another one, as ppo_clip.",
        )
    )

    clip: Annotated[float, Field(gt=0)] | None = 0.2

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of each token, [N]."""
        value, target = inputs.require("value"), inputs.require("returns")
        error = (value - target) ** 2
        if self.clip is not None:
            error = error.maximum((self._clipped(inputs) - target) ** 2)
        return error / 2

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """The share of these tokens whose value has moved by more than ``clip``, and 1 - Var(T - V) / Var(T)."""
        if not len(inputs):
            return {}
        value, target = (inputs.require(name).detach().double() for name in ("value", "returns"))
        spread = float(target.var(correction=0))
        found = {"value/explained_variance": 1 - float((target - value).var(correction=0)) / spread if spread else 0.0}
        if self.clip is not None:
            moved = (value - inputs.require("value_old")).abs() > self.clip
            found["value/clip_ratio"] = float(moved.double().mean())
        return found

    def _clipped(self, inputs: LossInputs) -> Tensor:
        old, clip = inputs.require("value_old"), float(self.clip or 0)
        return old + (inputs.require("value") - old).clamp(-clip, clip)
