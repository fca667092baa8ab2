"""The study of credit: every method in every scenario, against the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.seeding import stream
from agentrl.study.estimators import ESTIMATORS, GROUPS_PER_UPDATE, Batch, Credited, studied
from agentrl.study.gradient import controls
from agentrl.study.measure import Measured, measure, resampling
from agentrl.study.rollouts import simulate
from agentrl.study.scenarios import Scenario, scenarios
from agentrl.study.tree import Exact

GROUP_SIZE = 8
N_REPLICATES = 4000
FEWEST_UPDATES = 10  # below, an interval by resampling means nothing


@dataclass(frozen=True)
class Result:
    """What was measured in one scenario."""

    scenario: Scenario
    exact: Exact
    measured: dict[str, Measured]  # by the estimator's label


@dataclass(frozen=True)
class Study:
    """All of it. ``same`` maps the label of an estimator to an earlier one that gave the same advantages everywhere."""

    groups: int
    group_size: int
    seed: int
    results: dict[str, Result]  # by the scenario's name
    same: dict[str, str]
    not_studied: list[str]  # registered methods of the stage that no estimator uses


def run(
    groups: int = 4000,
    seed: int = 0,
    group_size: int = GROUP_SIZE,
    begins: Callable[[str, int, int], None] = lambda name, number, total: None,
) -> Study:
    """Simulates ``groups`` groups in every scenario and measures every estimator; ``begins`` is told each scenario's name, its
    number from 1 and how many there are. Raises ConfigError for too few groups, for a number that is no multiple of the groups of
    an update, and for groups of one."""
    check(groups, group_size)
    results, alike = {}, None
    for number, scenario in enumerate(scenarios(), start=1):
        begins(scenario.name, number, len(scenarios()))
        results[scenario.name], pairs = run_scenario(scenario, groups, seed, group_size)
        alike = pairs if alike is None else alike & pairs
    same: dict[str, str] = {}
    for estimator in ESTIMATORS:
        earlier = [
            other for other in results[scenarios()[0].name].measured if (other, estimator.label) in (alike or ())
        ]
        if earlier:
            same[estimator.label] = earlier[0]
    missing = sorted(set(registry.names("credit")) - studied())
    return Study(groups, group_size, seed, results, same, missing)


def check(groups: int, group_size: int) -> None:
    """Raises ConfigError unless there are enough whole updates of groups that can be compared."""
    if group_size < 2:
        raise ConfigError(f"the study wants groups of at least 2 episodes, which it compares; got {group_size}")
    if groups < FEWEST_UPDATES * GROUPS_PER_UPDATE or groups % GROUPS_PER_UPDATE:
        raise ConfigError(
            f"the study wants a multiple of {GROUPS_PER_UPDATE} groups, at least {FEWEST_UPDATES * GROUPS_PER_UPDATE}; "
            f"got {groups}"
        )


def run_scenario(
    scenario: Scenario, groups: int, seed: int, group_size: int = GROUP_SIZE
) -> tuple[Result, set[tuple[str, str]]]:
    """One scenario, and the pairs of estimators (earlier, later) that gave the same advantages and weights in it."""
    random = stream(seed, "study", "credit", scenario.name, "rollouts")
    batch = Batch(simulate(scenario.tree, groups, group_size, random), scenario)
    exact = scenario.tree.exact()
    known = controls(batch, exact)
    times = resampling(batch.n_updates, N_REPLICATES, stream(seed, "study", "credit", scenario.name, "bootstrap"))
    credited: dict[str, Credited] = {}
    measured, alike = {}, set()
    for estimator in ESTIMATORS:
        new = batch.credit(estimator)
        alike |= {(label, estimator.label) for label, other in credited.items() if _equal(new, other)}
        credited[estimator.label] = new
        measured[estimator.label] = measure(batch, new, exact, known, times)
    return Result(scenario, exact, measured), alike


def _equal(a: Credited, b: Credited) -> bool:
    close = np.allclose(a.advantage, b.advantage, rtol=1e-9, atol=1e-12)
    return close and np.allclose(a.weight, b.weight, rtol=1e-9, atol=0)
