"""Pages for tests, served from memory, and the skip where no Chromium is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentrl.browsers import find_chromium
from agentrl.envs.browser.actions import parse
from agentrl.envs.browser.chromium import Page, Reply, Seen
from agentrl.envs.browser.tree import walk
from agentrl.errors import ConfigError

HOST = "http://pages.test"


def needs_chromium() -> None:
    """Skips the test where no browser can be started."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install 'agentrl-toolkit[browser]'")
    try:
        find_chromium()
    except ConfigError as error:
        pytest.skip(str(error))


def served(pages: Mapping[str, str]) -> Any:
    """Answers with the page of a path; None, which refuses, for any other host or path."""

    async def answer(url: str, method: str, _body: bytes | None) -> Reply | None:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != HOST or method != "GET" or parts.path not in pages:
            return None
        return Reply(pages[parts.path].encode())

    return answer


@contextmanager
def opened(body: str, **options: Any) -> Iterator[Page]:
    """A page of that body, open."""
    needs_chromium()
    page = Page(served({"/": f"<!doctype html><title>T</title><body>{body}"}), **options)
    try:
        page.run(page.start(f"{HOST}/"))
        yield page
    finally:
        page.shut()


def does(page: Page, *actions: str) -> Seen:
    """What is seen after the last of the actions."""
    seen = None
    for action in actions:
        seen = page.run(page.act(parse(action)))
    assert seen is not None
    return seen


def bid(seen: Seen, name: str, role: str = "") -> str:
    """The id of the element of that name."""
    return next(str(one.bid) for one in walk(seen.root) if one.name == name and one.bid and role in ("", one.role))
