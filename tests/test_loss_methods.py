"""The losses beside ppo_clip: the vectors of the method sheet (B_losses_and_tokens.md), and slow references in plain Python."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from toy_batches import A_MEAN, LENGTHS, LOGP, LOGP_OLD, b0, gradient_of, lists, random_batch, rows_of, total

from agentrl import build, registry
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import CISPO, GSPO, DisCO, DrGRPO, PPOClip, Reinforce, ValueLoss
from agentrl.algorithms.method import check_columns, describe
from agentrl.config import AlgorithmTable
from agentrl.errors import ConfigError, UserError
from agentrl.listing import listing

SEEDS = st.integers(0, 2**32 - 1)


def value_and_gradient(method: Any, batch: LossInputs) -> tuple[float, list[float]]:
    loss = method(batch)
    whole = loss if loss.dim() == 0 else total(batch, loss)
    whole.backward()
    return float(whole.detach()), gradient_of(batch).tolist()


def clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def ppo(ratio: float, advantage: float, low: float, high: float) -> tuple[float, float]:
    """Loss and its derivative with respect to the ratio."""
    plain, held = -advantage * ratio, -advantage * clamp(ratio, 1 - low, 1 + high)
    return (plain, -advantage) if plain >= held else (held, 0.0)


# ---- PPO-clip, Dr. GRPO ----------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([None, 1.2, 3.0]))
def test_ppo_clip_is_its_formula(seed: int, dual_clip: float | None) -> None:
    batch = random_batch(seed)
    value, gradient = value_and_gradient(PPOClip(low=0.2, high=0.3, dual_clip=dual_clip), batch)
    plain, expected = lists(batch), [0.0, []]
    for logp, old, advantage, coef in zip(
        plain["logp"], plain["logp_old"], plain["advantage"], plain["coef"], strict=True
    ):
        ratio = math.exp(logp - old)
        loss, slope = ppo(ratio, advantage, 0.2, 0.3)
        if dual_clip is not None and advantage < 0 and loss > -advantage * dual_clip:
            loss, slope = -advantage * dual_clip, 0.0
        expected[0] += coef * loss
        expected[1].append(coef * slope * ratio)
    assert value == pytest.approx(expected[0], abs=1e-12)
    assert gradient == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize(
    ("aggregate", "constant", "wanted"),
    [("trajectory_sum", 3.0, 0.033539), ("sequence_sum", 3.0, 0.033539), ("constant", 3.0, 0.134155)],
)
def test_dr_grpo(aggregate: Any, constant: float, wanted: float) -> None:
    """B A6: B · L_max as TRL, L_max as verl."""
    method = DrGRPO(aggregate=aggregate, constant=constant)
    batch = b0(aggregate, A_MEAN, method.constant)
    assert value_and_gradient(method, batch)[0] == pytest.approx(wanted, abs=1e-6)


def test_dr_grpo_needs_its_constant() -> None:
    with pytest.raises(ConfigError, match=r"algorithm.loss.constant is missing"):
        registry.build("loss", {"name": "dr_grpo"}, "algorithm.loss")
    with pytest.raises(ConfigError, match=r"is a mean"):
        registry.build("loss", {"name": "dr_grpo", "constant": 64.0, "aggregate": "token_mean"})
    assert registry.build("loss", {"name": "dr_grpo", "constant": 64.0}).constant == 64
    assert describe(DrGRPO)["parameters"]["constant"]["required"]


# ---- REINFORCE -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "wanted"),
    [(A_MEAN, -0.287500), ([0.676667, -0.676667, -0.670000, 0.670000], -0.385167)],  # B A1, B A2
)
def test_reinforce(advantage: list[float], wanted: float) -> None:
    batch = b0("trajectory_sum", advantage)
    value, gradient = value_and_gradient(Reinforce(), batch)
    assert value == pytest.approx(wanted, abs=1e-6)
    assert gradient == pytest.approx((-batch.advantage / 4).tolist())


@pytest.mark.parametrize(("advantage", "wanted"), [(A_MEAN, -0.127778), ([0.6, -0.4, -0.4, 0.6], -0.066667)])
def test_reinforce_by_tokens(advantage: list[float], wanted: float) -> None:
    """B C3 without mask and weight; B C2, AsymRE's advantage, τ folded out."""
    method = Reinforce(aggregate="token_mean")
    assert value_and_gradient(method, b0("token_mean", advantage))[0] == pytest.approx(wanted, abs=1e-6)


