"""What was expected of the methods before the numbers, and what came out.

A claim is judged by an interval, never by a number chosen for it: "unbiased" holds where the interval of the bias holds 0, "biased"
where it does not, and a comparison where the interval of the ratio lies on the expected side of 1. All claims together
share an error of 5 % (Bonferroni), so more claims make wider intervals. That no bias was found proves none absent: the
interval says how large it can be at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from agentrl.study.credit import Result
from agentrl.study.measure import ROUNDING, Estimate, cosine, log_ratio

Array = np.ndarray
ERROR = 0.05
Kind = Literal["direction", "ratio", "share", "offset"]
CRITIC = "turn_gae, exact, lam 0"


@dataclass(frozen=True)
class Claim:
    """``estimate`` is expected to be equal to ``target``, or above or below it."""

    text: str
    kind: Kind  # how it is shown: a cosine, a ratio (the estimate is its logarithm), plain numbers
    wants: Literal["equal", "above", "below"]
    estimate: Estimate
    target: float = 0.0

    def judge(self, level: float) -> Literal["holds", "fails", "open"]:
        """By the interval of that level; "open" where it does not decide."""
        low, high = self.estimate.interval(level)
        if self.wants == "equal":
            return "holds" if low - ROUNDING <= self.target <= high + ROUNDING else "fails"
        if self.wants == "below":
            low, high = -high, -low
        target = self.target if self.wants == "above" else -self.target
        return "holds" if low > target else "fails" if high < target else "open"

    def shown(self, level: float) -> str:
        """The number with its interval, as it is read."""
        low, high = self.estimate.interval(level)
        value = self.estimate.value
        if self.kind == "direction":
            return f"cosine {cosine(value):.4f} [{cosine(high):.4f}, {cosine(low):.4f}]"
        if self.kind == "ratio":
            return f"ratio {np.exp(value):.2f} [{np.exp(low):.2f}, {np.exp(high):.2f}]"
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True)
class Hypothesis:
    """An expectation, the reason for it, and the claims that it stands or falls with."""

    title: str
    expected: str
    claims: list[Claim]
    level: float = 1 - ERROR  # of the interval of each claim

    @property
    def verdict(self) -> str:
        """Of all claims together."""
        found = {claim.judge(self.level) for claim in self.claims}
        return "did not come out" if "fails" in found else "not decided" if "open" in found else "came out"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        claims = [
            {"claim": claim.text, "measured": claim.shown(self.level), "verdict": claim.judge(self.level)}
            for claim in self.claims
        ]
        return {
            "title": self.title,
            "expected": self.expected,
            "verdict": self.verdict,
            "level": self.level,
            "claims": claims,
        }


Results = Mapping[str, Result]


def hypotheses(results: Results) -> list[Hypothesis]:
    """All of them, judged by the results of the study."""
    makers = (broadcast, row_weights, turn_index, strata, anchors, critic)
    found = [make(results) for make in makers]
    level = 1 - ERROR / sum(len(each.claims) for each in found)
    return [replace(each, level=level) for each in found]


def broadcast(results: Results) -> Hypothesis:
    """GRPO's outcome for every turn."""
    noisy = "needs more groups than the exact one-turn advantages of a critic"
    return Hypothesis(
        "An outcome broadcast to every turn is unbiased, and noisy; dividing by the group's std biases it",
        "R_i minus the mean of its group points along the gradient, shrunk by (G-1)/G because the mean holds R_i itself; the "
        "std of a group is another factor for each task, so it turns the direction where tasks differ in difficulty or "
        "rewards take more than two values. With one task and rewards of 0 and 1 the standardised score is linear in "
        "the reward, whoever else is in the group, so there it only rescales.",
        [
            *(_unbiased(results, name, label) for name in results for label in ("rloo", "grpo, mean only")),
            _noise(results, "chain", "rloo", CRITIC, "above", noisy),
            _biased(results, "tasks", "grpo"),
            _biased(results, "stop", "grpo"),
            _unbiased(results, "chain", "grpo"),
            _unbiased(results, "search", "grpo"),
        ],
    )


def row_weights(results: Results) -> Hypothesis:
    """Statistics and losses in which a long episode counts more, or less."""
    over_turns = ("grpo, mean only, over turns", "grpo, over turns", "rloo, over turns")
    return Hypothesis(
        "Statistics over rows are biased where the length of an episode depends on its success",
        "A trajectory enters the baseline of its group as often as it has turns, so its own actions move the baseline by their "
        "effect on the length. That part is of the order of 1/G. Dividing the loss of a trajectory by its length weighs "
        "its gradient by something that its actions caused, which no group size heals.",
        [
            *(_biased(results, "lengths", label) for label in over_turns),
            _biased(results, "lengths", "rloo, loss / length"),
            *(_unbiased(results, "lengths", label) for label in ("grpo, mean only", "rloo", "grpo")),
            *(_unbiased(results, "chain", label) for label in ("grpo, mean only, over turns", "rloo, loss / length")),
        ],
    )


def turn_index(results: Results) -> Hypothesis:
    """Baselines by the index of the turn."""
    fair = ("mt_grpo", "return_to_go, group", "return_to_go, raw", "return_to_go, no baseline")
    return Hypothesis(
        "Turn rewards compared at their own index are biased where the policy decides when to stop; the unbiased form is not",
        "Each further turn costs the mean reward of that turn, which a trajectory that stops does not pay: a hidden bonus for "
        "stopping. Where the sum of what is still to come is compared, and who has ended counts 0, every baseline has "
        "the same terms.",
        [
            *(_biased(results, "stop", label) for label in ("mt_grpo_biased, mean only", "mt_grpo_biased")),
            *(_unbiased(results, "stop", label) for label in fair),
        ],
    )


