"""``agentrl/BFCL-v0``: the Berkeley function-calling leaderboard's entries as episodes.

The single-turn Python and live categories, where the first reply is judged by its calls, and the four multi-turn ones,
where a scripted user speaks several times and states and results are judged. The entries are those of the package
``bfcl_eval``; executor and checks are agentrl's own and agree with the package's (tests/test_functions_bfcl.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from agentrl.chat.tool_calls import CallProblem
from agentrl.env import SPLITS
from agentrl.envs.functions import bfcl_data as data
from agentrl.envs.functions.bfcl_engine import Engine, Judge, judge_calls
from agentrl.envs.functions.dialogue import NOTHING_TO_SAY, Dialogue, described
from agentrl.errors import ConfigError, GameError, ToolError, did_you_mean
from agentrl.seeding import stable_hash
from agentrl.tool import Tool, ToolResult, Toolset
from agentrl.tool_env import Called, Reply
from agentrl.types import Json, Task, ToolCall

LONGEST_RESULT = 100_000  # characters; the long-context category has long ones


class BFCLTools(Toolset):
    """The functions of an entry; in the multi-turn categories they are executed."""

    def open(self, task: Task | None) -> None:
        """Those offered at first."""
        if task is None:
            raise GameError("BFCL's tools belong to an entry")
        category = data.category_of(task.id)
        entry = data.entries(category)[task.id]
        self.engine = Engine(entry) if category in data.MULTI_TURN else None
        self.withheld = {int(turn): names for turn, names in entry.get("missed_function", {}).items()}
        docs = entry.get("function")  # may be empty where nothing is to be called
        if docs is None:
            docs = [doc for name in entry["involved_classes"] for doc in data.functions_of(name)]
        later = {name for names in self.withheld.values() for name in names}
        self.known = {doc["name"]: self._tool(doc) for doc in docs}
        self.offered = [name for name in self.known if name not in later]

    def tools(self) -> list[Tool]:
        """Those offered now."""
        return [self.known[name] for name in self.offered]

    def _tool(self, doc: dict[str, Any]) -> Tool:
        """A function by its description."""
        name, engine = doc["name"], self.engine

        def run(**arguments: Json) -> str:
            if engine is None:
                return "noted"
            text, ran = engine.call(name, kwargs=arguments)
            if not ran:
                raise ToolError(text)
            return text

        parameters = data.json_schema(doc["parameters"])
        return Tool(
            run, name=name, description=doc["description"], parameters=parameters, max_result_chars=LONGEST_RESULT
        )

    @classmethod
    def listed(cls) -> list[Tool]:
        """None: they are an entry's."""
        return []

    def state_key(self) -> str:
        """What is offered; the environment adds the calls."""
        return json.dumps(self.offered)


