"""A model behind an API: what is tried again and what is not, what is counted, and where the key never appears."""

from __future__ import annotations

import asyncio
import json
import threading
from email.utils import formatdate
from typing import Any

import pytest
from chat_server import Answer, Asked, ChatServer, fails, says
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import AgentRLError, ConfigError, PolicyFault, PromptTooLong
from agentrl.policies.completions import Rejected, Unanswered, read_reply
from agentrl.policies.openai import Endpoint, OpenAIChat
from agentrl.types import Message, Reply, Sampling

KEY = "sk-test-0123456789abcdef"
HELLO: list[Message] = [{"role": "user", "content": "Hello"}]
NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def _straight_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TOY_KEY", KEY)


class Clock:
    """Sleeps that take no time and are written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def model_of(server: ChatServer, clock: Clock | None = None, *, root_seed: int = 0, **options: Any) -> OpenAIChat:
    clock = clock or Clock()
    endpoint = Endpoint(url=server.url, model="toy", **options)
    return OpenAIChat(endpoint, root_seed=root_seed, sleep=clock.sleep, now=lambda: NOW)


def ask(model: OpenAIChat, messages: list[Message] = HELLO, sampling: Sampling | None = None, **more: Any) -> Reply:
    return asyncio.run(model.generate(messages, sampling=sampling, **more))


# ---- what is sent ---------------------------------------------------------------------------------------------------


def test_a_request_holds_what_was_asked_and_nothing_else() -> None:
    with ChatServer(says("yes")) as server:
        ask(model_of(server))
        tools = [{"type": "function", "function": {"name": "look"}}]
        sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, key=("eval", 3))
        model = model_of(server, key="TOY_KEY", max_tokens_key="max_completion_tokens", seeded=True, extra={"top_k": 4})
        ask(model, sampling=sampling, tools=tools)
    plain, full = server.asked
    assert plain.body == {"model": "toy", "messages": HELLO, "max_tokens": 1024}
    assert "Authorization" not in plain.headers and plain.path == "/v1/chat/completions"
    assert full.headers["Authorization"] == f"Bearer {KEY}"
    assert full.body.pop("seed") >= 0
    assert full.body == {
        "model": "toy", "messages": HELLO, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "tools": tools,
    }  # fmt: skip


def test_seeds_belong_to_the_request_and_to_the_run() -> None:
    def seeds(root: int, turn: int) -> int:
        with ChatServer(says("yes")) as server:
            ask(model_of(server, root_seed=root, seeded=True), sampling=Sampling(key=("eval", turn)))
        return server.asked[0].body["seed"]

    assert seeds(0, 1) == seeds(0, 1)
    assert len({seeds(0, 1), seeds(0, 2), seeds(1, 1)}) == 3


def test_connections_are_kept_inside_of_the_context_only() -> None:
    async def two(model: OpenAIChat) -> None:
        async with model:
            await model.generate(HELLO)
            await model.generate(HELLO)
            with pytest.raises(RuntimeError, match="open already"):
                await model.__aenter__()

    with ChatServer(says("yes")) as server:
        model = model_of(server)
        for _ in range(2):  # each with an event loop of its own
            asyncio.run(two(model))
        ask(model)
    assert len(server.asked) == 5


# ---- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (says("yes"), Reply("yes", n_prompt=100, n_completion=10)),
        (says(None), Reply("", n_prompt=100, n_completion=10)),
        (says("", finish="length", reasoning_content="hm"), Reply("", "hm", finish="length", n_prompt=100, n_completion=10)),
        (says("go", reasoning="hm", usage=None), Reply("go", "hm")),
        (says("x", finish="content_filter", usage={}), Reply("x", finish="abort")),
        (says(None, refusal="I will not.", usage={"prompt_tokens": "many"}), Reply("", refusal="I will not.")),
        (
            says([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "go"}], usage=None),
            Reply("go", "hm"),
        ),
        (
            says(None, finish="tool_calls", tool_calls=[{"id": "1"}], usage=None),
            Reply("", tool_calls=({"id": "1"},)),
        ),
        (
            says("a\ud800", usage={"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}),
            Reply("a?", n_prompt=5, n_completion=2, n_cached=3),
        ),
        (fails(400, "flagged", "content_filter"), Reply(refusal="flagged", finish="abort", n_prompt=0, n_completion=0)),
    ],
)  # fmt: skip
def test_replies(answer: Answer, reply: Reply) -> None:
    with ChatServer(answer) as server:
        assert ask(model_of(server)) == reply
    assert len(server.asked) == 1


# ---- what is tried again --------------------------------------------------------------------------------------------

BAD = {
    "429": fails(429, "slow down"),
    "500": fails(500, "oops"),
    "502": Answer("<html>bad gateway</html>", 502),
    "503": fails(503, "overloaded"),
    "504": Answer("", 504),
    "408": fails(408),
    "529": fails(529, "overloaded"),
    "cut before the headers": Answer(cut_at=0),
    "cut in the body": Answer({"choices": [1] * 100}, cut_at=10),
    "no JSON": Answer("{'choices'"),
    "no text": Answer(b"\xff\xfe\x00"),
    "nothing": Answer(""),
    "deep": Answer("[" * 100_000),
    "null": Answer("null"),
    "a list": Answer([1, 2]),
    "no choices": Answer({"id": "x"}),
    "empty choices": Answer({"choices": []}),
    "choices of another type": Answer({"choices": "yes"}),
    "a choice of another type": Answer({"choices": ["yes"]}),
    "no message": Answer({"choices": [{"text": "yes"}]}),
    "a message of another type": Answer({"choices": [{"message": "yes"}]}),
    "a content of another type": says(7),
    "parts of another type": says(["yes"]),
    "tool calls of another type": says("", tool_calls=["yes"]),
    "usage of another type": says("yes", usage=[3]),
    "not the encoding it says": Answer("plain", headers={"Content-Encoding": "gzip"}),
    "an error inside a 200": Answer({"error": {"message": "upstream", "code": 502}}),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_a_repetition_may_mend_is_tried_again(bad: str) -> None:
    with ChatServer(BAD[bad], BAD[bad], says("yes")) as server:
        model = model_of(server, retries=2)
        assert ask(model).text == "yes"
    assert len(server.asked) == 3
    assert (model.account()["calls"], model.account()["retries"]) == (1, 2)


@pytest.mark.parametrize("bad", BAD)
def test_after_the_last_try_it_is_a_fault_of_the_machinery(bad: str) -> None:
    with ChatServer(BAD[bad]) as server:
        model = model_of(server, retries=1, key="TOY_KEY")
        with pytest.raises(PolicyFault, match=r"127\.0\.0\.1.*\(try 2 of 2\)") as caught:
            ask(model)
    assert len(server.asked) == 2
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert model.account()["calls"] == 0


def test_an_answer_that_does_not_come_in_time_is_tried_again() -> None:
    with ChatServer(Answer(hold=True), says("yes")) as server:
        model = model_of(server, timeout_s=1.0)
        assert ask(model).text == "yes" and model.n_retries >= 1


@pytest.mark.parametrize("limit", ["timeout_s", "read_timeout_s"])
def test_an_answer_that_never_comes_is_a_fault(limit: str) -> None:
    clock = Clock()
    with ChatServer(Answer(hold=True)) as server, pytest.raises(PolicyFault, match="no answer in time"):
        ask(model_of(server, clock, retries=1, **{limit: 0.1}))
    assert len(clock.slept) == 1


def test_an_answer_that_comes_byte_by_byte_is_bounded_as_a_whole() -> None:
    with (
        ChatServer(Answer(drips=True)) as server,
        pytest.raises(PolicyFault, match=r"no answer in time \(TimeoutError"),
    ):
        ask(model_of(server, retries=0, timeout_s=0.3, read_timeout_s=20.0))


def test_a_server_that_is_not_there_is_a_fault() -> None:
    server = ChatServer(says("never"))
    server._server.server_close()
    clock = Clock()
    with pytest.raises(PolicyFault, match="ConnectError"):
        ask(model_of(server, clock, retries=3))
    assert len(clock.slept) == 3


# ---- how long it waits ----------------------------------------------------------------------------------------------


def waits(*answers: Answer, seed: int = 0, **options: Any) -> list[float]:
    clock = Clock()
    with ChatServer(*answers) as server:
        try:
            ask(model_of(server, clock, root_seed=seed, **options), sampling=Sampling(key=("eval", "task", 0)))
        except PolicyFault:
            return clock.slept
    return clock.slept


def test_waits_grow_have_jitter_and_repeat_with_the_seed() -> None:
    found = [waits(fails(500), seed=seed, retries=6, backoff_s=2.0, max_wait_s=10.0) for seed in range(8)]
    assert found[0] == waits(fails(500), seed=0, retries=6, backoff_s=2.0, max_wait_s=10.0)
    assert found[0] != found[1]
    for number, ceiling in enumerate([2.0, 4.0, 8.0, 10.0, 10.0, 10.0]):
        drawn = [slept[number] for slept in found]
        assert all(0 <= wait <= ceiling for wait in drawn)
        assert max(drawn) > ceiling / 2 and min(drawn) < ceiling / 2  # full jitter, not a little of it


def test_no_back_off_is_no_waiting() -> None:
    assert waits(fails(500), fails(429), says("yes"), backoff_s=0) == [0, 0]


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": "0.5"}, 0.5),
        ({"Retry_After": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"Retry_After": formatdate(NOW - 30, usegmt=True)}, 0),
        ({"retry_after_ms": "1500", "Retry_After": "9"}, 1.5),
    ],
)
def test_retry_after_is_honoured(headers: dict[str, str], least: float) -> None:
    (slept,) = waits(fails(429, **headers), says("yes"), backoff_s=0.25)
    assert least <= slept <= least + 0.25


@pytest.mark.parametrize("value", ["soon", "-3", "nan", "inf", "", "9" * 400])
def test_a_retry_after_that_makes_no_sense_is_left_out(value: str) -> None:
    (slept,) = waits(fails(503, Retry_After=value), says("yes"), backoff_s=0.25)
    assert 0 <= slept <= 0.25


def test_a_retry_after_beyond_the_bound_ends_the_tries() -> None:
    daily = fails(429, "daily limit", Retry_After="86400")
    words = "daily limit; it asks to wait 86400 s, and max_wait_s = 60"
    with ChatServer(daily) as server, pytest.raises(PolicyFault, match=words):
        ask(model_of(server))
    assert len(server.asked) == 1


# ---- what is not tried again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fails(400, "temperature is not supported"), "HTTP 400: temperature is not supported"),
        (fails(401, "no key"), "HTTP 401: no key; name the environment variable of a key"),
        (fails(403, "not yours"), "may not use this model"),
        (fails(404, "no such model"), "look at the URL (it mostly ends in /v1) and at the name of the model"),
        (Answer("", 404), "HTTP 404; look"),
        (Answer({"detail": "Not Found"}, 404), "HTTP 404: Not Found"),
        (Answer("moved", 301, {"Location": "http://127.0.0.1:1/"}), "HTTP 301: moved"),
        (fails(501), "HTTP 501"),
        (fails(429, "you have no credit left", "insufficient_quota"), "you have no credit left"),
        (fails(400, "maximum context length is 16", "context_length_exceeded"), "#toy,max_tokens=64, or by a run file"),
        (Answer({"error": {"message": "bad key", "code": 401}}), "HTTP 401: bad key"),
    ],
)
def test_what_a_repetition_cannot_mend_is_said_at_once(answer: Answer, words: str) -> None:
    with ChatServer(answer) as server:
        with pytest.raises(ConfigError) as caught:
            ask(model_of(server))
        assert words in str(caught.value) and "'toy'" in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_once_it_has_answered_a_refusal_costs_one_episode_and_not_the_results() -> None:
    long = fails(400, "This model's maximum context length is 16 tokens")
    with ChatServer(says("yes"), fails(401, "expired"), long, says("again")) as server:
        model = model_of(server)
        assert ask(model).text == "yes"
        with pytest.raises(PolicyFault, match="HTTP 401: expired"):
            ask(model)
        with pytest.raises(PromptTooLong, match="maximum context length is 16"):
            ask(model)
        assert ask(model).text == "again"


# ---- concurrency ----------------------------------------------------------------------------------------------------


def test_as_many_requests_are_in_flight_as_allowed_and_no_more() -> None:
    gate = threading.Barrier(3, timeout=20)

    def answer(asked: Asked) -> Answer:
        gate.wait()  # passes when three are here, so the test ends only if three ever are
        return says("yes")

    async def twelve(model: OpenAIChat) -> list[Reply]:
        async with model:
            return await asyncio.gather(*(model.generate(HELLO) for _ in range(12)))

    with ChatServer(answer=answer) as server:
        replies = asyncio.run(twelve(model_of(server, concurrency=3)))
    assert [reply.text for reply in replies] == ["yes"] * 12
    assert server.most_active == 3


# ---- tokens and cost ------------------------------------------------------------------------------------------------


def test_tokens_and_cost_are_those_of_the_replies() -> None:
    cached = says(
        "yes", usage={"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
    )
    prices = {"price_in": 2.0, "price_out": 8.0}
    for more, expected in [
        (prices, (2000 * 2.0 + 150 * 8.0) / 1e6),
        ({**prices, "price_cached": 0.5}, (1600 * 2.0 + 400 * 0.5 + 150 * 8.0) / 1e6),
        ({}, None),
    ]:
        with ChatServer(cached, fails(500), says("no", usage=(1000, 50)), says("?", usage=None)) as server:
            model = model_of(server, **more)
            for _ in range(3):
                ask(model)
        account = model.account()
        assert account["cost"] == pytest.approx(expected) if expected is not None else account["cost"] is None
        assert account["tokens"] == {"prompt": 2000, "completion": 150, "cached": 400}
        assert (account["calls"], account["retries"], account["calls_without_usage"]) == (3, 1, 1)
        json.dumps(account)


# ---- the key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 301, 400, 401, 429, 500])
@pytest.mark.parametrize("form", ["json", "text", "header"])
def test_a_key_that_the_endpoint_echoes_stays_out_of_errors_and_replies(status: int, form: str) -> None:
    words = f"the key Bearer {KEY} is wrong"
    answer = {
        "json": fails(status, words),
        "text": Answer(words, status),
        "header": Answer("{}", status, {"X-Key": KEY}),
    }[form]
    with ChatServer(answer) as server:
        model = model_of(server, key="TOY_KEY", retries=1)
        with pytest.raises(AgentRLError) as caught:
            ask(model)
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    seen: BaseException | None = caught.value
    while seen is not None:
        assert KEY not in f"{seen!r} {seen}"
        seen = seen.__cause__ or seen.__context__
    assert KEY not in repr(model.endpoint) and KEY not in repr(model)


def test_a_reply_with_the_key_in_it_is_cut() -> None:
    with ChatServer(says(f"your key is {KEY}")) as server:
        assert ask(model_of(server, key="TOY_KEY")).text == "your key is [key]"


def test_a_short_key_is_no_secret_and_no_word_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", "EMPTY")
    with ChatServer(says("the box is EMPTY")) as server:
        assert ask(model_of(server, key="TOY_KEY")).text == "the box is EMPTY"


def test_openais_key_goes_unnamed_to_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Endpoint(url="https://api.openai.com/v1", model="m").secret() == KEY
    assert Endpoint(url="https://api.openai.com.example/v1", model="m").secret() == ""
    assert Endpoint(url="http://localhost:8000/v1", model="m").secret() == ""
    assert Endpoint(url="http://localhost:8000/v1", model="m", key="OPENAI_API_KEY").secret() == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        Endpoint(url="https://api.openai.com/v1", model="m").secret()


@pytest.mark.parametrize("value", ["sk-abc\ndef-ghi-jkl", "sk-ä-0123456789", "two words"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", value)
    with pytest.raises(ConfigError, match="the key in TOY_KEY") as caught:
        OpenAIChat(Endpoint(url="http://localhost/v1", model="m", key="TOY_KEY"))
    assert value not in str(caught.value)


# ---- invariants -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "content", "error", "code", "usage", "prompt_tokens", "prompt_tokens_details",
             "finish_reason", "tool_calls", "type", "text", "thinking", "reasoning", "refusal", "detail", "cached_tokens"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.sampled_from([200, 204, 302, 400, 401, 429, 500]), st.booleans())
def test_whatever_an_endpoint_writes_is_a_reply_or_a_reason(data: Any, status: int, nested: bool) -> None:
    body = {"choices": [{"message": data}], "usage": data} if nested else data
    try:
        reply = read_reply(status, {}, json.dumps(body), NOW)
    except (Unanswered, Rejected) as error:
        assert "\n" not in str(error)
        return
    assert 200 <= status < 300
    json.dumps(reply.to_dict())
    assert all(isinstance(getattr(reply, name), str) for name in ("text", "reasoning", "refusal"))
    assert reply.n_prompt is None or reply.n_prompt >= 0
