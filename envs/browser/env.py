"""Pages of agentrl's own as an environment: ``agentrl/Browser-v0``.

    env = agentrl.env.make("agentrl/Browser-v0", difficulty="tiny")
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step("fill('2', 'Anna')")

Actions and observations are BrowserGym's: calls on the ids that the accessibility tree shows, and that tree as text. The pages
are played in plain Python, or in Chromium (``engine``). The reward is 1 for the action that solves the task, else 0; what
cannot be taken back (sending, saving, deleting, paying) ends the episode, right or wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from agentrl.env import SPLITS, AwaitedEnv, TextEnv
from agentrl.envs.browser import tasks as drawn
from agentrl.envs.browser.actions import Action, BadAction, parse, to_text
from agentrl.envs.browser.dom import ALLOWED, Document
from agentrl.envs.browser.levels import LEVELS
from agentrl.envs.browser.page import Page, Wish
from agentrl.envs.browser.tree import observation_text, tree_text
from agentrl.envs.browser.words import DAYS, ROWS
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.types import Task

if TYPE_CHECKING:
    from agentrl.envs.browser import chromium
    from agentrl.envs.browser.expert import Careless

Engine = Literal["python", "chromium"]
OVER = "The episode is over."
SCROLL = 200  # pixels of the scroll that is listed
MAX_PLAN = 200
_WORD = re.compile(r"[A-Za-z]+")
_CONTENT = {word for row in ("name", "city", "food", "topic", "answer") for word in ROWS[row]} | set(DAYS)


class BrowserEnv(TextEnv, AwaitedEnv):
    """``difficulty`` names a level of ``levels``; ``families`` and ``task_types`` keep some; ``split`` is where ``reset``
    without a task draws from. ``list_actions`` puts ``admissible_actions`` into ``info``, which players at random want; then
    only those count as valid. ``reward_scale`` is the reward of solving a task; ``seed`` seeds the first ``reset`` that is
    given none.

    Keys of ``info``: success and won (bool), score (1.0 or 0.0), valid (False: the action was none, or could not be done),
    goal, url, title, last_action_error (text), task_type, task_id.
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"difficulty": tuple(LEVELS)}

    def __init__(
        self,
        difficulty: str = "tiny",
        split: str = "train",
        families: Sequence[str] | None = None,
        task_types: Sequence[str] | None = None,
        engine: Engine = "python",
        screenshots: int = 0,
        list_actions: bool = False,
        reward_scale: float = 1.0,
        seed: int | None = 0,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"wanted a split among {', '.join(SPLITS)}; got '{split}'.{did_you_mean(split, SPLITS)}")
        for name, given in (("families", families), ("task_types", task_types)):
            if isinstance(given, str):
                raise ConfigError(f"wanted a list as {name}; got the text '{given}'; write [\"{given}\"]")
        self.difficulty, self.split = difficulty, split
        self.families = tuple(families) if families else None
        self.task_types = tuple(task_types) if task_types else None
        if engine not in get_args(Engine):
            raise ConfigError(f"wanted an engine among {', '.join(get_args(Engine))}; got '{engine}'")
        if type(screenshots) is not int or not 0 <= screenshots <= 100:
            raise ConfigError(f"wanted screenshots as a JPEG quality from 1 to 100, or 0; got {screenshots!r}")
        if screenshots and engine != "chromium":
            raise ConfigError('screenshots need engine = "chromium"')
        self.engine: Engine = engine
        self.screenshots = screenshots
        self._window: chromium.Page | None = None
        self.list_actions, self.reward_scale = list_actions, reward_scale
        self.task: Task | None = None
        self.goal = ""
        self._document: Document | None = None
        self._error = ""
        self._found = False
        self._first_seed = seed
        self._splits: dict[str, Sequence[Task]] = {}
        self.tasks(split)  # an unknown name is an error here, not in the middle of a run
        if engine == "chromium":
            from agentrl.envs.browser.live import window

            self._window = window()

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, each drawn when it is asked for; none where all that was chosen is held out."""
        if split not in self._splits:
            self._splits[split] = drawn.Tasks(self.difficulty, split, self.families, self.task_types)
        return self._splits[split]

    def find_task(self, task_id: str) -> Task:
        """The task of that id in any split."""
        return drawn.task_by_id(task_id)

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Shows the page of ``options["task"]`` (a Task or its id), or of a task drawn from the split. Raises GameError for an
        id that no split knows, and for a task without a page."""
        if seed is None:
            seed, self._first_seed = self._first_seed, None
        super().reset(seed=seed)
        for key in options or {}:
            if key != "task":
                raise GameError(f"reset has no option '{key}'.{did_you_mean(str(key), ('task',))}")
        self._start(self.choose_task(options))
        return self._text(), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn. What is no action, or cannot be done on this page, changes nothing and says so. Raises GameError before the
        first ``reset``."""
        document = self.document
        if document.page.result is not None:
            return OVER, 0.0, True, False, self._info(valid=False)
        self._error = self._act(action if isinstance(action, str) else "")
        won, over = bool(document.page.result), document.page.result is not None
        self._notice()
        reward = self.reward_scale if won else 0.0
        return self._text(), reward, over, False, self._info(valid=not self._error)

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method gives. While a browser works, other episodes go on."""
        if self._window is not None and name in ("reset", "step"):
            return await asyncio.to_thread(getattr(self, name), *args, **kwargs)
        return getattr(self, name)(*args, **kwargs)

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def document(self) -> Document:
        """The page that is shown. Raises GameError before the first ``reset``."""
        if self._document is None:
            raise GameError("no page is shown; call reset first")
        return self._document

    @property
    def admissible_actions(self) -> list[str]:
        """Actions that do something here: every widget pressed, ticked or chosen, fields filled with words that the goal or the
        page says, and scrolling."""
        document = self.document
        if document.page.result is not None:
            return []
        found: list[Action] = []
        texts = self._texts()
        for bid, element in document.by_bid.items():
            if element.disabled:
                continue
            if element.role in ("button", "link", "tab", "checkbox", "radio"):
                found.append(Action("click", (bid,)))
            elif element.role == "textbox":
                found += [Action("fill", (bid, text)) for text in texts]
            elif element.role == "combobox":
                found += [Action("select_option", (bid, option)) for option in element.options]
        if document.bottom:
            found += [Action("scroll", (0, SCROLL)), Action("scroll", (0, -SCROLL))]
        return [to_text(action) for action in found]

    def state_key(self) -> str:
        """The exact state within a task: what the site remembers, what its widgets hold, focus and scrolling, as a hash."""
        document = self.document
        task = self.task.id if self.task else ""
        state = json.dumps([task, document.snapshot()], sort_keys=True)
        return hashlib.blake2b(state.encode(), digest_size=16).hexdigest()

    @property
    def anchor(self) -> str:
        """The page as text without ids: what two states that look alike share."""
        return self._tree(bids=False)

    def snapshot(self) -> tuple[Task, dict[str, Any], str, bool]:
        """The task and the state, for ``restore`` of this or another environment. Picklable."""
        if self.task is None:
            raise GameError("no page is shown; call reset first")
        return self.task, self.document.snapshot(), self._error, self._found

    def restore(self, snapshot: tuple[Task, dict[str, Any], str, bool]) -> None:
        """Goes back to a snapshot, also one of another task."""
        task, state, error, found = snapshot
        self._start(task)
        self.document.restore(state)
        self._error, self._found = error, found

    def oracle(self) -> list[str]:
        """The actions that solve the task from here, by one who knows the page's code; none where it cannot be solved any more."""
        shadow = Document(_copy(self.document.page))
        shadow.restore(self.document.snapshot())
        plan: list[str] = []
        while shadow.page.result is None and len(plan) < MAX_PLAN:
            wish = shadow.page.wish()
            if wish is None:
                return []
            action = _action(wish, shadow)
            shadow.act(action)
            plan.append(to_text(action))
        return plan if shadow.page.result else []

    def failure(self) -> str | None:
        """Where the widget that the task is about was never on the page "never_found"; where it was and the end was wrong
        "wrong_action"."""
        if not self._found:
            return "never_found"
        return "wrong_action" if self.document.page.result is False else None

    def close(self) -> None:
        """Closes the window of the browser, where there is one."""
        if self._window is not None:
            self._window.shut()

    def expert(self, noise: float = 0.0, seed: int = 0) -> Careless:
        """The oracle with slips: on the share ``noise`` of its turns it does anything that can be done; ``act(observation,
        admissible, goal)``."""
        from agentrl.envs.browser.expert import Careless

        return Careless(self, noise, seed)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this environment."""
        from agentrl.envs.browser import vocabulary

        yield from (OVER, "Error from previous action: ")
        yield from vocabulary.texts()

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, task: Task) -> None:
        self.goal, page = drawn.page(task)
        self.task = task
        self._document, self._error, self._found = self._shown(page), "", False
        self._notice()

    def _shown(self, page: Page) -> Document:
        if self._window is None:
            return Document(page)
        from agentrl.envs.browser.live import LiveDocument

        return LiveDocument(page, self._window)

    def _act(self, text: str) -> str:
        """Does an action; what was wrong with it, "" for nothing."""
        try:
            self.document.act(parse(text, ALLOWED))
        except BadAction as error:
            return str(error)
        return ""

    def _notice(self) -> None:
        self._found = self._found or self.document.page.sought() in self.document.by_key

    def _tree(self, *, bids: bool = True) -> str:
        document = self.document
        return tree_text(
            document.tree(), title=document.title, url=document.url, focused=document.focused_bid, bids=bids
        )

    def _text(self) -> str:
        return observation_text(self._tree(), self._error)

    def _texts(self) -> list[str]:
        """What could be written into a field: words of content in the goal, and those that the page tells outside of its
        widgets."""
        told = [one.name for one in self.document.by_bid.values() if one.role in ("cell", "tabpanel")]
        told += [one.name for element in self.document.root for one in _texts_in(element)]
        words = dict.fromkeys(word for text in (self.goal, *told) for word in _WORD.findall(text))
        return [word for word in words if word in _CONTENT]

    def _info(self, *, valid: bool = True) -> dict[str, Any]:
        page, task = self.document.page, self.task
        won = bool(page.result)
        more: dict[str, Any] = {"admissible_actions": self.admissible_actions} if self.list_actions else {}
        if self.screenshots:
            more["screenshot"] = self.document.picture(self.screenshots)
        return {
            "success": won,
            "won": won,
            "score": float(won),
            "valid": valid,
            "goal": self.goal,
            "url": self.document.url,
            "title": self.document.title,
            "last_action_error": self._error,
            "task_type": task.type if task else "",
            "task_id": task.id if task else "",
            **more,
        }


def _copy(page: Page) -> Page:
    return type(page)(page.spec)


def _texts_in(element: Any) -> Iterator[Any]:
    if not element.hidden:
        if element.role == "StaticText":
            yield element
        for child in element.children:
            yield from _texts_in(child)


def _action(wish: Wish, document: Document) -> Action:
    """What an agent writes for a wish."""
    if wish.action == "scroll":
        return Action("scroll", (0, max(SCROLL, document.bottom - document.scroll)))
    bid = document.by_key[wish.key].bid
    return Action(wish.action, (bid, wish.text) if wish.action in ("fill", "select_option") else (bid,))
