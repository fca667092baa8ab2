"""Memory for numbers: bfloat16 with float32 masters, layers computed twice, logits in chunks. What is learnt stays the same."""

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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_cases import case, gpt2, gradient_of, snapshot
from toys import tiny_model, tokenizer

from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.losses import PPOClip
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning.checkpoint import build_model
from agentrl.learning.learner import Learner, OptimizerSettings
from agentrl.learning.logprobs import Head
from agentrl.policies import Request
from agentrl.policies.transformers import TransformersPolicy
from agentrl.types import Sampling

STILL = OptimizerSettings(lr=0.0, max_grad_norm=1e9)


@dataclass(frozen=True)
class Entropy:
    """A regularizer with a gradient through the entropy."""

    reads = ("entropy",)

    def __call__(self, inputs: LossInputs) -> Any:
        return 0.3 * inputs.require("entropy")


def updated(model: Any, **changes: Any) -> Learner:
    """A learner after one update that leaves the weights and the gradient in place."""
    given = case()
    settings = {"loss": PPOClip(), "regularizers": [Entropy()], "settings": STILL, "old_logprobs": "sampler"}
    learner = Learner(model=copy.deepcopy(model), **{**settings, **changes})
    learner.update(given.samples, learner.prepare(given.samples, given.advantages, given.table), given.table)
    return learner


def master_gradient(learner: Learner) -> np.ndarray:
    return torch.cat([p.grad.double().flatten() for p in learner.masters.parameters if p.grad is not None]).numpy()


# ---- bfloat16 -------------------------------------------------------------------------------------------------------


def test_updates_of_a_millionth_move_bfloat16_weights() -> None:
    """AdamW on the weights themselves moves none of those above 0.001 in 400 updates; through the masters they move."""
    given, rate, n_updates = case(), OptimizerSettings(lr=1e-6, weight_decay=0.0), 400
    learner = Learner(model=gpt2("bfloat16"), loss=PPOClip(high=10.0), settings=rate, old_logprobs="sampler")
    weights = [p for p in learner.model.parameters() if p.requires_grad]
    start = [p.detach().float().clone() for p in weights]
    data = learner.prepare(given.samples, np.ones(len(given.table)), given.table)
    learner.update(given.samples, data, given.table)
    touched = [master.grad != 0 for master in learner.masters.parameters]
    step = torch.cat([(m - s).abs()[t] for (_, m), s, t in zip(learner.masters.pairs, start, touched, strict=True)])
    assert (step > 0).float().mean() > 0.99 and float(step.detach().max()) == pytest.approx(1e-6, rel=0.3)

    naive = [s.bfloat16().requires_grad_() for s in start]
    optimizer = torch.optim.AdamW(naive, lr=1e-6, weight_decay=0.0)
    fixed = [m.grad.clone() for m in learner.masters.parameters]
    for _ in range(n_updates):
        for parameter, master, gradient in zip(naive, learner.masters.parameters, fixed, strict=True):
            parameter.grad, master.grad = gradient.bfloat16(), gradient.clone()
        optimizer.step()
        learner.optimizer.step()
    learner.masters.publish()
    large = [(s.abs() > 1e-3) & t for s, t in zip(start, touched, strict=True)]
    moved = lambda now: torch.cat(  # noqa: E731
        [(n.detach().float() != s)[chosen] for n, s, chosen in zip(now, start, large, strict=True)]
    )
    assert not moved(naive).any()
    assert moved(weights).float().mean() > 0.2
    for weight, (_, master) in zip(weights, learner.masters.pairs, strict=True):
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, master.bfloat16())


