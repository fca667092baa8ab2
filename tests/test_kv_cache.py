"""What is kept between turns: the same ids and log-probs as without it, fewer tokens read, a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from toys import PROMPT, Corridor, tiny_model, tokenizer

from agentrl import build
from agentrl.agents import Append, ChatAgent, Window
from agentrl.chat import Renderer
from agentrl.config import parse
from agentrl.learning.checkpoint import build_model
from agentrl.policies import Request
from agentrl.policies.prefix_cache import PrefixStore, plain_layers
from agentrl.policies.transformers import TransformersPolicy
from agentrl.rollouts import EnvPool, Limits, Rollouts
from agentrl.types import Completion, RolloutRequest, Sampling

PLENTY = 2**30


def built(kind: str, **changes: Any) -> Any:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"model_type": kind, "intermediate_size": 32, "initializer_range": 0.3, "pad_token_id": 0, **shape}
    return build_model({**config, **changes}, tokenizer(), 0).eval()


def gpt2() -> Any:
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    return build_model({"model_type": "gpt2", **shape}, tokenizer(), 0).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(tokenizer())


def played(policy: TransformersPolicy, *, n_rounds: int = 5, seed: int = 0) -> Iterator[tuple[Request, Completion]]:
    """Episodes of very different lengths whose prompts grow behind what was sampled. In every round one begins anew and one
    is shown something else than it saw before; the first two are alike at the start."""
    rng = np.random.default_rng(seed)
    words = lambda low, high: rng.integers(10, 40, rng.integers(low, high)).tolist()  # noqa: E731
    first = words(3, 20)
    prompts = {0: first, 1: first, 2: words(1, 2), 3: words(30, 40), 4: words(5, 9)}
    for turn in range(n_rounds):
        requests = [
            Request(f"e={n}/turn={turn}", ids, Sampling(0.8, 1.0, 2 + n % 5, (2, 12, 13), ("e", n, turn)))
            for n, ids in prompts.items()
        ]
        for request, done in zip(requests, policy.generate_batch(requests), strict=True):
            yield request, done
            prompts[int(request.id.split("/")[0][2:])] = [*request.prompt_ids, *done.ids, *words(0, 12), 7]
        prompts[turn % 5] = words(4, 30)  # shown anew
        prompts[5 + turn] = words(2, 9)  # a new one


def same(one: Iterator[tuple[Request, Completion]], other: Iterator[tuple[Request, Completion]]) -> int:
    """The number of completions that are equal, all of them."""
    n = 0
    for (asked, found), (asked_too, plain) in zip(one, other, strict=True):
        assert asked.id == asked_too.id and list(asked.prompt_ids) == list(asked_too.prompt_ids)
        assert found.ids == plain.ids and found.finish == plain.finish
        np.testing.assert_allclose(found.logprobs, plain.logprobs, atol=1e-5)
        n += 1
    return n


@pytest.mark.parametrize("make", [lambda: tiny_model(tokenizer()), gpt2, lambda: built("llama")])
@pytest.mark.parametrize("batch_size", [2, 256])
def test_ids_and_log_probs_are_those_without_it(make: Any, batch_size: int) -> None:
    made = make()
    keeping = TransformersPolicy(made, batch_size=batch_size, kv_cache_bytes=PLENTY)
    plain = TransformersPolicy(made, batch_size=batch_size)
    assert same(played(keeping), played(plain)) == 5 + 6 + 7 + 8 + 9
    assert keeping.n_prompt_tokens == plain.n_prompt_tokens > plain.n_read_tokens  # equal prompts are read once
    assert keeping.n_read_tokens < 0.7 * plain.n_read_tokens


def test_memory_that_was_never_written_is_never_read(model: Any) -> None:
    """torch fills new memory with not-a-number where it is told to be deterministic."""
    torch.use_deterministic_algorithms(True)
    try:
        assert np.isnan(torch.empty(3).numpy()).all()
        found = list(played(TransformersPolicy(model, kv_cache_bytes=PLENTY)))
    finally:
        torch.use_deterministic_algorithms(False)
    same(iter(found), played(TransformersPolicy(model)))


def test_a_turn_reads_what_is_new_and_the_token_that_was_sampled_last(model: Any) -> None:
    policy = TransformersPolicy(model, kv_cache_bytes=PLENTY)
    sampling = Sampling(max_tokens=4, key=("e",))
    done = policy.generate_batch([Request("e/turn=0", [11, 12, 13], sampling)])[0]
    assert (policy.n_prompt_tokens, policy.n_read_tokens) == (3, 3)
    longer = [11, 12, 13, *done.ids, 14, 15]
    policy.generate_batch([Request("e/turn=1", longer, sampling)])
    assert (policy.n_prompt_tokens, policy.n_read_tokens) == (3 + 9, 3 + 3)
    policy.generate_batch([Request("e/turn=2", [10, *longer], sampling)])  # begins otherwise: all of it is read
    assert policy.n_read_tokens == 6 + 10
    policy.generate_batch([Request("f/turn=3", [10, *longer], sampling)])  # another episode
    assert policy.n_read_tokens == 16 + 10


@pytest.mark.parametrize("limit", [1, 3_000, 20_000])
def test_memory_is_bounded_and_nothing_changes(model: Any, limit: int) -> None:
    policy = TransformersPolicy(model, kv_cache_bytes=limit)
    found = []
    for pair in played(policy):
        assert policy.store is not None and policy.store.n_bytes <= limit
        found.append(pair)
    same(iter(found), played(TransformersPolicy(model)))
    unbounded = TransformersPolicy(model, kv_cache_bytes=PLENTY)
    list(played(unbounded))
    assert policy.n_read_tokens > unbounded.n_read_tokens


def test_new_weights_end_what_was_kept(model: Any) -> None:
    policy = TransformersPolicy(model, kv_cache_bytes=PLENTY)
    sampling = Sampling(max_tokens=4, key=("e",))
    done = policy.generate_batch([Request("e/turn=0", [11, 12, 13], sampling)])[0]
    policy.version += 1
    policy.generate_batch([Request("e/turn=1", [11, 12, 13, *done.ids, 14], sampling)])
    assert policy.n_read_tokens == 3 + 8


def test_what_an_episode_leaves_is_forgotten(model: Any) -> None:
    policy = TransformersPolicy(model, kv_cache_bytes=PLENTY)
    ids = ["e/turn=0", "e/turn=0/role=planner", "f/turn=0", "e/member=1/turn=0"]
    policy.generate_batch([Request(name, [11, 12 + n], Sampling(max_tokens=2)) for n, name in enumerate(ids)])
    store = policy.store
    assert store is not None and len(store) == 4
    kept = store.n_bytes
    policy.forget("e")
    assert len(store) == 2 and store.find("e/turn=1", [11, 12, 9, 9]) is None and store.n_bytes == kept
    for episode in ("f", "e/member=1", "never-was"):
        policy.forget(episode)
    assert len(store) == 0 and store.n_bytes == 0


def test_the_store_finds_only_what_a_prompt_extends() -> None:
    store = PrefixStore(10_000)
    keys = torch.arange(24.0).reshape(2, 1, 3, 4)  # two rows, one head, three tokens; the second row has read two
    store.put(["a/turn=0", "b/turn=0"], [[5, 6, 7], [8, 9]], [(keys, -keys)])
    past = store.find("b/turn=1", [8, 9, 4])
    assert past is not None and past.length == 2
    assert torch.equal(past.layers[0][0], keys[1, :, 1:]) and torch.equal(past.layers[0][1], -keys[1, :, 1:])
    assert store.find("a/turn=1", [5, 6, 7]) is None  # nothing is left to read: no logits
    assert store.find("a/turn=1", [5, 6, 8, 1]) is None
    assert store.find("c/turn=1", [5, 6, 7, 1]) is None
    assert store.n_bytes == 2 * keys.numel() * 4


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_a_model_with_a_sliding_window_reads_everything(kind: str) -> None:
    """Its layers drop what is out of the window: there is nothing to cut and join."""
    made = built(kind, sliding_window=8)
    assert plain_layers(made) is None and plain_layers(built("mistral", sliding_window=None)) == 2
    policy = TransformersPolicy(made, kv_cache_bytes=PLENTY)
    assert policy.store is None
    for request, done in list(played(policy))[::4]:
        alone = TransformersPolicy(made).generate_batch([request])[0]
        assert alone.ids == done.ids
    policy.forget("e=0")


@pytest.mark.parametrize(
    ("changes", "n_bytes"),
    [
        ({}, None),  # a window: nothing would be found again
        ({"agent": {"memory": {"name": "append"}}}, 4 * 2**30),
        ({"agent": {"memory": {"name": "append"}}, "rollout": {"kv_cache_gib": 0.5}}, 2**29),
        ({"agent": {"memory": {"name": "append"}}, "rollout": {"kv_cache": False}}, None),
        ({"env": [{"id": "a"}, {"id": "b", "agent": {"memory": {"name": "append"}}}]}, 4 * 2**30),
    ],
)
def test_a_run_file_keeps_where_prompts_grow(changes: dict[str, Any], n_bytes: int | None, model: Any) -> None:
    store = build.policy(parse({"env": {"id": "a"}, **changes}), model).store
    assert (store.limit_bytes if store is not None else None) == n_bytes


@pytest.mark.parametrize("memory", [Append(), Window(turns=1)])
def test_whole_episodes_are_the_same_and_leave_nothing(memory: Any, model: Any) -> None:
    made = tokenizer()

    def roll(kv_cache_bytes: int) -> tuple[list[Any], TransformersPolicy]:
        policy = TransformersPolicy(model, kv_cache_bytes=kv_cache_bytes)
        rollouts = Rollouts(
            EnvPool(Corridor),
            ChatAgent(Renderer(made), memory, prompt=PROMPT),
            policy,
            limits=Limits(max_turns=4),
            sampling=Sampling(max_tokens=6),
            max_live=5,  # some begin while others are in the middle
        )
        groups = rollouts.run([RolloutRequest(task, 3) for task in Corridor().tasks("train")[:3]], ("iteration", 0))
        calls = [call for group in groups for member in group for call in member.calls()]
        return calls, policy

    (found, keeping), (expected, plain) = roll(PLENTY), roll(0)
    assert [call.completion_ids for call in found] == [call.completion_ids for call in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
    assert keeping.store is not None and len(keeping.store) == 0 and keeping.store.n_bytes == 0
    if isinstance(memory, Append):
        assert keeping.n_read_tokens < 0.6 * plain.n_read_tokens
