"""Faults that choose among outcomes, exactly: what three ways to treat them make of a success rate that is known.

Two arms. The policy takes each with probability 1/2; the good one always succeeds. A step of the good arm faults with probability
1/2, of the bad one with 1/4, independently each time. Every combination of the policy's choice and the faults is played once, so a
mean over the episodes is the expectation, and no test here is a matter of chance.

    P(success)                                    1/2
    faults scored as 0       1/2 · 1/2          = 1/4
    faults left out          (1/4) / (1/4 + 3/8) = 2/5
    played again by replay                        1/2, where a fault ends within the tries; else between 2/5 and 1/2
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
from test_rollouts import LEFT, RIGHT, player, shown
from toys import Answering

from agentrl.env import TextEnv
from agentrl.evaluation import Evaluation
from agentrl.types import RolloutRequest, Task, Trajectory

DRAWS = 4  # a step's draw is 0, 1, 2 or 3
FAULTY = {"good": 2, "bad": 1}  # it faults where its draw is below
P = Fraction(1, 2)


class Arms(TextEnv):
    """``options["draws"]`` holds the draw of each try of an episode; without faults after the last."""

    tries: dict[str, int]

    def tasks(self, split: str) -> list[Task]:
        return []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {})["task"]
        return "two arms", {"goal": "choose", "admissible_actions": ["go left", "go right"]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        arm = "good" if action == "go right" else "bad"
        number = self.tries[self.task.id] = self.tries.get(self.task.id, -1) + 1
        draws = self.task.options["draws"]
        if number < len(draws) and draws[number] < FAULTY[arm]:
            raise OSError("the arm is stuck")
        return "done", float(arm == "good"), True, False, {"success": arm == "good"}


def every_case(n_tries: int) -> list[Task]:
    """One task for each arm and each sequence of draws; the first draw and the arm change fastest."""
    cases = itertools.product(*[range(DRAWS)] * n_tries, ("good", "bad"))
    cases = sorted(cases, key=lambda case: case[-2::-1])
    return [Task(f"{arm}-{number}", options={"draws": list(draws)}) for number, (*draws, arm) in enumerate(cases)]


def played(tasks: list[Task], attempts: int) -> list[Trajectory]:
    """The policy's choice is its own, and stands in the task's name."""
    env = type("Arms", (Arms,), {"tries": {}})
    policy = Answering(lambda request: RIGHT if "task=good" in request.id else LEFT)
    groups = player(policy, env, attempts=attempts).run([RolloutRequest(task, 1) for task in tasks], ("iteration", 0))
    return [member for group in groups for member in group]


def left_out(found: list[Trajectory]) -> Fraction:
    """What an evaluation and a baseline count."""
    scored = [trajectory for trajectory in found if not trajectory.outcome.is_fault]
    rate = Fraction(sum(trajectory.success for trajectory in scored), len(scored))
    assert Evaluation(found, 0.0).to_dict()["success_rate"] == pytest.approx(float(rate))
    return rate


def test_scoring_faults_as_zero_and_leaving_them_out_are_biased() -> None:
    found = played(every_case(1), attempts=1)
    scored_as_zero = Fraction(sum(trajectory.success for trajectory in found), len(found))
    assert scored_as_zero == Fraction(1, 4)
    assert left_out(found) == Fraction(2, 5)


def test_retry_by_replay_is_unbiased_and_its_episodes_are_those_without_faults() -> None:
    """Two faults in a row at most, three tries."""
    tasks = every_case(2)
    found = played(tasks, attempts=3)
    assert left_out(found) == P and not any(trajectory.outcome.is_fault for trajectory in found)
    healthy = played([Task(task.id, options={"draws": []}) for task in tasks], attempts=3)
    for one, other in zip(found, healthy, strict=True):
        known, wanted = shown(one), shown(other)
        del known["task"], wanted["task"]
        assert known == wanted


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
def test_faults_that_outlast_the_tries_leave_a_bias_that_shrinks_with_them(attempts: int) -> None:
    """An episode is left out where each of its tries faults: P(success) = (1 - 2^-n) / ((1 - 2^-n) + (1 - 4^-n))."""
    good, bad = 1 - Fraction(1, 2) ** attempts, 1 - Fraction(1, 4) ** attempts
    found = left_out(played(every_case(attempts), attempts))
    assert found == good / (good + bad)
    assert P - found == {1: Fraction(1, 10), 2: Fraction(1, 18), 3: Fraction(1, 34), 4: Fraction(1, 66)}[attempts]