def test_gradients_are_summed_over_micro_batches_in_float32() -> None:
    learner = updated(gpt2("bfloat16"), token_budget=1)
    assert all(p.grad is None for p in learner.model.parameters())
    assert all(master.grad.dtype == torch.float32 for _, master in learner.masters.pairs)
    found, whole = master_gradient(learner), master_gradient(updated(gpt2("bfloat16")))
    exact = gradient_of(updated(gpt2("bfloat16").float()).model)
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    assert cosine(found, exact) > 0.99 and cosine(whole, exact) > 0.99
    rounded = torch.tensor(found).bfloat16().double().numpy()
    assert not np.array_equal(rounded, found)  # the sum holds more digits than any of its parts


def test_a_bfloat16_learner_goes_on_bit_by_bit() -> None:
    given = case()

    def learner() -> Learner:
        return Learner(model=gpt2("bfloat16"), loss=PPOClip(), settings=OptimizerSettings(lr=1e-4), token_budget=60)

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
    for (_, one), (_, other) in zip(first.masters.pairs, again.masters.pairs, strict=True):
        assert torch.equal(one, other)


def test_masters_of_another_model_are_refused() -> None:
    state = Learner(model=gpt2("float32"), loss=PPOClip()).state_dict()
    assert state["masters"] == []
    with pytest.raises(CheckpointError, match="does not fit this model: it has 0 float32 masters"):
        Learner(model=gpt2("bfloat16"), loss=PPOClip()).load_state_dict(state)


@pytest.mark.parametrize(("change", "words"), [("half", "float16"), ("frozen", "no parameter that is trained")])
def test_what_cannot_be_trained_is_refused(change: str, words: str) -> None:
    model = gpt2("float32")
    model = model.half() if change == "half" else model.requires_grad_(False)
    with pytest.raises(ConfigError, match=words):
        Learner(model=model, loss=PPOClip())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("changes", [{}, {"chunk": 4}, {"gradient_checkpointing": True}])
