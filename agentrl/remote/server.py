"""The serving side of ``agentrl.remote``. Standard library only, Python 3.8 and later, so that it can be copied beside an
environment that needs an old Python:

    python3.8 server.py old_package:make_env --port 9000

``make_env()`` returns an object with Gymnasium's ``reset(seed=, options={"task": task})`` and ``step(action)``, and with
``tasks(split)``, a sequence of tasks: objects with the fields of ``agentrl.types.Task``, or dictionaries, of which "id" alone is
needed. ``reset`` is given the task as a dictionary with all fields; without a task it chooses one itself, by ``seed``. Texts for
prompts, and "success", stand in the info that ``reset`` and ``step`` return, as JSON. Each session is
one environment and one thread, which alone calls it. One that hangs keeps its thread and its place among ``max_sessions`` until the
server ends; a client that has waited long enough leaves the session and opens another. SIGTERM and Ctrl-C end the server, which
lets each environment close.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import itertools
import json
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CATALOGUE_HOOKS = ("vocabulary", "find_task")
HOOKS = ("state_key", "oracle", *CATALOGUE_HOOKS)
MAX_BODY = 16 * 2**20
MAX_TASKS = 1000  # of one reply
MAX_SESSIONS = 256
IDLE_S = 900.0
_NUMBER = re.compile(r"[0-9]{1,18}\Z")  # Python refuses to read thousands of digits
CLOSING_S = (
    5.0  # that environments have to close before a session is refused for want of places, and before the server ends
)


class CannotListen(OSError):
    """An address that is taken, or is none of this machine's."""


class Refused(Exception):
    """A reply other than 200. ``kind`` is what a client tells apart."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def _gone(key: str) -> Refused:
    name = f"session {key}" if key else "such session"
    return Refused(404, "session", f"there is no {name} (any more): the server was started again, or it was idle")


class Session:
    """One environment and the thread that alone makes and calls it. ``waiting`` counts the calls that have no answer yet;
    ``ended`` is set, and ``on_end`` called, when the environment has been closed."""

    def __init__(self, factory: Callable[[], Any], on_end: Callable[[], None] = lambda: None) -> None:
        self.used = time.monotonic()
        self.waiting = 0
        self.ended = threading.Event()
        self._on_end = on_end
        self._closed = False
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Callable[[Any], Any], list[Any], threading.Event] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._run, args=(factory,), daemon=True).start()
        try:
            self.ask(lambda env: None)
        except BaseException:  # what making it raises
            self.close()
            raise

    def ask(self, call: Callable[[Any], Any]) -> Any:
        """What ``call(environment)`` gives. Raises what it raises, and Refused where the session was closed."""
        answer: list[Any] = []
        answered = threading.Event()
        with self._lock:
            if self._closed:
                raise _gone("")
            self.waiting += 1
            self._calls.put((call, answer, answered))
        answered.wait()
        with self._lock:
            self.waiting -= 1
            self.used = time.monotonic()
        if isinstance(answer[0], Exception):
            raise answer[0]
        if isinstance(answer[0], BaseException):  # an environment that wants to end the process ends its session
            self.close()
            raise RuntimeError(f"the environment raised {answer[0]!r}") from answer[0]
        return answer[1]

    def idle(self, seconds: float) -> bool:
        """Whether nothing has been asked of it for so long; one at work is not idle, however long that takes."""
        with self._lock:
            return self.ended.is_set() or (not self.waiting and time.monotonic() - self.used > seconds)

    def close(self) -> None:
        """Ends the thread after what it has been asked for; its environment is closed there."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._calls.put(None)

    def _run(self, factory: Callable[[], Any]) -> None:
        try:
            self._serve(factory)
        finally:
            self.ended.set()
            self._on_end()

    def _serve(self, factory: Callable[[], Any]) -> None:
        env: Any = None
        while True:
            asked = self._calls.get()
            if asked is None:
                if env is not None:
                    getattr(env, "close", lambda: None)()
                return
            call, answer, answered = asked
            try:
                env = factory() if env is None else env
                answer += [None, call(env)]
            except BaseException as error:  # for who asked
                answer.append(error)
            answered.set()


