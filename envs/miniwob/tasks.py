"""The 125 tasks that BrowserGym lists, their kinds, BrowserGym's split, and tasks with seeds.

MiniWoB++ 1.1 has 130 pages; five that need quick reactions are left out, as BrowserGym does it: button-delay, chase-circle,
hover-shape, moving-items, simon-says. The split is that of browsergym-experiments 0.14.3 (``browsergym_split`` in its
metadata/miniwob.csv): 62 tasks to train on, 63 to test, tasks that resemble each other on one side.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence

from agentrl.env import SPLITS, LazyTasks
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.types import Task

__all__ = ["FAMILY", "LEVELS", "MAX_TURNS", "TEST", "TRAIN", "names_of", "task_by_id", "tasks_of"]

_TRAIN = {
    "click": "click-dialog click-dialog-2 click-shades click-test-2 click-test-transfer focus-text focus-text-2 unicode-test",
    "choose": "click-checkboxes click-checkboxes-large click-checkboxes-soft click-checkboxes-transfer click-option",
    "open": "click-collapsible click-collapsible-2 click-collapsible-2-nodelay click-collapsible-nodelay navigate-tree",
    "type": "enter-date enter-password enter-text enter-text-2 enter-text-dynamic enter-time login-user login-user-popup "
    "text-editor text-transform",
    "form": "book-flight book-flight-nodelay choose-date choose-date-easy choose-date-medium choose-date-nodelay daily-calendar "
    "form-sequence multi-layouts multi-orderings search-engine use-autocomplete use-autocomplete-nodelay use-colorwheel "
    "use-colorwheel-2 use-slider use-slider-2",
    "read": "buy-ticket count-shape identify-shape odd-or-even read-table read-table-2 visual-addition",
    "drag": "drag-box drag-items drag-shapes drag-shapes-2 drag-single-shape drag-sort-numbers",
    "point": "circle-center draw-circle draw-line find-midpoint",
}
_TEST = {
    "click": "click-button click-button-sequence click-color click-link click-shape click-test click-widget sign-agreement",
    "choose": "choose-list click-scroll-list number-checkboxes",
    "open": "click-menu click-menu-2 click-pie click-pie-nodelay click-tab click-tab-2 click-tab-2-easy click-tab-2-hard "
    "click-tab-2-medium phone-book",
    "type": "copy-paste copy-paste-2 find-word highlight-text highlight-text-2 scroll-text scroll-text-2 terminal",
    "form": "form-sequence-2 form-sequence-3 generate-number guess-number order-food use-spinner",
    "read": "ascending-numbers count-sides find-greatest simple-algebra simple-arithmetic",
    "mail": "email-inbox email-inbox-delete email-inbox-forward email-inbox-forward-nl email-inbox-forward-nl-turk "
    "email-inbox-important email-inbox-nl-turk email-inbox-noscroll email-inbox-reply email-inbox-star-reply social-media "
    "social-media-all social-media-some",
    "drag": "drag-circle drag-cube drag-items-grid resize-textarea",
    "point": "bisect-angle grid-coordinate hot-cold right-angle",
    "game": "stock-market tic-tac-toe",
}


def _families(table: dict[str, str]) -> dict[str, str]:
    return {name: family for family, names in table.items() for name in names.split()}


TRAIN = tuple(sorted(_families(_TRAIN)))
TEST = tuple(sorted(_families(_TEST)))
FAMILY = _families(_TRAIN) | _families(_TEST)
_TINY = (
    "click-button click-color click-dialog click-dialog-2 click-link click-tab click-test click-test-2 click-test- "
    "transfer click-widget focus-text focus-text-2 unicode-test"
)
_EASY = (
    "choose-list click-button-sequence click-checkboxes click-checkboxes-transfer click-collapsible click- "
    "collapsible-nodelay click-option click-scroll-list enter-password enter-text enter-text-2 enter-text-dynamic "
    "identify-shape login-user read-table"
)
LEVELS = ("tiny", "easy", "medium", "full")
MAX_TURNS = 15
LONG: dict[str, int] = dict.fromkeys(
    ("book-flight", "book-flight-nodelay", "click-checkboxes-large", "number-checkboxes", "terminal"), 30
)
SEEDS = {"train": range(1000), "valid_seen": range(1000, 1050), "valid_unseen": range(50)}
_ID = re.compile(r"miniwob-([a-z0-9-]+)-(\d+)")


def names_of(level: str, split: str, only: Collection[str] | None = None) -> tuple[str, ...]:
    """The tasks of a level in a split: "tiny" one click, "easy" a few actions, "medium" all that an oracle solves, "full" all.
    ``only`` keeps some, by name or by family. Raises ConfigError for a level or a name that is none."""
    from agentrl.envs.miniwob.oracles import SOLVERS

    if level not in LEVELS:
        raise ConfigError(f"wanted a level among {', '.join(LEVELS)}; got '{level}'.{did_you_mean(level, LEVELS)}")
    tiny = _TINY.split()
    easy = [*tiny, *_EASY.split()]
    kept = {"tiny": tiny, "easy": easy, "medium": list(SOLVERS), "full": list(FAMILY)}[level]
    if only is not None:
        for name in only:
            if name not in FAMILY and name not in FAMILY.values():
                known = [*FAMILY, *FAMILY.values()]
                raise ConfigError(f"MiniWoB has no task and no family '{name}'.{did_you_mean(name, known)}")
        kept = [name for name in FAMILY if name in only or (FAMILY[name] in only and name in kept)]
    return tuple(name for name in (TEST if split == "valid_unseen" else TRAIN) if name in kept)


def task(name: str, seed: int) -> Task:
    """A task with a seed. Its split follows from both."""
    split = "valid_unseen" if name in TEST else "train" if seed in SEEDS["train"] else "valid_seen"
    options = {"name": name, "seed": seed}
    turns = LONG.get(name, MAX_TURNS)
    return Task(f"miniwob-{name}-{seed}", seed, FAMILY[name], split, options=options, max_turns=turns)


def task_by_id(task_id: str) -> Task:
    """The task of such an id. Raises GameError for any other."""
    match = _ID.fullmatch(task_id)
    if match is None or match[1] not in FAMILY:
        raise GameError(f"no task '{task_id}'; MiniWoB's are called like 'miniwob-click-test-17'")
    found = task(match[1], int(match[2]))
    if found.seed not in SEEDS[found.split] or found.id != task_id:
        last = SEEDS["valid_unseen" if match[1] in TEST else "valid_seen"][-1]
        raise GameError(f"no task '{task_id}': '{match[1]}' has seeds from 0 to {last}")
    return found


class _Tasks(LazyTasks):
    def __init__(self, names: Sequence[str], seeds: range) -> None:
        self.names, self.seeds = names, seeds

    def __len__(self) -> int:
        return len(self.names) * len(self.seeds)

    def make(self, place: int) -> Task:
        number, which = divmod(place, len(self.names))
        return task(self.names[which], self.seeds[number])


@functools.lru_cache(maxsize=64)
def tasks_of(names: tuple[str, ...], split: str) -> Sequence[Task]:
    """Every name with every seed of the split, all names before the next seed. Raises GameError for a split that is none."""
    if split not in SPLITS:
        raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
    return _Tasks(names, SEEDS[split])
