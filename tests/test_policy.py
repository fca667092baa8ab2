"""Policies: ids in, ids out, and log-probs that are exactly those of the distribution that was drawn from."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from toys import tiny_model, tokenizer

from agentrl.errors import ConfigError, PolicyFault
from agentrl.policies import BatchPolicy, Policy, ReplayPolicy, Request, ScriptedPolicy
from agentrl.policies.transformers import TransformersPolicy, sample
from agentrl.types import Call, Sampling, Task, Trajectory, Turn

PROMPTS = [[11, 12], [13], [14, 15, 16, 17, 18, 19, 20], [21, 22, 23], [24] * 12]


@pytest.fixture(scope="module")
def model():
    return tiny_model(tokenizer())


def requests(**changes) -> list[Request]:
    sampling = Sampling(temperature=0.7, max_tokens=6, stop_ids=(2,))
    return [Request(f"r{n}", ids, replace(sampling, key=("episode", n), **changes)) for n, ids in enumerate(PROMPTS)]


def reference_logprobs(model, prompt: list[int], ids: list[int], temperature: float) -> list[float]:
    """log_softmax(logits / T) of one full forward pass without a cache, at the sampled tokens."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
    logp = (logits / temperature).log_softmax(-1)
    return logp.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1).tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_logprobs_are_those_of_a_full_forward_pass(model, temperature: float) -> None:
    asked = requests(temperature=temperature)
    for request, done in zip(asked, TransformersPolicy(model).generate_batch(asked), strict=True):
        expected = reference_logprobs(model, list(request.prompt_ids), done.ids, temperature)
        np.testing.assert_allclose(done.logprobs, expected, atol=1e-5)


def test_what_is_drawn_does_not_depend_on_the_batch(model) -> None:
    asked = requests(max_tokens=12)
    together = TransformersPolicy(model).generate_batch(asked)
    for batch_size in (1, 2, 3):
        again = TransformersPolicy(model, batch_size=batch_size).generate_batch(asked)
        assert [done.ids for done in again] == [done.ids for done in together]
    turned = TransformersPolicy(model).generate_batch(asked[::-1])[::-1]
    assert [done.ids for done in turned] == [done.ids for done in together]
    for done, alone in zip(together, turned, strict=True):
        np.testing.assert_allclose(done.logprobs, alone.logprobs, atol=1e-5)


def test_equal_prompts_are_read_once_and_drawn_apart(model, monkeypatch) -> None:
    asked = [replace(request, id=f"{request.id}/{n}", sampling=replace(request.sampling, key=(request.id, n)))
             for request in requests(max_tokens=8) for n in range(3)]  # fmt: skip
    alone = TransformersPolicy(model, batch_size=1).generate_batch(asked)
    widths, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: widths.append(len(inputs["input_ids"])) or forward(**inputs))
    together = TransformersPolicy(model).generate_batch(asked)
    assert widths[:2] == [len(PROMPTS), len(asked)]
    assert [done.ids for done in together] == [done.ids for done in alone]
    assert len({tuple(done.ids) for done in together}) > len(PROMPTS)
    for done, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(done.logprobs, one.logprobs, atol=1e-5)


def test_rows_leave_the_batch_when_they_are_done(model) -> None:
    """Limits of 1 to 5 tokens: each row is still what it is alone, and the model is fed live rows only."""
    asked = [replace(r, sampling=replace(r.sampling, max_tokens=n + 1, stop_ids=())) for n, r in enumerate(requests())]
    rows: list[int] = []
    forward = model.forward

    def counting(*args, **kwargs):
        rows.append(kwargs["input_ids"].shape[0])
        return forward(*args, **kwargs)

    model.forward = counting
    try:
        together = TransformersPolicy(model).generate_batch(asked)
    finally:
        model.forward = forward
    assert rows == [5, 4, 3, 2, 1]
    assert [len(done.ids) for done in together] == [1, 2, 3, 4, 5]
    assert [done.finish for done in together] == ["length"] * 5
    for request, done in zip(asked, together, strict=True):
        assert TransformersPolicy(model).generate_batch([request])[0].ids == done.ids


def test_a_stop_token_ends_a_completion_and_belongs_to_it(model) -> None:
    free = TransformersPolicy(model).generate_batch(requests(stop_ids=(), max_tokens=8))
    stop = free[0].ids[3]
    first = free[0].ids.index(stop)
    done = TransformersPolicy(model).generate_batch(requests(stop_ids=(stop,), max_tokens=8))
    assert done[0].ids == free[0].ids[: first + 1]
    assert done[0].finish == "stop"
    for short, long in zip(done, free, strict=True):
        assert short.ids == long.ids[: len(short.ids)]
        assert short.finish == ("stop" if stop in long.ids else "length")


