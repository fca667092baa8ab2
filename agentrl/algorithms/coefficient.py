"""The coefficient of a regularizer: constant, scheduled, or steered towards a target.

    coef = 0.01
    coef = { rule = "linear", start = 0.0, end = 0.04, over = 100 }                  # over 100 iterations; or "cosine"
    coef = { rule = "proportional", start = 0.2, target = 6.0, horizon = 10000 }     # multiplied towards a target
    coef = { rule = "stepwise", start = 0.0, target = 0.2, step = 0.005 }            # up or down by a step

A coefficient changes between iterations only. What it has reached is the state of the method that holds it, so that a
checkpoint keeps it (``init`` and ``observe``, see ``agentrl.stages``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from agentrl.algorithms.method import Method
from agentrl.errors import ConfigError

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
State = dict[str, float]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """c(u) = start + (end - start) φ(u), u = min(1, done / over), φ(u) = u ("linear") or ½ (1 - cos πu) ("cosine").

    ``done`` counts the iterations so far, or with ``unit = "update"`` the updates before this iteration.

    Source: own; a rising weight of the KL is GRPO-D's (2503.16081), which names no formula.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rule: Literal["linear", "cosine"]
    start: Finite
    end: Finite
    over: Annotated[int, Field(ge=1)]
    unit: Literal["iteration", "update"] = "iteration"

    def init(self) -> State:
        """The state before the first iteration."""
        return {"value": float(self.start), "done": 0}

    def observe(self, state: State, probe: Mapping[str, Any], measured: float | None, raises: bool) -> State:
        """The state after an iteration."""
        done = state["done"] + 1 if self.unit == "iteration" else int(probe.get("n_updates", state["done"]))
        share = min(1.0, done / self.over)
        shape = share if self.rule == "linear" else 0.5 * (1 - math.cos(math.pi * share))
        return {"value": self.start + (self.end - self.start) * shape, "done": done}


@dataclass(frozen=True, kw_only=True)
class Proportional:
    """c ← c (1 + clip(±(measured / target - 1), -clip, clip) n / horizon), n the trajectories of the iteration.

    + where a larger coefficient lowers what is measured (KL), - where it raises it (entropy).

    Source: Ziegler et al. (1909.08593) section 2.2, clip 0.2.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rule: Literal["proportional"] = "proportional"
    start: Positive
    target: Positive
    horizon: Positive
    clip: Positive = 0.2

    def init(self) -> State:
        """The state before the first iteration."""
        return {"value": float(self.start)}

    def observe(self, state: State, probe: Mapping[str, Any], measured: float | None, raises: bool) -> State:
        """The state after an iteration; unchanged where nothing was measured."""
        if measured is None:
            return state
        error = (measured / self.target - 1) * (-1 if raises else 1)
        error = min(self.clip, max(-self.clip, error))
        factor = 1 + error * float(probe["n_trajectories"]) / self.horizon
        return {"value": state["value"] * max(0.0, factor)}


@dataclass(frozen=True, kw_only=True)
class Stepwise:
    """c ← clip(c ± step, 0, highest): up while what is measured is on the wrong side of the target, down while it is on the
    right one. With ``gate`` the coefficient counts as 0 while it is on the right side.

    Source: adaptive entropy control of Skywork-OR1 (2505.22312): an entropy bonus that is raised below the target entropy
    and gated off above it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rule: Literal["stepwise"] = "stepwise"
    start: Finite
    target: Annotated[float, Field(allow_inf_nan=False)]
    step: Positive
    highest: Positive | None = None
    gate: bool = False

    def init(self) -> State:
        """The state before the first iteration."""
        return {"value": float(self.start), "kept": float(self.start)}

    def observe(self, state: State, probe: Mapping[str, Any], measured: float | None, raises: bool) -> State:
        """The state after an iteration; unchanged where nothing was measured."""
        if measured is None or measured == self.target:
            return state
        wrong = (measured < self.target) == raises
        kept = max(0.0, state["kept"] + (self.step if wrong else -self.step))
        kept = kept if self.highest is None else min(kept, self.highest)
        return {"value": kept if wrong or not self.gate else 0.0, "kept": kept}


RULES = {"linear": "scheduled", "cosine": "scheduled", "proportional": "proportional", "stepwise": "stepwise"}


def _kind(given: Any) -> str:
    rule = given.get("rule") if isinstance(given, Mapping) else getattr(given, "rule", None)
    return "constant" if rule is None and not isinstance(given, Mapping) else RULES.get(str(rule), str(rule))


Coefficient = Annotated[
    Annotated[Finite, Tag("constant")]
    | Annotated[Scheduled, Tag("scheduled")]
    | Annotated[Proportional, Tag("proportional")]
    | Annotated[Stepwise, Tag("stepwise")],
    Discriminator(
        _kind,
        custom_error_type="coefficient",
        custom_error_message="want a number, or a table with rule = linear, cosine, proportional or stepwise",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Weighted(Method):
    """A method with a coefficient. ``measures`` names the metric that steers an adaptive one; ``raises`` says whether a
    larger coefficient raises that metric."""

    measures: ClassVar[str]
    raises: ClassVar[bool]

    coef: Coefficient

    def init(self, seed: int) -> State | None:
        """The coefficient's state; None for a constant."""
        return None if isinstance(self.coef, (int, float)) else self.coef.init()

    def observe(self, state: State | None, table: Any, probe: Mapping[str, Any] | None) -> State | None:
        """The coefficient's state after an iteration whose metrics are ``probe``. Raises ConfigError where there were
        updates and nobody measured what it is steered by."""
        if state is None or isinstance(self.coef, (int, float)):
            return None
        probe = probe or {}
        measured = probe.get(self.measures)
        if measured is None and "n_updates" in probe and not isinstance(self.coef, Scheduled):
            raise ConfigError(
                f"{type(self).__name__}.coef is steered by '{self.measures}', which no metric of the iteration is called; "
                "use a constant or a schedule"
            )
        return self.coef.observe(state, probe, measured, self.raises)

    def weight(self, state: State | None = None) -> float:
        """The coefficient now; without a state that of the first iteration."""
        if isinstance(self.coef, (int, float)):
            return float(self.coef)
        return float((self.coef.init() if state is None else state)["value"])
