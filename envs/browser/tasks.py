"""Tasks on pages, drawn from seeds: a goal in words and the content of a page.

>>> task("tiny", "train", "form_write", 0).options["goal"]
'Write Turin into City, then press Send.'

A task is a pure function of level, split, type and number. ``options`` holds "family", "goal" and "page", the content that the
page's class takes; a task of one's own has the same three.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from agentrl.env import SPLITS, LazyTasks
from agentrl.envs.browser.levels import LEVELS
from agentrl.envs.browser.page import Page
from agentrl.envs.browser.pages import FAMILIES, HELD_OUT, TYPES
from agentrl.envs.browser.words import Words
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.seeding import stable_hash
from agentrl.types import Task

SIZES = {"train": 10_000, "valid_seen": 200, "valid_unseen": 200}  # of each type
ATTEMPTS = 1_000


class Tasks(LazyTasks):
    """The tasks of a level and a split, the types taking turns, each made when it is asked for. ``families`` and ``task_types``
    keep some.

    Raises ConfigError for an unknown name, and where nothing is left.
    """

    def __init__(
        self, level: str, split: str, families: Sequence[str] | None = None, task_types: Sequence[str] | None = None
    ) -> None:
        _known("level of Browser", level, LEVELS)
        for name in families or ():
            _known("family of pages", name, FAMILIES)
        for name in task_types or ():
            _known("type of task", name, TYPES)
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        self.level, self.split = level, split
        self.types = [
            kind
            for kind, family in TYPES.items()
            if (split == "valid_unseen" or family not in HELD_OUT)
            and (families is None or family in families)
            and (task_types is None or kind in task_types)
        ]

    def __len__(self) -> int:
        return SIZES[self.split] * len(self.types)

    def make(self, place: int) -> Task:
        number, kind = divmod(place, len(self.types))
        return task(self.level, self.split, self.types[kind], number)

    def __repr__(self) -> str:
        return f"Tasks({self.level!r}, {self.split!r})"


def _known(what: str, name: Any, names: Any) -> None:
    if name not in names:
        raise ConfigError(f"no {what} is called '{name}'.{did_you_mean(str(name), names)}")


def task_by_id(task_id: str) -> Task:
    """The generated task of that id. Raises GameError where there is none."""
    parts = task_id.split("/")
    if len(parts) == 4 and parts[0] in LEVELS and parts[1] in SPLITS and parts[2] in TYPES:
        level, split, kind, written = parts
        number = int(written) if written.isascii() and written.isdecimal() and len(written) < 9 else -1
        fits = split == "valid_unseen" or TYPES[kind] not in HELD_OUT
        if fits and 0 <= number < SIZES[split] and str(number) == written:
            return task(level, split, kind, number)
    raise GameError(f"no task '{task_id[:80]}' in Browser; ids are like tiny/train/form_write/0")


@functools.lru_cache(maxsize=8192)
def task(level: str, split: str, kind: str, number: int) -> Task:
    """The task of that number. What ``valid_seen`` asks is asked in no task of ``train``: they are kept apart by a hash of the
    content."""
    family = FAMILIES[TYPES[kind]]
    for attempt in range(ATTEMPTS):
        random = Random(stable_hash("browser", level, split, kind, number, attempt))
        goal, spec = family.draw(kind, LEVELS[level], Words(random, unseen=split == "valid_unseen"))
        if split == "valid_unseen" or _is_kept_back(goal, spec) == (split == "valid_seen"):
            return Task(
                id=f"{level}/{split}/{kind}/{number}",
                seed=number,
                type=kind,
                split=split,
                options={"family": TYPES[kind], "goal": goal, "page": spec},
                max_turns=LEVELS[level].max_turns,
            )
    raise GameError(f"no task {number} of '{kind}' can be drawn; {ATTEMPTS} attempts")


def _is_kept_back(goal: str, spec: dict[str, Any]) -> bool:
    """Whether a content is kept for ``valid_seen``: a quarter is."""
    return stable_hash("browser", goal, json.dumps(spec, sort_keys=True)) % 4 == 0


def page(task: Task) -> tuple[str, Page]:
    """The goal and the page of a task, at its beginning. Raises GameError for options that name none."""
    options: Any = task.options
    try:
        family, goal, spec = options["family"], options["goal"], options["page"]
    except (KeyError, TypeError):
        raise GameError(f"task '{task.id}' wants a family, a goal and a page among its options") from None
    if family not in FAMILIES:
        raise GameError(f"task '{task.id}': no family of pages '{family}'.{did_you_mean(str(family), FAMILIES)}")
    return str(goal), FAMILIES[family].page(spec)
