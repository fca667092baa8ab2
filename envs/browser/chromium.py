"""Pages in a real Chromium, for environments: one browser a process, one page an environment, one evaluate a turn.

    page = Page(answer=folder(FOLDER))
    seen = page.run(page.start("http://pages.test/index.html"))
    seen = page.run(page.act(parse("click('3')")))
    seen.tree, seen.error

Playwright lives in a thread of its own, so a page serves from inside a running event loop as well: ``run`` waits, and
``asyncio.wrap_future(page.submit(…))`` lets others go on meanwhile.

The browser has no network: its pages are offline, behind a proxy that nobody answers, and every request is answered by ``answer``
or refused. So a page reaches what ``answer`` serves, and nothing else, files included. A page that crashes, hangs for ``timeout_s``
or loses its browser costs one retry: it is closed, opened anew, and what was done since ``start`` is done again; where that fails
too ``EnvFault`` is raised, the machinery's fault and not the policy's.

With ``clock = "virtual"`` time stands still but for ``step_ms`` an action: timers, animation frames and dates are the same on every
machine, and animations of style sheets are off.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
import mimetypes
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from agentrl.envs.browser.actions import Action
from agentrl.envs.browser.hands import ALWAYS_IN_PAGE, BY_BROWSER, IN_PAGE
from agentrl.envs.browser.process import NOBODY, OPEN_TIMEOUT_S, Chromium, PageLost, closed, first_line, from_playwright
from agentrl.envs.browser.tree import Node, observation_text, tree_text
from agentrl.errors import EnvFault

__all__ = ["MAX_WAIT_MS", "Answer", "Chromium", "Clock", "Events", "Page", "PageLost", "Reply", "Seen", "folder"]

T = TypeVar("T")
Events = Literal["js", "trusted"]
Clock = Literal["virtual", "real"]
MAX_WAIT_MS = 10_000  # of noop(ms)
MAX_HOPS = 5  # pages that one action leads to, one after the other
START = (
    "async ([begin, value, call]) => { if (begin) await (0, eval)(`(${begin})`)(value); return __agentrl.turn(call); }"
)
TURN = "call => __agentrl.turn(call)"
START_MS = 1_767_225_600_000  # when a virtual clock begins: 2026-01-01, 0:00 UTC


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request is answered with."""

    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: int = 200


Answer = Callable[[str, str, bytes | None], Awaitable[Reply | None]]
"""(address, method, body) -> what is served; None refuses the request."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page shows after a turn. ``focused``: an element's id. ``error``: what was wrong with the action, "" for nothing.
    ``more``: what the page's own script added."""

    root: Node
    title: str
    url: str
    focused: str | None = None
    error: str = ""
    more: Any = None

    def tree(self, *, bids: bool = True, centers: bool = False) -> str:
        """The accessibility tree as text."""
        return tree_text(self.root, title=self.title, url=self.url, focused=self.focused, bids=bids, centers=centers)

    def text(self, *, centers: bool = False) -> str:
        """The tree, and below it what was wrong."""
        return observation_text(self.tree(centers=centers), self.error)


def folder(root: Path) -> Answer:
    """Serves the files below a folder under any host: the path of an address is the path of a file."""
    base = root.resolve()

    @functools.lru_cache(maxsize=256)
    def read(path: str) -> Reply | None:
        file = (base / unquote(path).lstrip("/")).resolve()
        if not (file.is_relative_to(base) and file.is_file()):
            return None
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Reply(file.read_bytes(), f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)

    async def answer(url: str, method: str, _body: bytes | None) -> Reply | None:
        parts = urlsplit(url)
        return read(parts.path) if method == "GET" and parts.scheme == "http" else None

    return answer


