"""Any tools, any list of tasks and a score: an environment in a few lines.

    env = ToolEnv(
        tools=[add, Notes, "calculator"],
        tasks={"train": [{"prompt": "What is 2 + 3?", "reference": "5"}], "valid_seen": […]},
        score=lambda task, answer, calls: float(answer == task.reference),
    )

An action is the model's whole completion (``[agent] action_tags = false``). Calls of tools in it are run, and their results
are the next observation; a text without a call is the final answer, which is scored. What cannot be read as a call, or names
no tool, is told to the model and counts as an invalid action. Only the action is parsed, so nothing that a tool or a task says
can act as a call.

An environment whose tools, toolsets and score never wait is stepped where it is asked. Any other runs in the tools' event
loop, one a process in a thread of its own, so that connections and limits are shared by all episodes; other episodes go on
meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, TypeVar

from agentrl.chat.tool_calls import CallProblem, call_format
from agentrl.env import SPLITS, AwaitedEnv, TextEnv
from agentrl.errors import ConfigError, EnvError, GameError, did_you_mean
from agentrl.tags import first_pair
from agentrl.tool import Recipe, Tool, ToolResult, Toolset, ToolSpec, encodable, tools_of
from agentrl.tool_tape import Player
from agentrl.tool_tasks import TaskRows, tasks_of
from agentrl.types import Json, Task, ToolCall

__all__ = ["Called", "ToolEnv"]

T = TypeVar("T")
Reply = tuple[str, float, bool, bool, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Called:
    """A call that was made in an episode, and what came of it."""

    call: ToolCall
    result: ToolResult


Score = Callable[[Task, str, Sequence[Called]], "float | Awaitable[float]"]


class ToolEnv(TextEnv, AwaitedEnv):
    """``tools``: what ``agentrl.tool.tools_of`` takes. ``tasks``: for each split a list, or a function of the split that gives
    one, of ``Task`` whose options hold a ``prompt``, or of dictionaries of ``prompt`` and, if need be, ``id`` and ``reference``
    (further keys become options). ``score``: (task, answer, calls) -> the reward, also a coroutine function; the episode is a
    success from ``success_at`` on. A subclass may write ``tasks``, ``score`` and ``prompt`` as methods instead, and
    ``reply``: a user who goes on talking, so that an episode has several requests.

    ``format``: "hermes", "json" or "python" (``agentrl.chat.tool_calls``). ``describe``: "text" puts the tools' schemas behind
    the prompt; "none" leaves them to the model's chat template (``[agent] tools = "template"``). ``answer``: "text": a text
    without a call is the answer (what stands in ``<answer>`` tags where it has them); "tags": only what stands in those.
    ``max_calls`` bounds the calls of an episode, ``max_parallel`` those of one action, which run side by side where they can
    wait; further ones are refused, which the model is told. ``tape``: a file of calls, which ``tape_mode`` "record" writes,
    "replay" answers from and "auto" does both (``agentrl.tool_tape``); in "replay" the tools are the tape's, and ``tools`` is
    not looked at.

    ``info``: ``valid`` (False: nothing could be done), ``n_tool_calls`` and ``n_tool_errors`` of the turn (the first is a
    column of the turn table), and at the end ``answer`` and ``success``. There is a ``state_key`` where there are toolsets and
    each gives one. Raises ConfigError for what does not fit.
    """

    def __init__(
        self,
        tools: Sequence[ToolSpec] = (),
        tasks: Mapping[str, TaskRows] | Callable[[str], TaskRows] | None = None,
        score: Score | None = None,
        *,
        format: str = "hermes",
        describe: Literal["text", "none"] = "text",
        answer: Literal["text", "tags"] = "text",
        max_calls: int | None = None,
        max_parallel: int = 8,
        success_at: float = 1.0,
        split: str = "train",
        tape: str | None = None,
        tape_mode: Literal["record", "replay", "auto"] = "auto",
    ) -> None:
        for key, value, known in (("describe", describe, ("text", "none")), ("answer", answer, ("text", "tags"))):
            if value not in known:
                raise ConfigError(f"ToolEnv: {key} = {value!r}.{did_you_mean(str(value), known)}")
        _check_lists(tools, tasks, split)
        _check_numbers(max_calls, max_parallel, success_at)
        self.format, self.describe, self.answer_in = call_format(format), describe, answer
        self.max_calls, self.max_parallel, self.success_at, self.split = max_calls, max_parallel, success_at, split
        self._given_tasks, self._given_score = tasks, score
        self._lists: dict[str, Sequence[Task]] = {}
        self._player = None if tape is None else Player(tape, tape_mode)
        self._replays = self._player is not None and self._player.replays
        self._entries = [] if self._replays else [tools_of(spec, "ToolEnv.tools") for spec in tools]
        self._sets = [_Seat.of(entry, self) for entry in self._entries if not isinstance(entry, Tool)]
        lists = [entry.cls.listed() if isinstance(entry, Recipe) else _tools(entry) for entry in self._entries]
        self._tools = self._named([self._player.first_tools()] if self._player and self._replays else lists)
        kinds = [type(seat.toolset) for seat in self._sets]
        if kinds and all(kind.state_key is not Toolset.state_key for kind in kinds):
            self.state_key = self._state_key  # an attribute, so that there is no such hook where there is no key
        waiting = [self.score, *(part for kind in kinds for part in (kind.open, kind.close))]
        self._inline = all(tool.inline for tool in self._tools.values()) and not any(
            inspect.iscoroutinefunction(part) for part in (*waiting, score)
        )
        self.task: Task | None = None
        self.called: list[Called] = []
        self._over = True

    # ── what a subclass may write ────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split: those that were given."""
        if split not in self._lists:
            given = self._given_tasks
            if given is None:
                return super().tasks(split)
            rows = given(split) if callable(given) else given.get(split, ())
            self._lists[split] = tasks_of(rows, split)
        return self._lists[split]

    def score(self, task: Task, answer: str, calls: Sequence[Called]) -> float | Awaitable[float]:
        """The reward of an answer. What it raises is a fault of the machinery."""
        assert self._given_score is not None, "reset has looked"
        return self._given_score(task, answer, calls)

    def prompt(self, task: Task) -> str:
        """What the model is asked. Raises GameError for a task without a prompt."""
        text = task.options.get("prompt")
        if not isinstance(text, str):
            raise GameError(f"task '{task.id}' has no text in options['prompt']; got {text!r}")
        return text

    def reply(self, task: Task, text: str) -> str | None:
        """What a user says to a text without a call: the next observation, after which the toolsets are asked for their tools
        again; None: there is no more to say, the text is the answer, which is scored."""
        return None

    def description(self) -> str:
        """What the model is told of its tools."""
        if not self._tools:
            return ""
        schemas = [json.dumps(tool.schema()["function"], ensure_ascii=False) for tool in self._tools.values()]
        ends = "A reply without a call is your final answer."
        if self.answer_in == "tags":
            ends = "Give your final answer as <answer>…</answer>."
        return "\n".join(["Tools that you may call:", *schemas, f"{self.format.usage} {ends}"])

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def tools(self) -> list[dict[str, Json]]:
        """The tools in OpenAI's form."""
        return [tool.schema() for tool in self._tools.values()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Opens the toolsets and asks."""
        return self._now(self._reset(seed, options))

    def step(self, action: str) -> Reply:
        """Runs the calls of a completion, or scores the answer that it is."""
        return self._now(self._step(action))

    def close(self) -> None:
        """Closes the toolsets."""
        self._over = True
        self._now(self._leave())

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method gives; where tools wait, other episodes go on meanwhile (not through a ``reset`` or ``step`` that a
        subclass has written)."""
        own = name in ("reset", "step") and getattr(type(self), name) is getattr(ToolEnv, name)
        if not own or self._inline:
            return getattr(self, name)(*args, **kwargs)
        work = self._step(*args) if name == "step" else self._reset(kwargs.get("seed"), kwargs.get("options"))
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, tool_loop()))

    def _now(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._inline:
            return asyncio.run_coroutine_threadsafe(work, tool_loop()).result()
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
        work.close()
        raise EnvError(
            f"{type(self).__name__}: something waited that is no coroutine function; write it with async def"
        )

    # ── an episode ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
        TextEnv.reset(self, seed=seed)
        self._over = True
        if self._given_score is None and type(self).score is ToolEnv.score:
            raise ConfigError(f"{type(self).__name__} must say what an answer is worth: give or write score")
        task = self.choose_task(options)
        question = self.prompt(task)
        for seat in self._sets:
            await seat.open(task)
        if self._player is not None:
            self._player.start(task.id)
        self._list_tools()
        self.task, self.called, self._over = task, [], False
        about = self.description() if self.describe == "text" else ""
        return f"{question}\n\n{about}" if about else question, {"success": False, "free_text": True}

    async def _step(self, action: str) -> Reply:
        if self._over or self.task is None:
            return "The episode is over.", 0.0, True, False, self._info(valid=False)
        found = self.format.parse(action if isinstance(action, str) else "")
        if isinstance(found, CallProblem):
            return self._refused(found.text)
        answer = first_pair(found.rest, "answer")
        if found.calls:
            if answer:
                return self._refused("a reply holds calls or an <answer>, not both; nothing was called")
            return await self._call(found.calls)
        if answer is None and "<answer>" in found.rest:
            return self._refused("<answer> is not closed by </answer>")
        if answer is None and self.answer_in == "tags":
            return self._refused("wanted a call of a tool, or the final answer as <answer>…</answer>")
        text = (answer.inside if answer else found.rest).strip()
        if not text:
            return self._refused("the reply is empty; wanted a call of a tool, or the final answer")
        said = self.reply(self.task, text)
        if said is None:
            return await self._end(self.task, text)
        self._list_tools()
        return said, 0.0, False, False, self._info()

    def _list_tools(self) -> None:
        """Asks the toolsets anew which tools they have now."""
        if self._sets:
            opened = iter(self._sets)
            self._tools = self._named(
                [[entry] if isinstance(entry, Tool) else next(opened).toolset.tools() for entry in self._entries]
            )
        if self._player is not None:
            lives = {tool.name: seat.toolset.lifetime for seat in self._sets for tool in seat.toolset.tools()}
            self._tools = self._named([self._player.told(list(self._tools.values()), lives)])

    def _refused(self, why: str) -> Reply:
        return f"Error: {encodable(why)}", 0.0, False, False, self._info(valid=False, n_tool_errors=1)

    def _info(
        self, *, valid: bool = True, n_tool_calls: int = 0, n_tool_errors: int = 0, **more: Json
    ) -> dict[str, Any]:
        counts = {"n_tool_calls": n_tool_calls, "n_tool_errors": n_tool_errors}
        return {"success": False, "valid": valid, **counts, **more}

    async def _end(self, task: Task, answer: str) -> Reply:
        worth = self.score(task, answer, tuple(self.called))
        worth = await worth if inspect.isawaitable(worth) else worth
        if not isinstance(worth, Real) or not math.isfinite(worth):  # numpy's floats are real, too
            raise EnvError(f"{type(self).__name__}: score must give a finite number; got {worth!r:.100}")
        reward = float(worth)
        self._over = True
        return "", reward, True, False, self._info(answer=answer) | {"success": reward >= self.success_at}

    async def _call(self, calls: Sequence[ToolCall]) -> Reply:
        left = len(calls) if self.max_calls is None else max(0, self.max_calls - len(self.called))
        allowed = min(left, self.max_parallel)
        results = await self._results(calls[:allowed])
        self.called += [Called(call, result) for call, result in zip(calls, results, strict=False)]
        valid = allowed == len(calls) and not any(result.error in ("unknown", "arguments") for result in results)
        n_errors = sum(result.error is not None for result in results) + len(calls) - allowed
        if allowed < len(calls):  # one text for all of them: a reply of a thousand calls must not fill the context
            results.append(ToolResult(self._why_not(len(calls) - allowed, left > allowed), "limit"))
        shown = [(call.name, result.text) for call, result in zip(calls, results, strict=False)]
        text = encodable(self.format.respond(shown))
        return text, 0.0, False, False, self._info(valid=valid, n_tool_calls=allowed, n_tool_errors=n_errors)

    def _why_not(self, n: int, too_many: bool) -> str:
        why = (
            f"not called: a reply may hold {self.max_parallel} calls"
            if too_many
            else "no calls are left; give the final answer"
        )
        return f"Error: {why}" + (f" (nor were the {n - 1} behind it)" if n > 1 else "")

    async def _results(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """In the order of the calls. Raises Fault where the machinery failed."""
        if self._inline or len(calls) == 1:
            return [await self._result(call) for call in calls]
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._result(call)) for call in calls]
        except BaseExceptionGroup as errors:  # the first has cancelled the others
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [done.result() for done in running]

    async def _result(self, call: ToolCall) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolResult(
                f"Error: no tool is called '{call.name[:64]}'.{did_you_mean(call.name[:64], self._tools)}", "unknown"
            )
        if self._player is not None:
            return await self._player.call(tool, call.arguments)
        return await tool.call(call.arguments)

    async def _leave(self) -> None:
        for seat in self._sets:
            await seat.leave()

    def _state_key(self) -> str:
        """The task, the states of the toolsets and how many calls are left. (It tells decision points apart only where the
        score depends on no earlier call.)"""
        task = self.task.id if self.task else None
        used = None if self.max_calls is None else len(self.called)
        return json.dumps([task, self._over, used, *(seat.toolset.state_key() for seat in self._sets)])

    def _named(self, lists: Sequence[Sequence[Tool]]) -> dict[str, Tool]:
        found: dict[str, Tool] = {}
        for tool in (tool for tools in lists for tool in tools):
            if tool.name in found:
                raise ConfigError(f"ToolEnv: two tools are called '{tool.name}'; give one of them another name")
            found[tool.name] = tool
        return found


