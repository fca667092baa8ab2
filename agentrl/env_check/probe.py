"""What the checks of ``env_check`` are made of: play that is recorded, walks that are compared, one verdict.

A walk is the list of replies of one episode, ``reset``'s first. Whatever an environment or a hook gives is kept as it
came, for it may be wrong.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar

import gymnasium

from agentrl.env import SPLITS, hook
from agentrl.errors import AgentRLError
from agentrl.types import Task

Status = Literal["pass", "fail", "skip", "warn"]
Env = gymnasium.Env[Any, Any]
T = TypeVar("T")

SHORT_WALK = 12  # turns; enough to leave the start
SEEN = ("text", "reward", "terminated", "truncated", "key", "admissible")  # what two equal replies have in common
WORDS = ("look", "help", "1", "yes", "search for it", "finish")  # tried where no actions are listed


class Verdict(Exception):
    """Leaves a check with another status than pass."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status: Status = status


def require(truth: Any, detail: str) -> None:
    """Fails the check where ``truth`` is none."""
    if not truth:
        raise Verdict("fail", detail)


def brief(value: Any) -> str:
    """The repr, cut."""
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


class Start(NamedTuple):
    """What an episode starts from; without a task where the environment lists none."""

    seed: int
    task: Task | None

    def reset(self, env: Env) -> Any:
        """What the environment's ``reset`` gives."""
        return env.reset(seed=self.seed, options={"task": self.task} if self.task else None)

    def __str__(self) -> str:
        return f"task '{self.task.id}', seed {self.seed}" if self.task else f"seed {self.seed}"


class Reply(NamedTuple):
    """What ``reset`` (then without action and reward) or ``step`` gave, and what the hooks said then."""

    action: str
    text: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Any
    key: Any = None
    admissible: Any = None

    @property
    def ended(self) -> bool:
        return bool(self.terminated or self.truncated)

    @property
    def listed(self) -> Any:
        """The admissible actions: the hook's, else those of ``info``; None where there are none."""
        return self.info.get("admissible_actions") if self.admissible is None else self.admissible

    @property
    def where(self) -> str:
        return f"after {brief(self.action)}" if self.action else "after reset"


Walk = list[Reply]
Chooser = Callable[[Reply], str | None]


