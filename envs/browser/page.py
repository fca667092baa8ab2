"""The code of a site: its state, the view of that state, and what an event does to it. ``dom.Document`` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from agentrl.envs.browser.elements import Element

Value = str | bool


class Wish(NamedTuple):
    """What a player who knows everything does next: an action on a widget by its key, and a text where the action takes one."""

    action: str
    key: str = ""
    text: str = ""


class Page:
    """The code of a site. Subclasses write ``start``, ``view``, ``handle`` and ``wish``.

    ``spec`` is the task's content (JSON), ``state`` what the site remembers (JSON), ``values`` what its widgets hold by key (of
    radio buttons: the chosen key by group), ``result`` whether the task was solved, once that is decided.
    """

    url: ClassVar[str] = "/"
    title: ClassVar[str] = "Page"

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec: Any = spec
        self.values: dict[str, Value] = {}
        self.result: bool | None = None
        self.state: Any = self.start()

    def start(self) -> dict[str, Any]:
        """The state at first."""
        return {}

    @property
    def place(self) -> str:
        """The path of the page that is shown."""
        return self.url

    @property
    def more(self) -> str:
        """The event of having scrolled to the end; "" where there is none."""
        return ""

    def view(self) -> Sequence[Element]:
        """What is shown in this state, from top to bottom; a dialog comes last."""
        raise NotImplementedError

    def handle(self, event: str) -> None:
        """What an event does; the part behind a colon is its argument."""
        raise NotImplementedError

    def wish(self) -> Wish | None:
        """The next action towards the goal; None where there is no way from here."""
        raise NotImplementedError

    def sought(self) -> str:
        """The key of the widget that must have been seen before the task can be solved."""
        raise NotImplementedError

    def end(self, solved: bool) -> None:
        """The task is over."""
        self.result = solved

    def forget(self, *keys: str) -> None:
        """Widgets are again as they were at first."""
        for key in keys:
            self.values.pop(key, None)

    # ── what widgets hold ────────────────────────────────────────────────────────────────────────────────────────────

    def written(self, key: str, default: str = "") -> str:
        """What stands in a textbox or is chosen in a list, without spaces around it."""
        return str(self.values.get(key, default)).strip()

    def ticked(self, key: str, default: bool = False) -> bool:
        """Whether a box is ticked."""
        return bool(self.values.get(key, default))

    def held(self, element: Element) -> Value:
        """What a widget holds now."""
        if element.role == "radio":
            return self.values[element.group] == element.key if element.group in self.values else element.value
        return self.values.get(element.key, element.value)

    def keep(self, element: Element, value: Value) -> None:
        """A widget's new content, as a browser tells it."""
        if element.role == "radio":
            if value:
                self.values[element.group] = element.key
        else:
            self.values[element.key] = value