def _check_lists(tools: Any, tasks: Any, split: Any) -> None:
    """Raises ConfigError where tools or tasks are no lists, or a split is none."""
    if isinstance(tools, str | Mapping):
        raise ConfigError(f"ToolEnv: tools: wanted a list; got {tools!r:.100}; write [{tools!r:.100}]")
    if not (tasks is None or isinstance(tasks, Mapping) or callable(tasks)):
        raise ConfigError(
            f"ToolEnv: tasks: wanted a list for each split, or a function of the split; got {tasks!r:.100}"
        )
    for name in (split, *(tasks if isinstance(tasks, Mapping) else ())):
        if name not in SPLITS:
            raise ConfigError(f"ToolEnv: no split is called '{name}'.{did_you_mean(str(name), SPLITS)}")


def _check_numbers(max_calls: Any, max_parallel: Any, success_at: Any) -> None:
    """Raises ConfigError for bounds that bound nothing."""
    calls = 0 if max_calls is None else max_calls
    for key, number, least in (("max_calls", calls, 0), ("max_parallel", max_parallel, 1)):
        if type(number) is not int or number < least:
            raise ConfigError(f"ToolEnv: {key}: wanted a number from {least}; got {number!r}")
    if isinstance(success_at, bool) or not isinstance(success_at, int | float) or not math.isfinite(success_at):
        raise ConfigError(f"ToolEnv: success_at: wanted a finite number; got {success_at!r}")


