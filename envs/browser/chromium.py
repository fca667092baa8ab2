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
import atexit
import concurrent.futures
import functools
import json
import mimetypes
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from agentrl.browsers import find_chromium
from agentrl.envs.browser.actions import Action
from agentrl.envs.browser.tree import Node, observation_text, tree_text
from agentrl.errors import EnvFault, MissingExtra

T = TypeVar("T")
Events = Literal["js", "trusted"]
Clock = Literal["virtual", "real"]
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--force-webrtc-ip-handling-policy",
)
NOBODY = "http://127.0.0.1:9"  # the proxy of pages: the discard port, where nothing listens
START_MS = 1_767_225_600_000  # when a virtual clock begins: 2026-01-01, 0:00 UTC
CLOSE_TIMEOUT_S = 5.0


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


class PageLost(EnvFault):
    """A page crashed, hung, or lost its browser."""


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


# ── the browser ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Chromium:
    """The browser of this process and the thread that drives it. It starts with the first page and ends with the process, also
    where that is killed: the browser's driver hangs on a pipe that then closes."""

    _shared: ClassVar[Chromium | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def shared(cls) -> Chromium:
        """This process's own; a forked child makes another."""
        with cls._lock:
            if cls._shared is None or cls._shared.pid != os.getpid():
                cls._shared = cls()
            return cls._shared

    def __init__(self) -> None:
        try:
            from playwright.async_api import async_playwright
        except ImportError as error:
            raise MissingExtra("browser", "a page in Chromium") from error
        self.program = find_chromium()
        self.pid = os.getpid()
        self._playwright_starts = async_playwright
        self._driver: Any = None
        self._browser: Any = None
        self._starting: asyncio.Lock | None = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="agentrl-chromium", daemon=True)
        self.thread.start()
        atexit.register(self.close)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts something in the browser's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for something in the browser's thread; an interrupt of the waiting ends it too."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def context(self, **options: Any) -> Any:
        """A new context of the browser, which is started where none is connected."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._browser is None or not self._browser.is_connected():
                await self._launch()
            browser: Any = self._browser
        return await browser.new_context(**options)

    async def _launch(self) -> None:
        if self._driver is not None:
            await self._stop()  # a driver whose browser went may have gone with it
        self._driver = await self._playwright_starts().start()
        self._browser = await self._driver.chromium.launch(
            executable_path=str(self.program), headless=True, args=list(FLAGS)
        )

    async def _stop(self) -> None:
        driver, self._driver, self._browser = self._driver, None, None
        if driver is not None:
            await _closed(driver.stop())

    def close(self) -> None:
        """Ends the browser and its thread. Pages that are open are lost."""
        atexit.unregister(self.close)
        with Chromium._lock:
            if Chromium._shared is self:
                Chromium._shared = None
        if self.pid != os.getpid() or not self.thread.is_alive():
            return
        try:
            self.submit(self._stop()).result(2 * CLOSE_TIMEOUT_S)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(CLOSE_TIMEOUT_S)


async def _closed(work: Awaitable[Any]) -> None:
    """Waits for something to close, not longer than ``CLOSE_TIMEOUT_S``; what is gone already is closed too."""
    try:
        await asyncio.wait_for(work, CLOSE_TIMEOUT_S)
    except Exception as error:
        if not (isinstance(error, TimeoutError) or _from_playwright(error)):
            raise


def _from_playwright(error: BaseException) -> bool:
    return type(error).__module__.startswith("playwright.") or "Connection closed" in str(error)


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
    _page: Any = None
    _context: Any = None
    _url: str = ""
    _begin: tuple[str, Any] | None = None
    _done: list[tuple[Action, str]] = field(default_factory=list)
    _crashed: bool = False
    _mouse: tuple[float, float] = (0.0, 0.0)
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
        self._begin, self._done = (begin, argument), []
        if fresh:
            self._url = ""
        try:
            return await self._started(url)
        except PageLost:
            await self.close()
            self.n_retries += 1
            return await self._started(url)

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
        return await self._guarded(self._page.evaluate(function, argument))

    async def screenshot(self, quality: int = 70) -> bytes:
        """The window as JPEG."""
        return await self._guarded(self._page.screenshot(type="jpeg", quality=quality))

    async def close(self) -> None:
        """Closes the page, a hung one too."""
        context, self._context, self._page, self._url = self._context, None, None, ""
        if context is not None:
            await _closed(context.close())

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _started(self, url: str) -> Seen:
        if self._page is None or self._crashed:
            await self._open()
        page: Any = self._page
        if self._url != url:
            self._url = ""  # until then the page may go anywhere
            await self._guarded(page.goto(url, timeout=1000 * self.timeout_s))
            self._url = url
        elif self._mouse != (0.0, 0.0):
            await self._guarded(page.mouse.up())
            await self._guarded(page.mouse.move(0, 0))
            self._mouse = (0.0, 0.0)
        assert self._begin is not None, "start has set it"
        begin, argument = self._begin
        if begin:
            await self.evaluate(begin, argument)
        return await self._turn("noop", (), 0)

    async def _open(self) -> None:
        await self.close()
        self._crashed, self._mouse, self._loading = False, (0.0, 0.0), 0
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
            settings = {"virtual": self.clock == "virtual", "start_ms": START_MS, "hidden": list(self.hidden)}
            await self._context.add_init_script(_script(json.dumps(settings)) + self.script)
            await self._context.route("**/*", lambda route: self._routed(route))  # a method would be written to
            self._page = await self._context.new_page()
        except Exception as error:
            if not _from_playwright(error):
                raise
            raise PageLost(f"no page could be opened: {_first_line(error)}") from error
        self._page.on("crash", lambda _: self._on_crash())
        self._page.on("popup", lambda popup: asyncio.ensure_future(_closed(popup.close())))

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
            if not _from_playwright(error):  # else the page was closed while it asked
                raise

    async def _again(self) -> None:
        """A new page at the same place. Raises EnvFault where it shows something else."""
        url, done = self._url, self._done
        await self.close()
        try:
            await self._started(url)
            for number, (action, tree) in enumerate(done):
                if (await self._acted(action)).tree() != tree:
                    raise EnvFault(f"a lost page cannot be played again: action {number} now shows something else")
        except PageLost as error:
            raise EnvFault(f"a page was lost twice: {error}") from error

    async def _guarded(self, work: Awaitable[T]) -> T:
        """What the browser gives. Raises PageLost where it gives nothing."""
        try:
            return await asyncio.wait_for(work, self.timeout_s)
        except TimeoutError as error:
            self._crashed = True
            raise PageLost(f"the page did not answer for {self.timeout_s:g} s") from error
        except Exception as error:
            gone = _from_playwright(error) and (
                self._crashed or re.search(r"crashed|has been closed|Connection closed|disconnected", str(error))
            )
            if gone:
                self._crashed = True
                raise PageLost(f"the page was lost: {_first_line(error)}") from error
            raise

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _acted(self, action: Action) -> Seen:
        if self._page is None:
            raise PageLost("the page is not open")
        arguments = action.named()
        ms = int(float(str(arguments["wait_ms"]))) if action.name == "noop" else self.step_ms
        if action.name == "scroll":
            return await self._turn("scroll", (*self._mouse, *arguments.values()), ms)
        if action.name in _IN_PAGE and (self.events == "js" or action.name in _ALWAYS_IN_PAGE):
            return await self._turn(action.name, tuple(arguments.values()), ms)
        if action.name not in _BY_BROWSER:
            return await self._turn("noop", (), ms, f"{action.name} is not possible here")
        error = await _BY_BROWSER[action.name](self, arguments)
        return await self._turn("noop", (), ms, error)

    async def _turn(self, name: str, arguments: tuple[Any, ...], ms: int, error: str = "") -> Seen:
        """One evaluate: something done in the page, its clock moved on, what is seen then."""
        call = [name, [list(one) if isinstance(one, tuple) else one for one in arguments], ms, True]
        found = await self._guarded(self._page.evaluate("call => __agentrl.turn(call)", call))
        return _seen(json.loads(found), error)

    async def _part(self, name: str, *arguments: Any) -> tuple[Any, str]:
        """Something done in the page that is a part of an action: (its value, what was wrong)."""
        found = await self.evaluate("call => __agentrl.turn(call)", [name, list(arguments), 0, False])
        told = json.loads(found)
        return told["value"], told["error"]

    async def _point(self, bid: str) -> tuple[float, float, str]:
        value, error = await self._part("aim", bid)
        return (*value, "") if value else (0.0, 0.0, error)

    async def _move(self, x: float, y: float, steps: int = 1) -> None:
        await self._guarded(self._page.mouse.move(x, y, steps=steps))
        self._mouse = (x, y)

    async def _press_mouse(self, x: float, y: float, button: str = "left", times: int = 1) -> None:
        await self._guarded(self._page.mouse.click(x, y, button=button, click_count=times))
        self._mouse = (x, y)

    async def _key(self, key: str) -> str:
        """Presses a key; what was wrong with it."""
        return await self._keyed(self._page.keyboard.press, key)

    async def _keyed(self, do: Callable[[str], Awaitable[None]], key: str) -> str:
        try:
            await self._guarded(do(key))
        except Exception as error:
            if not (_from_playwright(error) and "Unknown key" in str(error)):
                raise
            return f"there is no key {key[:40]!r}; keys are named as in 'a', 'Enter', 'ArrowDown', 'Control+a'"
        return ""


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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


# ── what the browser's own mouse and keyboard do ─────────────────────────────────────────────────────────────────────

_ALWAYS_IN_PAGE = ("noop", "focus", "select_option")
_IN_PAGE = (*_ALWAYS_IN_PAGE, "click", "dblclick", "fill", "clear", "check", "uncheck")
Arguments = Mapping[str, Any]


async def _click(page: Page, given: Arguments, times: int = 1) -> str:
    x, y, error = await page._point(given["bid"])
    if error:
        return error
    held = given.get("modifiers", ())
    for key in held:
        await page._guarded(page._page.keyboard.down(key))
    await page._press_mouse(x, y, given.get("button", "left"), times)
    for key in held:
        await page._guarded(page._page.keyboard.up(key))
    return ""


async def _dblclick(page: Page, given: Arguments) -> str:
    return await _click(page, given, 2)


async def _fill(page: Page, given: Arguments) -> str:
    text = given.get("value", "")
    by_keys, error = await page._part("ready", given["bid"], text)
    if error or not by_keys:
        return error
    if not text:
        return await page._key("Delete")
    await page._guarded(page._page.keyboard.insert_text(text))
    return ""


async def _check(page: Page, given: Arguments, wanted: bool = True) -> str:
    ticked, error = await page._part("ticked", given["bid"], wanted)
    return error if error or ticked == wanted else await _click(page, given)


async def _uncheck(page: Page, given: Arguments) -> str:
    return await _check(page, given, wanted=False)


async def _hover(page: Page, given: Arguments) -> str:
    x, y, error = await page._point(given["bid"])
    if not error:
        await page._move(x, y, steps=2)
    return error


async def _press(page: Page, given: Arguments) -> str:
    _, error = await page._part("focus", given["bid"])
    return error or await page._key(given["key_comb"])


async def _drag(page: Page, given: Arguments) -> str:
    left, top, error = await page._point(given["from_bid"])
    if error:
        return error
    x, y, error = await page._point(given["to_bid"])
    return error or await _dragged(page, (left, top), (x, y))


async def _dragged(page: Page, start: tuple[float, float], end: tuple[float, float]) -> str:
    await page._move(*start)
    await page._guarded(page._page.mouse.down())
    await page._move(*end, steps=6)
    await page._guarded(page._page.mouse.up())
    return ""


async def _mouse(page: Page, given: Arguments, do: str) -> str:
    x, y = given["x"], given["y"]
    button = given.get("button", "left")
    if do in ("click", "dblclick"):
        await page._press_mouse(x, y, button, 2 if do == "dblclick" else 1)
        return ""
    await page._move(x, y)
    if do in ("down", "up"):
        await page._guarded(getattr(page._page.mouse, do)(button=button))
    return ""


async def _mouse_drag(page: Page, given: Arguments) -> str:
    return await _dragged(page, (given["from_x"], given["from_y"]), (given["to_x"], given["to_y"]))


async def _keyboard(page: Page, given: Arguments, do: str) -> str:
    keyboard = page._page.keyboard
    if do in ("type", "insert_text"):
        await page._guarded(getattr(keyboard, do)(given["text"]))
        return ""
    return await page._keyed(getattr(keyboard, do), given["key"])


_BY_BROWSER: Mapping[str, Callable[[Page, Arguments], Awaitable[str]]] = {
    "click": _click,
    "dblclick": _dblclick,
    "fill": _fill,
    "clear": _fill,
    "check": _check,
    "uncheck": _uncheck,
    "hover": _hover,
    "press": _press,
    "drag_and_drop": _drag,
    "mouse_drag_and_drop": _mouse_drag,
    **{f"mouse_{do}": functools.partial(_mouse, do=do) for do in ("move", "click", "dblclick", "down", "up")},
    **{f"keyboard_{do}": functools.partial(_keyboard, do=do) for do in ("press", "down", "up", "type", "insert_text")},
}
