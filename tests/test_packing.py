"""Several samples in a row: the same numbers as each in a row of its own, and fewer tokens."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from hypothesis import given
from hypothesis import strategies as some
from toy_cases import case, gpt2, gradient_of
from toys import tiny_model, tokenizer

from agentrl.algorithms.losses import PPOClip
from agentrl.algorithms.regularizers import KL
from agentrl.errors import ConfigError
from agentrl.learning.checkpoint import build_model, set_attention
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.learning.logprobs import keeps_apart
from agentrl.learning.samples import layouts, n_tokens

STILL = OptimizerSettings(lr=0.0, max_grad_norm=1e9)
LENGTHS = some.lists(some.integers(1, 99), max_size=40)


def learner(model: Any, **changes: Any) -> Learner:
    fields = {"loss": PPOClip(), "regularizers": [KL(coef=0.1)], "settings": STILL, "with_reference": True}
    return Learner(model=copy.deepcopy(model), **{**fields, **changes})


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(LENGTHS, some.integers(1, 500), some.sampled_from([True, False, "auto"]), some.integers(0, 800))
def test_every_sequence_stands_in_one_row_and_no_batch_is_too_large(
    lengths: list[int], budget: int, packing: Any, width: int
) -> None:
    batches = layouts(lengths, budget, packing, width)
    assert sorted(index for rows in batches for row in rows for index in row) == list(range(len(lengths)))
    assert batches == layouts(lengths, budget, packing, width)
    for rows in batches:
        totals = [sum(lengths[index] for index in row) for row in rows]
        assert max(totals) <= max(width // 4, *lengths)
        assert len(rows) == 1 or len(rows) * max(totals) <= budget
        assert packing is not False or all(len(row) == 1 for row in rows)


@given(LENGTHS, some.integers(100, 5000))
def test_auto_packs_where_a_tenth_is_saved(lengths: list[int], budget: int) -> None:
    padded, packed, auto = (layouts(lengths, budget, packing) for packing in (False, True, "auto"))
    worth = n_tokens(packed, lengths) <= 0.9 * n_tokens(padded, lengths)
    assert auto == (packed if worth and lengths else padded)


def test_auto_counts_what_attention_costs() -> None:
    """The mixes of `agentrl bench packing`: on a narrow model rows of 800 tokens cost more than the padding that they save."""
    lengths = [50, 120, 230, 340, 420, 510, 640, 800]
    one, small = (layouts(lengths, budget, "auto", 96) for budget in (16384, 2048))
    assert max(len(row) for rows in one for row in rows) > 1
    assert all(len(row) == 1 for rows in small for row in rows)
    short = layouts([20, 120, 70, 45, 100, 33, 90], 16384, "auto", 512)
    assert max(len(row) for rows in short for row in rows) > 1


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("token_budget", [1, 60, 10**6])
def test_float64_gradients_of_packed_rows_are_those_of_padded_ones(token_budget: int) -> None:
    made, model = case(n=9), gpt2("float64")
    padded, packed = learner(model), learner(model, packing=True, token_budget=token_budget)
    packed.width = 160
    rows = [row for rows, _ in packed._micro_batches(made.samples, packed_data(packed, made), None) for row in rows]
    assert max(map(len, rows)) > 1
    found = []
    for each in (padded, packed):
        data = packed_data(each, made)
        np.testing.assert_allclose(data.logp_old, packed_data(padded, made).logp_old, rtol=0, atol=1e-9)
        found.append((each.update(made.samples, data, made.table), gradient_of(each.model)))
    (metrics, reference), (other_metrics, other) = found
    assert np.abs(reference).max() > 0.01
    np.testing.assert_allclose(other, reference, rtol=0, atol=1e-9)
    assert other_metrics == pytest.approx(metrics, abs=1e-9)


def packed_data(learner: Learner, made: Any) -> Any:
    return learner.prepare(made.samples, made.advantages, made.table)


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True, "chunk": 3}])
def test_rotary_positions_begin_anew_with_each_sample(changes: dict[str, Any]) -> None:
    made, model = case(n=9), tiny_model(tokenizer())
    padded, packed = learner(model), learner(model, packing=True, **changes)
    packed.width = 200
    for each in (padded, packed):
        each.update(made.samples, packed_data(each, made), made.table)
    reference = gradient_of(padded.model)
    np.testing.assert_allclose(gradient_of(packed.model), reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def test_a_model_that_carries_a_state_is_not_packed() -> None:
    config = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    with torch.random.fork_rng():
        model = build_model(config, tokenizer(), 0)
    with pytest.raises(ConfigError, match="does not keep the samples of a row apart"):
        learner(model, packing=True)
    assert learner(model, packing="auto").packing is False
    assert learner(tiny_model(tokenizer()), packing="auto").packing == "auto"


# ── attention ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["auto", "eager", "sdpa"])  # flex passes too, but compiles for minutes on a CPU
def test_samples_of_a_row_are_kept_apart_by_every_attention(name: str) -> None:
    model = tiny_model(tokenizer())
    chosen = model.config._attn_implementation
    set_attention(model, name)
    assert model.config._attn_implementation == (chosen if name == "auto" else name)
    assert keeps_apart(model)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_changes_no_gradient_of_packed_rows(name: str) -> None:
    made, model = case(n=9), tiny_model(tokenizer())
    other = copy.deepcopy(model)
    set_attention(other, name)
    padded, packed = learner(model), learner(other, packing=True)
    packed.width = 200
    for each in (padded, packed):
        each.update(made.samples, packed_data(each, made), made.table)
    reference = gradient_of(padded.model)
    np.testing.assert_allclose(gradient_of(packed.model), reference, rtol=0, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flash_attention_2", 'computes in bfloat16 only; set model.dtype = "bfloat16"'),
        ("flex_attention", "has no gradient on the CPU"),
    ],
)
def test_an_attention_that_cannot_be_trained_is_refused(name: str, words: str) -> None:
    model = tiny_model(tokenizer())
    with pytest.raises(ConfigError, match=words):
        set_attention(model, name)
        learner(model)


def test_an_attention_that_is_not_installed_is_one_line() -> None:
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed")
    with pytest.raises(ConfigError, match=r'model\.attention = "flash_attention_2": ') as caught:
        set_attention(tiny_model(tokenizer()).to(torch.bfloat16), "flash_attention_2")
    assert "\n" not in str(caught.value)
