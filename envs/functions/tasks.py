"""Tasks from seeds: which back ends and tools there are, what the user says turn by turn, and the calls that are right.

A task says everything about itself in JSON: ``options`` holds ``state`` (back end -> state), ``tools`` (names offered) and
``turns`` (``user``: what is said; ``offer``: tools that come with it; ``together``: its calls need no order), ``reference`` the
calls of each turn, {"name", "arguments"} each. So tasks of one's own can be written by hand.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentrl.env import SPLITS, LazyTasks
from agentrl.envs.functions import bank, calendar, files, orders, tickets
from agentrl.envs.functions.service import REQUESTS, Draw, Request, Said, Service, Unfit, copied
from agentrl.errors import ConfigError, GameError, did_you_mean
from agentrl.seeding import stable_hash
from agentrl.types import Json, Task, ToolCall

SERVICES: dict[str, type[Service]] = {
    kind.name: kind for kind in (files.Files, calendar.Calendar, orders.Orders, bank.Bank, tickets.Tickets)
}
HOME: dict[str, str] = {tool.name: kind.name for kind in SERVICES.values() for tool in kind.listed()}
# Held out: a back end, and a tool of every other one. Only valid_unseen offers them, and each of its tasks needs one.
HELD_OUT = frozenset(
    {"copy_file", "set_reminder", "return_order", "open_account"}
    | {name for name, home in HOME.items() if home == "tickets"}
)
# Other tools together do the same, so without these one could still do what is asked.
REPLACEABLE = frozenset(
    {"find_files", "append_text", "move_file", "copy_file", "move_event", "change_city", "change_count"}
)
KINDS = ("single", "sequence", "parallel", "missing_function", "missing_parameter", "irrelevant")
SIZES = {"train": 100_000, "valid_seen": 2_000, "valid_unseen": 2_000}
# No tool does any of these.
IRRELEVANT = (
    "Play some {} music.",
    "Write a poem about a {}.",
    "How do you say {} in French?",
    "Draw a {}.",
    "Tell a joke about a {}.",
)
NEW_TOOL = "Now you have the tool {}."
SUBJECTS = ("dog", "cat", "moon", "mountain", "guitar", "cloud", "horse", "castle", "robot", "dragon")
ATTEMPTS, TRIES = 1_000, 20  # states, and requests of a turn, until one fits


@dataclass(frozen=True)
class Level:
    """How hard a task is: tools offered, back ends in view, ordinary user turns (least, most), calls of a turn at most,
    whether tools like those needed are offered first, things of each kind in a state, and the back ends that there may be (none
    named: all)."""

    tools: int
    services: int
    turns: tuple[int, int]
    calls: int
    alike: bool
    size: int
    among: tuple[str, ...] = ()


LEVELS = {
    "mini": Level(tools=4, services=1, turns=(1, 1), calls=2, alike=False, size=3, among=("bank",)),
    "tiny": Level(tools=4, services=1, turns=(1, 1), calls=2, alike=False, size=3),
    "easy": Level(tools=8, services=2, turns=(1, 2), calls=2, alike=False, size=4),
    "medium": Level(tools=14, services=3, turns=(2, 3), calls=3, alike=True, size=6),
    "full": Level(tools=24, services=4, turns=(3, 5), calls=3, alike=True, size=8),
}


class Tasks(LazyTasks):
    """The tasks of a level and a split, each made when it is asked for. Raises ConfigError for an unknown level or kind."""

    def __init__(self, level: str, split: str, kinds: Sequence[str] = KINDS) -> None:
        if level not in LEVELS:
            raise ConfigError(f"no level of FunctionCalling is called '{level}'.{did_you_mean(level, LEVELS)}")
        for kind in kinds:
            if kind not in KINDS:
                raise ConfigError(f"no kind of FunctionCalling task is called '{kind}'.{did_you_mean(kind, KINDS)}")
        if split not in SPLITS:
            raise GameError(f"no split '{split}'.{did_you_mean(split, SPLITS)}")
        self.level, self.split = level, split
        self._numbers = [KINDS.index(kind) for kind in KINDS if kind in kinds]

    def __len__(self) -> int:
        return SIZES[self.split] // len(KINDS) * len(self._numbers)

    def make(self, place: int) -> Task:
        block, kind = divmod(place, len(self._numbers))
        return task(self.level, self.split, block * len(KINDS) + self._numbers[kind])

    def __repr__(self) -> str:
        return f"Tasks({self.level!r}, {self.split!r}, {tuple(KINDS[number] for number in self._numbers)!r})"


def task_by_id(task_id: str) -> Task:
    """The generated task of that id. Raises GameError where there is none."""
    parts = task_id.split("/")
    if len(parts) == 3 and parts[0] in LEVELS and parts[1] in SPLITS and parts[2].isascii() and parts[2].isdecimal():
        number = int(parts[2][:9])
        if number < len(Tasks(parts[0], parts[1])) and str(number) == parts[2]:
            return task(parts[0], parts[1], number)
    raise GameError(f"no task '{task_id[:80]}' in FunctionCalling; ids are like tiny/train/0")


@functools.lru_cache(maxsize=8192)
def task(level: str, split: str, number: int) -> Task:
    """The task of that number: a pure function of its arguments. Seen splits are kept apart by the hash of the
    state that a task begins with."""
    kind = KINDS[number % len(KINDS)]
    for attempt in range(ATTEMPTS):
        random = Random(stable_hash("functions", level, split, number, attempt))
        made = _Maker(LEVELS[level], split == "valid_unseen", random)
        held = stable_hash(json.dumps(made.state, sort_keys=True)) % 4 == 0
        if (split == "valid_unseen" or held == (split == "valid_seen")) and made.make(kind):
            options = {"level": level, "state": made.state, "tools": made.offered, "turns": made.turns}
            n_calls = sum(map(len, made.reference))
            return Task(
                id=f"{level}/{split}/{number}",
                seed=number,
                type=kind,
                split=split,
                options=options,
                reference=made.reference,
                max_turns=2 * (n_calls + len(made.turns)) + 2,
            )
    raise GameError(f"no task {number} of '{level}' fits a state; {ATTEMPTS} attempts")


# ── making one ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Maker:
    """A task in the making: the back ends as they are after the turns so far."""

    level: Level
    unseen: bool
    random: Random
    state: dict[str, Json] = field(default_factory=dict)
    offered: list[str] = field(default_factory=list)
    turns: list[dict[str, Json]] = field(default_factory=list)
    reference: list[list[dict[str, Json]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = self.level.among or [name for name in SERVICES if self.unseen or name != "tickets"]
        names = sorted(self.random.sample(known, min(self.level.services, len(known))))
        self.state = {name: SERVICES[name].start(self.random, self.level.size) for name in names}
        self.services: dict[str, Service] = {}
        self.before: dict[str, Json] = {}  # states at the start of the user turn, of the back ends used since
        self.withheld: set[str] = set()
        self.needed: set[str] = set()

    def make(self, kind: str) -> bool:
        """Draws the turns, one of them of that kind, and the tools; False where the state does not fit."""
        self.services = {name: SERVICES[name](state) for name, state in self.state.items()}
        n_turns = self.random.randint(*self.level.turns)
        special = self.random.randrange(n_turns)
        for number in range(n_turns):
            if not self._turn(kind if number == special else self.random.choice(KINDS[:3]), number == special):
                return False
        self._offer()
        return True

    def _turn(self, kind: str, special: bool) -> bool:
        """One more user turn (two, where something is missing at first); False where none was found."""
        self.before = {}
        for _ in range(TRIES):
            try:
                getattr(self, kind)(self.unseen and special)
                return True
            except Unfit:
                self._restore()
        return False

    # ── a turn of each kind; ``new``: it needs a held-out tool ───────────────────────────────────────────────────────

    def single(self, new: bool) -> None:
        """One call."""
        said, calls = self._made(self._request(new, 1, 1))
        self._say(said.text, calls)

    def sequence(self, new: bool) -> None:
        """Calls that need the results of others."""
        said, calls = self._made(self._request(new, 2, self.level.calls))
        self._say(said.text, calls)

    def parallel(self, new: bool) -> None:
        """Calls that may be made together, in any order."""
        wanted = self.random.randint(2, self.level.calls)
        found = []
        for number in range(wanted):
            found.append(self._made(self._request(new and number == 0, 1, 1)))
            self._restore()
        calls = [call for _, made in found for call in made]
        if len({self._ended(order) for order in itertools.permutations(calls)}) != 1:
            raise Unfit  # one of them changes what another does
        for call in calls:
            self._run(call)
        self._say(" ".join(said.text for said, _ in found), calls, together=True)

    def missing_function(self, new: bool) -> None:
        """The tool comes after the agent has said that it has none."""
        asked = self._request(new, 1, 1)
        if asked.tools[0] in REPLACEABLE | self.needed:
            raise Unfit
        said, calls = self._made(asked)
        self._check(calls)
        self._say(said.text, [])
        self._say(NEW_TOOL.format(asked.tools[0]), calls, asked.tools)
        self.withheld.update(asked.tools)

    def missing_parameter(self, new: bool) -> None:
        """The user says what is missing after the agent has asked."""
        said, calls = self._made(self._request(new, 1, 1))
        if not said.vague:
            raise Unfit
        self._check(calls)
        self._say(said.vague, [])
        self._say(said.detail, calls)

    def irrelevant(self, new: bool) -> None:
        """Nothing is to be called."""
        self.needed.add(self._request(new, 1, 1).tools[0])  # so that there is something that it could be mistaken for
        self._say(self.random.choice(IRRELEVANT).format(self.random.choice(SUBJECTS)), [])

    # ── its parts ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _request(self, new: bool, least: int, most: int) -> Request:
        """A request about the back ends in view."""
        found = [
            request
            for request in REQUESTS
            if request.service.name in self.services
            and least <= len(request.tools) <= most
            and (self.unseen or not HELD_OUT.intersection(request.tools))
            and (not new or HELD_OUT.intersection(request.tools))
            and not self.withheld.intersection(request.tools)
        ]
        if not found:
            raise Unfit
        return self.random.choice(found)

    def _made(self, request: Request) -> tuple[Said, list[ToolCall]]:
        """The words and the calls of a request, executed. Raises Unfit."""
        draw = Draw(self.random, self._used(request.service.name))
        said = request.write(draw)
        return said, draw.calls

    def _check(self, calls: Sequence[ToolCall]) -> None:
        """Raises Unfit where a call was made before: its result would be known already."""
        done = [*(call for turn in self.reference for call in turn), *map(_written, calls)]
        if any(done.count(call) > 1 for call in done):
            raise Unfit

    def _say(self, text: str, calls: Sequence[ToolCall], offer: Sequence[str] = (), **more: Json) -> None:
        self._check(calls)
        self.turns.append({"user": text, "offer": list(offer), **more})
        self.reference.append([_written(call) for call in calls])
        self.needed.update(call.name for call in calls)

    def _offer(self) -> None:
        """The tools of the first turn: those needed and others, in random order."""
        needed = self.needed - self.withheld
        homes = {HOME[name] for name in self.needed}
        others = [
            name
            for name, home in HOME.items()
            if home in self.services and name not in self.needed and (self.unseen or name not in HELD_OUT)
        ]
        self.random.shuffle(others)
        if self.level.alike:
            others.sort(key=lambda name: HOME[name] not in homes)
        self.offered = [*sorted(needed), *others][: max(self.level.tools, len(needed))]
        self.random.shuffle(self.offered)

    def _used(self, name: str) -> Service:
        """The back end, whose state is noted first, so that it can be restored."""
        if name not in self.before:
            self.before[name] = copied(self.services[name].state)
        return self.services[name]

    def _restore(self) -> None:
        """All back ends as at the start of the user turn."""
        for name, state in self.before.items():
            self.services[name].state = copied(state)

    def _run(self, call: ToolCall) -> Json:
        return Draw(self.random, self._used(HOME[call.name])).call(call.name, **call.arguments)

    def _ended(self, calls: Sequence[ToolCall]) -> str:
        """States and results after the calls, from the start of the user turn, where it ends again. Raises Unfit."""
        self._restore()
        results = sorted(json.dumps(self._run(call), sort_keys=True) for call in calls)
        ended = json.dumps([{name: self.services[name].state for name in self.before}, results], sort_keys=True)
        self._restore()
        return ended


def _written(call: ToolCall) -> dict[str, Json]:
    return {"name": call.name, "arguments": dict(call.arguments)}
