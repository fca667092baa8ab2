"""What a loss sees: the N trained tokens of an update (or of a part of it), flat.

    N = 3 tokens, two turns:   row = [0, 0, 1]   sequence = [0, 0, 0]   advantage = [0.5, 0.5, -0.5]

A loss of scope "token" gives one value a token; the learner sums ``inputs.coef * loss``. The coefficients carry the
aggregation over the whole update (see aggregate.py), so it does not matter how the update is cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

REMEDIES = {
    "logp_old": "Let the learner recompute the log-probs before the first update.",
    "logp_sampler": "Use a policy that reports the log-probs of what it sampled.",
    "logp_ref": "Give the learner a reference model, or take the regularizer out.",
    "entropy": "Let the learner compute the entropy.",
    "value": "Use a learner with a value head.",
    "value_old": "Use a learner with a value head.",
    "returns": "Use a learner with a value head, and a credit method that gives returns.",
}


@dataclass(frozen=True)
class LossInputs:
    """N trained tokens. Only ``logp``, ``entropy`` and ``value`` carry a gradient."""

    logp: Tensor  # [N] of the policy now, at the sampling temperature
    advantage: Tensor  # [N] of the token's turn
    coef: Tensor  # [N] the token's share of the update's loss
    row: Tensor  # [N] int64, its row in the turn table
    sequence: Tensor  # [N] int64, its sample
    trajectory: Tensor  # [N] int64
    group: Tensor  # [N] int64
    logp_old: Tensor | None = None  # [N] of the policy that sampled, by the trainer's arithmetic
    logp_sampler: Tensor | None = None  # [N] of the policy that sampled, as the sampler reported it
    logp_ref: Tensor | None = None  # [N] of the reference policy
    entropy: Tensor | None = None  # [N] over the vocabulary, in nats
    value: Tensor | None = None  # [N] of the critic now, before the token is sampled
    value_old: Tensor | None = None  # [N] of the critic before the iteration's updates
    returns: Tensor | None = None  # [N] what the critic learns
    weight: Tensor | None = (
        None  # [N] the product of the token weights, which scales the loss and no regularizer; None: 1
    )
    table: TurnTable | Mapping[str, Any] = field(default_factory=dict)  # columns [K]

    def __len__(self) -> int:
        return int(self.logp.shape[0])

    def require(self, name: str) -> Tensor:
        """The field of that name. Raises ConfigError where it was not computed."""
        value = getattr(self, name)
        if value is None:
            raise ConfigError(f"a method of the loss reads '{name}', which was not computed. {REMEDIES.get(name, '')}")
        return value

    def column(self, name: str) -> Tensor:
        """A column of the turn table, one value a token [N]: floats as ``logp``, integers and booleans as int64."""
        values = self.table[name][self.row.detach().cpu().numpy()]
        like = self.logp if values.dtype.kind == "f" else self.row
        return like.detach().new_tensor(values)

    def labels(self, name: str) -> list[Any]:
        """What the codes of an interned column of the table stand for."""
        return self.table.labels(name) if isinstance(self.table, TurnTable) else []