def test_bfloat16_on_a_gpu(changes: dict[str, Any]) -> None:
    """The sampler's log-probs are the learner's to what bfloat16 can tell, and an update moves the masters."""
    model = tiny_model(tokenizer(), dtype="bfloat16").cuda()
    policy = TransformersPolicy(model, kv_cache_bytes=2**20)
    done = policy.generate_batch([Request("e/turn=0", [11, 12, 13], Sampling(max_tokens=5))])[0]
    assert len(done.ids) == 5 and np.isfinite(done.logprobs or []).all()
    given = case()
    learner = Learner(model=model, loss=PPOClip(), settings=OptimizerSettings(lr=1e-3), **changes)
    data = learner.prepare(given.samples, given.advantages, given.table)
    before = [master.detach().clone() for master in learner.masters.parameters]
    assert np.isfinite(learner.update(given.samples, data, given.table)["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.masters.parameters, strict=True))


# ---- layers computed twice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: gpt2("float64").train(), lambda: tiny_model(tokenizer())])
def test_gradient_checkpointing_gives_the_same_gradient(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    expected = gradient_of(updated(model).model)
    counts: list[str] = []
    layer = type(next(m for m in model.modules() if "gradient_checkpointing" in type(m).__mro__[1].__dict__))
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, *a, **k: (counts.append("pass"), forward(self, *a, **k))[1])
    learner = updated(model, gradient_checkpointing=True)
    n_layers = len(learner.layers.layers) if learner.layers is not None else 0
    assert n_layers == 2
    np.testing.assert_allclose(gradient_of(learner.model), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    counts.clear()
    given = case()
    data = learner.prepare(given.samples, given.advantages, given.table)
    assert len(counts) == 0  # the sampler's log-probs are the old ones
    learner.update(given.samples, data, given.table)
    assert len(counts) == 2 * n_layers
    counts.clear()
    learner.logprobs(given.samples, data)
    assert len(counts) == n_layers


def test_a_model_that_checkpoints_still_samples_with_a_cache() -> None:
    model = tiny_model(tokenizer())
    asked = [Request("e/turn=0", [11, 12, 13], Sampling(max_tokens=5))]
    expected = TransformersPolicy(model).generate_batch(asked)[0].ids
    learner = Learner(model=model, loss=PPOClip(), settings=STILL, gradient_checkpointing=True)
    given = case()
    learner.update(given.samples, learner.prepare(given.samples, given.advantages, given.table), given.table)
    policy = TransformersPolicy(model)
    assert policy.generate_batch(asked)[0].ids == expected and policy.n_read_tokens == 3


def test_layers_that_drop_out_by_themselves_are_refused() -> None:
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "word_embed_proj_dim": 16,
    }
    config = {"model_type": "opt", "max_position_embeddings": 64, **shape}
    with pytest.raises(ConfigError, match="OPTForCausalLM applies dropout in its layers"):
        Learner(
            model=build_model({**config, "dropout": 0.5}, tokenizer(), 0), loss=PPOClip(), gradient_checkpointing=True
        )
    model = build_model({**config, "dropout": 0.0}, tokenizer(), 0)
    assert Learner(model=model, loss=PPOClip(), gradient_checkpointing=True).layers is not None


# ---- logits in chunks -----------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gave."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.n_elements = max([self.n_elements, *sizes])
        return out


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("chunk", [1, 5, 10**6])
def test_chunks_give_the_same_gradient(dtype: str, chunk: int) -> None:
    model = gpt2(dtype)
    expected = gradient_of(updated(model).model)
    found = gradient_of(updated(model, chunk=chunk).model)
    tolerance = 1e-9 if dtype == "float64" else 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_no_more_logits_exist_at_a_time_than_a_chunk_has() -> None:
    """A vocabulary far larger than everything else in the model."""
    config = {"model_type": "gpt2", "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 64, "n_inner": 4}
    model, size = build_model({**config, "vocab_size": 50_000}, tokenizer(), 0), 50_000
    n_tokens = sum(sample.n_trained for sample in case().samples)
    assert n_tokens > 3 * 5
    largest = {}
    for chunk in (5, n_tokens):
        with Largest() as seen:
            updated(model, chunk=chunk)
        largest[chunk] = seen.n_elements
    assert largest == {5: 5 * size, n_tokens: n_tokens * size}


SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
HEADS = [
    ({"model_type": "granite", "logits_scaling": 4.0}, Head(scale=0.25)),
    ({"model_type": "granite", "logits_scaling": 1.0}, Head()),
    ({"model_type": "gemma2", "final_logit_softcapping": 0.5, "head_dim": 8}, Head(cap=0.5)),
    ({"model_type": "gemma2", "final_logit_softcapping": None, "head_dim": 8}, Head()),
    ({"model_type": "cohere", "logit_scale": 0.0625}, Head(scale=0.0625)),
]


@pytest.mark.parametrize(("config", "head"), HEADS)
def test_heads_that_scale_or_cap_are_followed(config: dict[str, Any], head: Head) -> None:
    model = build_model({"intermediate_size": 32, "initializer_range": 0.3, **SHAPE, **config}, tokenizer(), 0)
    given = case()
    learner = Learner(model=model, loss=PPOClip())
    assert learner.log_probs.head == head
    data = learner.prepare(given.samples, given.advantages, given.table)
    assert data.logp_old is not None
    for index, sample in enumerate(given.samples):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(sample.token_ids)[None]).logits[0].double()
        for token in data.tokens_of([index]):
            place = int(data.position[token])
            logp = (logits[place - 1] / float(sample.temperature[place])).log_softmax(-1)[sample.token_ids[place]]
            assert data.logp_old[token] == pytest.approx(float(logp), abs=1e-5)


def test_a_head_that_does_something_else_is_refused() -> None:
    model = tiny_model(tokenizer())
    forward = model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits + torch.arange(output.logits.shape[-1])
        return output

    model.forward = shifted
    with pytest.raises(ConfigError, match="Qwen2ForCausalLM changes its logits behind the output embedding"):
        Learner(model=model, loss=PPOClip())
