"""Alarms in training: rules over the history of metrics, each with its likely cause and the setting to change.

    watch = Watch(config.alarms, folder.metrics())     a resume reads back what was seen
    for alarm in watch.see(metrics):                   those that are raised by this iteration
        print(alarm.text)

A rule is one line of ``RULES``: what is measured, from which side of its threshold it is too far, and words. It is raised once,
and may be raised again only after the measured value has come back past the threshold by a tenth of it. What a history of metrics
raises depends on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from typing import Any

from agentrl.run_tables import AlarmsTable
from agentrl.watch.bounds import Account

Metrics = Mapping[str, Any]
History = Sequence[Metrics]
Measure = Callable[[History, int], float | None]  # of a history, over a window; None: not enough of it yet
Advice = tuple[str, str]  # the likely cause; the setting to change

SOLVED, HOPELESS = 0.95, 0.1  # success rates
MARGIN = 0.1
READ = (  # what the rules read; of the rest of a line only sums are kept, so a long run does not grow
    "iteration",
    "entropy",
    "episode/valid_action_ratio",
    "episode/repeated_action_ratio",
    "episode/success_rate",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "sampler_gap/mean",
)


@dataclass(slots=True)
class Alarm:
    """One alarm that was raised. ``name`` is its key in ``[alarms]``, ``value`` what was measured in ``iteration`` (from 0),
    ``cleared`` the iteration in which it was over (None: it stands)."""

    name: str
    iteration: int
    value: float
    threshold: float
    measured: str
    cause: str
    setting: str
    cleared: int | None = None

    @property
    def text(self) -> str:
        """All of it in one line. Iterations count from 1 there, as in the lines around it."""
        off = f"alarms.{self.name} = false silences this"
        head = f"ALARM {self.name} in iteration {self.iteration + 1}: {self.measured}"
        return f"{head}. Likely cause: {self.cause}. To change: {self.setting} ({off})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """``says`` and ``limit`` are formatted with ``value``, ``threshold`` and ``window``. ``unless``: where it holds, nothing is
    wrong whatever was measured."""

    name: str
    measure: Measure
    above: bool
    says: str
    limit: str
    advice: Callable[[History, int], Advice]
    unless: Callable[[History, int], bool] = lambda history, window: False

    def is_beyond(self, value: float, threshold: float) -> bool:
        """Whether the alarm is to be raised."""
        return value >= threshold if self.above else value <= threshold

    def is_back(self, value: float, threshold: float) -> bool:
        """Whether an alarm that stands is over: a tenth past the threshold (of a share below 1: no further than a tenth of the way
        to 1)."""
        if self.above:
            return value < threshold * (1 - MARGIN)
        room = min(threshold, 1 - threshold) if threshold < 1 else threshold
        return value > threshold + MARGIN * room

    def alarm(self, history: History, window: int, threshold: float, value: float) -> Alarm:
        """The alarm that ``value`` raises at the end of the history."""
        words = {"value": value, "threshold": threshold, "window": window}
        cause, setting = self.advice(history, window)
        measured = f"{self.says.format(**words)}; {self.limit.format(**words)}"
        return Alarm(self.name, history[-1]["iteration"], value, threshold, measured, cause, setting)


class Watch:
    """Follows the metrics of a run. ``history``: the lines of earlier processes of it, which are not told again. ``account``: where
    the seconds of all of them went."""

    def __init__(self, table: AlarmsTable, history: Iterable[Metrics] = ()) -> None:
        self.table = table
        self.alarms: list[Alarm] = []  # all that were raised, in order
        self.history: list[Metrics] = []
        self.account = Account()
        self._standing: dict[str, Alarm] = {}
        for metrics in history:
            self.see(metrics)

    def see(self, metrics: Metrics) -> list[Alarm]:
        """One more iteration. Returns the alarms that it raises."""
        self.history.append({name: metrics[name] for name in READ if name in metrics})
        self.account.add(metrics)
        raised = []
        for rule in RULES:
            threshold = getattr(self.table, rule.name)
            if threshold is False:
                continue
            standing = self._standing.get(rule.name)
            value = rule.measure(self.history, self.table.window)
            if value is None:
                continue
            fine = rule.unless(self.history, self.table.window)
            if standing is None and not fine and rule.is_beyond(value, threshold):
                raised.append(rule.alarm(self.history, self.table.window, threshold, value))
                self._standing[rule.name] = raised[-1]
            elif standing is not None and (fine or rule.is_back(value, threshold)):
                standing.cleared = metrics["iteration"]
                del self._standing[rule.name]
        self.alarms += raised
        return raised

    def to_list(self) -> list[dict[str, Any]]:
        """Every alarm that was raised, plain JSON."""
        return [alarm.to_dict() for alarm in self.alarms]


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def first(lines: Iterable[Metrics], name: str, n: int) -> list[float]:
    """The first ``n`` values of a metric, fewer where there are fewer. Iterations without it, or with what is no number there, are
    passed over."""
    values = (line.get(name) for line in lines)
    return list(islice((v for v in values if isinstance(v, int | float) and not math.isnan(v)), n))


def last(history: History, name: str, n: int) -> list[float]:
    """The last ``n`` values, newest first."""
    return first(reversed(history), name, n)


def mean(name: str) -> Measure:
    """The mean of the last ``window`` values."""

    def measure(history: History, window: int) -> float | None:
        found = last(history, name, window)
        return sum(found) / window if len(found) == window else None

    return measure


def growth(name: str) -> Measure:
    """The mean of the last ``window`` values over that of the first ``window`` of the run, which do not overlap."""

    def measure(history: History, window: int) -> float | None:
        if len(last(history, name, 2 * window)) < 2 * window:
            return None
        start = sum(first(history, name, window))
        return sum(last(history, name, window)) / start if start > 0 else None

    return measure


def streak_of_zeros(name: str) -> Measure:
    """How many of the last values are 0, without any other between them."""

    def measure(history: History, window: int) -> float | None:
        return float(sum(1 for _ in takewhile(lambda line: not line.get(name), reversed(history))))

    return measure


def _success(history: History, window: int) -> float:
    found = last(history, "episode/success_rate", window)
    return sum(found) / max(1, len(found))


def _is_solved(history: History, window: int) -> bool:
    return _success(history, window) >= SOLVED


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _always(cause: str, setting: str) -> Callable[[History, int], Advice]:
    return lambda history, window: (cause, setting)


def _equal_groups(history: History, window: int) -> Advice:
    """Why the members of a group are alike depends on how well they do."""
    success = _success(history, window)
    if success >= 1 - HOPELESS:
        return "the tasks have become easy", "env.options to harder tasks, or end the run here"
    if success <= HOPELESS:
        return (
            "the tasks are too hard for this policy, so no member of a group succeeds",
            "env.options to easier tasks, or model.path to a warm start (agentrl sft)",
        )
    return (
        "members of a group play alike: the policy is nearly deterministic or groups are small",
        'algorithm.sampler.group_size or rollout.temperature up, or algorithm.filters = [{ name = "dapo", groups = N }] to refill',
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "entropy_collapse", growth("entropy"), False,
        "the entropy of a sampled token over the last {window} iterations is {value:.3f} of what it was in the first {window}",
        "threshold {threshold:g}",
        _always(
            "the policy has settled on few actions before it solves the tasks, so groups bring no contrast",
            'algorithm.loss.high up ("clip higher"), optimizer.lr down, or algorithm.regularizers = [{ name = "entropy", … }]',
        ),
        unless=_is_solved,
    ),
    Rule(
        "entropy_explosion", growth("entropy"), True,
        "the entropy of a sampled token over the last {window} iterations is {value:.1f} times that of the first {window}",
        "threshold {threshold:g}",
        _always(
            "updates are too large or credit is noise, and the policy drifts towards random text",
            'optimizer.lr or optimizer.max_grad_norm down, or algorithm.regularizers = [{ name = "kl", … }]',
        ),
    ),
    Rule(
        "valid_actions", mean("episode/valid_action_ratio"), False,
        "{value:.0%} of the actions were valid over the last {window} iterations", "threshold {threshold:.0%}",
        _always(
            "the prompt does not show the form of an action or which are possible, or the model was never taught it",
            "agent.prompt (name {admissible_actions} or an example), algorithm.rewards (invalid_action's coef up), "
            "or model.path to a warm start (agentrl sft)",
        ),
    ),
    Rule(
        "repeated_actions", mean("episode/repeated_action_ratio"), True,
        "{value:.0%} of the turns repeated the turn before on an unchanged state over the last {window} iterations",
        "threshold {threshold:.0%}",
        _always(
            "the agent does not see that it has just tried this, or is too sure of it",
            "agent.memory.turns up, rollout.temperature up, or credit by turn (algorithm.credit = gigpo)",
        ),
    ),
    Rule(
        "zero_variance", mean("frac_reward_zero_std"), True,
        "in {value:.0%} of the groups all members earned the same over the last {window} iterations",
        "threshold {threshold:.0%}",
        _equal_groups,
    ),
    Rule(
        "length_growth", growth("completions/mean_length"), True,
        "completions of the last {window} iterations are {value:.1f} times as long as those of the first {window}",
        "threshold {threshold:g}",
        _always(
            "length is rewarded by accident: token_mean gives long completions more weight, or nothing charges for length",
            'algorithm.loss.aggregate, or algorithm.rewards with { name = "overlong", … }',
        ),
    ),
    Rule(
        "length_limit", mean("completions/clipped_ratio"), True,
        "{value:.0%} of the completions were cut off at rollout.max_tokens over the last {window} iterations",
        "threshold {threshold:.0%}",
        _always(
            "there is no room for the action after the thought, or the model does not end its turn",
            "rollout.max_tokens up, or agent.prompt so that it asks for less",
        ),
    ),
    Rule(
        "sampler_gap", mean("sampler_gap/mean"), True,
        "log-probs of sampler and trainer differ by {value:.3g} a token over the last {window} iterations",
        "threshold {threshold:g}",
        _always(
            "the two compute in different precision or with different kernels, or the sampler's weights are old",
            'model.dtype to float32, algorithm.old_logprobs = "learner", or algorithm.token_weights = [{ name = "icepop" }]',
        ),
    ),
    Rule(
        "success_flat", streak_of_zeros("episode/success_rate"), True,
        "no episode has succeeded for {value:.0f} iterations", "threshold {threshold:g}",
        _always(
            "the tasks are out of reach, max_turns is too short, or the environment never says info['success']",
            "env.max_turns up, env.options to easier tasks, or model.path to a warm start; agentrl check ENV tests the environment",
        ),
    ),
)  # fmt: skip
