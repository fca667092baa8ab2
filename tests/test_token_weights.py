"""Corrections between sampler and trainer, and masks: vectors of B_losses_and_tokens.md A11, and slow references."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from toy_batches import LENGTHS, b0, lists, random_batch, rows_of, total

from agentrl import registry
from agentrl.algorithms.credit import GRPO
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.method import check_columns, columns
from agentrl.algorithms.table import TurnTable
from agentrl.algorithms.token_weights import MIS, TIS, IcePop, OverlongMask, Rejection
from agentrl.errors import ConfigError
from agentrl.types import Outcome, Task, Trajectory, Turn

SEEDS = st.integers(0, 2**32 - 1)
FIRST = np.cumsum([0, *LENGTHS[:-1]])


@pytest.mark.parametrize(
    ("method", "weights", "loss"),
    [
        (TIS(cap=1e9), "[[1.051271, 0.951229, 1.0]; [1.0, 3.669297]; [1.105171, 0.740818, 1.0]; [6.049647]]", None),
        (TIS(), "[[1.051271, 0.951229, 1.0]; [1.0, 2.0]; [1.105171, 0.740818, 1.0]; [2.0]]", 0.091327),
        (
            MIS(low=0.5, high=2.0, level="token"),
            "[[1.051271, 0.951229, 1.0]; [1.0, 0.0]; [1.105171, 0.740818, 1.0]; [0.0]]",
            0.048758,
        ),
        (IcePop(), "[[1.051271, 0.951229, 1.0]; [1.0, 3.669297]; [1.105171, 0.740818, 1.0]; [0.0]]", 0.401835),
    ],
)
def test_weights_of_tokens(method: Any, weights: str, loss: float | None) -> None:
    batch = b0()
    weight, mask = method(batch)
    assert weight.tolist() == pytest.approx(rows_of(weights), abs=1e-6) and mask.all()
    assert not weight.requires_grad
    if loss is not None:
        assert total(batch, PPOClip()(batch) * weight).item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "weights", "loss"),
    [
        (TIS(cap=1e9, level="sequence"), [1.0, 3.669297, 0.818731, 6.049647], None),
        (TIS(level="sequence"), [1.0, 2.0, 0.818731, 2.0], None),
        (MIS(low=0.5, high=2.0), [1.0, 0.0, 0.818731, 0.0], -0.075314),
    ],
)
def test_weights_of_sequences(method: Any, weights: list[float], loss: float | None) -> None:
    batch = b0()
    weight, mask = method(batch)
    assert weight[FIRST].tolist() == pytest.approx(weights, abs=1e-6) and mask.all()
    if loss is not None:
        assert total(batch, PPOClip()(batch) * weight).item() == pytest.approx(loss, abs=1e-6)


def test_the_ratio_to_the_sampler_holds_the_correction_already() -> None:
    """B A11, bypass: PPO with logp_old = logp_sampler, and no weight beside it."""
    batch = b0()
    bypass = replace(batch, logp_old=batch.logp_sampler)
    assert total(bypass, PPOClip()(bypass)).item() == pytest.approx(0.300686, abs=1e-6)
    assert TIS()(bypass)[0].tolist() == [1.0] * 9


def test_rejection() -> None:
    """B A11: geometric means 1, 1.915541, 0.935507, 6.049647; verl's 0.6_1.4 of 1/w keeps [0.714286, 1.666667]."""
    kept = {
        (low, high): Rejection(low=low, high=high)(b0())[1][FIRST].tolist()
        for low, high in [(0.5, 1.9155), (0.5, 1.9156), (0.9356, 7.0), (0.9355, 6.0496), (0.9355, 6.0497)]
    }
    assert list(kept.values()) == [
        [True, False, True, False],
        [True, True, True, False],
        [True, True, False, True],
        [True, True, True, False],
        [True, True, True, True],
    ]
    verl = Rejection(low=1 / 1.4, high=1 / 0.6, level="token")(b0())
    assert verl[1].tolist() == [True, True, True, True, False, True, True, True, False]
    assert verl[0].tolist() == [1.0] * 9
    assert Rejection(low=0.5, high=1.9155).metrics(b0()) == {"importance/rejected": pytest.approx(3 / 9)}


