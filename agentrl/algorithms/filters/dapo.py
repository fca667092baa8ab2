"""Dynamic sampling: groups that cannot teach are replaced by groups on other tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agentrl.algorithms.filters.degenerate import Degenerate
from agentrl.registry import register
from agentrl.types import Group, RolloutRequest


@register("filter", "dapo")
@dataclass(frozen=True, kw_only=True)
class DynamicSampling(Degenerate):
    """Keeps a group where max_i R_i - min_i R_i > min_range, and asks the sampler for other tasks until there are ``groups``.

    It sees all groups of an iteration, those kept in earlier rounds first. For each group that is missing it asks for
    ``oversample`` fresh ones, at most ``algorithm.refill_rounds`` times an iteration; what is still missing then is missing
    from the update. Groups beyond ``groups`` are trimmed, the first ones to arrive stay: they count as rolled out and as
    filtered, and are not trained on. R_i is the raw reward of the task. Put it last among the filters: what a later one drops
    is not asked for again.

    Source: DAPO (2503.14476) eq. 11 and section 3.2. Where paper and code differ: the code generates a whole batch again
    (oversample by its size) up to 10 times (refill_rounds = 9) and stops with an error if that is not enough.
    """

    formula = "keep a group where max_i R_i - min_i R_i > min_range; ask for fresh tasks until there are `groups`"
    source = "DAPO (arXiv 2503.14476) eq. 11 and section 3.2"
    sees = "iteration"

    groups: Annotated[int, Field(ge=1)]
    oversample: Annotated[float, Field(ge=1)] = 1.0

    def __call__(self, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
        """The first ``groups`` that differ, in order, and a request for each one that is wanted."""
        kept, _ = super().__call__(groups)
        missing = max(0, self.groups - len(kept))
        fresh = [RolloutRequest(task=None, n=0, source="dapo")] * math.ceil(self.oversample * missing)
        return kept[: self.groups], fresh

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Of an iteration's groups: how many differ beyond those that are trained on, and how many are missing."""
        differing = len(super().__call__(list(groups))[0])
        return {
            "filter/trimmed": float(max(0, differing - self.groups)),
            "filter/missing": float(max(0, self.groups - differing)),
        }
