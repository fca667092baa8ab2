"""``mcp``: the tools of a server of the Model Context Protocol (modelcontextprotocol.io); one entry for each server.

    [env.options]
    tools = [
      { name = "mcp", command = ["python", "notes.py"], tools = ["read", "write"], prefix = "notes_", lifetime = "episode" },
      { name = "mcp", url = "http://127.0.0.1:8000/mcp", headers = { Authorization = "$NOTES_TOKEN" } },
    ]

``command`` starts a server that speaks over its standard streams; ``url`` is one that speaks streamable HTTP. Both go through
the protocol's own Python SDK (the extra ``mcp``).

Who is at fault: what the server answers is a text for the model, errors of its tools (``isError``) and of arguments included;
a call that takes longer than ``timeout_s`` is told to the model and cancelled. A server that is gone, breaks the protocol or
no longer answers is the machinery's fault: the calls that meet it raise ToolFault and are not sent again, since nobody knows
what they did; the next call starts the server again, once, and raises ToolFault where that fails. After a timeout the next
call first asks whether the server still answers.

With ``lifetime = "run"`` all episodes of a process share one server, which should then keep no state. A server that is
started here ends with its toolset, with all that it started, also when this process is killed (Linux; elsewhere it sees
the end of its input, which is what the protocol asks it to heed).
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pydantic

from agentrl.errors import ConfigError, MissingExtra, ToolError, ToolFault, did_you_mean
from agentrl.tool import Tool, TooLate, Toolset, register_tool
from agentrl.tool_limits import Places
from agentrl.tools.sandbox.keeper import kept
from agentrl.tools.schemas import argument_check
from agentrl.types import Json

if TYPE_CHECKING:
    import mcp

__all__ = ["Mcp", "shown"]

MAX_PAGES = 100  # of a list of tools
PROBE_S = 5.0
LAST_WORDS = 2_000  # bytes of a server's standard error that are kept for an error message
ENDS = (401, 403, 404)  # statuses of HTTP: who asks is no longer known, or the session is not
Lifetime = Literal["episode", "task", "run"]


@register_tool
class Mcp(Toolset):
    """The tools of a server of the Model Context Protocol, known once it is open.

    ``tools``: which of them (none: all). ``prefix`` stands before their names. ``env``: variables
    that a server is given (of this process it gets PATH, HOME and the like only); ``cwd``: its folder. Values of ``env`` and
    ``headers`` that are ``$NAME`` are read from the environment, so that secrets need not stand in a run file.
    ``start_timeout_s`` bounds the start until the tools are listed; ``timeout_s`` a call, without its wait for one of
    ``concurrency`` places. ``handshake = "legacy"`` is for servers that choke on the first question of the newer protocol.

    Raises MissingExtra without the SDK; ConfigError for options that do not fit, and by the first ``open`` for a server that
    does not start or lacks a tool that is asked for.
    """

    lifetime: ClassVar[Lifetime] = "run"

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        url: str = "",
        tools: Sequence[str] = (),
        prefix: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 30.0,
        concurrency: int | None = None,
        handshake: Literal["auto", "legacy"] = "auto",
        lifetime: Lifetime = "run",
    ) -> None:
        for key, value in {
            "timeout_s": timeout_s,
            "start_timeout_s": start_timeout_s,
            "concurrency": concurrency,
        }.items():
            if value is not None and value <= 0:
                raise ConfigError(f"mcp.{key}: wanted above 0; got {value:g}")
        if bool(command) == bool(url):
            raise ConfigError('mcp: wanted either command = ["program", …] or url = "http://…"')
        if url and not re.fullmatch(r"https?://\S+", url):
            raise ConfigError(f"mcp.url: wanted one that begins with http:// or https://; got {url!r}")
        if ((env or cwd) and url) or (headers and command):
            raise ConfigError("mcp: env and cwd belong to a command, headers to a url")
        if importlib.util.find_spec("mcp") is None:
            raise MissingExtra("mcp", "the toolset 'mcp'")
        self._server = url or " ".join(command)
        self._link_options: dict[str, Any] = {
            "url": url,
            "command": list(command),
            "env": _resolved("env", env or {}),
            "cwd": cwd or None,
            "headers": _resolved("headers", headers or {}),
            "timeout_s": timeout_s,
            "start_timeout_s": start_timeout_s,
            "handshake": handshake,
        }
        if command:
            _must_exist(command[0], self._link_options["env"].get("PATH"), cwd)
        self._wanted, self._prefix, self._timeout_s = tuple(tools), prefix, timeout_s
        self._places = None if concurrency is None else Places(concurrency)
        object.__setattr__(self, "lifetime", lifetime)
        self._tools: list[Tool] = []
        self._link: Link | None = None
        self._has_worked = False
        self._lock = asyncio.Lock()

    async def open(self, task: object) -> None:
        """Starts or reaches the server and lists its tools."""
        self._lock = asyncio.Lock()  # of this event loop
        link = Link(**self._link_options)
        try:
            self._tools = self._made(await link.start())
        except Lost as error:
            wrong = ToolFault if self._has_worked else ConfigError
            raise wrong(f"mcp: {self._server}: {error}") from error
        except BaseException:
            await link.stop()
            raise
        self._link, self._has_worked = link, True

    async def close(self) -> None:
        """Ends the server, or the connection to it."""
        link, self._link = self._link, None
        if link is not None:
            await link.stop()

    def tools(self) -> list[Tool]:
        """The server's, in its order; none before the first ``open``."""
        return list(self._tools)

    def _made(self, listed: Sequence[mcp.types.Tool]) -> list[Tool]:
        """Raises ConfigError for a tool that is asked for and not there, and for two of one name."""
        names = [one.name for one in listed]
        for name in self._wanted:
            if name not in names:
                raise ConfigError(f"mcp.tools: {self._server} has no tool '{name}'.{did_you_mean(name, names)}")
        found: dict[str, Tool] = {}
        for one in listed:
            if self._wanted and one.name not in self._wanted:
                continue
            tool = self._tool(one)
            if tool.name in found:
                raise ConfigError(
                    f"mcp: {self._server} has two tools that would be called '{tool.name}'; name one of them in mcp.tools"
                )
            found[tool.name] = tool
        return list(found.values())

    def _tool(self, one: mcp.types.Tool) -> Tool:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", self._prefix + one.name)[:64]
        name = name if re.match(r"[A-Za-z_]", name) else f"_{name}"[:64]
        schema = {"type": "object", **one.input_schema}

        async def call(**arguments: Json) -> str:
            return await self._called(one.name, arguments)

        return Tool(
            call,
            name=name,
            description=(one.description or one.title or one.name).strip() or name,
            parameters=schema,
            validate=argument_check(name, schema),
        )

    async def _called(self, name: str, arguments: Mapping[str, Json]) -> str:
        if self._places is None:
            return await self._answer(name, arguments)
        async with self._places.one():
            return await self._answer(name, arguments)

    async def _answer(self, name: str, arguments: Mapping[str, Json]) -> str:
        link = await self._living()
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                result = await link.call(name, arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise
            link.is_doubtful = True
            raise TooLate(f"{name} took longer than {self._timeout_s:g} s and was given up") from error
        except Lost as error:
            raise ToolFault(f"mcp: {self._server}: {error}") from error
        text = shown(result)
        if result.is_error:
            raise ToolError(text)
        return text

    async def _living(self) -> Link:
        """The connection; a new one in place of one that broke. Raises ToolFault where there is none."""
        async with self._lock:
            if self._link is None:
                raise ToolFault(f"mcp: {self._server} is closed")
            try:
                if self._link.is_lost:
                    await self._link.stop()
                    new = Link(**self._link_options)
                    await new.start()
                    self._link = new
                elif self._link.is_doubtful:
                    await self._link.probe()
            except Lost as error:
                raise ToolFault(f"mcp: {self._server}: {error}") from error
            return self._link


def _resolved(where: str, values: Mapping[str, str]) -> dict[str, str]:
    """With ``$NAME`` read from the environment. Raises ConfigError where it is not there."""
    found = {}
    for key, value in values.items():
        if re.fullmatch(r"\$[A-Za-z_]\w*", value):
            if value[1:] not in os.environ:
                raise ConfigError(f"mcp.{where}.{key}: the environment has no {value[1:]}; set it")
            value = os.environ[value[1:]]
        found[key] = value
    return found


def _must_exist(program: str, path: str | None, cwd: str) -> None:
    if cwd and not os.path.isdir(cwd):
        raise ConfigError(f"mcp.cwd: there is no folder {cwd}")
    if os.path.dirname(program):
        program = os.path.join(cwd, program)
    if shutil.which(program, path=path) is None:
        raise ConfigError(f"mcp.command: there is no program {program}; wanted the server's program and its arguments")


def shown(result: mcp.types.CallToolResult) -> str:
    """What the model sees: the texts, one below the other; of anything else its kind and size; where there is no content, the
    structured one as JSON."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [pydantic.TypeAdapter(Any).dump_json(result.structured_content).decode()]
    return "\n".join(parts) or "(no output)"


def _part(block: Any) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type}: {block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        case "resource_link":
            return f"[resource: {block.uri} ({block.name})]"
        case "resource" if hasattr(block.resource, "text"):
            return block.resource.text
        case "resource":
            return f"[resource: {block.resource.uri}, {len(block.resource.blob) * 3 // 4} bytes]"
    return f"[{block.type}]"


# ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────────


class Lost(Exception):
    """A server cannot be reached, is gone, or broke the protocol."""


class Link:
    """A connection to a server, held by a task of its own: the SDK's task groups must be entered and left by one task,
    while calls come from any."""

    def __init__(
        self,
        *,
        url: str,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        headers: Mapping[str, str],
        timeout_s: float,
        start_timeout_s: float,
        handshake: Literal["auto", "legacy"],
    ) -> None:
        self.url, self.command, self.env, self.cwd, self.headers = url, list(command), dict(env), cwd, dict(headers)
        self.timeout_s, self.start_timeout_s, self.handshake = timeout_s, start_timeout_s, handshake
        self.is_doubtful = False  # a call took too long: perhaps it answers no more
        self._broken = False
        self._words = LastWords()
        self._client: mcp.Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._scope: Any = None
        self._leave = asyncio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether no further call can be answered."""
        return self._broken or self._task is None or self._task.done()

    async def start(self) -> list[mcp.types.Tool]:
        """Connects and gives the server's tools. Raises Lost, and then nothing is left of it."""
        ready: asyncio.Future[tuple[mcp.Client, list[mcp.types.Tool]]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"mcp {self.url or self.command[0]}")
        try:
            await asyncio.wait({ready, self._task}, timeout=self.start_timeout_s, return_when="FIRST_COMPLETED")
            if ready.done():
                self._client, tools = ready.result()
                return tools
            what = f"no answer in the protocol within {self.start_timeout_s:g} s"
            error = self._task.exception() if self._task.done() else None
            if error is not None:
                what = f"it cannot be reached: {_leaf(error)}"
        except BaseException:
            await self.stop()
            raise
        await self.stop()
        raise Lost(f"{what}{self._words}") from error

    async def stop(self) -> None:
        """Ends the connection, and the server where it was started here. What the ending raises is of no consequence."""
        self._broken = True
        self._leave.set()
        if self._task is None:
            return
        if self._client is None and self._scope is not None:  # it waits for an answer that no longer matters
            self._scope.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # or it would be reported as never asked for

    async def call(self, name: str, arguments: Mapping[str, Json]) -> mcp.types.CallToolResult:
        """Raises ToolError where the server refuses the call, Lost where it is gone or broke the protocol."""
        from mcp import MCPError, types

        assert self._client is not None
        try:
            return await self._client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.code == types.INVALID_PARAMS or not self._breaks(error):
                raise ToolError(f"the server refuses the call: {error.message}") from error
            self._broken = True
            raise Lost(f"the connection broke: {error.message}{self._words}") from error
        except (pydantic.ValidationError, RuntimeError) as error:
            raise Lost(f"its answer breaks the protocol: {error}") from error

    def _breaks(self, error: mcp.MCPError) -> bool:
        """Whether it says that there is nobody to talk to."""
        from mcp import types

        broken = (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT, types.PARSE_ERROR)
        return error.code in broken or self.is_lost

    async def _heard(self, response: Any) -> None:
        """Notes a status of HTTP that ends a session; the SDK makes the same errors of it as servers send."""
        status = response.status_code
        if self._client is not None and response.request.method == "POST" and (status in ENDS or status >= 500):
            self._broken = True

    async def probe(self) -> None:
        """Whether it still answers. Raises Lost where it does not."""
        from mcp import MCPError

        assert self._client is not None
        try:
            async with asyncio.timeout(PROBE_S):
                await self._client.list_tools()
        except (TimeoutError, MCPError, pydantic.ValidationError) as error:
            self._broken = True
            raise Lost(f"it answers no more{self._words}") from error
        self.is_doubtful = False

    async def _live(self, ready: asyncio.Future[tuple[mcp.Client, list[mcp.types.Tool]]]) -> None:
        """The connection's task."""
        import anyio
        import mcp

        with anyio.CancelScope() as self._scope:
            async with self._transport() as transport, mcp.Client(transport, mode=self.handshake, cache=None) as client:
                tools = await _all_tools(client)
                if not ready.done():
                    ready.set_result((client, tools))
                await self._leave.wait()

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Any]:
        if self.url:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            limits = httpx2.Timeout(self.start_timeout_s, read=2 * self.timeout_s + 300)
            hooks = {"response": [self._heard]}
            async with httpx2.AsyncClient(headers=self.headers, timeout=limits, event_hooks=hooks) as client:
                yield streamable_http_client(self.url, http_client=client)
            return
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        program, *arguments = kept(self.command)
        server = StdioServerParameters(
            command=program,
            args=arguments,
            env=self.env,
            cwd=self.cwd,
            encoding_error_handler="replace",  # "strict" stops reading for good at the first byte that is no UTF-8
        )
        async with self._words.listening() as pipe:
            yield stdio_client(server, errlog=pipe)


async def _all_tools(client: mcp.Client) -> list[mcp.types.Tool]:
    tools: list[mcp.types.Tool] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise Lost(f"its list of tools has more than {MAX_PAGES} pages")


def _leaf(error: BaseException) -> str:
    """What went wrong first, inside of the groups that it comes in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


class LastWords(asyncio.Protocol):
    """The end of what a server writes to its standard error."""

    def __init__(self) -> None:
        self._text = b""

    def data_received(self, data: bytes) -> None:
        self._text = (self._text + data)[-LAST_WORDS:]

    def __str__(self) -> str:
        lines = self._text.decode(errors="replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-3:]
        return f"; it said: {' / '.join(last)}" if last else ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Any]:
        """A file that a server may have as its standard error."""
        read, write = os.pipe()
        with os.fdopen(read, "rb") as ours, os.fdopen(write, "w") as theirs:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, ours)
            try:
                yield theirs
            finally:
                transport.close()