def _tools(entry: Tool | Toolset) -> list[Tool]:
    return [entry] if isinstance(entry, Tool) else entry.listed()


# ── toolsets and how long they live ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Seat:
    """A toolset in one environment, or, where it lives for the run, in all that share it."""

    toolset: Toolset
    opened: str | None = None  # the id of the task that it was opened for
    users: int = 0
    lock: asyncio.Lock | None = None

    @classmethod
    def of(cls, entry: Toolset | Recipe, env: ToolEnv) -> Any:
        """The seat of an entry of the list. Raises ConfigError for an instance that another environment uses."""
        kind = entry.cls if isinstance(entry, Recipe) else type(entry)
        if entry.lifetime == "run":
            key = entry.key if isinstance(entry, Recipe) else f"instance {id(entry)}"
            return _SharedSeat(key, entry)
        if isinstance(entry, Recipe):
            return cls(entry.make())
        other = getattr(entry, "_used_by", lambda: None)()
        if other is not None:
            raise ConfigError(f"a {kind.__name__} is used by two environments; give its class, or make one for each")
        object.__setattr__(entry, "_used_by", weakref.ref(env))
        return cls(entry)

    async def open(self, task: Task) -> None:
        """Makes it ready for an episode of the task."""
        if self.opened == task.id and self.toolset.lifetime == "task":
            return
        await self.leave()
        await _settled(self.toolset.open(task))
        self.opened = task.id

    async def leave(self) -> None:
        """Closes it where it is open."""
        if self.opened is not None:
            self.opened = None
            await _settled(self.toolset.close())