class EnvServer(ThreadingHTTPServer):
    """Listens at once; ``serve_forever`` answers. ``port`` 0 takes a free one. ``decode`` makes the environment's task of a
    task's fields, ``user_errors`` are exceptions that a client's user can mend. At most ``max_sessions`` environments are there
    for sessions, those included that hang or are closing; sessions that nobody has used for ``idle_s`` seconds are closed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        factory: Callable[[], Any],
        host: str = "127.0.0.1",
        port: int = 9000,
        *,
        name: str = "",
        decode: Callable[[dict[str, Any]], Any] = dict,
        user_errors: tuple[type, ...] = (),
        max_sessions: int = MAX_SESSIONS,
        idle_s: float = IDLE_S,
    ) -> None:
        self.factory, self.name, self.decode, self.user_errors = factory, name, decode, user_errors
        self.max_sessions, self.idle_s = max_sessions, idle_s
        self.sessions: dict[str, Session] = {}
        self.leaving: list[Session] = []  # closed, with an environment that may be there still
        self.opening = 0
        self.catalogue: Any = None  # a session that lists tasks
        self.lock = threading.Condition()  # told of sessions that have ended
        self.numbers = itertools.count()
        self.replacing = threading.Lock()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise CannotListen(str(error)) from error
        try:
            self.catalogue = Session(factory)
        except BaseException:  # what making an environment raises
            self.server_close()
            raise

    @property
    def url(self) -> str:
        """What a client is given."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of what went wrong with a request, unless it is that who asked has gone."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def service_actions(self) -> None:
        """Closes what is idle; called by ``serve_forever`` between requests."""
        with self.lock:
            idle = [key for key, session in self.sessions.items() if session.idle(self.idle_s)]
        for key in idle:
            self.close_session(key)

    def server_close(self) -> None:
        """Stops listening and closes every session; waits some seconds for their environments to close."""
        super().server_close()
        with self.lock:
            closing = [*self.sessions.values(), *self.leaving, *([] if self.catalogue is None else [self.catalogue])]
            self.sessions.clear()
        for session in closing:
            session.close()
        ends = time.monotonic() + CLOSING_S
        for session in closing:
            session.ended.wait(max(0.0, ends - time.monotonic()))

    # ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, call: Callable[[Any], Any]) -> Any:
        """What ``call`` gives of an environment that plays no session. One that fails may have died, and is replaced once."""
        catalogue = self.catalogue
        try:
            return catalogue.ask(call)
        except Exception as error:
            if isinstance(error, (Refused, *self.user_errors)):
                raise
            with self.replacing:
                if self.catalogue is catalogue:  # nobody has replaced it meanwhile
                    self.catalogue = Session(self.factory)
                    catalogue.close()
            return self.catalogue.ask(call)

    def about(self) -> dict[str, Any]:
        def look(env: Any) -> dict[str, Any]:
            found: dict[str, Any] = {"name": self.name or type(env).__name__}
            found["hooks"] = [name for name in HOOKS if callable(_attribute(env, name))]
            tools = _attribute(env, "tools")
            return found if tools is None else {**found, "tools": tools}

        return self.look(look)

    def tasks(self, split: str, start: int, n: int) -> dict[str, Any]:
        def look(env: Any) -> dict[str, Any]:
            listed = _attribute(env, "tasks")
            if not callable(listed):
                raise Refused(404, "environment", f"{type(env).__name__} has no tasks(split)")
            found: Any = listed(split)
            return {"n": len(found), "tasks": [_fields(found[at]) for at in range(start, min(start + n, len(found)))]}

        return self.look(look)

    def open(self) -> dict[str, Any]:
        key = self._place()
        try:
            session = Session(self.factory, self._tell)
            with self.lock:
                self.sessions[key] = session
        finally:
            with self.lock:
                self.opening -= 1
        return {"session": key}

    def _tell(self) -> None:
        with self.lock:
            self.leaving = [session for session in self.leaving if not session.ended.is_set()]
            self.lock.notify_all()

    def _place(self) -> str:
        """Takes a place, and waits for one where environments are just closing. Raises Refused where all are taken."""
        with self.lock:
            self.lock.wait_for(lambda: self._room() or not self.leaving, CLOSING_S)
            if not self._room():
                hang = f"; {len(self.leaving)} of them were left, but hang" if self.leaving else ""
                raise Refused(503, "environment", f"all {self.max_sessions} sessions are in use{hang}")
            self.opening += 1
            return str(next(self.numbers))

    def _room(self) -> bool:
        return len(self.sessions) + self.opening + len(self.leaving) < self.max_sessions

    def close_session(self, key: str) -> dict[str, Any]:
        with self.lock:
            session = self.sessions.pop(key, None)
            if session is not None and not session.ended.is_set():
                self.leaving.append(session)
        if session is not None:
            session.close()
        return {}

    def session(self, key: str) -> Session:
        with self.lock:
            found = self.sessions.get(key)
        if found is None:
            raise _gone(key)
        return found

    def reset(self, session: Session, body: dict[str, Any]) -> dict[str, Any]:
        seed = _wanted(body, "seed", (int, type(None)))
        task = _wanted(body, "task", (dict, str, type(None)))
        try:
            chosen = self.decode(task) if isinstance(task, dict) else task
        except Exception as error:  # whatever makes a task of it says
            raise Refused(400, "request", f"'task' is none: {error}") from error
        options = {} if chosen is None else {"task": chosen}
        observation, info = session.ask(lambda env: env.reset(seed=seed, options=options))
        return {"observation": observation, "info": _plain(info, "info")}

    def step(self, session: Session, body: dict[str, Any]) -> dict[str, Any]:
        action = _wanted(body, "action", (str,))
        observation, reward, terminated, truncated, info = session.ask(lambda env: env.step(action))
        return {
            "observation": observation,
            "reward": float(reward),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "info": _plain(info, "info"),
        }

    def call(self, session: Session | None, body: dict[str, Any]) -> dict[str, Any]:
        """A hook of a session's environment; without a session, of one that has no episode."""
        name, args = _wanted(body, "name", (str,)), _wanted(body, "args", (list,))
        hooks = CATALOGUE_HOOKS if session is None else HOOKS
        if name not in hooks:
            raise Refused(400, "request", f"nothing to call is named {name!r}; there are {', '.join(hooks)}")

        def ask(env: Any) -> Any:
            method = _attribute(env, name)
            if not callable(method):
                raise Refused(404, "environment", f"{type(env).__name__} has no {name}()")
            found = method(*args)
            return _fields(found) if name == "find_task" else _plain(found, name)

        return {"value": self.look(ask) if session is None else session.ask(ask)}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request. Raises Refused, and what the environment raises."""
        if (method, path) == ("GET", "/about"):
            return self.about()
        if (method, path) == ("GET", "/tasks"):
            start, n = (_number(query, key, usual) for key, usual in (("start", 0), ("n", MAX_TASKS)))
            return self.tasks(query.get("split", ["train"])[0], start, min(n, MAX_TASKS))
        if (method, path) == ("POST", "/call"):
            return self.call(None, body)
        if (method, path) == ("POST", "/sessions"):
            return self.open()
        found = re.fullmatch(r"/sessions/(\w+)(?:/(reset|step|call))?", path)
        if found and method == "DELETE" and not found[2]:
            return self.close_session(found[1])
        if found and method == "POST" and found[2]:
            return getattr(self, found[2])(self.session(found[1]), body)
        raise Refused(404, "request", f"nothing is at {method} {path}; see agentrl.remote")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 600  # seconds that a connection may be silent
    server: Any  # EnvServer

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        try:
            body = self._body()
        except Refused as error:  # its body was not read, or cannot be trusted to end where it says
            self.close_connection = True
            return self._write(error.status, _json({"error": str(error), "kind": error.kind}))
        try:
            path = unquote(parts.path).rstrip("/")
            status, data = 200, _json(self.server.answer(self.command, path, parse_qs(parts.query), body))
        except Refused as error:
            status, data = error.status, _json({"error": str(error), "kind": error.kind})
        except Exception as error:  # of the environment
            kind = "user" if isinstance(error, self.server.user_errors) else "environment"
            text = str(error) if kind == "user" else f"{type(error).__name__}: {error}"
            status, data = 422 if kind == "user" else 500, _json({"error": text, "kind": kind})
        self._write(status, data)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") or not _NUMBER.match(length) or int(length) > MAX_BODY:
            raise Refused(400, "request", f"wanted a Content-Length of at most {MAX_BODY}, and no Transfer-Encoding")
        data = self.rfile.read(int(length))
        try:
            found = json.loads(data) if data else {}
        except (ValueError, RecursionError) as error:
            raise Refused(400, "request", f"the body is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise Refused(400, "request", "wanted a JSON object")
        return found

    def _write(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error: a line a turn would be the slowest part."""