class BFCLEnv(Dialogue):
    """``categories``: some of ``bfcl_data.CATEGORIES``, by default all. The entries are a test set, so all are in the split
    valid_unseen; ``parts = True`` shares them out instead (train 3/5, valid_seen and valid_unseen 1/5 each) such that variants
    of an entry stay together. Further options are those of ``Dialogue``. Raises ConfigError for what does not fit and where the
    package bfcl_eval is not installed."""

    def __init__(
        self, categories: Sequence[str] | None = None, split: str = "valid_unseen", parts: bool = False, **options: Any
    ) -> None:
        if isinstance(categories, str) or categories == []:
            raise ConfigError(f'wanted a list of categories; got {categories!r}; write ["multi_turn_base"]')
        self.categories, self.parts = tuple(categories or data.CATEGORIES), parts
        for category in self.categories:
            data.entries(category)
        self._functions = BFCLTools()
        self._judge: Judge | None = None
        super().__init__([self._functions], split=split, **options)

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """The entries of a split, by category."""
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        return _tasks(self.categories, split, self.parts)

    def find_task(self, task_id: str) -> Task:
        """The entry of that id, of any category."""
        category = data.category_of(task_id)
        return _task(task_id, category, _split(task_id, self.parts))

    # ── the user ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def prompt(self, task: Task) -> str:
        """What the user says first."""
        data.category_of(task.id)
        self._judge = None
        return super().prompt(task)

    def n_turns(self, task: Task) -> int:
        """How many user turns there are."""
        return len(_entry(task)["question"])

    def said(self, task: Task, turn: int) -> str:
        """The entry's messages of that turn; where it has none, new functions come."""
        messages = _entry(task)["question"][turn]
        if len(messages) == 1:
            return messages[0]["content"]
        if messages:
            return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        names = self._functions.withheld.get(turn, [])
        lines = (
            [described(self._functions.known[name], self.as_json) for name in names] if self.describe == "text" else []
        )
        return "\n".join([f"Now you have more tools: {', '.join(names)}. Please try again.", *lines])

    def next_turn(self, turn: int) -> None:
        """New functions, where they come with that turn."""
        self._functions.offered += self._functions.withheld.get(turn, [])

    def right_calls(self, task: Task, turn: int) -> list[ToolCall]:
        """The ground truth; in single-turn categories the first accepted value of each argument."""
        if task.type in data.MULTI_TURN:
            return [_engine_of(task.id).named(text) for text in task.reference[turn]]
        if task.type.endswith("_relevance"):
            return [ToolCall(_entry(task)["function"][0]["name"])]
        required = {doc["name"]: doc["parameters"].get("required", ()) for doc in _entry(task)["function"]}
        answers = [pair for answer in task.reference or () for pair in answer.items()]
        return [ToolCall(name, _first(values, required[name])) for name, values in answers]

    def together(self, task: Task, turn: int) -> bool:
        """In single-turn categories there is only one reply."""
        return task.type not in data.MULTI_TURN

    # ── what is right ────────────────────────────────────────────────────────────────────────────────────────────────

    def judge(self, turn: int, calls: Sequence[Called]) -> str:
        """By the calls, or by states and results."""
        assert self.task is not None
        if self._functions.engine is None:
            made = [called.call for called in calls]
            return judge_calls(self.task.type, _entry(self.task), self.task.reference, made)
        return self._judge_of(self.task).turn(turn, self._functions.engine, len(calls))

    def _turn_problem(self) -> str:
        return self.judge(self._turn, self.called[self._first :])  # which knows what an empty turn means

    def _judge_of(self, task: Task) -> Judge:
        if self._judge is None:
            self._judge = Judge(_entry(task), task.reference)
        return self._judge

    async def _result(self, call: ToolCall) -> ToolResult:
        """Withheld functions are executed, too, as BFCL does: some ground truths call them."""
        tool = self._functions.known.get(call.name)
        return await (super()._result(call) if tool is None else tool.call(call.arguments))

    async def _step(self, action: str) -> Reply:
        """In single-turn categories the first reply is the answer; one that cannot be read holds no call, as BFCL counts it."""
        if self._over or self.task is None or self.task.type in data.MULTI_TURN:
            return await super()._step(action)
        found = self.format.parse(action)
        calls = () if isinstance(found, CallProblem) else found.calls
        if calls:
            await self._call(calls)
            self.called = [Called(call, done.result) for call, done in zip(calls, self.called, strict=False)]
        self._steps += 1
        self.reply(self.task, action)
        reply = await self._end(self.task, action)
        reply[4].update(n_tool_calls=len(calls), valid=not isinstance(found, CallProblem))
        return reply

    def _state_key(self) -> str:
        """The task and every call so far, in order."""
        made = [[called.call.name, called.call.arguments] for called in self.called]
        place = [self._over, self._turn, self._first, self._wrong, self._steps]
        task = self.task.id if self.task else ""
        return f"{task} {self._turn} {stable_hash(json.dumps([task, place, made])):032x}"

    def oracle(self) -> list[str]:
        """The ground truth from here on, then a text for each user turn."""
        if self.task is None or self._over or self.task.type in data.MULTI_TURN:
            return super().oracle()
        calls = self.right_calls(self.task, 0)
        return [self.format.render(calls) if calls else NOTHING_TO_SAY]


def _first(values: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Json]:
    """The first accepted value of each argument that must be given ("" says that it need not be)."""
    lists = {name: accepted if isinstance(accepted, list) else [accepted] for name, accepted in values.items()}
    given = {name: accepted for name, accepted in lists.items() if "" not in accepted or name in required}
    return {name: _value(next((one for one in accepted if one != ""), "")) for name, accepted in given.items()}


def _value(accepted: Json) -> Json:
    """A value of a ground truth: in dictionaries each key has a list of accepted values."""
    if isinstance(accepted, dict):
        return _first(accepted)
    return [_value(part) for part in accepted] if isinstance(accepted, list) else accepted


@functools.lru_cache(maxsize=64)
def _engine_of(task_id: str) -> Engine:
    """An engine that is asked for signatures only."""
    return Engine(data.entries(data.category_of(task_id))[task_id])


def _entry(task: Task) -> Any:
    return data.entries(data.category_of(task.id))[task.id]


def _split(task_id: str, parts: bool) -> str:
    return (
        ("train", "train", "train", "valid_seen", "valid_unseen")[data.number_of(task_id) % 5] if parts else SPLITS[2]
    )


def _task(task_id: str, category: str, split: str) -> Task:
    truth = data.answers(category).get(task_id)
    limit = None if category in data.MULTI_TURN else 1
    return Task(id=task_id, type=category, split=split, options={}, reference=truth, max_turns=limit)


@functools.lru_cache(maxsize=64)
def _tasks(categories: tuple[str, ...], split: str, parts: bool) -> list[Task]:
    found = ((task_id, category) for category in categories for task_id in data.entries(category))
    return [_task(task_id, category, split) for task_id, category in found if _split(task_id, parts) == split]
