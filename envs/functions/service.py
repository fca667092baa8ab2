"""What a back end is: a small state of plain JSON, and tools that read and change it.

A back end's module also says how its state is drawn (``Service.start``) and what a user may ask of it: functions of a
``Draw`` decorated by ``request``, which make the calls that are right and return the sentence that asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, TypeVar

from agentrl.errors import ToolError
from agentrl.tool import Toolset
from agentrl.types import Json, Task, ToolCall

T = TypeVar("T")


def copied(value: Json) -> Json:
    """A copy of plain JSON that shares nothing with it; much faster than ``copy.deepcopy``."""
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if type(value) is list else value


class Service(Toolset):
    """A back end. ``state`` is public, plain JSON; a tool that refuses raises ToolError and changes nothing. Every result says
    which arguments it is the result of, so a call with others never has the same one."""

    name: ClassVar[str]
    state: dict[str, Json]

    def __init__(self, state: Mapping[str, Json] | None = None) -> None:
        self.state = copied(dict(state or {}))

    def open(self, task: Task | None) -> None:
        """The state that the task begins with."""
        self.state = copied(task.options["state"][self.name]) if task else {}

    def state_key(self) -> str:
        """The whole state."""
        return json.dumps(self.state, sort_keys=True)

    @classmethod
    def start(cls, random: Random, size: int) -> dict[str, Json]:
        """A state with about ``size`` things of each kind in it."""
        raise NotImplementedError(f"{cls.__name__} must write start(random, size)")


class Unfit(Exception):
    """A request cannot be made of this state; another is drawn."""


class Draw:
    """What a request is made with: random choices, the state of its back end, and calls, which are executed and noted.

    Choices raise Unfit where there is nothing to choose from, calls where the tool refuses.
    """

    def __init__(self, random: Random, service: Service) -> None:
        self.random = random
        self.service = service
        self.calls: list[ToolCall] = []
        self.results: list[Json] = []

    @property
    def state(self) -> dict[str, Json]:
        """The state of the back end now."""
        return self.service.state

    def one(self, things: Iterable[T]) -> T:
        """One of them."""
        return self.some(things, 1)[0]

    def some(self, things: Iterable[T], n: int) -> list[T]:
        """``n`` different ones."""
        found = list(things)
        if len(found) < n:
            raise Unfit
        return self.random.sample(found, n)

    def call(self, name: str, **arguments: Json) -> Any:
        """What the tool gives."""
        self.calls.append(ToolCall(name, arguments))
        try:
            self.results.append(getattr(self.service, name)(**arguments))
        except ToolError as error:
            raise Unfit from error
        return self.results[-1]


@dataclass(frozen=True)
class Said:
    """A request in words: ``text`` says everything; where there is a ``vague``, that lacks one parameter, and ``detail`` is
    what the user answers when asked for it."""

    text: str
    vague: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Request:
    """Something that a user may ask of the back end ``service``, for which ``tools`` are needed, in that order."""

    name: str
    service: type[Service]
    tools: tuple[str, ...]
    write: Callable[[Draw], Said]


REQUESTS: list[Request] = []


def request(service: type[Service], *tools: str) -> Callable[[Callable[[Draw], Said]], Callable[[Draw], Said]]:
    """Files a function as a request; it calls these tools in this order."""

    def add(function: Callable[[Draw], Said]) -> Callable[[Draw], Said]:
        REQUESTS.append(Request(f"{service.name}.{function.__name__}", service, tools, function))
        return function

    return add


def wanted(table: Mapping[str, T], key: str, what: str) -> T:
    """The entry of that key. Raises ToolError, which names what there is."""
    if key not in table:
        known = ", ".join(list(table)[:10]) or "nothing"
        raise ToolError(f"there is no {what} {key[:40]}; known: {known}")
    return table[key]


def among(value: str, known: Sequence[str], what: str) -> str:
    """The value. Raises ToolError where it is not known."""
    if value not in known:
        raise ToolError(f"there is no {what} {value[:40]}; known: {', '.join(known)}")
    return value
