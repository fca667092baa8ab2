"""A chat model behind any endpoint that speaks OpenAI's chat completions.

    endpoint = parse_endpoint("http://localhost:8000/v1#Qwen/Qwen3-8B,concurrency=8,timeout_s=60")
    async with OpenAIChat(endpoint) as model:
        reply = await model.generate([{"role": "user", "content": "Say yes."}])
    model.account()["tokens"]

Tried again, after exponential back-off with full jitter (or what Retry-After asks): statuses and answers as in
``completions``, timeouts, connections that cannot be made or are cut. After the last try: PolicyFault. What a repetition cannot
mend is a ConfigError as long as the endpoint has answered nothing; afterwards it is a PolicyFault too, which costs one episode
and not the results so far.

The key is read from the environment variable that ``key`` names. It stands in a request header only, and is cut out of errors
and replies, should the endpoint echo it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
from pydantic import Field

from agentrl import seeding
from agentrl.errors import ConfigError, PolicyFault, PromptTooLong
from agentrl.overrides import parse_parameters
from agentrl.policies.completions import Rejected, Unanswered, read_reply
from agentrl.registry import register, validate
from agentrl.types import Message, Reply, Sampling

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Wait = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_TOKENS = 1024  # of a completion, where nobody says
OPENAI_HOST, OPENAI_KEY = "api.openai.com", "OPENAI_API_KEY"
OWN_FIELDS = ("messages", "model", "n", "stream", "tools")
SECRET = (
    12  # characters from which on a key is cut out of replies: a shorter one is no secret, and may be a common word
)


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how.

    ``max_tokens`` bounds a completion, thoughts included (absent: that of the run file that says how it is prompted, else
    ``MAX_TOKENS``); ``concurrency`` the requests in flight. ``timeout_s`` bounds one try as a
    whole, ``connect_timeout_s`` the making of a connection, ``read_timeout_s`` the silence between two pieces of an answer
    (absent: ``timeout_s``). ``retries`` counts the tries after the first; the k-th waits a uniform time in
    [0, min(``max_wait_s``, ``backoff_s`` · 2^(k-1))]; a Retry-After above ``max_wait_s`` ends the tries. ``price_in``,
    ``price_out`` and ``price_cached`` (of prompt tokens that the endpoint had in its cache; absent: ``price_in``) are for a million
    tokens, in any currency. ``max_tokens_key`` is the request's name of ``max_tokens`` (``max_completion_tokens`` for OpenAI's
    reasoning models). ``seeded`` sends a seed of the request's own; ``extra`` adds further fields to a request.
    """

    url: str
    model: str
    key: str = ""  # the environment variable's name
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1)] = 8
    timeout_s: Seconds = 120.0
    connect_timeout_s: Seconds = 10.0
    read_timeout_s: Seconds | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    backoff_s: Wait = 1.0
    max_wait_s: Wait = 60.0
    price_in: Price | None = None
    price_out: Price | None = None
    price_cached: Price | None = None
    max_tokens_key: str = "max_tokens"
    seeded: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not self.model:
            raise ConfigError("the endpoint's model is missing: write openai:URL#MODEL")
        if self.key and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key):  # not shown: it may be the key itself
            raise ConfigError(
                "key must be the name of an environment variable (capitals, digits, _), not the key itself"
            )
        if (self.price_in is None) != (self.price_out is None) or (
            self.price_in is None and self.price_cached is not None
        ):
            raise ConfigError(
                "a cost needs both prices, price_in and price_out (for a million tokens); give both or none"
            )
        for name in self.extra:
            if name in OWN_FIELDS:
                raise ConfigError(f"extra cannot set '{name}' of a request")
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extra cannot be written as JSON: {error}") from error

    def secret(self) -> str:
        """The key, or "" for an endpoint that wants none. The variable OPENAI_API_KEY needs no naming for OpenAI's own host,
        and is sent to no other host unnamed. Raises ConfigError for a variable that is not set."""
        name = self.key or (OPENAI_KEY if httpx.URL(self.url).host == OPENAI_HOST else "")
        secret = os.environ.get(name, "").strip() if name else ""
        if name and not secret:
            raise ConfigError(
                f"the environment variable {name} is not set; put the endpoint's key into it, or name another"
            )
        if not re.fullmatch(r"[!-~]*", secret):
            raise ConfigError(f"the key in {name} holds blanks or characters that no key has; look at how it was set")
        return secret