def test_temperature_zero_is_greedy(model) -> None:
    asked = requests(temperature=0.0, stop_ids=(), max_tokens=4)
    for request, done in zip(asked, TransformersPolicy(model, root_seed=3).generate_batch(asked), strict=True):
        ids = list(request.prompt_ids)
        for token in done.ids:
            with torch.no_grad():
                assert token == int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
        expected = reference_logprobs(model, list(request.prompt_ids), done.ids, 1.0)
        np.testing.assert_allclose(done.logprobs, expected, atol=1e-5)


def test_temperatures_may_differ_within_a_batch(model) -> None:
    asked = [
        replace(r, sampling=replace(r.sampling, temperature=t))
        for r, t in zip(requests(), (0.0, 0.5, 1.0, 2.0, 0.0), strict=True)
    ]
    together = TransformersPolicy(model).generate_batch(asked)
    assert [done.ids for done in together] == [TransformersPolicy(model).generate_batch([r])[0].ids for r in asked]


def test_every_request_has_its_own_named_stream(model) -> None:
    policy = TransformersPolicy(model)
    same = [Request(f"r{n}", [11, 12], Sampling(max_tokens=10, key=("episode", n))) for n in range(4)]
    drawn = [tuple(done.ids) for done in policy.generate_batch(same)]
    assert len(set(drawn)) == 4
    assert [tuple(done.ids) for done in policy.generate_batch(same)] == drawn
    assert [tuple(d.ids) for d in TransformersPolicy(model, root_seed=1).generate_batch(same)] != drawn


def test_the_models_mode_and_the_version_are_kept(model) -> None:
    policy = TransformersPolicy(model)
    policy.version = 7
    model.train()
    assert {done.version for done in policy.generate_batch(requests())} == {7}
    assert model.training
    model.eval()
    assert isinstance(policy, BatchPolicy) and not isinstance(policy, Policy)
    assert policy.generate_batch([]) == []


def test_a_truncated_distribution_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="top_p = 1"):
        TransformersPolicy(model).generate_batch(requests(top_p=0.9))


# ---- sample() -------------------------------------------------------------------------------------------------------


def test_sample_draws_the_tempered_distribution() -> None:
    """Chi-square over 20 000 independent uniforms, below the 99.9 % point of 5 degrees of freedom."""
    logits, n, temperature = torch.tensor([0.0, 1.0, -2.0, 3.0, float("-inf"), 0.5, 2.0]), 20_000, 1.7
    uniforms = np.random.default_rng(0).random(n).tolist()
    tokens, logprobs = sample(logits.expand(n, 7), [temperature] * n, uniforms)
    probabilities = (logits.double() / temperature).softmax(-1).numpy()
    counts = np.bincount(tokens, minlength=7)
    assert counts[4] == 0
    seen = probabilities > 0
    statistic = ((counts[seen] - n * probabilities[seen]) ** 2 / (n * probabilities[seen])).sum()
    assert statistic < 20.5
    np.testing.assert_allclose(logprobs, np.log(probabilities[tokens]), atol=1e-5)


def test_sample_at_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]] * 3)
    assert sample(logits, [1.0] * 3, [0.0, 0.5, 1 - 2**-53])[0] == [1, 2, 2]


def test_sample_greedy_takes_the_first_of_equals_and_reports_untempered() -> None:
    tokens, logprobs = sample(torch.tensor([[1.0, 2.0, 2.0]]), [0.0], [0.99])
    assert tokens == [1]
    assert logprobs == pytest.approx([float(torch.tensor([1.0, 2.0, 2.0]).log_softmax(-1)[1])])


# ---- policies without a model ---------------------------------------------------------------------------------------


def test_scripted_answers_from_a_function_and_keeps_the_limit() -> None:
    policy = ScriptedPolicy(lambda prompt_ids, sampling, request_id: [*prompt_ids, 2])
    assert isinstance(policy, Policy) and not isinstance(policy, BatchPolicy)
    sampling = Sampling(max_tokens=3, stop_ids=(2,))
    done = asyncio.run(policy.generate([7, 8], sampling, "r"))
    assert (done.ids, done.logprobs, done.finish) == ([7, 8, 2], None, "stop")
    cut = asyncio.run(policy.generate([7, 8, 9], sampling, "r"))
    assert (cut.ids, cut.finish) == ([7, 8, 9], "length")


def test_replay_gives_the_record_again_and_nothing_else() -> None:
    call = Call("agent", [5, 6], [7, 2], [-0.1, -0.2], finish="length", policy_version=4)
    record = Trajectory(id="t", env="toy", task=Task("a"), turns=[Turn("x"), Turn("y", calls=[call])])
    policy = ReplayPolicy([record])
    done = asyncio.run(policy.generate((5, 6), Sampling(), "t/turn=1"))
    assert (done.ids, done.logprobs, done.finish, done.version) == ([7, 2], [-0.1, -0.2], "length", 4)
    with pytest.raises(PolicyFault, match="nothing was recorded for t/turn=0"):
        asyncio.run(policy.generate([5, 6], Sampling(), "t/turn=0"))
    with pytest.raises(PolicyFault, match="prompt differs"):
        asyncio.run(policy.generate([5, 7], Sampling(), "t/turn=1"))
