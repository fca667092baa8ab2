"""The update: one gradient, whatever the machine; nothing changes where something is not finite; resume is exact."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from accelerate import Accelerator
from toy_cases import Case, case, gpt2, gradient_of, snapshot
from toys import PROMPT, Corridor, tiny_model, tokenizer

from agentrl.agents import Append, ChatAgent, Window
from agentrl.algorithms.aggregate import coefficients
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.regularizers import KL
from agentrl.algorithms.table import TurnTable
from agentrl.chat import Renderer
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.learning.samples import make_samples
from agentrl.policies.transformers import TransformersPolicy
from agentrl.rollouts import EnvPool, Limits, Rollouts
from agentrl.types import RolloutRequest, Sampling

STILL = OptimizerSettings(lr=0.0, max_grad_norm=1e9)  # leaves the weights and the raw gradient in place
MOVING = OptimizerSettings(lr=1e-2)


def gradient(
    model: Any, given: Case, order: Any = None, chosen: Any = None, **changes: Any
) -> tuple[float, np.ndarray]:
    """Loss and gradient of one update."""
    samples = given.samples if order is None else [given.samples[index] for index in order]
    settings = {"loss": PPOClip(aggregate="sequence_mean"), "regularizers": [KL(coef=0.1)], "settings": STILL}
    learner = Learner(
        model=copy.deepcopy(model), **{"old_logprobs": "sampler", "with_reference": True, **settings, **changes}
    )
    data = learner.prepare(samples, given.advantages, given.table)
    assert data.logp_ref is not None
    data.logp_ref = data.logp_ref - 0.1 * np.sin(data.position)  # a reference that is not the model itself
    loss = learner.update(samples, data, given.table, chosen)["loss"]
    return loss, gradient_of(learner.model)


# ---- the gradient does not depend on the machine --------------------------------------------------------------------


def variants(given: Case) -> list[dict[str, Any]]:
    turned = np.random.default_rng(1).permutation(len(given.samples))
    return [{"token_budget": 1}, {"token_budget": 30}, {"token_budget": 47, "order": turned}, {"order": turned[::-1]}]


@pytest.mark.parametrize(
    "aggregate", ["token_mean", "sequence_mean", "turn_mean", "trajectory_mean", "trajectory_turn_mean"]
)
def test_float64_gradients_are_equal_whatever_the_split_order_and_padding(aggregate: Any) -> None:
    model, given = gpt2("float64"), case()
    loss, reference = gradient(model, given, loss=PPOClip(aggregate=aggregate))
    assert np.abs(reference).max() > 0.01
    for changes in variants(given):
        other_loss, other = gradient(model, given, loss=PPOClip(aggregate=aggregate), **changes)
        assert abs(other_loss - loss) < 1e-9
        np.testing.assert_allclose(other, reference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [lambda: gpt2("float32"), lambda: tiny_model(tokenizer())])
def test_float32_gradients_are_equal_to_1e_5(make: Any) -> None:
    model, given = make(), case()
    _, reference = gradient(model, given)
    for changes in variants(given):
        _, other = gradient(model, given, **changes)
        np.testing.assert_allclose(other, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def naive(model: Any, given: Case, chosen: list[int], loss: PPOClip, kl: KL) -> tuple[float, np.ndarray]:
    """The same loss, one token after the other, from the model's own logits."""
    model, frozen = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    counts = {index: given.samples[index].n_trained for index in chosen}
    total = torch.zeros((), dtype=torch.float64)
    for index in chosen:
        sample = given.samples[index]
        ids = torch.tensor(sample.token_ids)[None]
        logits = model(input_ids=ids).logits[0]
        with torch.no_grad():
            frozen_logits = frozen(input_ids=ids).logits[0]
        for position in np.flatnonzero(sample.loss_mask):
            temperature = float(sample.temperature[position])
            logp = (logits[position - 1] / temperature).log_softmax(-1)[sample.token_ids[position]]
            ref = (frozen_logits[position - 1] / temperature).log_softmax(-1)[sample.token_ids[position]]
            ref = ref - 0.1 * np.sin(position)
            ratio = (logp - float(sample.logprobs[position])).exp()
            advantage = float(given.advantages[sample.row[position]])
            clipped = ratio.clamp(1 - loss.low, 1 + loss.high)
            value = torch.maximum(-advantage * ratio, -advantage * clipped)
            value = value + kl.coef * ((ref - logp).exp() + (logp - ref) - 1)
            total = total + value / counts[index] / len(chosen)
    total.backward()
    return float(total.detach()), gradient_of(model)