def _json(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()


def _attribute(env: Any, name: str) -> Any:
    """An attribute of an environment, through Gymnasium's wrappers; None where there is none."""
    through = getattr(env, "get_wrapper_attr", None)
    try:
        return getattr(env, name) if through is None else through(name)
    except AttributeError:
        return None


def _fields(task: Any) -> Any:
    names = getattr(task, "__dataclass_fields__", None)
    made = task if names is None else {name: getattr(task, name) for name in names}
    return _plain(made, "a task")


def _plain(value: Any, where: str) -> Any:
    """The same as JSON; numpy's numbers and arrays become Python's. Raises TypeError for what JSON cannot hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{at}]") for at, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), where)
    if hasattr(value, "items"):
        return _plain(dict(value.items()), where)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def _wanted(body: dict[str, Any], key: str, kinds: tuple[type, ...]) -> Any:
    value = body.get(key)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise Refused(400, "request", f"wanted {key!r} as {names}, got {type(value).__name__}")
    return value


def _number(query: dict[str, list[str]], key: str, usual: int) -> int:
    text = query.get(key, [str(usual)])[0]
    if not _NUMBER.match(text):
        raise Refused(400, "request", f"wanted {key} as a number from 0, got {text[:40]!r}")
    return int(text)


def serve(server: EnvServer, say: Callable[[str], None]) -> None:
    """Answers until it is interrupted; ``say`` is told once that it does."""
    say(f"answering at {server.url}")
    with server:
        server.serve_forever()


def main() -> None:
    """Serves what a function of a module makes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("factory", help="MODULE:FUNCTION that makes an environment")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--max-sessions", type=int, default=MAX_SESSIONS)
    args = parser.parse_args()
    sys.path.insert(0, "")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C: environments close
    module, _, name = args.factory.partition(":")
    factory = getattr(importlib.import_module(module), name)
    with contextlib.suppress(KeyboardInterrupt):
        server = EnvServer(factory, args.host, args.port, name=args.factory, max_sessions=args.max_sessions)
        serve(server, functools.partial(print, flush=True))


if __name__ == "__main__":
    main()
