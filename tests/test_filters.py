"""Filters, reward methods and samplers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from agentrl.algorithms.credit import GiGPO
from agentrl.algorithms.filters import Degenerate
from agentrl.algorithms.rewards import InvalidAction
from agentrl.algorithms.samplers import UniformSampler
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.types import Group, Outcome, Task, Trajectory, Turn

# ---- degenerate groups ---------------------------------------------------------------------------------------------


def group(name, rewards, penalty=0.0):
    members = [
        Trajectory(id=f"{name}{i}", env="e", task=Task(name), turns=[Turn("o", reward=reward, penalty=penalty * i)])
        for i, reward in enumerate(rewards)
    ]
    return Group(name, members)


def test_keeps_what_dapo_keeps():
    """B_losses_and_tokens.md A7: accuracies [1,0,1,1], [1,1,1,1], [0,0,0,0] keep [T, F, F]."""
    groups = [group("a", [1, 0, 1, 1]), group("b", [1, 1, 1, 1]), group("c", [0, 0, 0, 0])]
    kept, requests = Degenerate()(groups)
    assert [each.id for each in kept] == ["a"] and requests == []


def test_penalties_do_not_make_a_group_alive_and_nothing_may_be_left():
    assert Degenerate()([group("a", [0, 0, 0], penalty=0.1), group("alone", [1]), group("empty", [])]) == ([], [])


def test_rounding_noise_is_no_difference_and_scores_count():
    assert Degenerate()([group("a", [0.1 + 0.2, 0.3])])[0] == []
    scored = group("a", [1, 1])
    scored.members[0].rewards["judge"] = 0.5
    assert len(Degenerate()([scored])[0]) == 1


def test_min_range_and_faults():
    assert Degenerate(min_range=0.5)([group("a", [0, 0.5]), group("b", [0, 0.6])])[0][0].id == "b"
    broken = group("a", [1, 1, 0])
    broken.members[2].outcome = Outcome.ENV_TIMEOUT
    assert Degenerate()([broken])[0] == []


# ---- the price of an invalid action --------------------------------------------------------------------------------


def test_invalid_action_adds_to_the_penalty():
    table = TurnTable(
        group=["q"] * 3,
        trajectory=["a", "a", "b"],
        turn=[0, 1, 0],
        reward=[0, 1, 0],
        penalty=[0, 0.5, 0],
        valid=[True, False, False],
    )
    assert InvalidAction(coef=0.2)(table)["penalty"] == pytest.approx([0, 0.7, 0.2])
    assert InvalidAction()(table)["penalty"] == pytest.approx([0, 0.6, 0.1])
    shaped = table.with_columns(**InvalidAction()(table), state=["s", "t", "s"])
    assert np.isfinite(GiGPO()(shaped)).all()


# ---- the uniform sampler -------------------------------------------------------------------------------------------


class LazyTasks:
    """A sequence that counts how often it is asked."""

    def __init__(self, n):
        self.n, self.asked = n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.asked += 1
        return Task(id=str(index))


def ids(sampler, tasks, step, seed=0):
    return [request.task.id for request in sampler.propose(sampler.init(seed), step, tasks)]


def test_proposals_are_a_function_of_seed_and_step():
    tasks, sampler = LazyTasks(50), UniformSampler(tasks=5, group_size=3)
    assert ids(sampler, tasks, 7) == ids(sampler, tasks, 7)
    assert ids(sampler, tasks, 7) != ids(sampler, tasks, 8)
    assert ids(sampler, tasks, 7) != ids(sampler, tasks, 7, seed=1)
    assert {request.n for request in sampler.propose(sampler.init(0), 7, tasks)} == {3}


@pytest.mark.parametrize(("n", "per_iteration"), [(12, 12), (20, 5), (23, 5), (1, 1), (64, 8), (65, 13)])
def test_no_task_twice_within_an_epoch(n, per_iteration):
    tasks, sampler = LazyTasks(n), UniformSampler(tasks=per_iteration)
    epoch = n // per_iteration
    for start in (0, epoch, 3 * epoch):
        seen = [each for step in range(start, start + epoch) for each in ids(sampler, tasks, step)]
        assert len(seen) == len(set(seen)) == epoch * per_iteration


def test_every_task_is_as_likely_as_any_other():
    """5 tasks, the first of 3,000 shuffles: each expected 600 times, six standard deviations are 131."""
    tasks, sampler = LazyTasks(5), UniformSampler(tasks=5)
    first = Counter(ids(sampler, tasks, step)[0] for step in range(3000))
    assert all(abs(first[str(index)] - 600) < 131 for index in range(5))


def test_a_long_lazy_list_is_not_walked():
    tasks = LazyTasks(100_000)
    assert len(set(ids(UniformSampler(tasks=12), tasks, 123))) == 12 and tasks.asked == 12


def test_too_few_tasks_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"wants 12 different tasks an iteration, the split has 3"):
        ids(UniformSampler(), LazyTasks(3), 0)
