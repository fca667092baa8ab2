"""The browser as a tool: pages of an allowed host are opened, read and acted on; other hosts are not reached."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from toy_browser import needs_chromium

from agentrl.envs.browser.chromium import Page
from agentrl.errors import ConfigError, ToolError
from agentrl.tool_env import tool_loop
from agentrl.tools.browser import Browser

pytestmark = pytest.mark.slow


class Site(BaseHTTPRequestHandler):
    """A page with a link, a form and a picture of another host; /old leads to it."""

    asked: list[str]
    other: int

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/old":
            self.send_response(302)
            self.send_header("location", "/")
            self.end_headers()
            return
        there = self.path.startswith("/there")
        body = (
            f"<title>There</title><p>{self.path}</p>"
            if there
            else f"<title>Here</title><img src=http://127.0.0.1:{self.other}/x.png><a href=/there>Go</a>"
            "<form action=/there><input name=q aria-label=Word><button>Send</button></form>"
            f"<a href=http://127.0.0.1:{self.other}/>Out</a>"
        )
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def sites() -> Iterator[tuple[int, list[str], int, list[str]]]:
    """(an allowed server's port, what it was asked, another's port, what that was asked)."""
    needs_chromium()
    kinds = [type("S", (Site,), {"asked": []}) for _ in range(2)]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in kinds]
    kinds[0].other = kinds[1].other = servers[1].server_port
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers[0].server_port, kinds[0].asked, servers[1].server_port, kinds[1].asked
    for server in servers:
        server.shutdown()
        server.server_close()


def wait(work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, tool_loop()).result(120)


def call(browser: Browser, name: str, **arguments: str) -> str:
    one = next(one for one in browser.tools() if one.name == name)
    return wait(one.call(arguments)).text


def test_pages_are_opened_read_and_acted_on(sites: tuple[int, list[str], int, list[str]]) -> None:
    port, asked, other, asked_there = sites
    browser = Browser((f"127.0.0.1:{port}",), timeout_s=60.0)
    browser.open(None)
    try:
        home = f"http://127.0.0.1:{port}/"
        text = call(browser, "browser_open", url=f"{home}old")  # the address is the one that it leads to
        assert text.startswith(f"RootWebArea 'Here', focused, url='{home}'") and "textbox 'Word' value=''" in text
        ids = {line.split("'")[1]: line.split("[")[1].split("]")[0] for line in text.split("\n") if "[" in line}
        assert "value='red shoes', focused" in call(
            browser, "browser_act", action=f"fill('{ids['Word']}', 'red shoes')"
        )
        assert "/there?q=red+shoes" in call(browser, "browser_act", action=f"click('{ids['Send']}')")
        assert "RootWebArea 'Here'" in call(browser, "browser_act", action="go_back()")
        again = call(browser, "browser_open", url=home)
        assert again.startswith("RootWebArea 'Here'")
        assert f"url='{home}'" in call(browser, "browser_act", action=f"click('{ids['Out']}')")
        assert "not among the allowed hosts" in call(browser, "browser_open", url=f"http://127.0.0.1:{other}/")
        assert "no action 'goto'" in call(browser, "browser_act", action=f"goto('http://127.0.0.1:{other}/')")
        assert 'there is no element "99"' in call(browser, "browser_act", action="click('99')")
    finally:
        wait(browser.close())
    assert asked_there == [] and "/old" in asked


def test_a_page_that_is_left_while_it_is_read_gives_the_one_that_came(
    sites: tuple[int, list[str], int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = sites[0]
    browser = Browser((f"127.0.0.1:{port}",), timeout_s=60.0)
    browser.open(None)
    left: list[str] = []
    read = Page._turn

    async def leaves_once(page: Page, *arguments: Any) -> Any:
        if not left:
            left.append(page.playwright.url)
            await page.playwright.evaluate("() => new Promise(() => location.assign('/there'))")
        return await read(page, *arguments)

    try:
        assert "RootWebArea 'Here'" in call(browser, "browser_open", url=f"http://127.0.0.1:{port}/")
        monkeypatch.setattr(Page, "_turn", leaves_once)
        assert "RootWebArea 'There'" in call(browser, "browser_act", action="noop()")
        assert left == [f"http://127.0.0.1:{port}/"]
    finally:
        wait(browser.close())


def test_a_server_that_is_down_is_told_and_an_episode_starts_without_a_page() -> None:
    needs_chromium()
    browser = Browser(("127.0.0.1:9",), timeout_s=60.0)
    browser.open(None)
    assert "cannot be opened" in call(browser, "browser_open", url="http://127.0.0.1:9/")
    wait(browser.close())
    browser.open(None)
    assert "no page is open" in call(browser, "browser_act", action="noop()")
    wait(browser.close())
    with pytest.raises(ToolError, match="closed"):
        browser._ready()


@pytest.mark.parametrize("options", [{"hosts": ()}, {"hosts": ("a/b",)}, {"hosts": ("a",), "actions": ("clik",)}])
def test_options_that_cannot_be_used(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Browser(**options)