@dataclass
class Probe:
    """What the checks share: the maker, the sampled tasks and starts. Instances are closed after each check."""

    make: Callable[[], Env]
    seeds: Sequence[int]
    n_tasks: int
    n_walks: int
    max_turns: int
    max_characters: int
    opened: list[Env] = field(default_factory=list)

    def fresh(self) -> Env:
        """A new instance."""
        self.opened.append(self.make())
        return self.opened[-1]

    def close(self) -> None:
        """Closes every instance, whatever they say to it."""
        for env in self.opened:
            with suppress(Exception):
                env.close()
        self.opened.clear()

    @cached_property
    def sampled(self) -> dict[str, list[Task]]:
        """Some tasks of each split that has any; none where ``tasks`` is broken, which its own check reports."""
        with suppress(Exception):
            found = splits(self.fresh())
            return {split: spread(tasks, self.n_tasks) for split, tasks in found.items() if len(tasks)}
        return {}

    @cached_property
    def starts(self) -> list[Start]:
        """Tasks of the first split, evenly."""
        tasks: Sequence[Task | None] = next(iter(self.sampled.values()), None) or [None]
        chosen = [tasks[i * len(tasks) // self.n_walks] for i in range(self.n_walks)]
        return [Start(self.seeds[i % len(self.seeds)], task) for i, task in enumerate(chosen)]

    @cached_property
    def walks(self) -> list[Walk]:
        """Random play up to ``max_turns`` from every start, each in a new instance."""
        return [play(self.fresh(), start, at_random(i), self.turns(start)) for i, start in enumerate(self.starts)]

    @cached_property
    def plans(self) -> list[list[str]]:
        """The oracle's plan from each start; empty where there is none."""
        env = self.fresh()
        return [plan(env) for start in self.starts if reset(env, start)]

    def roam(self, number: int, variant: int = 0) -> Chooser:
        """Random play of a start that now and then takes a step of the oracle's plan, so that it gets somewhere."""
        return at_random(100 * variant + number, self.plans[number])

    def turns(self, start: Start) -> int:
        """How long an episode may last."""
        limit = start.task.max_turns if start.task else None
        return self.max_turns if limit is None else min(limit, self.max_turns)


def splits(env: Env) -> dict[str, Sequence[Task]]:
    """Every split that the environment knows."""
    listing: Any = hook(env, "tasks")
    require(callable(listing), "no tasks(split): held-out splits, panels and resume stand on it; write it")
    found = {}
    for split in SPLITS:
        with suppress(AgentRLError):
            found[split] = listing(split)
    return found


def spread(items: Sequence[T], n: int) -> list[T]:
    """At most n of them, evenly, with the first and the last."""
    n = min(n, len(items))
    return [items[i * (len(items) - 1) // max(1, n - 1)] for i in range(n)]


def ask(env: Env, name: str) -> Any:
    """What an optional hook says now, None where there is none. An exception is an answer, which a check reports."""
    try:
        found = hook(env, name)
        return found() if callable(found) else found
    except Exception as error:
        return ("raised", f"{type(error).__name__}: {error}")


def reset(env: Env, start: Start) -> Reply:
    """The first reply of an episode."""
    text, info = start.reset(env)
    return Reply("", text, 0.0, False, False, info, ask(env, "state_key"), ask(env, "admissible_actions"))


def step(env: Env, action: str) -> Reply:
    """The reply to an action."""
    return Reply(action, *env.step(action), ask(env, "state_key"), ask(env, "admissible_actions"))


def go_on(env: Env, last: Reply, choose: Chooser, turns: int) -> Walk:
    """Up to ``turns`` further replies after ``last``, which comes first."""
    walk = [last]
    while len(walk) <= turns and not walk[-1].ended and (action := choose(walk[-1])) is not None:
        walk.append(step(env, action))
    return walk


def play(env: Env, start: Start, choose: Chooser, turns: int = SHORT_WALK) -> Walk:
    """An episode, or its first turns."""
    return go_on(env, reset(env, start), choose, turns)


def at_random(seed: int, steps: Iterable[str] = ()) -> Chooser:
    """Any admissible action, or any word where none are listed; half of the time the next of ``steps``, if any."""
    rng, rest = Random(seed), iter(list(steps))

    def choose(reply: Reply) -> str:
        listed = reply.listed
        if rng.random() < 0.5 and (action := next(rest, None)) is not None:
            return action
        return rng.choice(listed if isinstance(listed, list) and listed else WORDS)

    return choose


def given(actions: Iterable[str]) -> Chooser:
    """These actions and no more."""
    rest = iter(list(actions))
    return lambda _: next(rest, None)


def again(walk: Walk) -> Chooser:
    """The actions of a walk."""
    return given(reply.action for reply in walk[1:])


def plan(env: Env) -> list[str]:
    """The oracle's plan from here; empty where there is none or it is broken, which its own check reports."""
    found = ask(env, "oracle")
    return list(found) if isinstance(found, list | tuple) and found[:1] != ("raised",) else []


def difference(one: Walk, two: Walk, fields: Sequence[str] = SEEN) -> str:
    """Where two walks differ first, in words; empty where they do not."""
    for turn, (left, right) in enumerate(zip(one, two, strict=False)):
        for name in fields:
            a, b = getattr(left, name), getattr(right, name)
            if a != b:
                if isinstance(a, str) and isinstance(b, str):
                    skip = max(0, next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0) - 20)
                    a, b = "…" * bool(skip) + a[skip:], "…" * bool(skip) + b[skip:]
                return f"turn {turn}, {left.where}: {name} is {brief(a)} and {brief(b)}"
    return "" if len(one) == len(two) else f"{len(one) - 1} turns and {len(two) - 1} turns"


def dumped(value: Any, what: str) -> str:
    """As JSON; fails the check where it is none."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Verdict("fail", f"{what} is not JSON: {error}; it is {brief(value)}") from error
    require(json.loads(text) == value, f"JSON changes {what} (a tuple? a key that is no text?): {brief(value)}")
    return text


def same_tasks(env: Env, tasks: Sequence[Task]) -> list[tuple[Task, Task]]:
    """Pairs (an earlier task, a later one that starts like it and goes on like it)."""
    kinds: dict[str, list[Task]] = {}
    pairs = []
    for task in tasks:
        first = reset(env, Start(0, task))
        alike = kinds.setdefault(repr((first.text, first.key)), [])
        twin = next((other for other in alike if _goes_on_alike(env, Start(0, other), Start(0, task))), None)
        if twin is None:
            alike.append(task)
        else:
            pairs.append((twin, task))
    return pairs


def _goes_on_alike(env: Env, one: Start, two: Start) -> bool:
    reset(env, one)
    steps = plan(env)
    for choose in (given(steps), at_random(0), at_random(1)):
        walk = play(env, one, choose, max(len(steps), 2 * SHORT_WALK))
        if difference(walk, play(env, two, again(walk), len(walk))):
            return False
    return True


def depends_on_seed(env: Env, start: Start) -> bool:
    """Whether, after equal starts, the replies to the same actions depend on the seed."""
    for number in range(8):
        walk = play(env, start, at_random(number))
        other = play(env, start._replace(seed=start.seed + 1 + number), again(walk))
        if not difference(walk[:1], other[:1]) and difference(walk, other):
            return True
    return False


# ── checks and their verdicts ───────────────────────────────────────────────────────────────────────────────────────────

Function = Callable[[Probe], str]
CHECKS: dict[str, tuple[Function, tuple[str, ...]]] = {}


def needs(*names: str) -> Callable[[Function], Function]:
    """Registers a check that says nothing where one of those did not pass."""

    def register(function: Function) -> Function:
        CHECKS[function.__name__.removeprefix("check_")] = (function, names)
        return function

    return register


def outcome(function: Function, probe: Probe) -> tuple[Status, str]:
    """Runs a check. An exception that it does not expect is a fail; instances are closed."""
    try:
        return "pass", function(probe)
    except Verdict as verdict:
        return verdict.status, str(verdict)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "fail", f"{type(error).__name__}: {plain(error)} ({os.path.basename(frame.filename)}:{frame.lineno})"
    finally:
        probe.close()


def plain(message: Any) -> str:
    """Without the terminal colours that Gymnasium writes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(message))
