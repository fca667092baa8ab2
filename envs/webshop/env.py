"""WebShop as an environment: find a product, choose its options, buy it.

    env = agentrl.env.make("agentrl/WebShop-v0", difficulty="tiny")
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step("search[machine washable throw pillows]")
    text, reward, terminated, truncated, info = env.step("click[b12]")
    text, reward, terminated, truncated, info = env.step("click[red]")
    text, reward, terminated, truncated, info = env.step("click[buy now]")

The real shop's pages, actions and reward (Yao et al. 2022, arXiv 2207.01206), natively. Shops are generated (``difficulty``), or
read from the publisher's files (``data``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from agentrl.env import SPLITS, LazyTasks, TextEnv
from agentrl.envs.webshop import generate
from agentrl.envs.webshop import goals as files
from agentrl.envs.webshop.reward import Goal, Score, nouns_of, score
from agentrl.envs.webshop.site import BUY, SEPARATOR, Site, State, available, parsed, searchable
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.types import Task

if TYPE_CHECKING:
    from agentrl.envs.webshop.expert import Expert

Mode = Literal["text", "text_rich"]
Reward = Literal["score", "success"]
MODES: tuple[Mode, ...] = ("text", "text_rich")
REWARDS: tuple[Reward, ...] = ("score", "success")
PROTOCOLS = ("webshop", "verl_agent")
MAX_TURNS = 15
OVER = "The shop is closed: the purchase is made."

Snapshot = tuple[Task, State, frozenset[int]]


class Actions(list[str]):
    """Admissible actions. Every search is one of them, on every page, and their list has no end: it names one at most.

    >>> "search[red rug]" in Actions(["click[buy now]"]), "click[red]" in Actions(["click[buy now]"])
    (True, False)
    """

    def __contains__(self, action: object) -> bool:
        return super().__contains__(action) or (isinstance(action, str) and parsed(action)[0] == "search")


class WebShopEnv(TextEnv):
    """``difficulty`` names a level of ``generate``; ``data`` is a folder of the publisher's files instead, ``human`` takes people's
    instructions from it and ``price_seed`` draws the prices that are ranges, and the caps. ``observation`` is "text" or
    "text_rich". ``reward`` is the "score" of the purchase, or "success" (1 for a score of 1), times ``reward_scale``.
    ``protocol`` "verl_agent" has that project's rules: 15 turns, 10 for a score of 1, the first 500 goals as the test
    (``valid_unseen``), the rest ``train``. ``page_size`` results stand on a page; ``show_attributes`` adds the page of
    attributes. ``nouns`` is what the similarity of titles counts: "rule", or "spacy:MODEL". ``mended`` compares options so that
    every goal can be reached. ``split`` is where ``reset`` without a task draws from; ``seed`` seeds the first ``reset`` that is
    given none.

    Keys of ``info``: success (bool: bought for a score of 1), valid (False: nothing was done), goal (the instruction), task_type,
    task_id, admissible_actions, available (those as verl-agent shows them), page (the observation without the instruction), query
    (of the last search), visited (products opened since the search page), clicked (options chosen), and at the end
    score and its parts.
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"difficulty": tuple(generate.LEVELS)}

    def __init__(
        self,
        difficulty: str = "tiny",
        split: str = "train",
        data: str | os.PathLike[str] | None = None,
        human: bool = False,
        price_seed: int = files.SEED,
        observation: Mode = "text",
        reward: Reward | None = None,
        reward_scale: float | None = None,
        protocol: str = "webshop",
        max_turns: int | None = None,
        page_size: int | None = None,
        show_attributes: bool = False,
        nouns: str = "rule",
        mended: bool = False,
        seed: int | None = 0,
    ) -> None:
        _one_of("a split", split, SPLITS)
        _one_of("an observation", observation, MODES)
        _one_of("a reward", reward or "score", REWARDS)
        _one_of("a protocol", protocol, PROTOCOLS)
        for name, number in (("max_turns", max_turns), ("page_size", page_size)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigError(f"wanted {name} as a number from 1; got {number!r}")
        if isinstance(reward_scale, str | bool) or (reward_scale is not None and not math.isfinite(reward_scale)):
            raise ConfigError(f"wanted reward_scale as a number; got {reward_scale!r}")
        if data is None and (human or price_seed != files.SEED):
            raise ConfigError(
                f"{'human' if human else 'price_seed'} is for the publisher's files; name their folder as data"
            )
        generate.known(difficulty, generate.LEVELS, "level")
        published = protocol == "verl_agent"
        self.difficulty, self.split, self.protocol = difficulty, split, protocol
        self.observation: Mode = observation
        self.reward: Reward = reward or ("success" if published else "score")
        self.reward_scale = reward_scale if reward_scale is not None else 10.0 if published else 1.0
        self.max_turns = max_turns or (MAX_TURNS if published or data is not None else None)
        self.task: Task | None = None
        self._shop = None if data is None else files.read(os.fspath(data), human, price_seed)
        self._page_size = page_size or (generate.LEVELS[difficulty].page_size if self._shop is None else 10)
        self._attributes, self._nouns, self._mended = show_attributes, nouns_of(nouns), mended
        self._first_seed = seed
        self._splits: dict[str, Sequence[Task]] = {}
        self._state, self._seen = State(), frozenset[int]()

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """Generated tasks, or the goals of the folder's files that belong to the split."""
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        if not self._splits:
            if self._shop is None:
                found = {name: generate.tasks(self.difficulty, name) for name in SPLITS}
            else:
                numbers = files.split(self._shop.goals, self.protocol)
                found = {name: _GoalTasks(self._shop.goals, numbers[name], name) for name in SPLITS}
            self._splits = {name: _Bounded(list_, self.max_turns) for name, list_ in found.items()}
        return self._splits[split]

    def find_task(self, task_id: str) -> Task:
        """The task of that id in any split."""
        if self._shop is None:
            return self._bounded(generate.task_by_id(task_id))
        number = task_id.removeprefix("webshop-goal-")
        if number.isdecimal() and f"webshop-goal-{int(number)}" == task_id:
            return self._numbered(int(number))
        raise GameError(f"no task '{task_id}'; those of files are called like 'webshop-goal-17'")

    def _bounded(self, task: Task) -> Task:
        return task if self.max_turns is None else replace(task, max_turns=self.max_turns)

    def _numbered(self, number: int) -> Task:
        """The task of a goal by its number: in the published order, or in this environment's split."""
        if self._shop is None:
            if not 0 <= number < len(self.tasks(self.split)):
                raise GameError(f"no goal {number}: {self.split} has {len(self.tasks(self.split))}, numbered from 0")
            return self.tasks(self.split)[number]
        if not 0 <= number < len(self._shop.goals):
            raise GameError(f"no goal {number}: the files have {len(self._shop.goals)}, numbered from 0")
        for split in SPLITS:
            tasks = self.tasks(split)
            assert isinstance(tasks, _Bounded) and isinstance(tasks.tasks, _GoalTasks), "made in tasks()"
            if (place := tasks.tasks.place(number)) is not None:
                return tasks[place]
        raise GameError(f"goal {number} is in no split: it stands twice, and its first place is in another")

    # ── Gymnasium ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Opens the shop of ``options["task"]`` (a Task or its id), of ``options["goal"]`` (the number of a goal, or a goal in
        WebShop's own form) or of a task drawn from the split. ``options["instruction"]`` is shown in place of the goal's; where
        a goal of the files has just that instruction and no other was asked for, it is the goal. Raises GameError for what is
        unknown."""
        if seed is None:
            seed, self._first_seed = self._first_seed, None
        super().reset(seed=seed)
        wanted = dict(options or {})
        for key in wanted:
            if key not in ("task", "goal", "instruction"):
                raise GameError(
                    f"reset has no option '{key}'.{did_you_mean(str(key), ('task', 'goal', 'instruction'))}"
                )
        if "instruction" in wanted and not (isinstance(wanted["instruction"], str) and wanted["instruction"].strip()):
            raise GameError(f"wanted the instruction as a text; got {wanted['instruction']!r}")
        self._start(self._asked(wanted))
        return self._observed(), self._info()

    def _asked(self, wanted: Mapping[str, Any]) -> Task:
        """The task that ``reset`` was asked for."""
        goal, text = wanted.get("goal"), wanted.get("instruction")
        if goal is not None and wanted.get("task") is not None:
            raise GameError("wanted a task or a goal; got both")
        if goal is None and text is not None and "task" not in wanted and self._shop is not None:
            goal = next((number for number, each in enumerate(self._shop.goals) if each.instruction == text), None)
        if isinstance(goal, Mapping):
            task = self._bounded(Task(id="webshop-goal", type="buy", split=self.split, options={"goal": dict(goal)}))
        elif type(goal) is int:
            task = self._numbered(goal)
        elif goal is not None:
            raise GameError(f"wanted the goal as a number or in WebShop's form; got {goal!r}")
        else:
            task = self.choose_task(wanted)
        return task if text is None else replace(task, options={**task.options, "instruction": text})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """One search or click; anything else does nothing. Raises GameError before the first ``reset``."""
        if self.task is None:
            raise GameError("no shop is open; call reset first")
        if self._state.page == "done":
            return OVER, 0.0, True, False, self._info(valid=False)
        name, argument = parsed(action if isinstance(action, str) else "")
        piece = self._clickables.get(argument) if name == "click" and argument != "search" else None
        if name == "search":
            self._go(self._site.search(self._state, argument, self.task.id))
        elif piece is None:
            return self._observed(), 0.0, False, False, self._info(valid=False)
        elif piece.text == BUY and piece.kind == "button":
            return self._bought()
        else:
            self._go(self._site.click(self._state, piece))
        return self._observed(), 0.0, False, False, self._info()

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def admissible_actions(self) -> list[str]:
        """The clicks of this page; on the search page a search for the instruction. A search for other words is in it too,
        though it is not listed."""
        if self._state.page == "search":
            return Actions([f"search[{searchable(self.instruction)}]"])
        return Actions(f"click[{text}]" for text in self._clickables)

    @property
    def site(self) -> Site:
        """The shop that is open. Raises GameError before the first ``reset``."""
        if self.task is None:
            raise GameError("no shop is open; call reset first")
        return self._site

    @property
    def goal(self) -> Goal:
        """What is to be bought. Raises GameError before the first ``reset``."""
        if self.task is None:
            raise GameError("no shop is open; call reset first")
        return self._goal

    @property
    def instruction(self) -> str:
        """What the visitor is told."""
        told = self.task.options.get("instruction") if self.task else None
        return str(told) if told is not None else self.goal.instruction

    def state_key(self) -> str:
        """The task, the page, its product, the options chosen, the query and the page of its results; in the mode "text_rich" also
        which of the products shown were opened before, for there it is seen."""
        state = self._state
        opened = sorted(state.visited.intersection(self.site.shown(state))) if self.observation == "text_rich" else []
        options = sorted(state.options.items())
        key = [
            self.task.id if self.task else "",
            state.page,
            state.words,
            state.number,
            state.place,
            state.sub,
            options,
            opened,
        ]
        return json.dumps(key)

    def snapshot(self) -> Snapshot:
        """The task and the state, for ``restore`` of this or another environment. Picklable."""
        if self.task is None:
            raise GameError("no shop is open; call reset first")
        return self.task, self._state, self._seen

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot, also one of another task."""
        self._start(snapshot[0])
        self._go(snapshot[1])
        self._seen = snapshot[2]

    def oracle(self) -> list[str]:
        """From here: to the product that the goal was made of, its options, and the purchase. By one who knows it."""
        from agentrl.envs.webshop.oracle import plan

        return plan(self.site, self._state, self.goal, self.instruction)

    def failure(self) -> str | None:
        """ "never_found" where no page of results showed the product that the goal was made of; "wrong_action" where it was
        shown and another, or other options, were bought."""
        place = self.site.catalogue.place(self.goal.asin)
        if place is not None and place not in self._seen:
            return "never_found"
        return "wrong_action" if self._state.page == "done" else None

    def expert(self, noise: float = 0.0, seed: int = 0) -> Expert:
        """A player that reads only what an agent reads; ``act(observation, admissible, goal)``. Raises ConfigError for the
        publisher's shops, whose texts it cannot read."""
        if self._shop is not None:
            raise ConfigError("the expert reads generated shops only; on data = FOLDER let the oracle play")
        from agentrl.envs.webshop.expert import Expert

        return Expert(noise=noise, seed=seed)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this environment."""
        from agentrl.envs.webshop import vocabulary

        yield OVER
        if self._shop is None:
            yield from vocabulary.texts(self.difficulty, self.observation)
        else:
            yield from vocabulary.of_shop(self._shop)

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, task: Task) -> None:
        if self._shop is None:
            catalogue, self._goal = generate.shop_of(task)
        else:
            catalogue = self._shop.catalogue
            self._goal = _goal_of(task, self._shop)
        self.task = task
        self._site = Site(catalogue, self._page_size, self._attributes)
        self._seen = frozenset()
        self._go(State())

    def _go(self, state: State) -> None:
        self._state = state
        self._clickables = self._site.clickables(state)
        self._seen |= set(self._site.shown(state))

    def _observed(self) -> str:
        page = self._site.text if self.observation == "text" else self._site.rich
        return page(self._state, self.instruction)

    def _bought(self) -> tuple[str, float, bool, bool, dict[str, Any]]:
        place = self._state.place
        catalogue = self._site.catalogue
        made: Score = score(
            catalogue.product(place), catalogue.price(place), self._state.options, self.goal, self._nouns, self._mended
        )
        self._go(replace(self._state, page="done", score=made.total))
        success = made.total == 1.0
        reward = self.reward_scale * (made.total if self.reward == "score" else float(success))
        parts = {
            "score": made.total,
            "r_type": made.r_type,
            "n_attributes": made.n_attributes,
            "n_options": made.n_options,
        }
        return self._observed(), reward, True, False, {**self._info(), "success": success, **parts, "cheap": made.price}

    def _info(self, *, valid: bool = True) -> dict[str, Any]:
        state, names = self._state, list(self._clickables)
        opened = (self._site.catalogue.product(place).asin for place in sorted(state.visited))
        return {
            "success": False,
            "valid": valid,
            "goal": self.instruction,
            "task_type": self.task.type if self.task else "",
            "task_id": self.task.id if self.task else "",
            "admissible_actions": self.admissible_actions,
            "available": available(names, state.page == "search"),
            "page": SEPARATOR.join(self._site.texts(state)),
            "query": " ".join(state.words),
            "visited": " ".join(opened),
            "clicked": ", ".join(state.options.values()),
        }


def _goal_of(task: Task, shop: files.Shop) -> Goal:
    """The goal of a task of a folder's: its number, or a goal in WebShop's form. Raises GameError for neither."""
    wanted = task.options.get("goal")
    if type(wanted) is int and 0 <= wanted < len(shop.goals):
        return shop.goals[wanted]
    if not isinstance(wanted, Mapping):
        raise GameError(
            f"task '{task.id}' wants options['goal']: a number below {len(shop.goals)}, or a goal in WebShop's form"
        )
    try:
        options = wanted["goal_options"]
        options = (
            options if isinstance(options, Mapping) else {f"option {n}": value for n, value in enumerate(options, 1)}
        )
        return Goal(
            asin=str(wanted["asin"]),
            instruction=str(wanted["instruction_text"]),
            query=str(wanted["query"]),
            title=str(wanted["name"]),
            category=str(wanted["category"]),
            category_path=str(wanted["product_category"]),
            attributes=tuple(map(str, wanted["attributes"])),
            options={str(name): str(value) for name, value in options.items()},
            price_upper=float(wanted["price_upper"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GameError(f"the goal of task '{task.id}' cannot be read: {type(error).__name__}: {error}") from error


class _GoalTasks(LazyTasks):
    """The tasks of some goals of a folder's, by their numbers."""

    def __init__(self, goals: Sequence[Goal], numbers: Sequence[int], split: str) -> None:
        self._goals, self._numbers, self._split = goals, numbers, split
        self._places = {number: place for place, number in enumerate(numbers)}

    def __len__(self) -> int:
        return len(self._numbers)

    def place(self, number: int) -> int | None:
        """Where the goal of a number stands in this split."""
        return self._places.get(number)

    def make(self, place: int) -> Task:
        number = self._numbers[place]
        return Task(
            id=f"webshop-goal-{number}",
            seed=number,
            type=self._goals[number].category,
            split=self._split,
            options={"goal": number},
        )

    def __repr__(self) -> str:
        return f"the goals of {self._split}"


class _Bounded(LazyTasks):
    """Tasks with a bound on their turns, where one is given."""

    def __init__(self, tasks: Sequence[Task], max_turns: int | None) -> None:
        self.tasks, self.max_turns = tasks, max_turns

    def __len__(self) -> int:
        return len(self.tasks)

    def make(self, place: int) -> Task:
        task = self.tasks[place]
        return task if self.max_turns is None else replace(task, max_turns=self.max_turns)

    def __repr__(self) -> str:
        return repr(self.tasks)


def _one_of(what: str, got: str, names: Sequence[str]) -> None:
    """Raises ConfigError for a value that is none of them."""
    if got not in names:
        raise ConfigError(f"wanted {what} among {', '.join(names)}; got '{got}'.{did_you_mean(str(got), names)}")
