"""Regularizers and their coefficients: constant, scheduled, steered."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from toy_batches import ENTROPY, b0, gradient_of, lists, random_batch, rows_of, total

from agentrl import registry, stages
from agentrl.algorithms.coefficient import Proportional, Scheduled, Stepwise
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.method import check_columns, describe
from agentrl.algorithms.regularizers import KL, EntropyBonus
from agentrl.algorithms.rewards import KLInReward
from agentrl.algorithms.samplers import UniformSampler
from agentrl.algorithms.table import TurnTable
from agentrl.build import Methods
from agentrl.errors import ConfigError

SEEDS = st.integers(0, 2**32 - 1)


def run(method: Any, *probes: dict[str, Any]) -> list[float]:
    """The coefficient before the first iteration and after each, its state through JSON in between."""
    state = method.init(0)
    found = [method.weight(state)]
    for probe in probes:
        state = json.loads(json.dumps(method.observe(state, None, probe)))
        found.append(method.weight(state))
    return found


# ---- schedules -------------------------------------------------------------------------------------------------------


def test_a_linear_schedule_is_grpo_d() -> None:
    """B C13: S = 100, 0 → 0.04; the loss of B0 at s = 25."""
    method = KL(coef=Scheduled(rule="linear", start=0.0, end=0.04, over=100))
    found = run(method, *[{}] * 120)
    assert [found[s] for s in (0, 25, 100, 120)] == pytest.approx([0.0, 0.01, 0.04, 0.04])
    state = method.init(0)
    for _ in range(25):
        state = method.observe(state, None, {})
    batch = b0("sequence_mean")
    assert total(batch, PPOClip()(batch) + method(batch, state)).item() == pytest.approx(0.011445, abs=1e-6)


def test_a_cosine_schedule_by_updates() -> None:
    method = EntropyBonus(coef=Scheduled(rule="cosine", start=0.1, end=0.0, over=8, unit="update"))
    found = run(method, {"n_updates": 2}, {}, {"n_updates": 4}, {"n_updates": 9})
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * u)) for u in (0, 0.25, 0.25, 0.5, 1)]
    assert found == pytest.approx(expected)  # an iteration without an update changes nothing


@given(st.integers(1, 50), st.integers(0, 80), st.floats(0, 2), st.floats(0, 2), st.sampled_from(["linear", "cosine"]))
def test_a_schedule_is_its_formula(over: int, n: int, start: float, end: float, rule: Any) -> None:
    method = KL(coef=Scheduled(rule=rule, start=start, end=end, over=over))
    u = min(1.0, n / over)
    phi = u if rule == "linear" else (1 - math.cos(math.pi * u)) / 2
    assert run(method, *[{}] * n)[-1] == pytest.approx(start + (end - start) * phi, abs=1e-12)


# ---- controllers -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), max_size=10), st.booleans())
def test_proportional_control_is_its_formula(measured: list[float], entropy: bool) -> None:
    """B A10: β ← β (1 + clip(KL / target - 1, ±0.2) n / horizon), the other way round for an entropy bonus."""
    coef = Proportional(start=0.2, target=0.3, horizon=100.0)
    method: Any = EntropyBonus(coef=coef) if entropy else KL(coef=coef)
    name = "entropy" if entropy else "kl"
    found = run(method, *({name: value, "n_trajectories": 16} for value in measured))
    expected = [0.2]
    for value in measured:
        error = max(-0.2, min(0.2, (value / 0.3 - 1) * (-1 if entropy else 1)))
        expected.append(expected[-1] * (1 + error * 16 / 100))
    assert found == pytest.approx(expected)


def test_proportional_control_by_hand() -> None:
    method = KL(coef=Proportional(start=0.1, target=1.0, horizon=10.0))
    found = run(method, {"kl": 2.0, "n_trajectories": 5}, {"n_trajectories": 5}, {"kl": 0.9, "n_trajectories": 10})
    assert found == pytest.approx([0.1, 0.11, 0.11, 0.099])


def test_stepwise_control_holds_the_entropy() -> None:
    coef = Stepwise(start=0.01, target=0.2, step=0.005, highest=0.02)
    entropies = [0.1, 0.1, 0.1, 0.3, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3]
    found = run(EntropyBonus(coef=coef), *({"entropy": value} for value in entropies))
    assert found == pytest.approx([0.01, 0.015, 0.02, 0.02, 0.015, 0.015, 0.01, 0.005, 0, 0, 0])
    gated = EntropyBonus(coef=Stepwise(start=0.01, target=0.2, step=0.005, gate=True))
    assert run(gated, *({"entropy": value} for value in (0.1, 0.3, 0.1))) == pytest.approx([0.01, 0.015, 0, 0.015])
    assert run(KL(coef=coef), {"kl": 0.3}, {"kl": 0.1}) == pytest.approx([0.01, 0.015, 0.01])


def test_a_controller_without_its_measurement_is_a_clear_error() -> None:
    method = KLInReward(coef=Proportional(start=0.1, target=1.0, horizon=10.0))
    state = method.init(0)
    assert method.observe(state, None, {"n_trajectories": 5}) == state  # no update, nothing to measure
    with pytest.raises(ConfigError, match=r"steered by 'kl/sampled', which no metric of the iteration is called"):
        method.observe(state, None, {"n_trajectories": 5, "n_updates": 1})


# ---- the run file ----------------------------------------------------------------------------------------------------


def test_coefficients_of_a_run_file() -> None:
    def built(coef: Any) -> Any:
        return registry.build("regularizer", {"name": "kl", "coef": coef}, "algorithm.regularizers[0]").coef

    assert built(0.01) == 0.01 and built(0) == 0
    assert built({"rule": "linear", "start": 0.0, "end": 0.04, "over": 100}) == Scheduled(
        rule="linear", start=0.0, end=0.04, over=100
    )
    assert built({"rule": "proportional", "start": 0.2, "target": 6.0, "horizon": 1e4}).clip == 0.2
    assert built({"rule": "stepwise", "start": 0.0, "target": 0.2, "step": 0.005}).gate is False


@pytest.mark.parametrize(
    ("coef", "words"),
    [
        (-1.0, r"coef.*greater than or equal to 0"),
        (float("inf"), "finite number"),
        ("much", "coef"),
        ({}, r"want a number, or a table with rule = linear"),
        ({"rule": "quadratic", "start": 0.0}, r"want a number, or a table with rule = linear"),
        ({"rule": "linear", "start": 0.0, "end": 1.0}, r"over is missing"),
        ({"rule": "linear", "start": 0.0, "end": 1.0, "over": 3, "speed": 2}, "speed"),
        ({"rule": "proportional", "start": 0.0, "target": 1.0, "horizon": 1.0}, "start.*greater than 0"),
    ],
)
def test_coefficients_that_cannot_be(coef: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        registry.build("regularizer", {"name": "entropy", "coef": coef}, "algorithm.regularizers[0]")
    assert "\n" not in str(caught.value)


def test_a_coefficient_is_described_without_references() -> None:
    (coef,) = [describe(cls)["parameters"]["coef"] for cls in (EntropyBonus,)]
    assert coef["required"] and "$ref" not in json.dumps(coef)
    assert {"horizon", "over", "gate"} <= {
        key for part in coef["oneOf"] for key in part.get("properties", {})
    }  # fmt: skip


def test_states_of_coefficients_are_kept_by_place() -> None:
    steered = KL(coef=Proportional(start=0.1, target=1.0, horizon=10.0))
    plain: dict[str, Any] = {name: [] for name in ("scores", "filters", "rewards", "token_weights")}
    methods = Methods(
        **plain,
        sampler=UniformSampler(),
        credit=[GRPO()],
        loss=PPOClip(),
        regularizers=[steered, EntropyBonus(coef=0.01)],
    )
    states = stages.initial_states(methods, 0)
    assert states["regularizers[0]"] == {"value": 0.1} and states["regularizers[1]"] is None
    states = stages.observe(methods, states, [], {"kl": 5.0, "n_trajectories": 5, "n_updates": 3})
    assert states["regularizers[0]"] == {"value": pytest.approx(0.11)} and states["regularizers[1]"] is None


# ---- regularizers ----------------------------------------------------------------------------------------------------


def test_entropy_bonus() -> None:
    batch, method = b0(), EntropyBonus(coef=0.5)
    assert method(batch).tolist() == pytest.approx([-0.5 * each for each in ENTROPY])
    total(batch, method(batch)).backward()
    assert batch.entropy is not None and batch.entropy.grad is not None
    assert batch.entropy.grad.tolist() == pytest.approx([-0.5 / 9] * 9)
    assert method.metrics(batch) == {} and batch.logp.grad is None
    assert method.metrics(batch, None) == {}  # what the state of a constant is
    moving = EntropyBonus(coef=Stepwise(start=0.1, target=1.0, step=0.1))
    assert moving.metrics(batch, {"value": 0.3, "kept": 0.3}) == {"entropy/coef": 0.3}


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2() -> None:
    """B A10."""
    batch, method = b0(), KL(coef=1.0, estimator="k3+")
    assert method.metrics(batch) == {"kl": pytest.approx(0.014182, abs=1e-6)}
    method(batch).sum().backward()
    wanted = "[[0.200000, 0.300000, -0.050000]; [-0.100000, 0.200000]; [0.100000, -0.200000, 0.100000]; [-0.150000]]"
    assert gradient_of(batch).tolist() == pytest.approx(rows_of(wanted), abs=1e-6)


@given(SEEDS, st.sampled_from(["k1", "k2", "k3", "k3+"]), st.booleans())
def test_kl_is_its_formula(seed: int, estimator: Any, off_policy: bool) -> None:
    batch = random_batch(seed)
    method = KL(coef=0.3, estimator=estimator, off_policy=off_policy)
    loss = method(batch)
    plain, expected, slopes = lists(batch), [], []
    for logp, ref, old in zip(plain["logp"], plain["logp_ref"], plain["logp_old"], strict=True):
        d, ratio = logp - ref, math.exp(logp - old) if off_policy else 1.0
        value = {"k1": d, "k2": d * d / 2}.get(estimator, math.exp(-d) + d - 1)
        slope = {"k1": 1.0, "k3": 1 - math.exp(-d)}.get(estimator, d)
        expected.append(0.3 * ratio * value)
        slopes.append(0.3 * ratio * (slope + (value if off_policy else 0.0)))
    assert loss.tolist() == pytest.approx(expected)
    loss.sum().backward()
    assert gradient_of(batch).tolist() == pytest.approx(slopes)


def test_off_policy_k3_has_the_gradient_of_the_reverse_kl() -> None:
    """∂(ρ k3)/∂logp = ρ d."""
    batch = b0()
    KL(coef=1.0, off_policy=True)(batch).sum().backward()
    ratio = PPOClip().ratio(batch)
    assert gradient_of(batch).tolist() == pytest.approx((ratio * (batch.logp - batch.require("logp_ref"))).tolist())


# ---- KL in the reward ------------------------------------------------------------------------------------------------


def test_kl_in_reward_of_trajectories() -> None:
    """B A2: one turn each, Σ (logp_old - logp_ref) = 0, 0.3, 0.2, 0.1; β = 0.05."""
    table = TurnTable(
        group=["q"] * 4, trajectory=list("abcd"), turn=[0] * 4, reward=[1.0, 0, 0, 1], kl=[0.0, 0.3, 0.2, 0.1]
    )
    shaped = KLInReward(coef=0.05)(table)["reward"]
    assert shaped.tolist() == pytest.approx([1.0, -0.015, -0.01, 0.995])


def test_kl_in_reward_of_turns() -> None:
    """B A3, each token a turn of its own."""
    old = [-0.5, -1.0, -0.2, -0.7, -0.3, -1.2, -0.4, -0.9, -0.1]
    ref = [-0.6, -0.9, -0.2, -0.8, -0.5, -1.1, -0.6, -1.0, -0.2]
    table = TurnTable(
        group=["q"] * 9,
        trajectory=list("aaabbcccd"),
        turn=[0, 1, 2, 0, 1, 0, 1, 2, 0],
        reward=[0, 0, 1.0, 0, 0, 0, 0, 0, 1.0],
        kl=[o - r for o, r in zip(old, ref, strict=True)],
    )
    wanted = "[[-0.005000, 0.005000, 1.000000]; [-0.005000, -0.010000]; [0.005000, -0.010000, -0.005000]; [0.995000]]"
    shaped = table.with_columns(**KLInReward(coef=0.05)(table))
    assert shaped["reward"].tolist() == pytest.approx(rows_of(wanted), abs=1e-9)
    returns = "[[1.000000, 1.005000, 1.000000]; [-0.015000, -0.010000]; [-0.010000, -0.015000, -0.005000]; [0.995000]]"
    assert shaped.returns_to_go(1.0).tolist() == pytest.approx(rows_of(returns), abs=1e-9)


def test_kl_in_reward_follows_its_state_and_reads_what_the_learner_measures() -> None:
    table = TurnTable(group=["q"], trajectory=["a"], turn=[0], reward=[1.0], kl=[2.0])
    method = KLInReward(coef=Scheduled(rule="linear", start=0.1, end=0.3, over=2))
    assert method(table)["reward"].tolist() == pytest.approx([0.8])
    assert method(table, method.observe(method.init(0), None, {}))["reward"].tolist() == pytest.approx([0.6])
    check_columns([method])