def parse_endpoint(spec: str) -> Endpoint:
    """``URL#MODEL,key=value,…`` as an endpoint. Raises ConfigError, with the nearest known key for an unknown one.

    >>> parse_endpoint("http://localhost:8000/v1#small,concurrency=2").concurrency
    2
    """
    address, _, options = spec.partition(",")
    url, hash_sign, model = address.partition("#")
    if not hash_sign or not model:
        _check_url(url)
        raise ConfigError(
            "an endpoint is written openai:URL#MODEL, as in openai:http://localhost:8000/v1#my-model,concurrency=4"
        )
    given = parse_parameters(options, "openai:URL#MODEL,concurrency=4")
    for name in ("url", "model"):
        if name in given:
            raise ConfigError(f"'{name}' stands before the options: openai:URL#MODEL,key=value")
    return validate(Endpoint, {"url": url, "model": model, **given}, "openai")


def _check_url(text: str) -> None:
    """Raises ConfigError; what may be a password is not shown."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigError("the endpoint's URL cannot be read; write it as http://host:port/v1") from None
    if url.userinfo or url.query:
        raise ConfigError(
            "the endpoint's URL holds a password or a query, which would be recorded; use key=VARIABLE for a key"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"the endpoint's URL must begin with http:// or https:// and a host; got '{text}'")


@register("policy", "openai")
class OpenAIChat:
    """The ``ChatModel`` of an ``Endpoint``. As an asynchronous context manager it keeps its connections; outside of that each
    call makes its own. ``root_seed`` names the streams of jitter and seeds; ``sleep`` and ``now`` are the clock.

    Raises ConfigError for a key that cannot be used.
    """

    capabilities: frozenset[str] = frozenset({"messages"})

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        root_seed: int = 0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.endpoint = endpoint
        self.root_seed = root_seed
        self.sleep = sleep
        self.now = now
        self.n_retries = 0
        self.replies = _Sums()
        self._url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self._secret = endpoint.secret()
        # Reading the certificates takes a while: once, and only where they are needed.
        self._tls = False if httpx.URL(endpoint.url).scheme == "http" else httpx.create_ssl_context()
        self._client: httpx.AsyncClient | None = None
        self._limit: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._numbers = itertools.count()
        self._answered = False

    async def __aenter__(self) -> OpenAIChat:
        if self._client is not None:
            raise RuntimeError("this chat model is open already")
        self._client = self._connections()
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        sampling: Sampling | None = None,
    ) -> Reply:
        """The reply to a conversation. Raises as ``ChatModel`` says, and ConfigError for a request that the endpoint refuses
        before it has ever answered one."""
        key = sampling.key if sampling is not None and sampling.key else ("request", next(self._numbers))
        body = self._body(messages, tools, sampling, key)
        async with self._slot():
            try:
                reply = await self._persist(body, key)
            except Rejected as error:
                reply = self._rejected(error)
        self.replies.add(reply)
        return reply

    def account(self) -> dict[str, Any]:
        """``calls`` (replies), ``retries`` (tries after the first), ``tokens`` (prompt, completion, and cached: those of the prompt
        that the endpoint had in its cache), ``calls_without_usage`` (replies whose tokens the endpoint did not report: they
        are missing in tokens and cost), and ``cost`` (None without prices)."""
        sums, prices = self.replies, self.endpoint
        cost = None
        if prices.price_in is not None and prices.price_out is not None:
            cached = prices.price_in if prices.price_cached is None else prices.price_cached
            paid = (
                (sums.prompt - sums.cached) * prices.price_in
                + sums.cached * cached
                + sums.completion * prices.price_out
            )
            cost = round(paid / 1e6, 9)
        return {
            "calls": sums.calls,
            "retries": self.n_retries,
            "calls_without_usage": sums.without_usage,
            "tokens": {"prompt": sums.prompt, "completion": sums.completion, "cached": sums.cached},
            "cost": cost,
        }

    def _body(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        sampling: Sampling | None,
        key: tuple[int | str, ...],
    ) -> bytes:
        body: dict[str, Any] = {"model": self.endpoint.model, "messages": list(messages)}
        most = self.endpoint.max_tokens or MAX_TOKENS
        body[self.endpoint.max_tokens_key] = most if sampling is None else sampling.max_tokens
        if sampling is not None:
            body["temperature"] = sampling.temperature
            if sampling.top_p < 1:
                body["top_p"] = sampling.top_p
        if self.endpoint.seeded:
            body["seed"] = seeding.seed(self.root_seed, "sampling", *key)
        if tools is not None:
            body["tools"] = list(tools)
        return json.dumps(body | self.endpoint.extra).encode()

    async def _persist(self, body: bytes, key: tuple[int | str, ...]) -> Reply:
        """Tries until there is a reply. Raises Rejected, and PolicyFault after the last try."""
        settings = self.endpoint
        jitter = seeding.stream(self.root_seed, "backoff", *key)
        problem = ""
        for attempt in range(settings.retries + 1):
            try:
                return await self._try(body)
            except Unanswered as error:
                problem, asked = str(error), error.wait_s
            if attempt == settings.retries:
                break
            if asked is not None and asked > settings.max_wait_s:
                raise self._fault(f"{problem}; it asks to wait {asked:.0f} s, and max_wait_s = {settings.max_wait_s:g}")
            ceiling = min(settings.max_wait_s, settings.backoff_s * 2.0**attempt)
            wait = jitter.uniform(0, ceiling) if asked is None else asked + jitter.uniform(0, settings.backoff_s)
            self.n_retries += 1
            await self.sleep(wait)
        raise self._fault(f"{problem} (try {settings.retries + 1} of {settings.retries + 1})")

    async def _try(self, body: bytes) -> Reply:
        limit = self.endpoint.timeout_s
        try:
            async with asyncio.timeout(limit):
                if self._client is not None:
                    answer = await self._client.post(self._url, content=body)
                else:
                    async with self._connections() as client:
                        answer = await client.post(self._url, content=body)
        except (TimeoutError, httpx.TimeoutException) as error:
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
            raise Unanswered(f"{what} in time ({type(error).__name__}; timeout_s = {limit:g})") from None
        except httpx.RequestError as error:  # no connection, one that was cut, a body that cannot be unpacked
            raise Unanswered(f"{type(error).__name__}: {self._redacted(str(error))}") from None
        reply = read_reply(answer.status_code, answer.headers, self._redacted(answer.text), self.now())
        self._answered = True
        return reply

    def _rejected(self, error: Rejected) -> Reply:
        """What a refusal comes to: an invalid action, the end of an episode, a fault, or a mistake of the user."""
        if error.kind == "filtered":
            return Reply(refusal=str(error), finish="abort", n_prompt=0, n_completion=0)
        if self._answered and error.kind == "too_long":
            raise PromptTooLong(f"the conversation no longer fits the model: {error}") from None
        if self._answered:
            raise self._fault(str(error)) from None
        remedy = {
            401: "name the environment variable of a key that it takes: key=NAME",
            403: "the key may not use this model; name another: key=NAME",
            404: "look at the URL (it mostly ends in /v1) and at the name of the model",
        }.get(error.status, "look at the URL, the model and the options")
        if error.kind == "too_long":
            remedy = (
                f"bound the answer, as in openai:{self.endpoint.url}#{self.endpoint.model},max_tokens=64, or by a run file "
                "that says rollout.max_tokens (--config); or make the prompt shorter"
            )
        raise ConfigError(f"{self._url} refuses the request for '{self.endpoint.model}': {error}; {remedy}") from None

    def _fault(self, problem: str) -> PolicyFault:
        return PolicyFault(f"{self._url}: {problem}")

    def _redacted(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if len(self._secret) >= SECRET else text

    def _slot(self) -> asyncio.Semaphore:
        """One of ``concurrency`` places; a semaphore belongs to one event loop, and a model may serve several in turn."""
        loop = asyncio.get_running_loop()
        if self._limit is None or self._limit[0] is not loop:
            self._limit = loop, asyncio.Semaphore(self.endpoint.concurrency)
        return self._limit[1]

    def _connections(self) -> httpx.AsyncClient:
        settings = self.endpoint
        silence = settings.read_timeout_s or settings.timeout_s
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        return httpx.AsyncClient(
            headers=headers,
            verify=self._tls,
            timeout=httpx.Timeout(silence, connect=settings.connect_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.concurrency),
        )


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    without_usage: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def add(self, reply: Reply) -> None:
        self.calls += 1
        self.without_usage += reply.n_prompt is None or reply.n_completion is None
        self.prompt += reply.n_prompt or 0
        self.completion += reply.n_completion or 0
        self.cached += min(reply.n_cached, reply.n_prompt or 0)