def slow_importance(plain: dict[str, list[Any]], level: str, numerator: str, geometric: bool) -> list[float]:
    names = {
        "token": list(range(len(plain["logp"]))),
        "turn": list(zip(plain["sequence"], plain["row"], strict=True)),
        "sequence": plain["sequence"],
    }[level]
    gaps: dict[Any, list[float]] = defaultdict(list)
    for name, top, bottom in zip(names, plain[numerator], plain["logp_sampler"], strict=True):
        gaps[name].append(top - bottom)
    size = {name: len(each) if geometric else 1 for name, each in gaps.items()}
    return [math.exp(min(20.0, max(-20.0, sum(gaps[name]) / size[name]))) for name in names]


@given(SEEDS, st.sampled_from(["token", "turn", "sequence"]), st.sampled_from(["logp", "logp_old"]))
def test_they_are_their_formulas(seed: int, level: Any, numerator: Any) -> None:
    batch = random_batch(seed)
    plain = lists(batch)
    w = slow_importance(plain, level, numerator, False)
    mean = slow_importance(plain, level, numerator, True)
    tis = TIS(cap=1.1, level=level, numerator=numerator)
    mis = MIS(low=0.9, high=1.2, level=level, numerator=numerator)
    rejection = Rejection(low=0.9, high=1.2, level=level, numerator=numerator)
    assert tis(batch)[0].tolist() == pytest.approx([min(x, 1.1) for x in w])
    assert mis(batch)[0].tolist() == pytest.approx([x if 0.9 <= x <= 1.2 else 0.0 for x in w])
    assert rejection(batch)[1].tolist() == [0.9 <= x <= 1.2 for x in mean]
    assert tis.metrics(batch)["importance/max"] == pytest.approx(max(w))
    assert mis.metrics(batch) == {
        "importance/mean": pytest.approx(sum(w) / len(w)),
        "importance/max": pytest.approx(max(w)),
        "importance/cut": pytest.approx(sum(not 0.9 <= x <= 1.2 for x in w) / len(w)),
    }


def test_a_huge_gap_stays_finite() -> None:
    batch = replace(b0(), logp_sampler=torch.full((9,), -500.0, dtype=torch.float64))
    assert TIS(cap=1e30, level="sequence")(batch)[0].tolist() == pytest.approx([math.exp(20)] * 9)


def test_log_probs_of_the_sampler_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"reads 'logp_sampler'.*Use a policy that reports"):
        TIS()(replace(b0(), logp_sampler=None))
    assert columns(TIS()) == ("logp_old", "logp_sampler") and columns(MIS(numerator="logp"))[0] == "logp"
    check_columns([GRPO(), TIS(), MIS(), IcePop(), OverlongMask(), Rejection(low=0.9, high=1.1), PPOClip()])


@pytest.mark.parametrize("name", ["mis", "icepop", "rejection"])
def test_bounds_that_keep_nothing_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"from low to high; got 3.0 and 2.0"):
        registry.build("token_weight", {"name": name, "low": 3.0, "high": 2.0})


def test_the_tokens_of_cut_trajectories_are_masked() -> None:
    outcomes = [Outcome.TERMINATED, Outcome.MAX_TOKENS, Outcome.MAX_TURNS, Outcome.TERMINATED]
    members = [
        Trajectory(str(i), "e", Task("t"), group="g", turns=[Turn("o")], outcome=o) for i, o in enumerate(outcomes)
    ]
    batch = replace(b0(), table=TurnTable.from_trajectories(members))
    weight, mask = OverlongMask()(batch)
    assert mask.tolist() == [True] * 3 + [False] * 2 + [True] * 4 and weight.tolist() == [1.0] * 9
    both = registry.build("token_weight", {"name": "overlong", "outcomes": ["max_tokens", "max_turns"]})
    assert both(batch)[1].tolist() == [True] * 3 + [False] * 5 + [True]
    with pytest.raises(ConfigError, match="outcomes"):
        registry.build("token_weight", {"name": "overlong", "outcomes": ["cancelled"]})
