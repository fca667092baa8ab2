"""What a tool author decorates: a typed function with a docstring is a tool.

    @tool
    def add(a: int, b: int = 0) -> int:
        \"\"\"Adds two numbers.

        Args:
            a: The first one.
        \"\"\"
        return a + b

    add(1, 2)                                  # 3: it is still the function
    add.schema()                               # OpenAI's description of it
    await add.call({"a": "one"})               # ToolResult(text="Error: argument 'a': … got 'one'", error="arguments", …)

pydantic makes the JSON schema from the annotations and validates what the model gives: defaults, ``Literal``, enums, nested
models, ``Annotated[int, Field(ge=0)]``. Whatever goes wrong in a call is a text for the model and is counted: a
``ToolError``, arguments that do not fit, a timeout, any exception. Only ``ToolFault``, and the exceptions that a tool
declares (``@tool(faults=(ConnectionError,))``), are faults of the machinery: the episode is then retried.

Tools that share a state are methods of a ``Toolset``.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, overload

import pydantic
import pydantic_core

from agentrl import registry
from agentrl.errors import ConfigError, Fault, ToolError, ToolFault, did_you_mean
from agentrl.tool_limits import Places, in_thread
from agentrl.tool_schema import Validate, described, docstring
from agentrl.types import Json, Task

__all__ = [
    "BadArguments",
    "TooLate",
    "Tool",
    "ToolError",
    "ToolFault",
    "ToolResult",
    "Toolset",
    "register_tool",
    "tool",
    "tools_of",
]

MAX_RESULT_CHARS = 8_000
MAX_NAME_CHARS = 64  # of an argument's name that a model made up
MAX_PROBLEMS = 10  # of the arguments of one call that are told
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
ErrorKind = Literal["tool", "arguments", "timeout", "exception", "unknown", "malformed", "limit"]
Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave: the text that the model sees; ``error`` is None, or what went wrong: "tool" (a ToolError),
    "arguments" (they do not fit), "timeout", "exception" (any other of the tool); environments add "unknown" (no such tool),
    "malformed" (no call can be read) and "limit" (too many calls). ``seconds`` of wall-clock time."""

    text: str
    error: ErrorKind | None = None
    seconds: float = 0.0


