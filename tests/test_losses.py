"""PPO-clip, KL and aggregation on the toy batch B0 of the method sheet (B_losses_and_tokens.md 0.4)."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms.aggregate import Aggregate, coefficients
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.regularizers import KL
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import validate

pytest.importorskip("torch")

import torch
from toy_batches import A_MEAN, LOGP_OLD, LOGP_REF, SEQUENCE, gradient_of, one_token, total
from toy_batches import b0 as inputs

# ---- PPO-clip ------------------------------------------------------------------------------------------------------


def test_ratio():
    """B 0.4."""
    wanted = [1.105171, 1.491825, 0.951229, 0.818731, 1.0, 1.221403, 0.670320, 1.0, 0.778801]
    assert PPOClip().ratio(inputs()).tolist() == pytest.approx(wanted, abs=1e-6)


def test_ppo_clip_loss_and_gradient():
    """B A4."""
    batch = inputs()
    loss = PPOClip()(batch)
    wanted = [-0.957104, -1.039229, -0.823787, 0.709040, 0.866024, 1.057764, 0.692819, 0.866024, -0.674460]
    assert loss.tolist() == pytest.approx(wanted, abs=1e-6)
    assert total(batch, loss).item() == pytest.approx(0.077455, abs=1e-6)
    total(batch, loss).backward()
    gradient = [-0.106345, 0, -0.091532, 0.078782, 0.096225, 0.117529, 0, 0.096225, -0.074940]
    assert gradient_of(batch).tolist() == pytest.approx(gradient, abs=1e-6)


def test_clip_higher():
    """B A7."""
    batch = inputs()
    loss = PPOClip(low=0.2, high=0.28)(batch)
    wanted = [-0.957104, -1.108511, -0.823787, 0.709040, 0.866024, 1.057764, 0.692819, 0.866024, -0.674460]
    assert loss.tolist() == pytest.approx(wanted, abs=1e-6)
    assert total(batch, loss).item() == pytest.approx(0.069757, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "wanted"),
    [
        # A_credit_and_rewards.md 0.4, low = 0.2, high = 0.28
        (1.5, 1, None, -1.28),
        (0.5, 1, None, -0.5),
        (1.5, -1, None, 1.5),
        (0.5, -1, None, 0.8),
        (5.0, -1, 3.0, 3.0),
        # B A4: before and after the dual clip, which leaves A > 0 alone
        (5.0, -1, None, 5.0),
        (5.0, 1, 3.0, -1.28),
        (2.0, -1, 3.0, 2.0),
    ],
)
def test_one_token(ratio, advantage, dual_clip, wanted):
    loss = PPOClip(low=0.2, high=0.28, dual_clip=dual_clip)(one_token(ratio, advantage))
    assert loss.item() == pytest.approx(wanted, abs=1e-6)


def test_the_first_update_is_the_plain_policy_gradient():
    """At ratio 1 the gradient of each token is -A times its coefficient, also with a clip range of 0."""
    for method in (PPOClip(), PPOClip(low=0.0, high=0.0), PPOClip(dual_clip=3.0)):
        batch = inputs(logp=LOGP_OLD)
        total(batch, method(batch)).backward()
        assert torch.allclose(gradient_of(batch), -batch.advantage * batch.coef)


def test_a_huge_log_ratio_stays_finite():
    batch = inputs(logp=[300.0] * 4 + [-300.0] * 5)
    loss = PPOClip()(batch)
    assert torch.isfinite(loss).all()
    assert loss.abs().max().item() == pytest.approx(0.8660239 * np.exp(20.0))


def test_metrics_count_the_tokens_that_the_bounds_hold_back():
    found = PPOClip(dual_clip=3.0)(inputs()), PPOClip(dual_clip=3.0).metrics(inputs())
    # high: token 2 of sample 1 (1.49, A > 0); low: token 2 of sample 3 (0.67, A < 0); 0.78 has A > 0 and is free
    wanted = {"clip_ratio/low": 1 / 9, "clip_ratio/high": 1 / 9, "clip_ratio/dual": 0.0}
    wanted |= {"ratio/mean": 9.037480 / 9, "ratio/max": 1.491825}
    assert found[1] == pytest.approx(wanted, abs=1e-6)
    held = (found[0].detach() - PPOClip(low=1.0, high=1e9)(inputs()).detach()).abs() > 1e-9
    assert held.sum().item() == 2


def test_only_logp_gets_a_gradient():
    batch = inputs()
    total(batch, PPOClip()(batch) + KL(coef=0.1)(batch)).backward()
    assert batch.logp.grad is not None and batch.advantage.grad is None and batch.require("logp_ref").grad is None


def test_hyper_parameters_of_the_loss():
    built = validate(PPOClip, {"low": 0.2, "high": 0.28, "aggregate": "sequence_mean"}, "algorithm.loss")
    assert built == PPOClip(high=0.28, aggregate="sequence_mean")
    with pytest.raises(ConfigError, match=r"algorithm.loss.dual_clip"):
        validate(PPOClip, {"dual_clip": 0.5}, "algorithm.loss")
    with pytest.raises(ConfigError, match=r'"constant" needs loss.constant'):
        PPOClip(aggregate="constant")
    with pytest.raises(
        ConfigError, match=r"loss.constant = 3 divides a sum, and loss.aggregate = 'token_mean' is a mean"
    ):
        validate(PPOClip, {"constant": 3.0}, "algorithm.loss")


# ---- aggregation ---------------------------------------------------------------------------------------------------


def test_grpo_loss_by_sequence_mean():
    """B A5, without and with 0.04 k3."""
    batch = inputs("sequence_mean")
    loss = PPOClip()(batch)
    assert total(batch, loss).item() == pytest.approx(0.011309, abs=1e-6)
    assert total(batch, loss + KL(coef=0.04)(batch)).item() == pytest.approx(0.011853, abs=1e-6)


@pytest.mark.parametrize(("constant", "wanted"), [(12.0, 0.033539), (3.0, 0.134155)])
def test_dr_grpo_loss_by_a_constant(constant, wanted):
    """B A6: B·L_max as TRL, L_max as verl."""
    batch = inputs("constant", advantage=A_MEAN, constant=constant)
    assert total(batch, PPOClip()(batch)).item() == pytest.approx(wanted, abs=1e-6)


def test_flow_grpo_loss_over_turns_of_rollouts():
    """A_credit_and_rewards.md 2, a rollout of two turns; then beside one of three turns, tokens in any order."""
    ratios, row = np.array([1.1, 0.9, 1.5]), np.array([0, 0, 1])
    kind = "trajectory_turn_mean"
    coef = coefficients(kind, row, row, np.zeros(3, dtype=int))
    per_token = [PPOClip(low=0.2, high=0.3)(one_token(ratio, 0.707106)).item() for ratio in ratios]
    assert -float(coef @ per_token) == pytest.approx(0.813172, abs=1e-6)
    order = np.array([4, 0, 6, 2, 1, 5, 3])
    row, trajectory = np.array([0, 0, 1, 2, 3, 3, 4])[order], np.array([0, 0, 0, 1, 1, 1, 1])[order]
    wanted = np.array([1 / 8, 1 / 8, 1 / 4, 1 / 6, 1 / 12, 1 / 12, 1 / 6])[order]
    assert coefficients(kind, row, row, trajectory) == pytest.approx(wanted) and wanted.sum() == pytest.approx(1)
    assert coefficients(kind, row[:0], row[:0], trajectory[:0]).shape == (0,)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_mean_of_means_of_means_is_its_definition(tokens):
    losses, nested = [math.sin(place) for place in range(len(tokens))], {}
    for (trajectory, turn), loss in zip(tokens, losses, strict=True):
        nested.setdefault(trajectory, {}).setdefault(turn, []).append(loss)
    expected = np.mean([np.mean([np.mean(turn) for turn in turns.values()]) for turns in nested.values()])
    trajectory, turn = np.array(tokens).T
    coef = coefficients("trajectory_turn_mean", np.zeros(len(tokens)), 4 * trajectory + turn, trajectory)
    assert coef @ losses == pytest.approx(expected)


def test_coefficients():
    """Two trajectories: one sample of two turns with 1 and 2 tokens, two samples of one turn each with 1 and 4."""
    sequence = np.array([5, 5, 5, 6, 8, 8, 8, 8])
    row = np.array([0, 1, 1, 2, 3, 3, 3, 3])
    trajectory = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    find = {kind: coefficients(kind, sequence, row, trajectory) for kind in ("token_mean", "sequence_mean")}
    assert find["token_mean"] == pytest.approx([1 / 8] * 8)
    assert find["sequence_mean"] == pytest.approx([1 / 9] * 3 + [1 / 3] + [1 / 12] * 4)
    assert coefficients("trajectory_turn_mean", sequence, row, trajectory) == pytest.approx(
        [1 / 4, 1 / 8, 1 / 8, 1 / 4] + [1 / 16] * 4
    )
    assert coefficients("turn_mean", sequence, row, trajectory) == pytest.approx(
        [1 / 4, 1 / 8, 1 / 8, 1 / 4] + [1 / 16] * 4
    )
    assert coefficients("trajectory_mean", sequence, row, trajectory) == pytest.approx([1 / 6] * 3 + [1 / 10] * 5)
    assert coefficients("constant", sequence, row, trajectory, 4.0) == pytest.approx([1 / 4] * 8)
    for kind in ("token_mean", "sequence_mean", "turn_mean", "trajectory_mean"):
        found = coefficients(kind, sequence, row, trajectory)
        assert found.dtype == np.float64 and found.sum() == pytest.approx(1.0, abs=1e-12)
        order = np.random.default_rng(0).permutation(8)
        assert np.array_equal(coefficients(kind, sequence[order], row[order], trajectory[order]), found[order])
        assert coefficients(kind, sequence[:0], row[:0], trajectory[:0]).size == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from([kind for kind in get_args(Aggregate) if kind != "trajectory_turn_mean"]),
)
def test_coefficients_are_their_definition(tokens, kind):
    """The loss of an update by loops: means or sums within the units, and the mean over the units."""
    losses = [math.sin(place) for place in range(len(tokens))]
    constant = 7.0 if not kind.endswith("_mean") else None
    names = {"token_mean": range(len(tokens)), "constant": [0] * len(tokens)}
    for place, name in enumerate(("sequence", "turn", "trajectory")):
        names[f"{name}_mean"] = names[f"{name}_sum"] = [each[place] for each in tokens]
    units = {}
    for name, loss in zip(names[kind], losses, strict=True):
        units.setdefault(name, []).append(loss)
    if constant is None:
        expected = sum(sum(each) / len(each) for each in units.values()) / len(units)
    else:
        expected = sum(sum(each) / constant for each in units.values()) / len(units)
    columns = [np.array(column) for column in zip(*tokens, strict=True)]
    found = coefficients(kind, *columns, constant)
    assert float(found @ np.array(losses)) == pytest.approx(expected, abs=1e-12)


def test_coefficients_that_cannot_be():
    with pytest.raises(ConfigError, match=r"wants a constant above 0"):
        coefficients("constant", SEQUENCE, SEQUENCE, SEQUENCE)
    with pytest.raises(ConfigError, match=r"must be one of token_mean, "):
        coefficients("mean", SEQUENCE, SEQUENCE, SEQUENCE)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["token_mean", "sequence_mean", "trajectory_mean"])
def test_cutting_the_update_into_parts_does_not_change_the_gradient(kind):
    method, whole = PPOClip(), inputs(kind)
    total(whole, method(whole)).backward()
    parted = inputs(kind)
    for part in (slice(0, 2), slice(2, 7), slice(7, 9)):
        names = [each.name for each in dataclasses.fields(LossInputs)]
        pieces = {name: getattr(parted, name) for name in names}
        pieces = {name: value[part] for name, value in pieces.items() if torch.is_tensor(value)}
        piece = LossInputs(**pieces)
        total(piece, method(piece)).backward()
    assert torch.allclose(gradient_of(parted), gradient_of(whole), atol=1e-15)


# ---- KL ------------------------------------------------------------------------------------------------------------

K1 = [0.2, 0.3, -0.05, -0.1, 0.2, 0.1, -0.2, 0.1, -0.15]


@pytest.mark.parametrize(
    ("estimator", "values", "mean", "gradient"),
    [
        ("k1", K1, 0.044444, [1.0] * 9),
        ("k2", [0.02, 0.045, 0.00125, 0.005, 0.02, 0.005, 0.02, 0.005, 0.01125], 0.014722, K1),
        (
            "k3",
            [0.018731, 0.040818, 0.001271, 0.005171, 0.018731, 0.004837, 0.021403, 0.004837, 0.011834],
            0.014182,
            [0.181269, 0.259182, -0.051271, -0.105171, 0.181269, 0.095163, -0.221403, 0.095163, -0.161834],
        ),
    ],
)
def test_kl(estimator, values, mean, gradient):
    """B A10."""
    batch, method = inputs(), KL(estimator=estimator, coef=0.5)
    assert method.estimate(batch).tolist() == pytest.approx(values, abs=1e-6)
    assert method.metrics(batch) == {"kl": pytest.approx(mean, abs=1e-6)}
    loss = method(batch)
    assert loss.tolist() == pytest.approx([0.5 * value for value in values], abs=1e-6)
    loss.sum().backward()
    assert gradient_of(batch).tolist() == pytest.approx([0.5 * each for each in gradient], abs=1e-6)


def test_kl_clamps():
    far = inputs(logp=[each - 5.0 for each in LOGP_REF])
    assert KL(coef=1.0).estimate(far).tolist() == pytest.approx([10.0] * 9)
    assert KL(coef=1.0, clamp=None).estimate(far).tolist() == pytest.approx([np.exp(5.0) - 6.0] * 9)
    further = inputs(logp=[each - 500.0 for each in LOGP_REF])
    assert KL(coef=1.0, clamp=None).estimate(further).tolist() == pytest.approx([np.exp(20.0) - 21.0] * 9)


def test_kl_without_a_reference_is_a_clear_error():
    batch = dataclasses.replace(inputs(), logp_ref=None)
    with pytest.raises(ConfigError, match=r"reads 'logp_ref', which was not computed. Give the learner a reference"):
        KL(coef=0.1)(batch)


def test_table_columns_by_token():
    table = TurnTable(group=[0] * 4, trajectory=[0, 1, 2, 3], turn=[0] * 4, reward=[1.0, 0, 0, 1], state=[7, 8, 7, -1])
    batch = inputs(table=table)
    assert batch.column("reward").tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 1]
    assert batch.column("state").tolist() == [0, 0, 0, 1, 1, 0, 0, 0, -1]
    assert batch.column("reward").dtype == torch.float64 and batch.column("state").dtype == torch.int64
    assert not batch.column("reward").requires_grad and len(batch) == 9
