"""A page that is shown in Chromium, in the place of ``dom.Document``: the browser does what widgets do, and Python what the
site does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from agentrl.envs.browser import chromium
from agentrl.envs.browser.actions import Action, BadAction
from agentrl.envs.browser.chromium import Reply, Seen
from agentrl.envs.browser.dom import HOST, VIEWPORT, Document
from agentrl.envs.browser.html import SCRIPT, SHELL, shown
from agentrl.envs.browser.page import Page
from agentrl.envs.browser.tree import Node

WIDTH = 480  # pixels of the window


async def _answer(url: str, method: str, _body: bytes | None) -> Reply | None:
    """The one document that there is; what it shows is put into it."""
    return Reply(SHELL.encode()) if method == "GET" and url.startswith(f"{HOST}/") else None


def window() -> chromium.Page:
    """A window of the browser for pages of this package; it opens with the first of them."""
    return chromium.Page(_answer, script=SCRIPT, size=(WIDTH, VIEWPORT))


class LiveDocument(Document):
    """A page in a window of Chromium. What its widgets hold, the focus, the scrolling and the tree are the browser's; the ids too.

    Raises EnvFault where the browser is lost twice.
    """

    def __init__(self, page: Page, window: chromium.Page) -> None:
        self.window = window
        self._seen = Seen(Node("RootWebArea"), "", "")
        super().__init__(page)

    def refresh(self) -> None:
        """Shows the view of the page's state in the browser."""
        super().refresh()
        self._show()

    def _show(self) -> None:
        call = "it => __agentrl.show(it)"
        self._take(self.window.run(self.window.start(f"{HOST}/", call, shown(self))))

    def act(self, action: Action) -> None:
        """Lets the browser do it, and then the page what its events mean."""
        self.refuse(action)
        seen = self.window.run(self.window.act(action))
        pressed = self._take(seen)
        for key in pressed:
            element = self.by_key.get(key)
            if self.page.result is None and element is not None and not element.disabled:
                self.page.handle(element.on)
                super().refresh()
        if action.name == "scroll" and (event := self.wanted(float(str(action.named()["delta_y"])))):
            self.page.handle(event)
            pressed.append("")
        if pressed:
            self.refresh()
        if seen.error:
            raise BadAction(seen.error)

    def _take(self, seen: Seen) -> list[str]:
        """Takes over what the browser holds; the keys of what was activated, in order."""
        self._seen, told = seen, seen.more
        for key, value in told["values"].items():
            element = self.by_key.get(key)
            if element is not None and self.page.held(element) != value:
                self.page.keep(element, value)
        self.focus, self.scroll = told["focus"], told["scroll"]
        return told["pressed"]

    def tree(self) -> Node:
        return self._seen.root

    @property
    def focused_bid(self) -> str | None:
        return self._seen.focused

    @property
    def title(self) -> str:
        return self._seen.title

    @property
    def url(self) -> str:
        return self._seen.url

    @property
    def bottom(self) -> int:
        told = self._seen.more
        return told["bottom"] if told else 0

    def picture(self, quality: int) -> str:
        """The window as a JPEG in a data URI."""
        data = self.window.run(self.window.screenshot(quality))
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Goes back to a snapshot of this page. Which part of a field is selected is not kept."""
        super().restore(snapshot)
        self.marked = False
        self._show()