# ---- GSPO ------------------------------------------------------------------------------------------------------------


def test_gspo() -> None:
    """B A8."""
    batch = b0("sequence_mean")
    first = np.cumsum([0, *LENGTHS[:-1]])
    method = GSPO(low=0.2, high=0.28)
    assert method.ratio(batch)[first].tolist() == pytest.approx([1.161834, 0.904837, 0.935507, 0.778801], abs=1e-6)
    assert method(batch)[first].tolist() == pytest.approx([-1.006176, 0.783611, 0.810171, -0.674460], abs=1e-6)
    assert total(batch, method(batch)).item() == pytest.approx(-0.021714, abs=1e-6)
    assert total(batch, GSPO()(batch)).item() == pytest.approx(0.047674, abs=1e-6)


def units(plain: dict[str, list[Any]], level: str) -> list[Any]:
    names = {
        "token": list(range(len(plain["logp"]))),
        "turn": list(zip(plain["sequence"], plain["row"], strict=True)),
        "sequence": plain["sequence"],
    }
    return names[level]


@given(SEEDS, st.sampled_from(["token", "turn", "sequence"]), st.sampled_from(["sequence_mean", "turn_mean"]))
def test_gspo_is_its_formula(seed: int, level: Any, aggregate: Any) -> None:
    batch = random_batch(seed, aggregate)
    value, gradient = value_and_gradient(GSPO(level=level, low=0.1, high=0.2), batch)
    plain = lists(batch)
    unit = units(plain, level)
    ratios: dict[Any, list[float]] = defaultdict(list)
    for name, logp, old in zip(unit, plain["logp"], plain["logp_old"], strict=True):
        ratios[name].append(logp - old)
    expected, slopes = 0.0, []
    for name, advantage, coef in zip(unit, plain["advantage"], plain["coef"], strict=True):
        s = math.exp(sum(ratios[name]) / len(ratios[name]))
        loss, slope = ppo(s, advantage, 0.1, 0.2)
        expected += coef * loss
        slopes.append(coef * slope * s)
    assert value == pytest.approx(expected, abs=1e-12)
    assert gradient == pytest.approx(slopes, abs=1e-12)


@given(SEEDS)
def test_gspo_of_tokens_is_ppo_clip(seed: int) -> None:
    found = value_and_gradient(GSPO(level="token", low=0.2, high=0.3), random_batch(seed))
    expected = value_and_gradient(PPOClip(low=0.2, high=0.3), random_batch(seed))
    assert found[0] == pytest.approx(expected[0]) and found[1] == pytest.approx(expected[1])


def test_gspo_has_the_gradient_of_the_sequence_form() -> None:
    """mean_i max(-A s, -A clip(s)) by autograd through s, where a sample's tokens share their advantage."""
    batch, other = b0("sequence_mean"), b0("sequence_mean")
    method = GSPO(low=0.2, high=0.28)
    _, found = value_and_gradient(method, batch)
    parts = torch.split(other.logp - other.require("logp_old"), LENGTHS)
    s = torch.stack([part.mean().exp() for part in parts])
    advantage = torch.stack([part[0] for part in torch.split(other.advantage, LENGTHS)])
    (-advantage * s).maximum(-advantage * s.clamp(0.8, 1.28)).mean().backward()
    assert found == pytest.approx(gradient_of(other).tolist(), abs=1e-12)


def test_gspo_counts_what_its_bounds_hold_back() -> None:
    found = GSPO(low=0.2, high=0.1).metrics(b0())
    assert found["clip_ratio/high"] == pytest.approx(3 / 9) and found["clip_ratio/low"] == 0
    assert found["ratio/max"] == pytest.approx(1.161834, abs=1e-6)


# ---- CISPO -----------------------------------------------------------------------------------------------------------


