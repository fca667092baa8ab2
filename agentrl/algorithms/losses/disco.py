"""DisCO: answers that are right against answers that are wrong, and a constraint instead of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agentrl.algorithms import ratios
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import Method
from agentrl.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "disco")
@dataclass(frozen=True, kw_only=True)
class DisCO(Method):
    """loss = -mean_g mean_{i right} (s_i - τ log mean_{j wrong} exp(s_j / τ)) + sg(β [K - δ]₊) K.

    s_i is the mean over the trajectory's tokens of logp (``score = "likelihood"``) or of exp(logp - logp_old) ("ratio"); a
    trajectory is right where the table's column ``outcome`` is above ½. K = mean over tokens of logp_old - logp ("kl") or of
    ρ - 1 - log ρ ("low_var"). ``hard = False`` is DisCO-b, the plain mean over the wrong ones. The penalty has the gradient of
    β/2 [K - δ]₊². A group without a right or without a wrong member adds 0 and is counted. ``tau = None``: the paper's, 10 for
    likelihoods and 1 for ratios.

    The advantage is not read: it replaces credit and clip. It wants whole groups in an update, which its ``scope`` asks for;
    a filter of degenerate groups changes the mean over groups.

    Source: DisCO (2505.12366) with the defaults of its code. Where paper and code differ: the code reports
    another value for the log-mean-exp (its gradient is the same), and its ratio score with τ does not run.
    """

    stage = "loss"
    scope = "update"
    reads = ("logp", "logp_old", "group", "{outcome}")
    formula = "-mean_g mean_{i in P} (s_i - tau log mean_{j in N} exp(s_j / tau)) + sg(beta [K - delta]+) K"
    source = "DisCO (arXiv 2505.12366)"

    outcome: str = "success"
    score: Literal["likelihood", "ratio"] = "likelihood"
    hard: bool = True
    tau: Annotated[float, Field(gt=0)] | None = None
    beta: Annotated[float, Field(ge=0)] = 1e3
    delta: Annotated[float, Field(ge=0)] = 1e-4
    kl: Literal["kl", "low_var"] = "kl"

    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss of the update, a scalar."""
        divergence = self.divergence(inputs)
        pressure = self.beta * (divergence - self.delta).clamp(min=0).detach()
        return pressure * divergence - self.objective(inputs)

    def objective(self, inputs: LossInputs) -> Tensor:
        """J, a scalar: how far right answers stand above wrong ones."""
        member = inputs.trajectory.unique(return_inverse=True)[1]
        log_ratio = inputs.logp - inputs.require("logp_old")
        score = ratios.mean(inputs.logp if self.score == "likelihood" else ratios.ratio(log_ratio), member)  # [M]
        right = ratios.mean(inputs.column(self.outcome).to(score), member) > 0.5
        group = inputs.group.new_zeros(len(score)).scatter(0, member, inputs.group)
        group = group.unique(return_inverse=True)[1]
        n_right, n_wrong = (ratios.total(side.to(score), group) for side in (right, ~right))
        taught = (n_right > 0) & (n_wrong > 0)
        above = ratios.total(score * right, group) / n_right.clamp(min=1)
        if self.hard:
            below = self._log_mean_exp(score, ~right, group, n_wrong)
        else:
            below = ratios.total(score * ~right, group) / n_wrong.clamp(min=1)
        return (above - below)[taught].sum() / len(taught)

    def _log_mean_exp(self, score: Tensor, wrong: Tensor, group: Tensor, n_wrong: Tensor) -> Tensor:
        """τ log mean exp(s / τ) over the wrong ones of each group, [G]; 0 where there are none."""
        tau = self.tau or (10.0 if self.score == "likelihood" else 1.0)
        scaled, place = score[wrong] / tau, group[wrong]
        top = scaled.new_full(n_wrong.shape, -float("inf")).scatter_reduce(0, place, scaled.detach(), "amax")
        top = top.masked_fill(n_wrong == 0, 0.0)
        total = scaled.new_zeros(n_wrong.shape).index_add(0, place, (scaled - top[place]).exp())
        return tau * ((total + (n_wrong == 0)) / n_wrong.clamp(min=1)).log() + tau * top

    def divergence(self, inputs: LossInputs) -> Tensor:
        """K, a scalar."""
        log_ratio = inputs.logp - inputs.require("logp_old")
        each = -log_ratio if self.kl == "kl" else ratios.ratio(log_ratio) - 1 - log_ratio
        return each.mean()

    def metrics(self, inputs: LossInputs) -> dict[str, float]:
        """J and K of these tokens."""
        if not len(inputs):
            return {}
        return {
            "disco/objective": float(self.objective(inputs).detach()),
            "disco/kl": float(self.divergence(inputs).detach()),
        }
