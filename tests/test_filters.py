"""Filters, reward methods and samplers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import build, registry
from agentrl.algorithms.credit import GiGPO
from agentrl.algorithms.filters import Degenerate, DynamicSampling, Invalid, OverlongFilter
from agentrl.algorithms.rewards import InvalidAction, Overlong
from agentrl.algorithms.samplers import UniformSampler
from agentrl.algorithms.table import TurnTable
from agentrl.config import AlgorithmTable
from agentrl.errors import ConfigError
from agentrl.types import Call, Group, Outcome, Task, Trajectory, Turn

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


# ---- dynamic sampling ----------------------------------------------------------------------------------------------


def test_dapo_asks_for_what_is_missing():
    """C_sampling_rollouts_systems.md A5: [1,1,1], [0,1,0], [0,0,0] with two wanted: one is kept, one more round."""
    groups = [group("a", [1, 1, 1]), group("b", [0, 1, 0]), group("c", [0, 0, 0])]
    method = DynamicSampling(groups=2)
    kept, (request,) = method(groups)
    assert [each.id for each in kept] == ["b"] and request.task is None and request.n == 0
    assert method.metrics(groups) == {"filter/trimmed": 0, "filter/missing": 1}
    assert len(DynamicSampling(groups=4, oversample=1.5)(groups)[1]) == 5  # 1.5 · 3, rounded up


def test_dapo_trims_what_is_too_much():
    groups = [group(name, [0, 1]) for name in "abcd"]
    kept, requests = DynamicSampling(groups=3)(groups)
    assert [each.id for each in kept] == ["a", "b", "c"] and requests == []
    assert DynamicSampling(groups=3).metrics(groups) == {"filter/trimmed": 1, "filter/missing": 0}


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), max_size=8), st.integers(1, 5))
def test_dapo_is_its_rule(rewards, wanted):
    groups = [group(str(index), each) for index, each in enumerate(rewards)]
    kept, requests = DynamicSampling(groups=wanted)(groups)
    alive = [index for index, each in enumerate(rewards) if 0 < sum(each) < len(each)]
    assert [each.id for each in kept] == [str(index) for index in alive[:wanted]]
    assert len(requests) == max(0, wanted - len(alive))


def test_dapo_needs_the_number_of_groups():
    with pytest.raises(ConfigError, match=r"filters\[0\].groups is missing"):
        registry.build("filter", {"name": "dapo"}, "algorithm.filters[0]")


# ---- invalid and overlong trajectories -----------------------------------------------------------------------------


def played(name, valid=(True,), outcome=Outcome.TERMINATED, finish="stop", trainable=True):
    call = Call("agent", [1], [2], finish=finish, trainable=trainable)
    turns = [Turn("o", valid=each, calls=[call]) for each in valid]
    return Trajectory(id=name, env="e", task=Task("t"), turns=turns, outcome=outcome)


def names(groups):
    return {each.id: [member.id for member in each.members] for each in groups}


def test_trajectories_with_too_many_invalid_turns_are_dropped():
    members = [played("a", [True] * 3), played("b", [True, False, True, True]), played("c", [False, True])]
    given = [Group("g", [*members, played("d", [])]), Group("h", [played("e", [False]), played("f")])]
    before = names(given)
    assert names(Invalid()(given)[0]) == {"g": ["a", "d"]}
    assert names(Invalid(max_share=0.25)(given)[0]) == {"g": ["a", "b", "d"]}
    assert names(Invalid(max_share=0.25, min_members=1)(given)[0]) == {"g": ["a", "b", "d"], "h": ["f"]}
    assert names(Invalid(max_share=1.0)(given)[0]) == before == names(given) and Invalid()(given)[1] == []


def test_trajectories_that_were_cut_are_dropped():
    members = [
        played("a"),
        played("b", outcome=Outcome.MAX_TOKENS),
        played("c", outcome=Outcome.MAX_TURNS),
        played("d", finish="length"),
        played("e", finish="length", trainable=False),
    ]
    group, empty = Group("g", members), Group("h", [played("f", outcome=Outcome.MAX_TOKENS)])
    assert names(OverlongFilter()([group, empty])[0]) == {"g": ["a", "c", "e"]}
    assert names(OverlongFilter(completions=False)([group])[0]) == {"g": ["a", "c", "d", "e"]}
    assert names(OverlongFilter(outcomes=("max_turns",), completions=False)([group])[0]) == {"g": ["a", "b", "d", "e"]}
    assert OverlongFilter()([group])[1] == [] and len(group.members) == 5


# ---- the price of length -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("floor", "wanted"), [(True, [0, 0, -0.4, -1, -1]), (False, [0, 0, -0.4, -1, -1.4])])
def test_soft_overlong_punishment(floor, wanted):
    """B A7: L_max = 20, L_c = 5, y = 12 … 22; the paper's floor, and verl without."""
    lengths = [12, 15, 17, 20, 22]
    method = Overlong(longest=20, buffer=5, floor=floor)
    assert method.punishment(np.array(lengths)) == pytest.approx(wanted)
    table = TurnTable(group=["q"] * 5, trajectory=list("abcde"), turn=[0] * 5, reward=[1.0] * 5, n_tokens=lengths)
    assert method(table)["reward"] == pytest.approx([1 + each for each in wanted])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_overlong_is_its_formula(lengths, longest, buffer, by_turn):
    """Trajectory i has turns of lengths[i] and lengths[i] + 1 tokens, rows in reverse."""
    buffer = min(buffer, longest)
    tokens = [each for y in lengths for each in (y, y + 1)][::-1]
    which = [i for i in range(len(lengths)) for _ in range(2)][::-1]
    turn = [0, 1] * len(lengths)
    table = TurnTable(group=[0] * len(which), trajectory=which, turn=turn[::-1], reward=tokens, n_tokens=tokens)
    level = "turn" if by_turn else "trajectory"
    found = Overlong(longest=longest, buffer=buffer, coef=0.5, level=level)(table)["reward"]
    for row, (y, i, number) in enumerate(zip(tokens, which, turn[::-1], strict=True)):
        length = y if by_turn else (2 * lengths[i] + 1 if number == 1 else 0)
        if length <= longest - buffer:
            price = 0.0
        elif length <= longest:
            price = (longest - buffer - length) / buffer
        else:
            price = -1.0
        assert found[row] == pytest.approx(y + 0.5 * price)


def test_a_buffer_longer_than_the_longest_is_refused():
    with pytest.raises(ConfigError, match=r"buffer = 5 is more than overlong.longest = 4"):
        registry.build("reward", {"name": "overlong", "longest": 4, "buffer": 5})


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


@pytest.mark.parametrize("name", ["degenerate", "dapo"])
def test_a_filter_that_drops_what_the_credit_is_for_is_refused(name):
    def methods(credit):
        spec = {"name": name, **({"groups": 4} if name == "dapo" else {})}
        return build.methods(AlgorithmTable(filters=[spec], credit=credit), state_keys=True)

    with pytest.raises(ConfigError, match=r"algorithm.filters\[0\] .* drops the groups of equal rewards.*NGRPO is for"):
        methods([{"name": "grpo"}, {"name": "ngrpo"}])
    assert len(methods({"name": "grpo"}).filters) == 1
