"""A chat-completions server on this machine that answers as it is told, also badly, and remembers what it was asked."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import agentrl

PATIENCE_S = 30.0  # a test that hangs ends in an error


@dataclass
class Asked:
    """One request: the parsed body, the headers, and the number of it from 0."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    number: int


@dataclass
class Answer:
    """What the server writes. ``cut_at``: the connection is closed after so many bytes of a body that was announced in full
    (0: before the headers). ``hold``: nothing is written before the server stops. ``drips``: a byte at a time comes, for ever."""

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    hold: bool = False
    drips: bool = False


def says(text: Any, *, finish: str = "stop", usage: Any = (100, 10), **fields: Any) -> Answer:
    """A well-formed reply; ``usage`` is (prompt tokens, completion tokens), or what stands there instead."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **fields}, "finish_reason": finish}
    return Answer({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def fails(status: int, message: str = "", code: str | None = None, **headers: str) -> Answer:
    return Answer(
        {"error": {"message": message, "code": code}}, status, {k.replace("_", "-"): v for k, v in headers.items()}
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up in the middle of any read or write, which is no error; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class ChatServer:
    """``answers`` come in turn, the last one for ever; or ``answer(asked)`` makes each. ``most_active`` is how many requests
    it ever held at a time."""

    def __init__(self, *answers: Answer, answer: Callable[[Asked], Answer] | None = None) -> None:
        self.answers = list(answers)
        self.answer = answer or self._next
        self.asked: list[Asked] = []
        self.most_active = 0
        self._active = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def spec(self, **options: Any) -> str:
        """A policy spec that names this server; no waiting between tries."""
        given = {"backoff_s": 0, **options}
        return f"openai:{self.url}#toy" + "".join(f",{key}={value}" for key, value in given.items())

    def __enter__(self) -> ChatServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join(PATIENCE_S)
        self._server.server_close()

    def _next(self, asked: Asked) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._active += 1
            self.most_active = max(self.most_active, self._active)
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                announced = int(self.headers.get("Content-Length", 0))
                sent = self.rfile.read(announced)
                if not sent or len(sent) < announced:  # the client hung up while it wrote: nothing was asked
                    self.close_connection = True
                    return
                body = json.loads(sent)
                with server._lock:
                    asked = Asked(body, dict(self.headers), self.path, len(server.asked))
                    server.asked.append(asked)
                    answer = server.answer(asked) if server.answer == server._next else None
                with server._counted():
                    answer = answer or server.answer(asked)
                self._write(answer)

            def _write(self, answer: Answer) -> None:
                if answer.hold:
                    server._stopped.wait(PATIENCE_S)
                    self.close_connection = True
                    return
                data = answer.body if isinstance(answer.body, bytes) else _text(answer.body).encode()
                if answer.cut_at == 0:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(10**6 if answer.drips else len(data)))
                self.end_headers()
                while answer.drips and not server._stopped.wait(0.02):
                    self.wfile.write(b" ")
                self.wfile.write(data if answer.cut_at is None else data[: answer.cut_at])
                if answer.cut_at is not None:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on standard error."""

        return Handler


def _text(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)


HOUSEHOLD = "agentrl/Household-v0"


def housekeeper(n: int, *, clumsy: Callable[[int], bool] = lambda place: False) -> Callable[[Asked], Answer]:
    """A model that plays the first ``n`` houses of ``valid_seen`` by the oracle's plan, with memory ``append``: the first
    message names the task (``id ID`` on a line), the number of its own messages is the turn. On the houses at the places that
    ``clumsy`` takes it says nothing of use."""
    plans = {t.task.id: [turn.action for turn in t.turns] for t in agentrl.rollout(HOUSEHOLD, "oracle", n=n)}
    hopeless = {task_id for place, task_id in enumerate(plans) if clumsy(place)}

    def answer(asked: Asked) -> Answer:
        messages = asked.body["messages"]
        task_id = re.search(r"^id (.+)$", messages[0]["content"], re.MULTILINE)[1]  # type: ignore[index]
        turn = sum(message["role"] == "assistant" for message in messages)
        return says("I cannot tell." if task_id in hopeless else f"<action>{plans[task_id][turn]}</action>")

    return answer