class Tool:
    """A function that a model may call. ``tool`` makes one from annotations and docstring.

    Made by hand it takes any schema (a server's, say): ``parameters`` is the JSON schema of the arguments, an object;
    ``validate`` gives the keyword arguments for the function, or raises pydantic's ValidationError or BadArguments (None: the
    arguments go to the function as they are).

    ``timeout_s``: an async function is cancelled after it; a sync one then runs in a thread, which cannot be killed, only
    abandoned: what may hang or burn belongs into a process. Without it, sync functions run inline. ``concurrency``: how
    many calls may run at a time in this process, over all episodes; waiting for a place is not part of the timeout.
    ``faults``: exceptions that are the machinery's. Longer results are cut to ``max_result_chars``.

    Raises ConfigError for a name that is none.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        description: str,
        parameters: Mapping[str, Json],
        validate: Validate | None = None,
        timeout_s: float | None = None,
        concurrency: int | None = None,
        faults: Sequence[type[Exception]] = (),
        max_result_chars: int = MAX_RESULT_CHARS,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"a tool's name is letters, digits, _, . and -, 64 at most; got {name!r}: @tool(name=…)")
        for key, value in {"timeout_s": timeout_s, "concurrency": concurrency}.items():
            if value is not None and value <= 0:
                raise ConfigError(f"tool '{name}': wanted {key} above 0; got {value}")
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = name
        self.description = description
        self.parameters = dict(parameters)
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self.faults = (Fault, *faults)
        self.max_result_chars = max_result_chars
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self._validate = validate or dict
        self._places = None if concurrency is None else Places(concurrency)
        self._owner: Any = None  # the toolset that a bound one belongs to

    @property
    def inline(self) -> bool:
        """Whether ``call`` ends without ever waiting for anything."""
        return not self.is_async and self.timeout_s is None and self.concurrency is None

    def schema(self) -> dict[str, Json]:
        """OpenAI's form: {"type": "function", "function": {"name", "description", "parameters"}}."""
        about = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": about}

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:  # an argument may be called self
        """The function itself, with nothing around it."""
        return self.function(*args, **kwargs) if self._owner is None else self.function(self._owner, *args, **kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Tool:
        """A method of a toolset: the same tool, bound to it."""
        if owner is None:
            return self
        bound = object.__new__(Tool)
        bound.__dict__.update(self.__dict__, _owner=owner)
        return bound

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"

    async def call(self, arguments: Json) -> ToolResult:
        """Runs the tool on what a model gave. Raises Fault where the machinery failed, and nothing else."""
        started = time.perf_counter()
        text, error = await self._called(arguments)
        return ToolResult(_cut(encodable(text), self.max_result_chars), error, time.perf_counter() - started)

    async def _called(self, arguments: Json) -> tuple[str, ErrorKind | None]:
        try:
            ready = self.validated(arguments)
            if self._places is None:
                return _text(await self._run(ready)), None
            async with self._places.one():
                return _text(await self._run(ready)), None
        except ToolError as error:
            return f"Error: {error}", error.kind if isinstance(error, BadArguments | TooLate) else "tool"
        except _Late:
            return f"Error: {self.name} took longer than {self.timeout_s:g} s and was given up", "timeout"
        except self.faults as error:
            if isinstance(error, Fault):
                raise
            raise ToolFault(f"tool '{self.name}': {type(error).__name__}: {error}") from error
        except (Exception, SystemExit) as error:  # whatever a tool's author let through
            return f"Error: {self.name} raised {type(error).__name__}: {error}", "exception"

    def validated(self, arguments: Json) -> dict[str, Any]:
        """Keyword arguments for the function. Raises BadArguments with one line a problem, the first ten."""
        if not isinstance(arguments, Mapping):
            raise BadArguments(f"{self.name} wants its arguments as an object; got {_brief(arguments)}")
        try:
            return self._validate({str(key): value for key, value in arguments.items()})
        except pydantic.ValidationError as error:
            raise BadArguments("\n".join(self._problems(error))) from error
        except RecursionError as error:  # a value nested too deep
            raise BadArguments(f"{self.name}: the arguments are nested too deep") from error

    def _problems(self, error: pydantic.ValidationError) -> list[str]:
        known = list(self.parameters.get("properties", ()))
        lines = []
        for problem in error.errors(include_url=False, include_context=False)[:MAX_PROBLEMS]:
            where = ".".join(str(part)[:MAX_NAME_CHARS] for part in problem["loc"])[:200]
            if problem["type"] in ("missing_argument", "missing_keyword_only_argument", "missing"):
                lines.append(f"{self.name}: the argument '{where}' is missing")
            elif problem["type"] == "unexpected_keyword_argument":
                lines.append(f"{self.name} has no argument '{where}'.{did_you_mean(where, known)}")
            else:
                wanted = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
                lines.append(f"{self.name}: argument '{where}': {wanted}; got {_brief(problem['input'])}")
        more = error.error_count() - len(lines)
        return [*lines, f"… and {more} more problems of the arguments"] if more else lines

    async def _run(self, arguments: dict[str, Any]) -> Any:
        """What the function gives. Raises _Late after the timeout, and what the function raises."""
        if self.timeout_s is None:
            value = self(**arguments)
            return await value if self.is_async else value
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                return await (self(**arguments) if self.is_async else in_thread(functools.partial(self, **arguments)))
        except TimeoutError as error:
            if limit.expired():
                raise _Late from error
            raise


class BadArguments(ToolError):
    """What a model gave does not fit a tool's parameters. A tool that takes any schema may raise it, too."""

    kind: ClassVar[ErrorKind] = "arguments"


class TooLate(ToolError):
    """A tool that keeps the time of its calls itself has given one up: it counts as a timeout."""

    kind: ClassVar[ErrorKind] = "timeout"


class _Late(Exception):
    """A call took longer than its timeout. (A tool may raise a TimeoutError of its own.)"""


# ── from a function to a tool ────────────────────────────────────────────────────────────────────────────────────────


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float | None = None,
    concurrency: int | None = None,
    faults: Sequence[type[Exception]] = (),
    max_result_chars: int = MAX_RESULT_CHARS,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    **limits: Any,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Makes a ``Tool`` of a typed function with a docstring, or of a method of a ``Toolset``. Its name and its docstring
    (up to the first section; the lines of "Args:" describe the arguments) are the tool's unless given here; the limits are
    those of ``Tool``.

    Raises ConfigError for a function that cannot be described: an argument without annotation, ``*args``, ``**kwargs``,
    positional-only arguments, a type without a JSON schema, no description.
    """
    names = sys._getframe(1).f_locals  # types that are local to where the function stands

    def decorate(function: Callable[..., Any]) -> Tool:
        called = name or getattr(function, "__name__", "")
        about, arguments = docstring(inspect.getdoc(function) or "")
        about = about if description is None else description
        if not about:
            raise ConfigError(f"tool '{called}' has no docstring: the model learns from it what the tool does")
        schema, validate = described(function, called, arguments, names)
        return Tool(function, name=called, description=about, parameters=schema, validate=validate, **limits)

    return decorate if function is None else decorate(function)


def _text(value: Any) -> str:
    """A result as the model sees it: a text as it is, anything else as JSON. Raises ToolError for what is neither."""
    if isinstance(value, str):
        return value
    try:
        return pydantic_core.to_json(value, inf_nan_mode="constants").decode()
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the tool gave a {type(value).__name__}, which is no text and no JSON") from error


def encodable(text: str) -> str:
    """The text, with a question mark for each half of a surrogate pair: no file, terminal or tokenizer takes one, and a model can
    write it as ``\\ud800``."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n… ({len(text) - limit} more characters were cut)"


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of thousands of digits
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 100 else text[:99] + "…"


# ── toolsets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Toolset:
    """Tools that share a state: methods decorated by ``tool``. Each environment makes instances of its own.

        class Notes(Toolset):
            def open(self, task):
                self.lines: list[str] = []

            @tool
            def write(self, line: str) -> str:
                \"\"\"Writes a line down.\"\"\"
                self.lines.append(line)
                return "noted"

    ``lifetime``: how long an open one lives: an "episode"; a "task" (it stays open while the same task is played again); or
    the "run": then all environments of a process share one, and it is opened with None. ``open`` and ``close`` may be
    coroutine functions. What they raise is a fault of the machinery.
    """

    lifetime: ClassVar[Literal["episode", "task", "run"]] = "episode"

    def open(self, task: Task | None) -> Awaitable[None] | None:
        """Makes it ready; the state of an earlier episode must not be seen in the next."""
        return None

    def close(self) -> Awaitable[None] | None:
        """Gives back what ``open`` took. Called once after each ``open``."""
        return None

    def state_key(self) -> str | None:
        """What tells this state from others; None: it cannot be told."""
        return None

    def tools(self) -> list[Tool]:
        """Its tools, in the order in which they are written; asked again after each ``open``."""
        return [getattr(self, name) for name in _tool_names(type(self))]

    @classmethod
    def listed(cls) -> list[Tool]:
        """Its tools without an instance, for lists."""
        return [getattr(cls, name) for name in _tool_names(cls)]


@functools.cache
def _tool_names(cls: type) -> tuple[str, ...]:
    names = dict.fromkeys(name for kind in reversed(cls.__mro__) for name, value in vars(kind).items())
    return tuple(name for name in names if isinstance(inspect.getattr_static(cls, name), Tool))


@overload
def register_tool(thing: T, /) -> T: ...


@overload
def register_tool(*, name: str | None = None) -> Callable[[T], T]: ...


def register_tool(thing: Any = None, /, *, name: str | None = None) -> Any:
    """Decorator that files a tool (under its name) or a toolset (under its class's name in lower case) for run files and
    ``agentrl list tools``.

    Raises ConfigError for anything else, RegistryError for a name that is taken.
    """

    def add(thing: Any) -> Any:
        if isinstance(thing, Tool):
            return registry.register("tool", name or thing.name)(thing)
        if isinstance(thing, type) and issubclass(thing, Toolset):
            return registry.register("tool", name or thing.__name__.lower())(thing)
        raise ConfigError(f"register_tool wants a tool or a class of tools; got {_brief(thing)}; put @tool below it")

    return add if thing is None else add(thing)


# A Tool, a function, a Toolset or its class, a registered name, "module:attribute", or a table with ``name``.
ToolSpec = Any


@dataclass(frozen=True)
class Recipe:
    """A toolset to be made: its class and the parameters that a run file gives."""

    cls: type[Toolset]
    parameters: Mapping[str, Json]
    where: str = "tools"

    @property
    def key(self) -> str:
        """Equal for equal toolsets: what tells apart those that live for the run."""
        return f"{self.cls.__module__}:{self.cls.__qualname__} {sorted(self.parameters.items())!r}"

    @property
    def lifetime(self) -> str:
        """The class's, or what the run file gives where the class takes it as a parameter."""
        return str(self.parameters.get("lifetime", self.cls.lifetime))

    def make(self) -> Toolset:
        """Raises ConfigError for parameters that the class does not take."""
        cls, parameters = self.cls, dict(self.parameters)
        if hasattr(cls, "__dataclass_fields__"):
            return registry.validate(cls, parameters, self.where)
        if not parameters:
            return cls()
        schema, checked = described(cls.__init__, self.where, {}, vars(sys.modules[cls.__module__]))
        for key in parameters:
            if key not in schema["properties"]:
                raise ConfigError(f"{self.where} has no parameter '{key}'.{did_you_mean(key, schema['properties'])}")
        try:
            return cls(**checked(parameters))
        except pydantic.ValidationError as error:
            raise ConfigError(registry.first_problem(error, self.where)) from error


def tools_of(spec: ToolSpec, where: str = "tools") -> Tool | Toolset | Recipe:
    """The tool or toolset that an entry of a list names: itself, a function (decorated here), a toolset's class, a
    registered name, ``module:attribute``, or a table of ``name`` and a toolset's parameters.

    Raises ConfigError for anything else, RegistryError for an unknown name.
    """
    parameters: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        if "name" not in spec:
            raise ConfigError(f"{where}: the table needs a key 'name'. Known: {', '.join(registry.names('tool'))}.")
        parameters = {str(key): value for key, value in spec.items() if key != "name"}
        spec = str(spec["name"])
    found: Any = registry.get("tool", spec) if isinstance(spec, str) else spec
    if inspect.isfunction(found):
        found = tool(found)
    if isinstance(found, type) and issubclass(found, Toolset):
        return Recipe(found, parameters, f"{where}.{found.__name__}")
    if not isinstance(found, Tool | Toolset):
        raise ConfigError(f"{where}: wanted tools, functions, toolsets or their names; got {_brief(found)}")
    if parameters:
        raise ConfigError(f"{where}: '{spec}' takes no parameters; got {', '.join(parameters)}")
    return found