@pytest.mark.parametrize("chosen", [None, [1, 4], [3]])
def test_it_is_the_gradient_of_the_formula(chosen: Any) -> None:
    model, given = gpt2("float64"), case()
    loss, found = gradient(model, given, chosen=chosen, token_budget=30)
    every = list(range(len(given.samples)))
    expected_loss, expected = naive(model, given, chosen or every, PPOClip(), KL(coef=0.1))
    assert loss == pytest.approx(expected_loss, abs=1e-9)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@dataclass(frozen=True)
class Whole:
    """A loss and regularizer that no sum over tokens can express."""

    scope = "update"
    reads = ("logp", "entropy", "advantage")

    def __call__(self, inputs: LossInputs) -> Any:
        weight = (inputs.advantage * inputs.logp).logsumexp(0)
        return weight * (inputs.require("entropy") * inputs.column("n_tokens")).mean() + inputs.logp.std()


@pytest.mark.parametrize("as_regularizer", [False, True])
def test_two_passes_are_direct_autograd_of_the_whole(as_regularizer: bool) -> None:
    model, given = gpt2("float64"), case()
    methods = (
        {"loss": PPOClip(), "regularizers": [Whole()]} if as_regularizer else {"loss": Whole(), "regularizers": []}
    )
    learner = Learner(model=copy.deepcopy(model).eval(), settings=STILL, old_logprobs="sampler", **methods)
    data = learner.prepare(given.samples, given.advantages, given.table)
    logp, entropy = learner._forward(
        learner.model, given.samples, [[n] for n in range(len(given.samples))], data, np.arange(len(data.row))
    )
    coef = coefficients("token_mean", data.sequence, data.row, data.trajectory)
    inputs = learner._inputs(data, given.table, np.arange(len(data.row)), coef, logp, entropy)
    value = Whole()(inputs)
    if as_regularizer:
        value = value + (inputs.coef * PPOClip()(inputs)).sum()
    value.backward()
    expected = gradient_of(learner.model)
    for token_budget in (1, 30, 10**6):
        learner.token_budget = token_budget
        metrics = learner.update(given.samples, data, given.table)
        assert metrics["loss"] == pytest.approx(float(value.detach()), abs=1e-9)
        np.testing.assert_allclose(gradient_of(learner.model), expected, rtol=0, atol=1e-9)


def test_a_token_weight_masks_and_scales() -> None:
    """Masking every token of one sample gives what the other samples give alone; a weight scales the gradient."""

    class Without:
        reads = ()

        def __call__(self, inputs: LossInputs) -> Any:
            return torch.full_like(inputs.logp, 3.0), inputs.sequence != 2

    model, given = gpt2("float64"), case()
    changes = {"loss": PPOClip(), "regularizers": []}
    _, weighted = gradient(model, given, token_weights=[Without()], **changes)
    _, alone = gradient(model, given, chosen=[i for i in range(len(given.samples)) if i != 2], **changes)
    np.testing.assert_allclose(weighted, 3 * alone, rtol=0, atol=1e-9)


