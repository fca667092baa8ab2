"""Losses, regularizers and token weights inside the learner: one gradient whatever the split, states, two passes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from test_learner import STILL, case, gpt2, gradient, gradient_of, variants

from agentrl.algorithms.coefficient import Scheduled
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import CISPO, GSPO, DisCO, DrGRPO, PPOClip, Reinforce
from agentrl.algorithms.regularizers import KL, EntropyBonus
from agentrl.algorithms.token_weights import TIS
from agentrl.learning.learner import Learner


@pytest.mark.parametrize(
    "loss",
    [
        GSPO(low=0.1, high=0.1),
        GSPO(level="turn", aggregate="turn_mean", low=0.1, high=0.1),
        CISPO(low=0.2, high=0.2),
        Reinforce(),
        DrGRPO(constant=8.0),
        DisCO(score="ratio", beta=5.0, kl="low_var"),
    ],
    ids=repr,
)
def test_every_loss_gives_one_gradient_whatever_the_split(loss: Any) -> None:
    model, given = gpt2("float64"), case(n=6)
    given.table = given.table.with_columns(success=given.table["trajectory"] % 3 == 0)
    changes = {"loss": loss, "regularizers": [KL(coef=0.1), EntropyBonus(coef=0.02)]}
    value, reference = gradient(model, given, **changes)
    assert np.abs(reference).max() > 0.01
    for variant in variants(given):
        other_value, other = gradient(model, given, **changes, **variant)
        assert abs(other_value - value) < 1e-9
        np.testing.assert_allclose(other, reference, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "method", [DisCO(beta=5.0), DisCO(score="ratio", hard=False, kl="low_var", beta=5.0)], ids=repr
)
def test_disco_in_two_passes_is_autograd_of_its_formula(method: DisCO) -> None:
    """From the model's own logits, group after group; the penalty as β/2 [K - δ]²."""
    model, given = gpt2("float64"), case(n=6)
    given.table = given.table.with_columns(success=given.table["trajectory"] % 3 == 0)
    _, found = gradient(model, given, loss=method, regularizers=[], token_budget=30)
    model = copy.deepcopy(model).eval()
    by_trajectory: dict[int, list[torch.Tensor]] = {}
    gaps = []
    for sample in given.samples:
        logits = model(input_ids=torch.tensor(sample.token_ids)[None]).logits[0]
        for position in np.flatnonzero(sample.loss_mask):
            logp = (logits[position - 1] / float(sample.temperature[position])).log_softmax(-1)
            gap = logp[sample.token_ids[position]] - float(sample.logprobs[position])
            score = gap.exp() if method.score == "ratio" else logp[sample.token_ids[position]]
            by_trajectory.setdefault(sample.trajectory, []).append(score)
            gaps.append(gap)
    scores = {index: torch.stack(values).mean() for index, values in by_trajectory.items()}
    objective = torch.zeros((), dtype=torch.float64)
    for group in (0, 1):  # trajectories 0 and 3 are right; 0, 2, 4 and 1, 3, 5 are the groups
        wrong = torch.stack([scores[index] for index in range(group, 6, 2) if index % 3])
        below = 10.0 * ((wrong / 10.0).logsumexp(0) - np.log(2)) if method.hard else wrong.mean()
        objective = objective + (scores[3 * group] - below) / 2
    every = torch.stack(gaps)
    kl = -every.mean() if method.kl == "kl" else (every.exp() - 1 - every).mean()
    (method.beta / 2 * (kl - method.delta).clamp(min=0) ** 2 - objective).backward()
    assert float(kl.detach()) > method.delta
    np.testing.assert_allclose(found, gradient_of(model), rtol=0, atol=1e-9)


def test_a_token_weight_scales_the_loss_and_no_regularizer() -> None:
    class Twice:
        reads = ()

        def __call__(self, inputs: LossInputs) -> Any:
            return torch.full_like(inputs.logp, 2.0), inputs.logp < 1

    model, given = gpt2("float64"), case()
    _, loss = gradient(model, given, loss=PPOClip(), regularizers=[])
    _, both = gradient(model, given, loss=PPOClip())
    _, weighted = gradient(model, given, loss=PPOClip(), token_weights=[Twice()])
    np.testing.assert_allclose(weighted, both + loss, rtol=0, atol=1e-9)
    _, squared = gradient(model, given, loss=PPOClip(), token_weights=[Twice(), Twice()])
    np.testing.assert_allclose(squared, both + 3 * loss, rtol=0, atol=1e-9)


def test_an_importance_weight_is_measured_and_lasts_one_update() -> None:
    given = case()
    learner = Learner(model=gpt2("float64"), loss=PPOClip(), settings=STILL, token_weights=[TIS(cap=1.5)])
    data = learner.prepare(given.samples, given.advantages, given.table)
    found = learner.update(given.samples, data, given.table)
    assert data.logp_old is not None
    weight = np.exp(data.logp_old - data.logp_sampler)
    assert found["importance/cut"] == pytest.approx((weight > 1.5).mean())
    assert found["importance/max"] == pytest.approx(weight.max(), rel=1e-6)
    np.testing.assert_allclose(data.weight, np.minimum(weight, 1.5), rtol=1e-6)
    learner.token_weights = ()
    learner.update(given.samples, data, given.table)
    assert data.weight is None


def test_a_method_that_remembers_gets_its_state_at_every_update() -> None:
    coef = Scheduled(rule="linear", start=0.0, end=1.0, over=4)
    model, given = gpt2("float64"), case()
    _, start = gradient(model, given, loss=PPOClip(), regularizers=[KL(coef=coef)])
    _, free = gradient(model, given, loss=PPOClip(), regularizers=[])
    np.testing.assert_array_equal(start, free)  # without a state it is at its start
    states = {"regularizers[0]": None, "regularizers[1]": {"value": 0.25, "done": 1}}
    regularizers = [EntropyBonus(coef=0.1), KL(coef=coef)]
    _, moved = gradient(model, given, loss=PPOClip(), regularizers=regularizers, states=states)
    _, constant = gradient(model, given, loss=PPOClip(), regularizers=[EntropyBonus(coef=0.1), KL(coef=0.25)])
    np.testing.assert_array_equal(moved, constant)
