"""Which methods follow the gradient where the policy decides when to stop: a world small enough to enumerate.

At turns 0 and 1 the policy stops with probability 0.3, and with 0.6; turn 2 is the last. Going on earns 0.5 at once; the
outcome comes with the last turn and depends on where that is. All 3 trajectories, and all 9 pairs of them, are weighed by
their probability, so the expected estimate is exact.
"""

from __future__ import annotations

import itertools

import pytest

from agentrl.algorithms.credit import GRPO, MTGRPO, RLOO, BiasedMTGRPO, DrGRPO, ReturnToGo
from agentrl.algorithms.table import TurnTable

STOP = (0.3, 0.6)  # at turns 0 and 1
OUTCOME = (0.2, 1.0, 0.4)  # of episodes of one, two and three turns
BONUS = 0.5  # of each turn that goes on


def rewards(n_turns):
    return [BONUS] * (n_turns - 1) + [OUTCOME[n_turns - 1]]


def probability(n_turns, stop=STOP):
    result = 1.0
    for turn in range(min(n_turns, 2)):
        result *= stop[turn] if turn == n_turns - 1 else 1 - stop[turn]
    return result


def score(n_turns, turn):
    """d log π(action at this turn) / d stop[turn]."""
    if turn == 2:
        return 0.0
    return 1 / STOP[turn] if turn == n_turns - 1 else -1 / (1 - STOP[turn])


def expected_estimate(method, group_size=2):
    """E[(1/G) Σ_i Σ_t A_it d log π(a_it)] for each of the two parameters, over all groups."""
    result = [0.0, 0.0]
    for lengths in itertools.product((1, 2, 3), repeat=group_size):
        weight = 1.0
        for n_turns in lengths:
            weight *= probability(n_turns)
        rows = [(i, turn, reward) for i, n in enumerate(lengths) for turn, reward in enumerate(rewards(n))]
        table = TurnTable(
            group=[0] * len(rows),
            trajectory=[i for i, _, _ in rows],
            turn=[turn for _, turn, _ in rows],
            reward=[reward for _, _, reward in rows],
        )
        for (i, turn, _), advantage in zip(rows, method(table), strict=True):
            if turn < 2:
                result[turn] += weight * advantage * score(lengths[i], turn) / group_size
    return result


def true_gradient():
    """d E[sum of rewards] / d stop, by hand: what stopping gives less what going on would."""
    stop_now, later = OUTCOME[0], [BONUS + OUTCOME[1], 2 * BONUS + OUTCOME[2]]
    going_on = STOP[1] * later[0] + (1 - STOP[1]) * later[1]
    return [stop_now - going_on, (1 - STOP[0]) * (later[0] - later[1])]


@pytest.mark.parametrize(
    "method",
    [
        RLOO(),
        MTGRPO(),
        ReturnToGo(singleton="raw"),
        ReturnToGo(baseline="group"),
        ReturnToGo(baseline="none"),
    ],
)
@pytest.mark.parametrize("group_size", [2, 3])
def test_unbiased(method, group_size):
    assert expected_estimate(method, group_size) == pytest.approx(true_gradient(), abs=1e-12)


def test_in_its_own_baseline_a_trajectory_only_shrinks_the_gradient():
    """Dr. GRPO is (G - 1)/G of the gradient; dropping turns that nobody else reached shrinks those of late turns."""
    assert expected_estimate(DrGRPO()) == pytest.approx([each / 2 for each in true_gradient()])
    dropped, true = expected_estimate(ReturnToGo()), true_gradient()
    assert dropped[0] == pytest.approx(true[0])
    assert dropped[1] == pytest.approx((1 - STOP[0]) * true[1])  # the other one reaches turn 1 with probability 0.7


def test_the_usual_turn_index_baseline_is_biased():
    """By the mean reward of the turns that a trajectory no longer plays: a bonus for stopping."""
    usual = expected_estimate(BiasedMTGRPO(normalize="mean"), 3)
    fair = [each * 2 / 3 for each in true_gradient()]  # a trajectory is in its own baseline
    assert usual[0] - fair[0] > 0.2 and usual[1] - fair[1] > 0.1
    # the direction turns: at turn 0 going on is right, and its reward of 0.5 is taken away whole
    assert true_gradient()[0] < -1.1 and usual[0] > -0.6


def test_dividing_by_the_std_is_biased():
    ratio = [a / b for a, b in zip(expected_estimate(GRPO()), true_gradient(), strict=True)]
    assert abs(ratio[0] - ratio[1]) > 0.1
