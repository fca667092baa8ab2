"""An environment that is served elsewhere, as one of Gymnasium's: ``agentrl/Remote-v0``."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import gymnasium
import httpx

from agentrl.env import AwaitedEnv, LazyTasks, TextEnv
from agentrl.errors import ConfigError, EnvFault, EnvTimeout, GameError
from agentrl.types import Task

PAGE = 100  # tasks a request
LEAVE_S = 2.0
T = TypeVar("T")


class Wire:
    """Requests to one server, from any thread and any event loop: they are made in a loop of their own."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="remote environments", daemon=True).start()
        unbounded = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        # A server is named on purpose: no proxy of the surroundings stands between.
        self._client = httpx.AsyncClient(base_url=self.url, limits=unbounded, trust_env=False)

    async def _ask(self, method: str, path: str, timeout_s: float, **parts: Any) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._client.request(method, path, timeout=None, **parts)
                found = reply.json()
        except TimeoutError:
            raise EnvTimeout(f"{self.url} gave no answer to {method} {path} within {timeout_s:g} s") from None
        except (httpx.HTTPError, ValueError) as error:
            raise EnvFault(f"{self.url} did not answer {method} {path}: {type(error).__name__}: {error}") from error
        if reply.status_code != 200:
            raise _error(self.url, found)
        return found

    def ask(self, method: str, path: str, timeout_s: float, **parts: Any) -> Any:
        """The reply's JSON. Raises EnvTimeout, EnvFault, and GameError for what a user can mend."""
        return self._begun(self._ask(method, path, timeout_s, **parts)).result()

    async def asked(self, method: str, path: str, timeout_s: float, **parts: Any) -> Any:
        """``ask`` that can be awaited."""
        return await asyncio.wrap_future(self._begun(self._ask(method, path, timeout_s, **parts)))

    def _begun(self, work: Coroutine[Any, Any, T]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _error(url: str, found: Any) -> Exception:
    text, kind = (found.get("error"), found.get("kind")) if isinstance(found, dict) else (str(found), "")
    return GameError(str(text)) if kind == "user" else EnvFault(f"{url}: {text}")


@functools.cache
def wire(url: str) -> Wire:
    """One a server and process."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"url = '{url}' is no address of a server; wanted http://HOST:PORT (see `agentrl serve env`)")
    return Wire(url)


class RemoteTasks(LazyTasks):
    """The tasks of a split, fetched a page at a time."""

    def __init__(self, env: RemoteEnv, split: str) -> None:
        self.env, self.split = env, split
        self._pages: dict[int, list[Task]] = {}
        self._n = self._page(0)["n"]

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"RemoteTasks({self.env.url}, {self.split})"

    def make(self, place: int) -> Task:
        number = place // PAGE
        if number not in self._pages:
            self._page(number)
        return self._pages[number][place % PAGE]

    def _page(self, number: int) -> Any:
        asked = {"split": self.split, "start": number * PAGE, "n": PAGE}
        found = self.env.wire.ask("GET", "/tasks", self.env.reset_timeout_s, params=asked)
        self._pages[number] = [task_of(fields) for fields in found["tasks"]]
        return found


def task_of(fields: Mapping[str, Any]) -> Task:
    """A task of its JSON. Raises EnvFault for fields that a task does not have."""
    try:
        return Task(**{**fields, "hints": tuple(fields.get("hints", ()))})
    except TypeError as error:
        raise EnvFault(f"a served task cannot be used: {error}") from error


class RemoteEnv(TextEnv, AwaitedEnv):
    """An environment behind ``url``. ``reset_timeout_s`` bounds reset and lists of tasks, ``step_timeout_s`` every other call.

    What the server does not answer in time is EnvTimeout, what it cannot is EnvFault: the episode is played again in a new session.
    Raises ConfigError where no server answers.
    """

    def __init__(self, url: str, step_timeout_s: float = 60.0, reset_timeout_s: float = 300.0) -> None:
        self.url, self.step_timeout_s, self.reset_timeout_s = url, step_timeout_s, reset_timeout_s
        self.wire = wire(url)
        self._session = ""
        try:
            self.about = self.wire.ask("GET", "/about", reset_timeout_s)
        except EnvFault as error:
            raise ConfigError(f"no environment can be reached: {error}; start one with `agentrl serve env`") from error
        if "tools" in self.about:
            self.tools = self.about["tools"]

    def tasks(self, split: str) -> RemoteTasks:
        """Those that the server lists."""
        return RemoteTasks(self, split)

    def find_task(self, task_id: str) -> Task:
        """Asked of the server where it can find one, else looked for in every split. Raises GameError where there is none."""
        if "find_task" not in self.about["hooks"]:
            return super().find_task(task_id)
        asked = {"name": "find_task", "args": [task_id]}
        return task_of(self.wire.ask("POST", "/call", self.reset_timeout_s, json=asked)["value"])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """The served environment's, in this environment's session."""
        gymnasium.Env.reset(self, seed=seed)
        return self._call("reset", seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The served environment's."""
        return self._call("step", action)

    def __getattr__(self, name: str) -> Any:
        about: Mapping[str, Any] = self.__dict__.get("about", {})
        if name in about.get("hooks", ()):
            return functools.partial(self._call, name)
        raise AttributeError(f"the environment at {self.__dict__.get('url')} has no attribute '{name}'")

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if not self._session:
            self._session = self.wire.ask("POST", "/sessions", self.reset_timeout_s)["session"]
        path, body, timeout_s = self._request(name, *args, **kwargs)
        return _given(name, self.wire.ask("POST", path, timeout_s, json=body))

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """``reset``, ``step`` or a hook, awaited."""
        if not self._session:
            self._session = (await self.wire.asked("POST", "/sessions", self.reset_timeout_s))["session"]
        path, body, timeout_s = self._request(name, *args, **kwargs)
        return _given(name, await self.wire.asked("POST", path, timeout_s, json=body))

    def _request(self, name: str, *args: Any, **kwargs: Any) -> tuple[str, dict[str, Any], float]:
        """Path, body and seconds of a call."""
        path = f"/sessions/{self._session}/"
        if name == "reset":
            return path + "reset", {"seed": kwargs.get("seed"), "task": self._wanted(kwargs)}, self.reset_timeout_s
        if name == "step":
            return path + "step", {"action": args[0]}, self.step_timeout_s
        return path + "call", {"name": name, "args": list(args)}, self.step_timeout_s

    def _wanted(self, reset: Mapping[str, Any]) -> dict[str, Any] | None:
        """The fields of the task that a reset names, by its id too. Raises GameError for an id that no task has, and for options
        that do not go over the wire."""
        options = dict(reset.get("options") or {})
        task = options.pop("task", None)
        if options:
            raise GameError(f"a served environment takes options={{'task': …}} alone; got '{next(iter(options))}'")
        found = self.find_task(task) if isinstance(task, str) else task
        return dataclasses.asdict(found) if isinstance(found, Task) else found

    def close(self) -> None:
        """Leaves the session. A server that is gone has none to leave; one that hangs drops those that nobody uses."""
        session, self._session = self._session, ""
        if session:
            with suppress(EnvFault):
                self.wire.ask("DELETE", f"/sessions/{session}", LEAVE_S)


def _given(name: str, reply: Mapping[str, Any]) -> Any:
    """What the environment gave, of a reply. Raises EnvFault for a reply without it."""
    wanted = {"reset": ("observation", "info"), "step": ("observation", "reward", "terminated", "truncated", "info")}
    try:
        return tuple(reply[key] for key in wanted[name]) if name in wanted else reply["value"]
    except (KeyError, TypeError) as error:
        raise EnvFault(f"a reply to {name} is none: {error!r}") from error