# ---- log-probs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [Window(turns=1), Append()])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_learner_finds_the_log_probs_that_the_sampler_reported(memory: Any, temperature: float) -> None:
    made = tokenizer()
    model = tiny_model(made).train()
    rollouts = Rollouts(
        EnvPool(Corridor),
        ChatAgent(Renderer(made), memory, prompt=PROMPT),
        TransformersPolicy(model),
        limits=Limits(max_turns=3),
        sampling=Sampling(temperature=temperature, max_tokens=6),
    )
    groups = rollouts.run([RolloutRequest(task, 2) for task in Corridor().tasks("train")[:3]], ("iteration", 0))
    trajectories = [member for group in groups for member in group]
    samples, table = make_samples(trajectories), TurnTable.from_trajectories(trajectories)
    assert len(samples) == (6 if isinstance(memory, Append) else len(table))
    learner = Learner(model=model, loss=PPOClip(), token_budget=200)
    data = learner.prepare(samples, np.ones(len(table)), table)
    assert data.logp_old is not None
    np.testing.assert_allclose(data.logp_sampler, data.logp_old, atol=1e-5)
    metrics = learner.update(samples, data, table)
    assert metrics["sampler_gap/max"] < 1e-5
    assert metrics["ratio/mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["n_trained_tokens"] == sum(len(call.completion_ids) for t in trajectories for call in t.calls())


def test_where_the_old_log_probs_come_from() -> None:
    given, model = case(), gpt2("float32")
    sampler = Learner(model=model, loss=PPOClip(), old_logprobs="sampler")
    data = sampler.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(data.logp_old, data.logp_sampler)
    own = Learner(model=model, loss=PPOClip()).prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(own.logp_old, sampler.logprobs(given.samples, data)[0])
    assert np.abs(own.logp_old - own.logp_sampler).max() > 0.1
    given.samples[0].logprobs[:] = np.nan  # a sampler that reported nothing for one sample: recomputed for all
    partly = sampler.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(partly.logp_old, own.logp_old)


def test_scores_that_were_computed_for_credit_are_those_of_the_updates() -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(), old_logprobs="sampler", with_reference=True)
    scores = learner.score(given.samples, entropy=True)
    data = learner.prepare(given.samples, given.advantages, given.table, scores)
    assert data.logp_old is scores.logp_old and data.logp_ref is scores.logp_ref
    np.testing.assert_array_equal(scores.logp_old, data.logp_sampler)
    _, entropy = learner.logprobs(given.samples, data)
    n_turns = len(given.table) + 2  # two turns without a token
    expected = [entropy[data.row == row].mean() for row in range(len(given.table))]
    np.testing.assert_allclose(scores.turn_means(scores.entropy, n_turns), [*expected, 0, 0], rtol=1e-12)
    assert learner.score(given.samples).entropy is None


def test_log_probs_of_some_samples_only() -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip())
    data = learner.prepare(given.samples, given.advantages, given.table)
    logp, entropy = learner.logprobs(given.samples, data, [1, 3])
    known = np.isin(data.sequence, [1, 3])
    assert np.isnan(logp[~known]).all() and np.isnan(entropy[~known]).all()
    np.testing.assert_allclose(logp[known], data.logp_old[known], atol=1e-5)
    assert (entropy[known] > 0).all()


def test_half_precision_models_get_log_probs_in_float32() -> None:
    given = case()
    learner = Learner(model=gpt2("bfloat16"), loss=PPOClip())
    data = learner.prepare(given.samples, given.advantages, given.table)
    logp = torch.tensor(data.logp_old)
    assert not torch.equal(logp.bfloat16().double(), logp)  # not rounded to 8 bits


def test_dropout_is_off() -> None:
    given = case()
    learner = Learner(model=gpt2("float32").train(), loss=PPOClip(), settings=STILL)
    data = learner.prepare(given.samples, given.advantages, given.table)
    learner.model.train()
    assert learner.update(given.samples, data, given.table)["ratio/max"] == pytest.approx(1.0, abs=1e-5)


def test_the_reference_stays_where_it_was() -> None:
    given = case()
    learner = Learner(
        model=gpt2("float32"), loss=PPOClip(), regularizers=[KL(coef=1.0)], settings=MOVING, with_reference=True
    )
    data = learner.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(data.logp_ref, data.logp_old)
    assert learner.update(given.samples, data, given.table)["kl"] == pytest.approx(0, abs=1e-6)
    after = learner.prepare(given.samples, given.advantages, given.table)
    np.testing.assert_array_equal(after.logp_ref, data.logp_ref)
    assert np.abs(after.logp_old - after.logp_ref).max() > 1e-3
    assert learner.update(given.samples, after, given.table)["kl"] > 1e-6
    assert not any(p.requires_grad for p in learner.reference.copy.parameters())


def test_without_a_reference_kl_says_what_to_do() -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(), regularizers=[KL(coef=1.0)])
    data = learner.prepare(given.samples, given.advantages, given.table)
    with pytest.raises(ConfigError, match="logp_ref"):
        learner.update(given.samples, data, given.table)


# ---- steps ----------------------------------------------------------------------------------------------------------


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e300])
def test_a_loss_that_is_not_finite_changes_nothing(value: float) -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(), settings=MOVING)
    data = learner.prepare(given.samples, given.advantages, given.table)
    learner.update(given.samples, data, given.table)
    before = snapshot(learner)
    good = data.advantage.copy()
    data.advantage[3] = value
    with pytest.raises(FloatingPointError, match=r"update 1: loss .*nothing was changed"):
        learner.update(given.samples, data, given.table)
    assert equal(snapshot(learner), before)
    data.advantage = good
    learner.update(given.samples, data, given.table)
    assert learner.n_updates == 2 and not equal(snapshot(learner), before)


