"""Search-R1's retrieval API from the answering side: ``POST /retrieve`` over any retriever.

    {"queries": ["…"], "topk": 3, "return_scores": true}  ->  {"result": [[{"document": {"id", "contents"}, "score": 1.5}, …]]}

Without ``return_scores`` each list holds the documents themselves. A request that cannot be read is status 400 with an ``error``, a
passage that cannot be read 500, a retriever that is down 503.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentrl.errors import ConfigError, GameError, ToolFault
from agentrl.retrieval.base import Hit, Passage, Retriever

MAX_BODY = 16 * 2**20
MAX_TOPK = 1000


class BadRequest(Exception):
    """A request that cannot be answered; the message is for who asked."""


class RetrievalServer(ThreadingHTTPServer):
    """Listens at once; ``serve_forever`` answers, each connection in a thread. ``port`` 0 takes a free one. Raises ConfigError
    for an address that cannot be listened on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, retriever: Retriever, host: str = "127.0.0.1", port: int = 8000, topk: int = 3) -> None:
        self.retriever, self.topk = retriever, topk
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}; give another --port or --host") from error

    @property
    def url(self) -> str:
        """What a client is given."""
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/retrieve"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of what went wrong with a request, unless it is that who asked has gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def answer(self, body: Any) -> dict[str, Any]:
        """The reply to a request's JSON. Raises BadRequest."""
        if not isinstance(body, dict):
            raise BadRequest('wanted an object with "queries"')
        queries, k, scores = body.get("queries"), body.get("topk"), body.get("return_scores", False)
        if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
            raise BadRequest('wanted "queries" as a list of texts')
        k = self.topk if k is None else k
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_TOPK:
            raise BadRequest(f'wanted "topk" as an integer from 1 to {MAX_TOPK}')
        if not isinstance(scores, bool):
            raise BadRequest('wanted "return_scores" as true or false')
        entry = _scored if scores else _document
        return {"result": [[entry(hit) for hit in hits] for hits in self.retriever.search(queries, k)]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120  # seconds that a connection may be silent

    def do_POST(self) -> None:
        if self.path.rstrip("/") != "/retrieve":
            return self._write(404, {"error": f"nothing is at {self.path}; POST to /retrieve"}, close=True)
        try:
            assert isinstance(self.server, RetrievalServer)
            self._write(200, self.server.answer(self._body()))
        except BadRequest as error:
            self._write(400, {"error": str(error)}, close=True)
        except ToolFault as error:  # a retriever that asks another server
            self._write(503, {"error": str(error)})
        except GameError as error:  # a passage that cannot be read
            self._write(500, {"error": str(error)})

    def do_GET(self) -> None:
        self._write(405, {"error": "POST to /retrieve"}, close=True)

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        # Python refuses to read a number of thousands of digits.
        chunked = self.headers.get("Transfer-Encoding")
        if chunked or not re.fullmatch("[0-9]{1,18}", length) or int(length) > MAX_BODY:
            raise BadRequest(f"wanted a Content-Length of at most {MAX_BODY}, and no Transfer-Encoding")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from error

    def _write(self, status: int, reply: dict[str, Any], close: bool = False) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if close:  # its body was not read, or cannot be trusted to end where it says
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error: a line a query would be the slowest part."""


def _document(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "contents": Passage(hit.id, hit.title, hit.text).contents}


def _scored(hit: Hit) -> dict[str, Any]:
    return {"document": _document(hit), "score": hit.score}


def serve(server: RetrievalServer, say: Callable[[str], None]) -> None:
    """Answers until it is interrupted; ``say`` is told once that it does."""
    say(f"answering at {server.url}")
    with server:
        server.serve_forever()