def test_cispo() -> None:
    """B A9: verl's bounds; TRL's cap of 5."""
    batch, method = b0(), CISPO(low=0.2, high=0.2)
    weights = "[[1.105171, 1.200000, 0.951229]; [0.818731, 1.000000]; [1.200000, 0.800000, 1.000000]; [0.800000]]"
    assert method.weight(batch).tolist() == pytest.approx(rows_of(weights), abs=1e-6)
    value, gradient = value_and_gradient(method, batch)
    assert value == pytest.approx(-0.201782, abs=1e-6)
    wanted = "[[-0.106345, -0.115470, -0.091532]; [0.078782, 0.096225]; [0.115470, 0.076980, 0.096225]; [-0.076980]]"
    assert gradient == pytest.approx(rows_of(wanted), abs=1e-6)
    assert CISPO() == CISPO(low=None, high=4.0)
    assert value_and_gradient(CISPO(), b0())[0] == pytest.approx(-0.177724, abs=1e-6)


@given(SEEDS, st.sampled_from([None, 0.1]), st.booleans())
def test_cispo_is_its_formula(seed: int, low: float | None, mask: bool) -> None:
    batch = random_batch(seed)
    value, gradient = value_and_gradient(CISPO(low=low, high=0.2, mask_clipped=mask), batch)
    plain = lists(batch)
    lowest = 0.0 if low is None else 1 - low
    expected, slopes = 0.0, []
    for logp, old, advantage, coef in zip(
        plain["logp"], plain["logp_old"], plain["advantage"], plain["coef"], strict=True
    ):
        ratio = math.exp(logp - old)
        weight = clamp(ratio, lowest, 1.2)
        if mask and ((advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < lowest)):
            weight = 0.0
        expected -= coef * weight * advantage * logp
        slopes.append(-coef * weight * advantage)
    assert value == pytest.approx(expected, abs=1e-12)
    assert gradient == pytest.approx(slopes, abs=1e-12)


def test_masked_cispo_has_the_gradient_of_ppo_clip() -> None:
    """Where the bounds agree, what is left is PPO's gradient: the ratio of every token that is not held back."""
    ppo_gradient = value_and_gradient(PPOClip(low=0.2, high=1e9), b0())[1]
    cispo = value_and_gradient(CISPO(low=0.2, high=1e9, mask_clipped=True), b0())[1]
    free = [ratio > 0.8 for ratio in PPOClip().ratio(b0()).tolist()]
    assert [g for g, keep in zip(cispo, free, strict=True) if keep] == pytest.approx(
        [g for g, keep in zip(ppo_gradient, free, strict=True) if keep]
    )


# ---- values ----------------------------------------------------------------------------------------------------------


def values(now: list[float], old: list[float], returns: list[float]) -> LossInputs:
    n = torch.zeros(len(now), dtype=torch.int64)
    tensors = [torch.tensor(each, dtype=torch.float64) for each in (now, old, returns)]
    tensors[0].requires_grad_()
    zero = torch.zeros(len(now), dtype=torch.float64)
    coef = torch.full_like(zero, 1 / len(now))
    fields = dict(zip(("value", "value_old", "returns"), tensors, strict=True))
    return LossInputs(logp=zero, advantage=zero, coef=coef, row=n, sequence=n, trajectory=n, group=n, **fields)


def test_value_loss() -> None:
    """B A4."""
    batch = values([0.7, 0.1, 0.9], [0.5, 0.4, 0.6], [0.951, 0.98, 1.0])
    loss = ValueLoss(clip=0.2)(batch)
    assert (2 * loss).tolist() == pytest.approx([0.063001, 0.774400, 0.040000], abs=1e-6)
    assert total(batch, loss).item() == pytest.approx(0.146233, abs=1e-6)
    assert ValueLoss().metrics(batch)["value/clip_ratio"] == pytest.approx(2 / 3)  # 0.2 itself is within


