"""MiniWoB's pages as an environment.

    env = agentrl.env.make("agentrl/MiniWoB-v0", level="tiny")
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step("click('3')")

An action is one of BrowserGym's calls. What is no action, or cannot be taken, is told in the next observation.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from agentrl.env import SPLITS, AwaitedEnv, TextEnv
from agentrl.envs.browser.actions import ACTIONS, Action, BadAction, chosen, described, parse, to_text
from agentrl.envs.browser.chromium import MAX_WAIT_MS, Chromium, Events, Page, Seen, folder
from agentrl.envs.browser.tree import error_line, escaped, walk
from agentrl.envs.miniwob.oracles import SOLVERS, Look, Puzzled
from agentrl.envs.miniwob.tasks import LEVELS, names_of, task_by_id, tasks_of
from agentrl.errors import ConfigError, GameError, MissingExtra, did_you_mean
from agentrl.types import Task

HOST = "http://miniwob.test"
# What the pages have around a task: the goal, rewards, the cover before a start, traces of clicks.
AROUND = ("query", "reward-display", "sync-task-cover", "click-canvas")
WINDOW = (332, 214)  # pixels, as BrowserGym has it
# Pages that keep something of the last episode (what was suggested, or where a slider stood): loaded anew for each.
RELOADED = frozenset(
    {
        "book-flight",
        "click-menu-2",
        "click-pie",
        "click-pie-nodelay",
        "book-flight-nodelay",
        "form-sequence",
        "scroll-text-2",
        "search-engine",
        "stock-market",
        "use-autocomplete",
        "use-autocomplete-nodelay",
        "use-colorwheel",
        "use-colorwheel-2",
        "use-slider",
        "use-slider-2",
        "use-spinner",
    }
)
REWARDS = ("raw", "binary")
MAX_TIMEOUT_S = 600.0
OVER = "The episode is over."
SCRIPT = """
const LEFT = / data-tampered="[^"]*"|ui-id-\\d+| ui-sortable-handle| aria-activedescendant="[^"]*"/g;
__agentrl.more = () => {
  const area = document.getElementById("wrap");
  const all = [...document.querySelectorAll("input,textarea,select")];
  const fields = all.map((e) => [e.value, e.checked, e.selectedIndex, e.scrollTop]);
  const kept = (area ? area.innerHTML : "").replace(LEFT, "");
  const asked = core.getUtterance();
  return {
    done: WOB_DONE_GLOBAL, raw: WOB_RAW_REWARD_GLOBAL, why: WOB_REWARD_REASON, hidden: [kept, fields],
    goal: typeof asked === "string" ? asked : asked.utterance, fields: typeof asked === "string" ? {} : asked.fields,
  };
};
"""
BEGIN = """async (seed) => {
  if (core.EP_TIMER !== null) core.endEpisode(0);
  __agentrl.dropTimers();
  __agentrl.forget();
  document.activeElement?.blur();
  // Only a form's reset makes a field forget that it was written to, as a text area must that shows what a page puts between its
  // tags; so fields without a form are lent one.
  const lent = document.body.appendChild(document.createElement("form"));
  lent.id = "__agentrl";
  const loose = [...document.querySelectorAll("input,textarea,select")].filter((field) => field.form === null);
  loose.forEach((field) => field.setAttribute("form", lent.id));
  document.querySelectorAll("form").forEach((form) => form.reset());
  loose.forEach((field) => field.removeAttribute("form"));
  lent.remove();
  Math.seedrandom(seed);
  core.EPISODE_MAX_TIME = 1000000;
  core.startEpisodeReal();
  for (let n = 0; !WOB_TASK_READY && n < 100; n++) await __agentrl.advance(50);
}"""

Snapshot = tuple[Task, tuple[str, ...]]


def pages() -> Path:
    """The folder of MiniWoB's pages. Raises MissingExtra where the package is not installed."""
    found = importlib.util.find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("miniwob", "agentrl/MiniWoB-v0")
    return Path(found.submodule_search_locations[0]) / "html"


class MiniWoBEnv(TextEnv, AwaitedEnv):
    """``level``: tiny, easy, medium or full; ``task_names`` keeps some tasks or families. ``actions``: names of actions, or of sets
    (``agentrl.envs.browser.actions.SUBSETS``). ``events``: see ``Page``. ``centers`` tells where elements are, for actions on
    coordinates. ``reward`` is the page's own, between -1 and 1 ("raw"), or 1 where that is above 0 and else 0 ("binary").
    ``screenshots`` puts a picture of each page into info. ``list_actions`` puts the admissible actions into info: then an action
    that is not listed counts as invalid. ``step_ms`` is how far the page's clock goes on with an action.

    Keys of ``info``: success (bool: the raw reward is above 0), valid (False: no action, or one that cannot be taken), error (what
    was wrong, ""), goal, task_type, task_id, name (the page's), raw_reward, url, and screenshot (a data URI) where asked.
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"level": LEVELS}

    def __init__(
        self,
        level: str = "easy",
        split: str = "train",
        task_names: Sequence[str] | None = None,
        actions: Sequence[str] = ("miniwob_all",),
        events: Events = "js",
        reward: Literal["raw", "binary"] = "raw",
        centers: bool = False,
        screenshots: bool = False,
        list_actions: bool = False,
        step_ms: int = 500,
        timeout_s: float = 10.0,
        seed: int | None = 0,
    ) -> None:
        for name, value, known in (
            ("split", split, SPLITS),
            ("reward", reward, REWARDS),
            ("events", events, ("js", "trusted")),
        ):
            if value not in known:
                raise ConfigError(f"wanted {name} among {', '.join(known)}; got '{value}'.{did_you_mean(value, known)}")
        if isinstance(task_names, str):
            raise ConfigError(f"wanted a list of task names; got the text '{task_names}'; write [\"{task_names}\"]")
        if not 0 <= step_ms <= MAX_WAIT_MS or not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ConfigError(
                f"wanted step_ms from 0 to {MAX_WAIT_MS}, and timeout_s above 0 and up to {MAX_TIMEOUT_S:g}; "
                f"got {step_ms} and {timeout_s}"
            )
        if not actions:
            raise ConfigError("wanted one action or set of actions at least; got none")
        self.level, self.split, self.reward = level, split, reward
        self.events: Events = events
        self.centers, self.screenshots, self.list_actions = centers, screenshots, list_actions
        self.step_ms, self.timeout_s = step_ms, timeout_s
        self.actions = chosen(actions)
        self.names = {each: names_of(level, each, task_names) for each in SPLITS}
        self.task: Task | None = None
        self._first_seed = seed
        self._pages = pages()
        self._answer = folder(self._pages)
        self._page = self._new_page()
        self._seen: Seen | None = None
        self._taken: list[str] = []
        self._error = ""
        self._scratch: Page | None = None
        self._planned: tuple[list[str], list[str]] = ([], [])
        if all(name in SOLVERS for names in self.names.values() for name in names):
            self.oracle = self._oracle

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """Every task of the level with every seed of the split; ``valid_unseen`` has BrowserGym's test tasks."""
        return tasks_of(self.names.get(split, ()), split)

    def find_task(self, task_id: str) -> Task:
        """The task of that id, of any level."""
        return task_by_id(task_id)

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts ``options["task"]`` (a Task or its id), or a task drawn from the split. Raises GameError for what is no task."""
        Chromium.shared()  # without a browser nothing is begun
        return self._page.run(self._reset(seed, options))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One turn. Raises GameError before the first ``reset``, EnvFault where the page is lost twice."""
        return self._page.run(self._step(action))

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the method gives; other episodes go on while the browser is at work."""
        works: Mapping[str, Any] = {"reset": self._reset_asked, "step": self._step, "oracle": self._plan}
        if name in works:
            Chromium.shared()  # without a browser nothing is begun
            return await asyncio.wrap_future(self._page.submit(works[name](*args, **kwargs)))
        return getattr(self, name)(*args, **kwargs)

    def close(self) -> None:
        """Closes the pages; the browser stays for others."""
        for page in (self._page, self._scratch):
            if page is not None:
                page.shut()
        super().close()

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def admissible_actions(self) -> list[str]:
        """Actions on the elements that are there: a part of what can be done (texts for fields are those that the goal quotes)."""
        seen = self._now()
        goal = str(seen.more["goal"])
        words = list(dict.fromkeys([*re.findall(r'"([^"]+)"', goal), *re.findall(r"-?\d+(?:/\d+)*", goal)]))[:5]
        found = []
        for node in walk(seen.root):
            if node.bid is None or node.states.get("disabled"):
                continue
            if node.role in ("textbox", "searchbox", "spinbutton") and "readonly" not in node.states:
                found += [Action("fill", (node.bid, word)) for word in words]
            if node.role in ("combobox", "listbox") and node.children:
                found += [Action("select_option", (node.bid, child.name)) for child in node.children]
            elif node.role != "option":
                found.append(Action("click", (node.bid,)))
        allowed = [to_text(action) for action in found if action.name in self.actions]
        return list(dict.fromkeys(allowed)) or [to_text(Action(self.actions[0]))]

    def state_key(self) -> str:
        """The task and the page: what is shown, the ids, what fields hold, and what is hidden in the task's own area."""
        seen = self._now()
        state = json.dumps([seen.tree(), seen.more, [node.box for node in walk(seen.root)]])
        return f"{self.task.id if self.task else ''}:{hashlib.blake2s(state.encode(), digest_size=12).hexdigest()}"

    def snapshot(self) -> Snapshot:
        """The task and the actions so far, for ``restore`` of this or another environment. Picklable."""
        self._now()
        assert self.task is not None, "reset comes first"
        return self.task, tuple(self._taken)

    def restore(self, snapshot: Snapshot) -> None:
        """Starts the task of a snapshot and takes its actions again."""
        task, taken = snapshot
        self.reset(options={"task": task})
        for action in taken:
            self.step(action)

    def failure(self) -> str | None:
        """ "wrong_action" where the page gave no reward; None where the episode is not over."""
        seen = self._now()
        return "wrong_action" if seen.more["done"] and seen.more["raw"] <= 0 else None

    def _oracle(self) -> list[str]:
        """The actions that win from here, found on a page of its own where what was done is done again."""
        return self._page.run(self._plan())

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold the words of the language; those of the pages are many, and not among them."""
        yield described(self.actions)
        yield from (row.example for row in ACTIONS.values())

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _new_page(self) -> Page:
        return Page(
            self._answer,
            self.events,
            script=SCRIPT,
            hidden=AROUND,
            size=WINDOW,
            timeout_s=self.timeout_s,
            step_ms=self.step_ms,
        )

    def _now(self) -> Seen:
        if self._seen is None:
            raise GameError("no task is being played; call reset first")
        return self._seen

    async def _reset_asked(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return await self._reset(seed, options)

    async def _reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
        if seed is None:
            seed, self._first_seed = self._first_seed, None
        super().reset(seed=seed)
        for key in options or {}:
            if key != "task":
                raise GameError(f"reset has no option '{key}'.{did_you_mean(str(key), ('task',))}")
        task = self.choose_task(options)
        self._seen = await self._begun(self._page, task)
        self.task, self._taken, self._error, self._planned = task, [], "", ([], [])
        return self._text(self._seen), await self._info()

    async def _begun(self, page: Page, task: Task) -> Seen:
        name, seed = task.options.get("name"), task.options.get("seed")
        if not (isinstance(name, str) and type(seed) is int and (self._pages / "miniwob" / f"{name}.html").is_file()):
            raise GameError(
                f"task '{task.id}' wants the name of a MiniWoB page and a whole number as seed in its options"
            )
        return await page.start(f"{HOST}/miniwob/{name}.html", BEGIN, seed, fresh=name in RELOADED)

    async def _step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        seen = self._now()
        if seen.more["done"]:
            return OVER, 0.0, True, False, await self._info(valid=False)
        try:
            action = parse(text if isinstance(text, str) else "", self.actions)
        except BadAction as error:
            self._error = str(error)
            return self._text(seen), 0.0, False, False, await self._info(valid=False)
        self._seen = seen = await self._page.act(action)
        self._taken.append(text)
        self._error = seen.error
        reward = float(seen.more["raw"]) if seen.more["done"] else 0.0
        if self.reward == "binary":
            reward = float(reward > 0)
        return self._text(seen), reward, bool(seen.more["done"]), False, await self._info(valid=not seen.error)

    def _text(self, seen: Seen) -> str:
        """What the agent sees: the tree, what was wrong with its action, the goal."""
        lines = [seen.tree(centers=self.centers), *([error_line(self._error)] if self._error else [])]
        return "\n".join([*lines, f"Goal: {escaped(str(seen.more['goal']))}"])

    async def _info(self, *, valid: bool = True) -> dict[str, Any]:
        seen, task = self._now(), self.task
        done, raw = bool(seen.more["done"]), float(seen.more["raw"])
        info = {
            "success": done and raw > 0,
            "valid": valid,
            "error": self._error,
            "goal": str(seen.more["goal"]),
            "task_type": task.type if task else "",
            "task_id": task.id if task else "",
            "name": str(task.options["name"]) if task else "",
            "raw_reward": raw if done else 0.0,
            "url": seen.url,
        }
        if self.list_actions:
            info["admissible_actions"] = self.admissible_actions
        if self.screenshots:
            picture = await self._page.screenshot()
            info["screenshot"] = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        return info

    async def _plan(self) -> list[str]:
        if self._now().more["done"]:
            return []
        assert self.task is not None, "reset comes first"
        if rest := self._plan_on():
            return rest
        if self._scratch is None:
            self._scratch = self._new_page()
        page = self._scratch
        seen = await self._begun(page, self.task)
        for text in self._taken:
            seen = await page.act(parse(text, self.actions))
        look = Look(str(seen.more["goal"]), seen.more["fields"] or {}, seen.root)
        plan: list[str] = []
        try:
            for action in SOLVERS[str(self.task.options["name"])](look):
                plan.append(to_text(action))
                seen = await page.act(action)
                look.root = seen.root
                if seen.more["done"]:
                    break
        except Puzzled:
            if not self._taken:
                raise  # else what was done before leaves it without an idea
        self._planned = (list(self._taken), plan)
        return plan or [to_text(Action("noop"))]

    def _plan_on(self) -> list[str]:
        """What is left of the plan that was made last, where it was followed since."""
        begun, plan = self._planned
        since = self._taken[len(begun) :]
        return plan[len(since) :] if self._taken[: len(begun)] == begun and since == plan[: len(since)] else []