def test_an_update_on_nothing_is_refused() -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip())
    data = learner.prepare(given.samples, given.advantages, given.table)
    with pytest.raises(ValueError, match="at least one trained token"):
        learner.update(given.samples, data, given.table, [])
    assert learner.n_updates == 0


def test_the_gradient_is_clipped_and_its_norm_reported() -> None:
    given = case()
    learner = Learner(model=gpt2("float64"), loss=PPOClip(), settings=OptimizerSettings(lr=0.0, max_grad_norm=1e-3))
    data = learner.prepare(given.samples, given.advantages, given.table)
    norm = learner.update(given.samples, data, given.table)["grad_norm"]
    assert norm > 1e-2
    assert np.linalg.norm(gradient_of(learner.model)) == pytest.approx(1e-3, rel=1e-3)


def test_updates_raise_what_has_an_advantage() -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(high=10.0), settings=MOVING)
    ones = np.ones(len(given.table))
    data = learner.prepare(given.samples, ones, given.table)
    for _ in range(5):
        learner.update(given.samples, data, given.table)
    assert learner.logprobs(given.samples, data)[0].mean() > data.logp_old.mean() + 0.1


def test_the_learning_rate_by_update() -> None:
    def rates(n: int, **settings: Any) -> list[float]:
        return [round(OptimizerSettings(lr=1.0, **settings).lr_at(update), 6) for update in range(n)]

    assert rates(3) == [1, 1, 1]
    assert rates(5, warmup=4) == [0.25, 0.5, 0.75, 1, 1]
    assert rates(8, warmup=2, schedule="linear", total=6, floor=0.2) == [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert rates(5, schedule="cosine", total=4) == [1, 0.853553, 0.5, 0.146447, 0]
    assert rates(3, warmup=4, schedule="cosine", total=3) == [0.25, 0.5, 0.75]  # it ends before it has warmed up
    with pytest.raises(ConfigError, match="needs the number of updates"):
        OptimizerSettings(schedule="linear")


def test_the_learning_rate_is_the_updates_own() -> None:
    given = case()
    learner = Learner(model=gpt2("float32"), loss=PPOClip(), settings=OptimizerSettings(lr=0.1, warmup=2))
    data = learner.prepare(given.samples, given.advantages, given.table)
    assert [learner.update(given.samples, data, given.table)["lr"] for _ in range(3)] == [0.05, 0.1, 0.1]


def test_norms_and_biases_do_not_decay() -> None:
    learner = Learner(model=gpt2("float32"), loss=PPOClip(), settings=OptimizerSettings(weight_decay=0.3))
    decayed, plain = learner.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert all(p.dim() >= 2 for p in decayed["params"]) and all(p.dim() == 1 for p in plain["params"])


def test_saved_and_loaded_it_goes_on_bit_by_bit() -> None:
    given = case()

    def learner() -> Learner:
        return Learner(
            model=gpt2("float32"), loss=PPOClip(), settings=OptimizerSettings(lr=1e-2, warmup=5), token_budget=60
        )

    first = learner()
    data = first.prepare(given.samples, given.advantages, given.table)
    for _ in range(2):
        first.update(given.samples, data, given.table)
    file = io.BytesIO()
    torch.save(snapshot(first), file)
    expected = [first.update(given.samples, data, given.table) for _ in range(2)]
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again = learner()
    again.model.load_state_dict(state.pop("model"))
    again.load_state_dict(state)
    assert [again.update(given.samples, data, given.table) for _ in range(2)] == expected
    assert equal(snapshot(again), snapshot(first))


@pytest.mark.parametrize("state", [{}, {"optimizer": {"state": {}, "param_groups": []}, "n_updates": 1}])
def test_the_state_of_another_optimiser_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="does not fit this model"):
        Learner(model=gpt2("float32"), loss=PPOClip()).load_state_dict(state)


@pytest.mark.parametrize("cuda", [False, True])
def test_a_model_on_the_cpu_is_trained_there(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def recorded(cpu: bool) -> Accelerator:
        asked.append(cpu)
        return Accelerator(cpu=cpu)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("agentrl.learning.learner.Accelerator", recorded)
    assert Learner(model=gpt2("float32"), loss=PPOClip()).device.type == "cpu" and asked == [True]