# ── a page ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Page:
    """One page, which opens with the first ``start``. Its coroutines run in the browser's thread: see ``run`` and ``submit``.

    ``events``: "js" dispatches clicks and texts in the page, one evaluate a turn; "trusted" lets the browser's own mouse and
    keyboard do them. Keys, dragging, hovering and coordinates are always the browser's. ``script`` is run before a page's own;
    ``__agentrl.more = () => …`` in it adds to what is seen. ``hidden``: ids of elements that are not shown. ``follows``: whether a
    click may lead to another address. ``size``: of the window, in pixels.
    """

    answer: Answer
    events: Events = "js"
    clock: Clock = "virtual"
    script: str = ""
    hidden: tuple[str, ...] = ()
    follows: bool = False
    size: tuple[int, int] = (640, 480)
    timeout_s: float = 10.0
    step_ms: int = 500
    refused: list[str] = field(default_factory=list)
    n_retries: int = 0
    playwright: Any = None
    _context: Any = None
    _url: str = ""
    _begin: tuple[str, str, Any] = ("", "", None)
    _done: list[tuple[Action, str]] = field(default_factory=list)
    _crashed: bool = False
    _mouse: tuple[float, float] = (0.0, 0.0)
    _held: set[tuple[str, str]] = field(default_factory=set)  # ("keyboard", a key) or ("mouse", a button) that is down
    _loading: int = 0

    # ── from other threads ───────────────────────────────────────────────────────────────────────────────────────────

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for one of the coroutines below."""
        return Chromium.shared().run(work)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts one of the coroutines below."""
        return Chromium.shared().submit(work)

    def shut(self) -> None:
        """Closes the page from outside; where it never opened, nothing happens."""
        if self._context is not None and (browser := Chromium._shared) is not None and browser.pid == os.getpid():
            browser.run(self.close())

    # ── a turn ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, url: str, begin: str = "", argument: Any = None, fresh: bool = False) -> Seen:
        """Opens an address, unless the page is there already (``fresh``: then too), and begins an episode: ``begin`` is a
        JavaScript function of ``argument`` that sets the page up; it has ended (what it promises too) before anything is seen."""
        self._begin, self._done = (url, begin, argument), []
        if fresh:
            self._url = ""
        try:
            return await self._started()
        except PageLost:
            await self.close()
            self.n_retries += 1
            return await self._started()

    async def act(self, action: Action) -> Seen:
        """Takes an action and says what is seen then. An action that cannot be taken is told in ``Seen.error``.

        Raises EnvFault where the page is lost twice, or shows something else when all is done again.
        """
        try:
            seen = await self._acted(action)
        except PageLost:
            self.n_retries += 1
            await self._again()
            seen = await self._acted(action)
        self._done.append((action, seen.tree()))
        return seen

    async def evaluate(self, function: str, argument: Any = None) -> Any:
        """What a JavaScript function of the argument gives (awaited), within ``timeout_s``. Raises PageLost."""
        return await self.guarded(self.playwright.evaluate(function, argument))

    async def screenshot(self, quality: int = 70) -> bytes:
        """The window as JPEG."""
        return await self.guarded(self.playwright.screenshot(type="jpeg", quality=quality))

    async def close(self) -> None:
        """Closes the page, a hung one too."""
        context, self._context, self.playwright, self._url = self._context, None, None, ""
        if context is not None:
            await closed(context.close())

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _started(self) -> Seen:
        url, begin, argument = self._begin
        if self.playwright is None or self._crashed:
            await self._open()
        page: Any = self.playwright
        if self._url != url:
            self._url = ""  # until then the page may go anywhere
            await self.guarded(page.goto(url, timeout=1000 * self.timeout_s))
            self._url = url
            await self._steady(lambda: self.evaluate("() => __agentrl.preload()"))
        else:
            await self._let_go()
        found = await self._steady(lambda: self.evaluate(START, [begin, argument, ["noop", [], 0, True]]))
        return _seen(json.loads(found), "")

    async def _steady(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What is asked of a page, asked again of the page that came in its place meanwhile."""
        for _ in range(MAX_HOPS):
            try:
                return await ask()
            except Exception as left:
                if not (self.follows and _leaving(left)):
                    raise
            await self.guarded(self.playwright.wait_for_load_state("load"))
        return await ask()

    async def _let_go(self) -> None:
        """Hands as at the start: what the last episode held down is released, and the mouse is back in its corner."""
        page: Any = self.playwright
        for device, name in sorted(self._held):
            await self.guarded(page.keyboard.up(name) if device == "keyboard" else page.mouse.up(button=name))
        self._held.clear()
        if self._mouse != (0.0, 0.0):
            await self.guarded(page.mouse.move(0, 0))
            self._mouse = (0.0, 0.0)

    async def _open(self) -> None:
        await self.close()
        self._crashed, self._mouse, self._loading = False, (0.0, 0.0), 0
        self._held.clear()
        self.refused.clear()
        width, height = self.size
        try:
            self._context = await Chromium.shared().context(
                viewport={"width": width, "height": height},
                offline=True,
                proxy={"server": NOBODY},
                service_workers="block",
                accept_downloads=False,
                locale="en-US",
                timezone_id="UTC",
                color_scheme="light",
            )
            self.playwright = await asyncio.wait_for(self._furnished(self._context), OPEN_TIMEOUT_S)
        except TimeoutError as error:
            raise PageLost(f"no page opened within {OPEN_TIMEOUT_S:g} s") from error
        except Exception as error:
            if not from_playwright(error):
                raise
            raise PageLost(f"no page could be opened: {first_line(error)}") from error
        self.playwright.on("crash", lambda _: self._on_crash())
        self.playwright.on("popup", lambda popup: asyncio.ensure_future(closed(popup.close())))

    async def _furnished(self, context: Any) -> Any:
        """A page of the context, with the script that reads it, and every request answered here."""
        settings = {"virtual": self.clock == "virtual", "start_ms": START_MS, "hidden": list(self.hidden)}
        await context.add_init_script(_script(json.dumps(settings)) + self.script)
        await context.route("**/*", lambda route: self._routed(route))  # a method would be written to
        return await context.new_page()

    def _on_crash(self) -> None:
        self._crashed = True

    async def _routed(self, route: Any) -> None:
        request = route.request
        navigates = request.is_navigation_request() and request.frame.parent_frame is None
        try:
            if navigates and self._url and not self.follows:
                await route.abort("aborted")  # the page stays
                return
            self._loading += navigates
            try:
                reply = await self.answer(request.url, request.method, request.post_data_buffer)
                if reply is None:
                    self.refused.append(request.url[:200])
                    await route.abort("aborted" if navigates else "blockedbyclient")
                else:
                    await route.fulfill(status=reply.status, body=reply.body, content_type=reply.content_type)
            finally:
                self._loading -= navigates
        except Exception as error:
            if not from_playwright(error):  # else the page was closed while it asked
                raise

    async def _again(self) -> None:
        """A new page at the same place. Raises EnvFault where it shows something else."""
        await self.close()
        try:
            await self._started()
            for number, (action, tree) in enumerate(self._done):
                if (await self._acted(action)).tree() != tree:
                    raise EnvFault(f"a lost page cannot be played again: action {number} now shows something else")
        except PageLost as error:
            raise EnvFault(f"a page was lost twice: {error}") from error

    async def guarded(self, work: Awaitable[T]) -> T:
        """What the browser gives. Raises PageLost where it gives nothing."""
        try:
            return await asyncio.wait_for(work, self.timeout_s)
        except TimeoutError as error:
            self._crashed = True
            raise PageLost(f"the page did not answer for {self.timeout_s:g} s") from error
        except Exception as error:
            gone = from_playwright(error) and (
                self._crashed or re.search(r"crashed|has been closed|Connection closed|disconnected", str(error))
            )
            if gone:
                self._crashed = True
                raise PageLost(f"the page was lost: {first_line(error)}") from error
            raise

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _acted(self, action: Action) -> Seen:
        if self.playwright is None:
            raise PageLost("the page is not open")
        arguments = action.named()
        ms = self.step_ms
        if action.name == "noop":
            ms = min(max(0, int(float(str(arguments["wait_ms"])))), MAX_WAIT_MS)
        values = (*self._mouse, *arguments.values()) if action.name == "scroll" else tuple(arguments.values())
        in_page = action.name in IN_PAGE and (self.events == "js" or action.name in ALWAYS_IN_PAGE)
        if in_page and self.clock == "virtual":
            return await self._turn(action.name, values, ms)
        error = ""
        try:
            if in_page:
                _, error = await self.part(action.name, *values)
            elif action.name in BY_BROWSER:
                error = await BY_BROWSER[action.name](self, arguments)
            else:
                error = f"{action.name} is not possible here"
        except Exception as left:
            if not (self.follows and _leaving(left)):
                raise
        if self.clock == "real":
            await asyncio.sleep(ms / 1000 if action.name == "noop" else 0)
            await self._settled()
        return await self._steady(lambda: self._turn("noop", (), ms, error))

    async def _settled(self) -> None:
        """Waits until what an action set off is there: two frames, and the load of a page that it leads to."""
        for _ in range(MAX_HOPS):
            try:
                await self.part("frames")
                if not self._loading:
                    return
            except Exception as left:
                if not _leaving(left):
                    raise
            await self.guarded(self.playwright.wait_for_load_state("load"))

    async def _turn(self, name: str, arguments: tuple[Any, ...], ms: int, error: str = "") -> Seen:
        """One evaluate: something done in the page, its clock moved on, what is seen then."""
        call = [name, [list(one) if isinstance(one, tuple) else one for one in arguments], ms, True]
        found = await self.guarded(self.playwright.evaluate(TURN, call))
        return _seen(json.loads(found), error)

    async def part(self, name: str, *arguments: Any) -> tuple[Any, str]:
        """Something done in the page that is a part of an action: (its value, what was wrong)."""
        call = [name, [list(one) if isinstance(one, tuple) else one for one in arguments], 0, False]
        found = await self.evaluate(TURN, call)
        told = json.loads(found)
        return told["value"], told["error"]

    # ── what hands are made of ───────────────────────────────────────────────────────────────────────────────────────

    async def point(self, bid: str) -> tuple[float, float, str]:
        """Where the mouse goes for an element: (x, y, what was wrong)."""
        value, error = await self.part("aim", bid)
        return (*value, "") if value else (0.0, 0.0, error)

    async def move(self, x: float, y: float, steps: int = 1) -> None:
        """Moves the mouse."""
        await self.guarded(self.playwright.mouse.move(x, y, steps=steps))
        self._mouse = (x, y)

    async def hold(self, device: str, name: str, *, down: bool) -> None:
        """Presses a key or a mouse button and holds it, or lets it go."""
        (self._held.add if down else self._held.discard)((device, name))
        if device == "mouse":
            mouse = self.playwright.mouse
            await self.guarded((mouse.down if down else mouse.up)(button=name))
        else:
            await self.guarded((self.playwright.keyboard.down if down else self.playwright.keyboard.up)(name))

    async def press_mouse(self, x: float, y: float, button: str = "left", times: int = 1) -> None:
        """Clicks at a point."""
        await self.guarded(self.playwright.mouse.click(x, y, button=button, click_count=times))
        self._mouse = (x, y)

    async def key(self, key: str) -> str:
        """Presses a key; what was wrong with it."""
        return await self.keyed(self.playwright.keyboard.press, key)

    async def keyed(self, do: Callable[[str], Awaitable[None]], key: str) -> str:
        """Does something with a key; what was wrong with it."""
        try:
            await self.guarded(do(key))
        except Exception as error:
            if not (from_playwright(error) and "Unknown key" in str(error)):
                raise
            self._held.discard(("keyboard", key))
            return f"there is no key {key[:40]!r}; keys are named as in 'a', 'Enter', 'ArrowDown', 'Control+a'"
        return ""


def _leaving(error: BaseException) -> bool:
    """Whether a page was asked while another came in its place."""
    return from_playwright(error) and re.search(r"context was destroyed|navigat", str(error)) is not None


def _seen(told: Mapping[str, Any], error: str) -> Seen:
    root = Node("RootWebArea", children=[_node(one) for one in told["tree"]])
    return Seen(root, told["title"], told["url"], told["focused"], error or told["error"], told["more"])


_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


def _node(told: list[Any]) -> Node:
    """A node of what the page told: [role, name, id, value, states, children, box]. A role that is no word is none."""
    role, name, bid, value, states, children, box = told
    return Node(
        role if _ROLE.fullmatch(role) else "generic",
        name,
        bid or None,
        value,
        states or {},
        [_node(child) for child in children] if children else [],
        tuple(box) if box else None,
    )


@functools.cache
def _script(settings: str) -> str:
    text = resources.files("agentrl.envs.browser").joinpath("dom.js").read_text(encoding="utf-8")
    return text.replace('"@SETTINGS@"', settings)
