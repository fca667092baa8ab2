"""``browser_open`` and ``browser_act``: pages of hosts that the user named, in a real Chromium.

    [env.options]
    tools = [{ name = "browser", hosts = ["example.org", "127.0.0.1:8000"] }]

A call answers with the page's accessibility tree, in which elements have ids; ``browser_act`` takes one of BrowserGym's actions on
them. The browser itself has no network: each of its requests is asked by the tool ``http``, whose rules hold (``hosts``, addresses
that are not public, redirects, sizes), and what they refuse is refused. So there are no cookies of earlier episodes, no web sockets
and no downloads; a page that needs them shows what it can. Each episode has a page of its own.

Not covered: what an allowed host does with a request. Chromium's own sandbox is off where Playwright leaves it off, so allow hosts
that you would open in a browser of yours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import urldefrag

import httpx

from agentrl.browsers import find_chromium
from agentrl.envs.browser.actions import BadAction, chosen, parse
from agentrl.envs.browser.chromium import Page, Reply, Seen
from agentrl.errors import ConfigError, EnvFault, ToolError, ToolFault
from agentrl.tool import Toolset, register_tool, tool
from agentrl.tools.http import Http, Refused
from agentrl.types import Task

__all__ = ["Browser"]

T = TypeVar("T")
MAX_KB = 10_000  # of one answer: a page's scripts and pictures
ACTIONS = ("bid", "go_back", "go_forward", "noop")


@register_tool
@dataclass
class Browser(Toolset):
    """The tools ``browser_open`` and ``browser_act``. ``hosts``: as of the tool "http". ``post``: whether pages may send forms by
    POST. ``actions``: which may be taken, by name or by set (``agentrl.envs.browser.actions.SUBSETS``). ``timeout_s`` is for an
    answer and for a page that hangs; ``max_chars`` of a tree are shown.

    Raises ConfigError for options that cannot be used, also where no Chromium is found.
    """

    hosts: tuple[str, ...]
    post: bool = False
    actions: tuple[str, ...] = ACTIONS
    timeout_s: float = 20.0
    max_chars: int = 6000
    _page: Page | None = field(default=None, init=False, repr=False)
    _open: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        methods: tuple[Literal["GET", "POST"], ...] = ("GET", "POST") if self.post else ("GET",)
        self._http = Http(self.hosts, methods, self.timeout_s, MAX_KB)
        self._allowed = chosen(self.actions)
        find_chromium()
        if not 0 < self.max_chars <= 15_000:
            raise ConfigError(f"browser.max_chars: wanted 1 to 15000; got {self.max_chars}")

    def open(self, task: Task | None) -> None:
        """Nothing of an earlier episode is left; the page itself opens with the first address."""
        self._page = Page(
            self._answer, "trusted", "real", follows=True, size=(1024, 768), timeout_s=self.timeout_s, step_ms=0
        )
        self._open = False

    async def close(self) -> None:
        """Closes the page."""
        page, self._page = self._page, None
        if page is not None and self._open:
            await asyncio.wrap_future(page.submit(page.close()))

    @tool
    async def browser_open(self, url: str) -> str:
        """Opens a page of the web in a browser and gives its elements, with their ids, as text.

        Args:
            url: The whole address, with http:// or https://.
        """
        page = self._ready()
        self._http.rules.url(url)
        self._open = True
        return self._shown(await self._asked(page, page.start(urldefrag(url).url, fresh=True)))

    @tool
    async def browser_act(self, action: str) -> str:
        """Takes an action on the open page and gives what is seen then.

        Args:
            action: One call, such as click('12'), fill('7', 'red shoes'), select_option('9', 'blue'), press('7', 'Enter'),
                hover('4'), scroll(0, 300), go_back() or noop().
        """
        page = self._ready()
        try:
            found = parse(action, self._allowed)
        except BadAction as error:
            raise ToolError(str(error)) from error
        if not self._open:
            raise ToolError("no page is open; call browser_open first")
        return self._shown(await self._asked(page, page.act(found)))

    def _ready(self) -> Page:
        if self._page is None:
            raise ToolError("the browser is closed")
        return self._page

    async def _asked(self, page: Page, work: Coroutine[Any, Any, T]) -> T:
        """What the browser's thread gives. Raises ToolError for an address that gives no page, ToolFault for a lost browser."""
        page.refused.clear()
        try:
            return await asyncio.wrap_future(page.submit(work))
        except EnvFault as error:
            raise ToolFault(f"browser: {error}") from error
        except Exception as error:
            if not type(error).__module__.startswith("playwright."):
                raise
            why = f"; refused: {page.refused[0]}" if page.refused else ""
            raise ToolError(f"the page cannot be opened: {str(error).splitlines()[0][:200]}{why}") from error

    def _shown(self, seen: Seen) -> str:
        text = seen.text()
        if len(text) <= self.max_chars:
            return text
        head = text[: self.max_chars].rpartition("\n")[0]
        error = f"\n{text.rpartition(chr(10))[2]}" if seen.error else ""
        return f"{head}\n[the rest of the page, {len(text) - len(head)} characters, is not shown]{error}"

    async def _answer(self, url: str, method: str, body: bytes | None) -> Reply | None:
        """What the browser is told for a request: the answer that "http" gets, or None where that refuses it."""
        try:
            found = await self._http.fetch(method, url, body or b"")
        except (Refused, ToolError, httpx.HTTPError, OSError):
            return None
        if urldefrag(found.url).url != urldefrag(url).url and found.content_type == "text/html":
            return Reply(_onward(found.url))  # so the page's own address is the one that it was redirected to
        charset = f"; charset={found.charset}" if found.charset else ""
        return Reply(found.content, f"{found.content_type or 'application/octet-stream'}{charset}", found.status)


def _onward(url: str) -> bytes:
    quoted = "".join(f"\\u{ord(one):04x}" if not one.isalnum() or not one.isascii() else one for one in url)
    return f'<script>location.replace("{quoted}")</script>'.encode()