@given(
    st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=6),
    st.sampled_from([None, 0.2, 1.0]),
)
def test_value_loss_is_its_formula(rows: list[tuple[float, float, float]], clip: float | None) -> None:
    batch = values(*map(list, zip(*rows, strict=True)))
    expected = []
    for now, old, target in rows:
        error = (now - target) ** 2
        if clip is not None:
            error = max(error, (clamp(now, old - clip, old + clip) - target) ** 2)
        expected.append(error / 2)
    assert ValueLoss(clip=clip)(batch).tolist() == pytest.approx(expected, abs=1e-12)


def test_explained_variance() -> None:
    perfect, useless = values([1, 2, 3], [0] * 3, [1, 2, 3]), values([2, 2, 2], [0] * 3, [1, 2, 3])
    assert ValueLoss().metrics(perfect)["value/explained_variance"] == pytest.approx(1)
    assert ValueLoss().metrics(useless)["value/explained_variance"] == pytest.approx(0)
    assert ValueLoss().metrics(values([1, 2], [0] * 2, [1, 1]))["value/explained_variance"] == 0


def test_a_policy_cannot_be_trained_with_a_value_loss() -> None:
    with pytest.raises(ConfigError, match=r"ValueLoss reads the column 'value'.*learner with a value head"):
        check_columns([ValueLoss()])
    with pytest.raises(ConfigError, match=r"reads 'value', which was not computed"):
        ValueLoss()(b0())


# ---- DisCO -----------------------------------------------------------------------------------------------------------


def test_disco_objectives() -> None:
    """B C4."""
    batch = b0()
    for method, wanted in [
        (DisCO(), 0.365542),
        (DisCO(hard=False), 0.366667),
        (DisCO(score="ratio"), 0.043763),
        (DisCO(score="ratio", hard=False), 0.044135),
    ]:
        assert method.objective(batch).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("kl", "divergence", "loss"), [("kl", 0.022222, 0.126063), ("low_var", 0.026387, 0.328072)])
def test_disco_loss(kl: Any, divergence: float, loss: float) -> None:
    """B C4."""
    method = DisCO(kl=kl)
    assert method.divergence(b0()).item() == pytest.approx(divergence, abs=1e-6)
    assert method(b0()).item() == pytest.approx(loss, abs=1e-6)
    assert method.metrics(b0()) == {
        "disco/objective": pytest.approx(0.365542, abs=1e-6),
        "disco/kl": pytest.approx(divergence, abs=1e-6),
    }


def test_disco_weighs_the_wrong_ones_by_their_score() -> None:
    """B C4: the gradient of the log-mean-exp."""
    batch = b0()
    DisCO().objective(batch).backward()
    sums = [float(part.sum()) for part in torch.split(gradient_of(batch), LENGTHS)]
    assert [-sums[1], -sums[2]] == pytest.approx([0.507499, 0.492501], abs=1e-6)
    assert [sums[0], sums[3]] == pytest.approx([0.5, 0.5])


def slow_disco(plain: dict[str, list[Any]], right: dict[int, bool], method: DisCO) -> float:
    """The loss, group after group; the penalty is β/2 [K - δ]²."""
    scores: dict[int, list[float]] = defaultdict(list)
    members: dict[int, set[int]] = defaultdict(set)
    kl = []
    rows = zip(plain["logp"], plain["logp_old"], plain["trajectory"], plain["group"], strict=True)
    for logp, old, trajectory, group in rows:
        scores[trajectory].append(logp if method.score == "likelihood" else math.exp(logp - old))
        members[group].add(trajectory)
        kl.append(old - logp if method.kl == "kl" else math.exp(logp - old) - 1 - (logp - old))
    tau, objective = method.tau or {"likelihood": 10.0, "ratio": 1.0}[method.score], 0.0
    for group in members.values():
        s = {i: sum(scores[i]) / len(scores[i]) for i in group}
        good, bad = [s[i] for i in group if right[i]], [s[i] for i in group if not right[i]]
        if good and bad:
            below = sum(bad) / len(bad)
            if method.hard:
                below = tau * math.log(sum(math.exp(x / tau) for x in bad) / len(bad))
            objective += (sum(good) / len(good) - below) / len(members)
    excess = max(0.0, sum(kl) / len(kl) - method.delta)
    return method.beta / 2 * excess**2 - objective


