"""The Chromium of a process, and the thread that Playwright lives in."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any, ClassVar, TypeVar

from agentrl.browsers import find_chromium
from agentrl.errors import EnvFault, MissingExtra

__all__ = ["NOBODY", "OPEN_TIMEOUT_S", "Chromium", "PageLost", "closed", "first_line", "from_playwright"]

T = TypeVar("T")
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
CLOSE_TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 20.0  # of a context and of a page in it: more, and the whole browser hangs


class PageLost(EnvFault):
    """A page crashed, hung, or lost its browser."""


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
        """A new context of the browser, which is started where none is connected, and once more where it hangs or was lost
        without a word (its driver died)."""
        browser = await self._running()
        try:
            return await asyncio.wait_for(browser.new_context(**options), OPEN_TIMEOUT_S)
        except Exception as error:
            if not (isinstance(error, TimeoutError) or from_playwright(error)):
                raise
            browser = await self._running(instead=browser)
            return await asyncio.wait_for(browser.new_context(**options), OPEN_TIMEOUT_S)

    async def _running(self, instead: Any = None) -> Any:
        """The browser that is connected and is not ``instead``, started where there is none."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._browser is None or self._browser is instead or not self._browser.is_connected():
                await self._launch()
            return self._browser

    async def _launch(self) -> None:
        if self._driver is not None:
            await self._stop()  # a driver whose browser went may have gone with it
        self._driver = await self._playwright_starts().start()
        try:
            self._browser = await self._driver.chromium.launch(
                executable_path=str(self.program), headless=True, args=list(FLAGS)
            )
        except Exception as error:
            if not from_playwright(error):
                raise
            raise PageLost(f"the browser {self.program} does not start: {first_line(error)}") from error

    async def _stop(self) -> None:
        driver, self._driver, self._browser = self._driver, None, None
        if driver is not None:
            await closed(driver.stop())

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


async def closed(work: Awaitable[Any]) -> None:
    """Waits for something to close, not longer than ``CLOSE_TIMEOUT_S``; what is gone already is closed too."""
    try:
        await asyncio.wait_for(work, CLOSE_TIMEOUT_S)
    except Exception as error:
        if not (isinstance(error, TimeoutError) or from_playwright(error)):
            raise


def from_playwright(error: BaseException) -> bool:
    """Whether it is Playwright's word on a page or a browser."""
    return type(error).__module__.startswith("playwright.") or "Connection closed" in str(error)


def first_line(error: BaseException) -> str:
    """What an error says, without the log below it."""
    return str(error).strip().split("\n")[0][:200]