def strata(results: Results) -> Hypothesis:
    """Stratified normalisation where the stratum is itself a choice."""
    choices, answers = ("q", "found1"), ("answer0", "answer1", "answer2")
    san, plain = "stratified_grpo, alpha 1", "grpo, mean only"
    result = results["search"]
    return Hypothesis(
        "Stratified normalisation removes the offset between strata, and with it all credit for the choice of the stratum",
        "Within a stratum advantages add up to 0: nobody is blamed for having searched once while searching twice pays. "
        "For the same reason the choice between the strata, which decides most here, gets none.",
        [
            Claim(f"{plain} in 'search': answers carry the offset of their stratum", "offset", "above",
                  _offset(result, plain, answers)),
            Claim(f"{san} in 'search': they carry none", "offset", "equal", _offset(result, san, answers)),
            Claim("rloo in 'search': credit of the choice, as a share of the true", "share", "equal",
                  _share(result, "rloo", choices), 1.0),
            Claim(f"{san} in 'search': credit of the choice", "share", "equal", _share(result, san, choices)),
            Claim("stratified_grpo, alpha 0.5 in 'search': credit of the choice, below the true", "share", "below",
                  _share(result, "stratified_grpo, alpha 0.5", choices, answers), 1.0),
            *(_biased(results, name, san) for name in ("search", "lengths")),
        ],
    )  # fmt: skip


def anchors(results: Results) -> Hypothesis:
    """GiGPO's groups of turns from one state."""
    same, alike = "gigpo, mean only", "gigpo, mean only, by observation"
    fewer = "needs fewer groups than without anchors"
    return Hypothesis(
        "GiGPO cuts the variance where states repeat; its price is a small bias",
        "Compared with turns from the same room, a turn is not blamed for the luck that led there. A visit is in its own baseline, "
        "which shrinks its advantage by (n-1)/n among n visits: more in rare states, so the direction turns a little. "
        "Where rooms that differ look alike, anchors by observation mix them and the luck is back.",
        [
            _noise(results, "rooms", same, "grpo, mean only", "below", fewer),
            _noise(results, "rooms", "gigpo", "grpo", "below", fewer),
            _noise(results, "rooms", "hgpo, mean only", "grpo, mean only", "below", fewer),
            _noise(results, "rooms", alike, same, "above", "needs more groups than anchors by state"),
            _biased(results, "rooms", same),
            _biased(results, "chain", same),
        ],
    )


def critic(results: Results) -> Hypothesis:
    """What exact values would give."""
    return Hypothesis(
        "With exact values one-turn advantages are unbiased and less noisy than RLOO",
        "r + V' - V has the advantage as its mean and carries the luck of one transition only. A learned critic is not exact: "
        "this is the most that one could give.",
        [
            *(_unbiased(results, name, CRITIC) for name in results),
            *(_noise(results, name, CRITIC, "rloo", "below", "needs fewer groups") for name in results),
        ],
    )


# ---- claims ----------------------------------------------------------------------------------------------------------


def _unbiased(results: Results, name: str, label: str) -> Claim:
    return Claim(f"{label} in '{name}': no bias", "direction", "equal", results[name].measured[label].direction_bias)


def _biased(results: Results, name: str, label: str) -> Claim:
    return Claim(f"{label} in '{name}': biased", "direction", "above", results[name].measured[label].direction_bias)


def _noise(results: Results, name: str, a: str, b: str, wants: Literal["above", "below"], text: str) -> Claim:
    """Of the groups that a needs, over those that b needs."""
    measured = results[name].measured
    return Claim(f"{a} / {b} in '{name}': {text}", "ratio", wants, log_ratio(measured[a].groups, measured[b].groups))


def _at(result: Result, label: str, nodes: tuple[str, ...]) -> tuple[Array, Array, Array]:
    """E[Â|s,a] [1 + R, n, A] at these nodes, the true advantages there and how often the policy takes each action [n, A]."""
    tree = result.scenario.tree
    places = [tree.names.index(node) for node in nodes]
    taken = (result.exact.visits[:, None] * tree.policy)[places]
    return result.measured[label].mean[:, places], result.exact.advantage[places], taken


def _share(result: Result, label: str, nodes: tuple[str, ...], unit: tuple[str, ...] = ()) -> Estimate:
    """The slope of E[Â|s,a] on the true advantage at ``nodes``; over the slope at the nodes ``unit``, where given. What moves
    all actions of a node alike does not enter."""

    def slope(where: tuple[str, ...]) -> Array:
        mean, true, taken = _at(result, label, where)
        return (taken * mean * true).sum(axis=(1, 2)) / (taken * true**2).sum()

    values = slope(nodes) / (slope(unit) if unit else 1.0)
    return Estimate(float(values[0]), values[1:])


def _offset(result: Result, label: str, nodes: tuple[str, ...]) -> Estimate:
    """The rms over these nodes of b(s) = Σ_a π(a|s) E[Â|s,a], in the units of the reward."""
    mean, _, taken = _at(result, label, nodes)
    policy = taken / taken.sum(axis=1, keepdims=True)
    offset = (policy * mean).sum(axis=2) * np.sqrt(taken.sum(axis=1) / taken.sum())
    distances = np.linalg.norm(offset[1:] - offset[0], axis=1)
    return Estimate(float(np.linalg.norm(offset[0])), distances, is_length=True)
