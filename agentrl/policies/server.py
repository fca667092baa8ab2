"""A policy behind OpenAI's chat completions: what ``openai:`` specs, and any client of such an API, can ask.

    POST /v1/chat/completions   {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "tools"}
    GET  /v1/models

Messages are rendered by the model's own chat template, as in training: what stands in them cannot act as a special token. Calls of
tools are read in Hermes' form. What cannot be answered is status 400 or 404 with an ``error`` in OpenAI's form, also a field that
would change the answer and is not known here; an engine that fails is 503, so that clients try again, and one that is not started
again ends the server. What a client has asked for that is gone before the answer is cancelled.
"""

from __future__ import annotations

import itertools
import json
import re
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from agentrl.chat.renderer import Renderer
from agentrl.chat.tool_calls import Calls, Hermes
from agentrl.errors import AgentRLError, ConfigError, EngineLost, PolicyFault
from agentrl.policies.base import BatchPolicy, Request
from agentrl.types import Completion, Message, Sampling, ToolCall

MAX_BODY = 16 * 2**20
MAX_TOOLS = 64  # sets of tools whose renderers are kept
BODY, BODY_A_TOKEN = (
    2**20,
    64,
)  # bytes that a body may have in any case, and further ones for each of the model's positions
ROLES = ("system", "developer", "user", "assistant", "tool")  # a template may put a role between markers as it is
# Fields that would change the answer, with the values that do not.
FIXED: dict[str, tuple[Any, ...]] = {
    "stream": (False,), "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"), "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,),
    "logit_bias": ({},), "top_k": (0, -1), "min_p": (0,), "min_tokens": (0,),
}  # fmt: skip