@given(
    SEEDS,
    st.sampled_from(["likelihood", "ratio"]),
    st.booleans(),
    st.sampled_from(["kl", "low_var"]),
    st.sampled_from([None, 0.3]),
)
def test_disco_is_the_gradient_of_its_formula(seed: int, score: Any, hard: bool, kl: Any, tau: float | None) -> None:
    batch = random_batch(seed)
    method = DisCO(score=score, hard=hard, kl=kl, tau=tau, beta=10.0)
    _, gradient = value_and_gradient(method, batch)
    plain = lists(batch)
    success = batch.column("success").tolist()
    right = {trajectory: bool(won) for trajectory, won in zip(plain["trajectory"], success, strict=True)}
    step = 1e-6
    for index in range(min(4, len(batch))):
        ends = []
        for sign in (1, -1):
            moved = list(plain["logp"])
            moved[index] += sign * step
            ends.append(slow_disco({**plain, "logp": moved}, right, method))
        assert gradient[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-7)


def test_disco_of_large_scores_is_finite_and_of_one_sided_groups_is_0() -> None:
    far = b0(logp=[50 * each for each in LOGP])
    value, gradient = value_and_gradient(DisCO(tau=0.01, beta=0.0), far)
    assert math.isfinite(value) and np.isfinite(gradient).all()
    lost = b0(logp=LOGP_OLD)
    lost = LossInputs(**{**vars(lost), "table": lost.table.with_columns(success=[False] * 4)})
    assert value_and_gradient(DisCO(), lost) == (0.0, [0.0] * 9)


# ---- what all of them share ------------------------------------------------------------------------------------------

BY_TOKEN = [
    PPOClip(dual_clip=3.0),
    DrGRPO(constant=3.0),
    Reinforce(),
    GSPO(),
    GSPO(level="turn"),
    CISPO(low=0.2, high=0.2, mask_clipped=True),
]


@pytest.mark.parametrize("method", BY_TOKEN, ids=lambda method: type(method).__name__)
@given(SEEDS)
def test_a_batch_may_be_cut_between_samples(method: Any, seed: int) -> None:
    whole, parted = random_batch(seed), random_batch(seed)
    value, gradient = value_and_gradient(method, whole)
    found = 0.0
    for name in parted.sequence.unique():
        place = parted.sequence == name
        piece = LossInputs(**{
            key: each[place] if torch.is_tensor(each) else each for key, each in vars(parted).items()
        })  # fmt: skip
        loss = total(piece, method(piece))
        loss.backward()
        found += float(loss.detach())
    assert found == pytest.approx(value, abs=1e-12)
    assert gradient_of(parted).tolist() == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize("method", [*BY_TOKEN, DisCO()], ids=lambda method: type(method).__name__)
def test_nothing_but_the_log_probs_gets_a_gradient_and_metrics_of_nothing_are_none(method: Any) -> None:
    batch = b0()
    _, gradient = value_and_gradient(method, batch)
    assert any(gradient) and batch.advantage.grad is None and batch.require("logp_old").grad is None
    nothing = LossInputs(**{k: v[:0] if torch.is_tensor(v) else v for k, v in vars(b0()).items()})
    assert getattr(method, "metrics", lambda _: {})(nothing) == {}


@pytest.mark.parametrize("found", listing("methods")["methods"], ids=lambda found: f"{found['stage']}:{found['name']}")
def test_a_method_is_described(found: dict[str, Any]) -> None:
    assert found["formula"] and found["source"] and "\n" not in found["formula"]
    for details in found["parameters"].values():
        assert ("default" in details) != ("required" in details)
    assert "$ref" not in json.dumps(found)


def test_token_weights_and_a_loss_of_the_whole_update_do_not_go_together() -> None:
    table = AlgorithmTable(loss={"name": "disco"}, token_weights=[{"name": "tis"}])
    with pytest.raises(ConfigError, match=r"token_weights scale the losses of tokens, and DisCO gives one number"):
        build.methods(table, state_keys=True)
    table = AlgorithmTable(loss={"name": "disco", "outcome": "correct"})
    with pytest.raises(UserError, match="correct"):
        build.methods(table, state_keys=True)