class _SharedSeat:
    """A place at a toolset that lives for the run: opened by the first, closed by the last."""

    known: ClassVar[dict[str, _Seat]] = {}

    def __init__(self, key: str, entry: Toolset | Recipe) -> None:
        self.key = key
        if key not in self.known:
            self.known[key] = _Seat(entry.make() if isinstance(entry, Recipe) else entry, lock=asyncio.Lock())
        self.shared = self.known[key]
        self.toolset = self.shared.toolset
        self.inside = False

    async def open(self, task: Task) -> None:
        """Opens it where nobody has; the others wait."""
        if self.inside:
            return
        assert self.shared.lock is not None
        async with self.shared.lock:
            if self.shared.users == 0:
                await _settled(self.toolset.open(None))
            self.shared.users += 1
            self.inside = True

    async def leave(self) -> None:
        """Closes it where nobody else is left."""
        if not self.inside:
            return
        assert self.shared.lock is not None
        async with self.shared.lock:
            self.inside = False
            self.shared.users -= 1
            if self.shared.users == 0:
                await _settled(self.toolset.close())


async def _settled(value: Awaitable[None] | None) -> None:
    if inspect.isawaitable(value):
        await value


# ── the tools' event loop ────────────────────────────────────────────────────────────────────────────────────────────

_loops: dict[int, asyncio.AbstractEventLoop] = {}
_starting = threading.Lock()


def tool_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process in which tools wait, in a thread of its own; a forked process gets another."""
    with _starting:
        if os.getpid() not in _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="agentrl-tools", daemon=True).start()
            _loops[os.getpid()] = loop
        return _loops[os.getpid()]