class Refused(Exception):
    """A request that cannot be answered; the message is for who asked."""

    def __init__(self, message: str, status: int = 400, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Gone(Exception):
    """Who asked has gone before there was an answer."""


class Submits(Protocol):
    """What samples for many threads."""

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Future[Completion]: ...


class Batching:
    """Requests of many threads to a ``BatchPolicy``: whatever waits when one batch is over makes the next one."""

    def __init__(self, policy: BatchPolicy, batch_size: int = 256) -> None:
        self.policy = policy
        self.batch_size = batch_size
        self._waiting: SimpleQueue[tuple[Request, Future[Completion]]] = SimpleQueue()
        threading.Thread(target=self._serve, name="batches", daemon=True).start()

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Future[Completion]:
        """Raises ConfigError for what the policy cannot do."""
        if sampling.top_p < 1:
            raise ConfigError(
                "this engine samples from the whole distribution; leave top_p out, or serve with --engine vllm"
            )
        future: Future[Completion] = Future()
        self._waiting.put((Request(request_id, prompt_ids, sampling), future))
        return future

    def _serve(self) -> None:
        while True:
            batch = [self._waiting.get()]
            try:
                while len(batch) < self.batch_size:
                    batch.append(self._waiting.get_nowait())
            except Empty:
                pass
            batch = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                completions = self.policy.generate_batch([request for request, _ in batch])
            except Exception as error:  # whatever it is belongs to those who asked; the thread goes on
                for _, future in batch:
                    future.set_exception(PolicyFault(f"the engine failed: {error}"))
                continue
            for (_, future), completion in zip(batch, completions, strict=True):
                future.set_result(completion)


class Answers:
    """Chat completions of a policy. ``limit``: the model's positions, which prompt and completion share (None: unknown)."""

    def __init__(self, engine: Submits, renderer: Renderer, name: str, limit: int | None) -> None:
        self.engine = engine
        self.name = name
        self.limit = limit
        self._renderer = renderer
        self._with_tools: dict[str, Renderer] = {}
        self._numbers = itertools.count()
        self._rendering = threading.Lock()  # a tokenizer belongs to one thread at a time

    def models(self) -> dict[str, Any]:
        """The answer to GET /v1/models."""
        return {"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "agentrl"}]}

    @property
    def max_body(self) -> int:
        """Bytes of a request. While one is read into tokens all others wait, so what is far too long is not begun with."""
        return MAX_BODY if self.limit is None else min(MAX_BODY, BODY + BODY_A_TOKEN * self.limit)

    def answer(self, body: Any, client: socket.socket | None = None) -> dict[str, Any]:
        """The answer to a request's JSON. Raises Refused, PolicyFault where the engine failed, and Gone where ``client`` closes its
        connection before there is one."""
        if not isinstance(body, dict):
            raise Refused('wanted an object with "model" and "messages"')
        if body.get("model") != self.name:
            raise Refused(
                f"the model '{body.get('model')}' is not served here, but '{self.name}' is", 404, "model_not_found"
            )
        for name, usual in FIXED.items():
            given = body.get(name)
            if given is not None and not any(
                given == each and isinstance(given, bool) == isinstance(each, bool) for each in usual
            ):
                raise Refused(f'"{name}" = {_shown(given)} is not supported; leave it out')
        number = next(self._numbers)
        try:
            with self._rendering:
                renderer = self._renderer_of(body.get("tools"))
                prompt_ids = renderer.prompt(_messages(body.get("messages")))
            sampling = self._sampling(body, len(prompt_ids), renderer.stop_ids, number)
            done = awaited(self.engine.submit(prompt_ids, sampling, f"request={number}"), client)
        except ConfigError as error:
            raise Refused(str(error)) from error
        with self._rendering:
            text = renderer.decode(done.ids)
        tools = bool(body.get("tools")) and body.get("tool_choice") != "none"
        message, finish = _message(text, done.finish, _stops(body), tools)
        usage = {"prompt_tokens": len(prompt_ids), "completion_tokens": len(done.ids)}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": self.name,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }

    def _renderer_of(self, tools: Any) -> Renderer:
        if not tools:
            return self._renderer
        if not isinstance(tools, list) or not all(_is_tool(tool) for tool in tools):
            raise Refused('wanted "tools" as a list of {"type": "function", "function": {"name": …}}')
        key = json.dumps(tools, sort_keys=True)
        if key not in self._with_tools:
            if len(self._with_tools) >= MAX_TOOLS:
                self._with_tools.clear()
            self._with_tools[key] = self._renderer.with_tools(tools)
        return self._with_tools[key]

    def _sampling(self, body: dict[str, Any], n_prompt: int, stop_ids: tuple[int, ...], number: int) -> Sampling:
        temperature = _number(body, "temperature", 1.0, 0.0, 100.0)
        top_p = _number(body, "top_p", 1.0, 0.0, 1.0)
        wanted = body.get("max_completion_tokens", body.get("max_tokens"))
        room = None if self.limit is None else self.limit - n_prompt
        if wanted is not None and (type(wanted) is not int or wanted < 1):
            raise Refused(f'wanted "max_tokens" as an integer from 1 on; got {_shown(wanted)}')
        if room is not None and room < (wanted or 1):
            asked = f" and {_shown(wanted)} of a completion" if wanted else ""
            raise Refused(
                f"this model's maximum context length is {self.limit} tokens, and the messages have {n_prompt}{asked}",
                code="context_length_exceeded",
            )
        seed = body.get("seed")
        if seed is not None and type(seed) is not int:
            raise Refused(f'wanted "seed" as an integer; got {_shown(seed)}')
        key = ("request", number) if seed is None else ("seed", seed)
        return Sampling(temperature, top_p, wanted or room or 1024, stop_ids, key)


def _is_tool(value: Any) -> bool:
    function = value.get("function") if isinstance(value, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def awaited(future: Future[Completion], client: socket.socket | None) -> Completion:
    """The completion. Raises what it raises; where ``client`` closes its connection before, cancels it and raises Gone."""
    if client is None:
        return future.result()
    mine, other = socket.socketpair()
    with mine, other, selectors.DefaultSelector() as selector:
        other.setblocking(False)
        selector.register(mine, selectors.EVENT_READ)
        selector.register(client, selectors.EVENT_READ)
        future.add_done_callback(lambda _: _wake(other))
        while not future.done():
            if any(key.fileobj is client for key, _ in selector.select()):
                if _closed(client):
                    future.cancel()
                    raise Gone
                selector.unregister(client)  # it asks for more already: that is read when this is answered
    return future.result()


def _wake(waiting: socket.socket) -> None:
    with suppress(OSError):  # nobody waits any more
        waiting.send(b"x")


def _closed(client: socket.socket) -> bool:
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except ConnectionError:
        return True


def _shown(value: Any) -> str:
    """A value of a request in a message for who asked."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a number of more than 20 digits"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Refused(f'wanted "{name}" as a number from {low:g} to {high:g}; got {_shown(value)}')
    return float(value)


def _stops(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise Refused('wanted "stop" as a text or a list of texts')
    return stops


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise Refused('wanted "messages" as a list that is not empty')
    return [_read(message) for message in given]


def _read(message: Any) -> Message:
    """A message as the renderer takes it: its text, with the calls that an assistant made."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise Refused(f'wanted each message as an object with "content" and a "role" of {", ".join(ROLES)}')
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise Refused("a message's parts must be texts")
        content = "".join(part["text"] for part in content)
    calls = message.get("tool_calls") or []
    if not isinstance(content, str) and not (content is None and calls):
        raise Refused('wanted "content" as a text')
    try:
        made = [ToolCall(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused('wanted "tool_calls" as {"function": {"name", "arguments"}}, the arguments as JSON') from error
    texts = [content or "", Hermes().render(made)] if made else [content or ""]
    return {"role": message["role"], "content": "\n".join(filter(None, texts))}


def _message(text: str, finish: str, stops: Sequence[str], tools: bool) -> tuple[dict[str, Any], str]:
    """The assistant's message, and why it ended. Calls that cannot be read stay text."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    if places:
        text, finish = text[: min(places)], "stop"
    found = Hermes().parse(text) if tools else None
    if not isinstance(found, Calls) or not found.calls:
        return {"role": "assistant", "content": text}, finish
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for number, call in enumerate(found.calls)
    ]
    return {"role": "assistant", "content": found.rest or None, "tool_calls": calls}, "tool_calls"


class PolicyServer(ThreadingHTTPServer):
    """Listens at once; ``serve_forever`` answers, each connection in a thread. ``port`` 0 takes a free one. Raises ConfigError
    for an address that cannot be listened on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answers: Answers, host: str = "127.0.0.1", port: int = 8000) -> None:
        self.answers = answers
        self.lost: EngineLost | None = None  # why there will be no further answer
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}; give another --port or --host") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of what went wrong with a request, unless it is that who asked has gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError | Gone):
            super().handle_error(request, client_address)

    def give_up(self, error: EngineLost) -> None:
        """Ends ``serve_forever``: there is nobody to answer for it."""
        if self.lost is None:
            self.lost = error
            threading.Thread(target=self.shutdown, name="shutdown", daemon=True).start()  # which waits for the loop

    @property
    def url(self) -> str:
        """What a client is given."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120  # seconds that a connection may be silent

    def do_POST(self) -> None:
        if self._place() != "/v1/chat/completions":
            return self._fail(404, f"nothing is at {self.path}; POST to /v1/chat/completions", "not_found")
        assert isinstance(self.server, PolicyServer)
        answers = self.server.answers
        try:
            reply = answers.answer(self._body(answers.max_body), self.connection)
        except Refused as error:
            return self._fail(error.status, str(error), error.code)
        except PolicyFault as error:
            self._fail(503, str(error), "engine_failed")
            if isinstance(error, EngineLost):
                self.server.give_up(error)
            return None
        except (Gone, ConnectionError, TimeoutError):
            raise
        except Exception as error:  # a mistake of ours: who asked shall not wait, and it is told of here
            self._fail(500, f"the server failed: {type(error).__name__}: {error}", "server_error")
            raise
        self._write(200, reply)

    def do_GET(self) -> None:
        assert isinstance(self.server, PolicyServer)
        if self._place() != "/v1/models":
            return self._fail(404, f"nothing is at {self.path}; GET /v1/models", "not_found")
        self._write(200, self.server.answers.models())

    def _place(self) -> str:
        return self.path.partition("?")[0].rstrip("/")

    def _body(self, most: int) -> Any:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not re.fullmatch("[0-9]{1,18}", length):
            raise Refused("wanted a body with a Content-Length, and no Transfer-Encoding")
        if int(length) > most:
            raise Refused(f"wanted at most {most} bytes; got {int(length)}", 413, "context_length_exceeded")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Refused(f"the body is no JSON: {error}") from error

    def _fail(self, status: int, message: str, code: str) -> None:
        # The body may not have been read: what follows on this connection could be the rest of it.
        self._write(status, {"error": {"message": message, "type": code, "code": code}}, close=True)

    def _write(self, status: int, reply: dict[str, Any], close: bool = False) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error: a line a request would be the slowest part."""


def serve(server: PolicyServer, say: Callable[[str], None], usage: str = "") -> None:
    """Answers until it is interrupted; ``say`` is told once that it does, and then of ``usage``. Raises AgentRLError where its
    engine is lost."""
    say(f"answering at {server.url} as {server.answers.name}: openai:{server.url}#{server.answers.name}")
    if usage:
        say(usage)
    with server:
        server.serve_forever()
    if server.lost is not None:
        raise AgentRLError(f"the server has ended: {server.lost}")
