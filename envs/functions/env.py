"""Function calling as an environment: own back ends, a scripted user, and a check of states and results.

    env = agentrl.env.make("agentrl/FunctionCalling-v0", level="tiny")
    text, info = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step('<tool_call>{"name": "get_balance", "arguments": …}</tool_call>')

An action is a model's whole completion: calls, or a text, which ends the user's turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from agentrl.envs.functions.check import check_calls, check_results
from agentrl.envs.functions.dialogue import Dialogue, described
from agentrl.envs.functions.service import Service, copied
from agentrl.envs.functions.tasks import HOME, KINDS, LEVELS, SERVICES, Tasks, task_by_id
from agentrl.errors import ConfigError, GameError, ToolError, did_you_mean
from agentrl.seeding import stable_hash
from agentrl.tool import Tool, Toolset
from agentrl.tool_env import Called
from agentrl.types import Json, Task, ToolCall

CHECKS = ("state", "calls")


class Services(Toolset):
    """The back ends of a task, with the tools that are offered now."""

    def open(self, task: Task | None) -> None:
        """The state and the tools that the task begins with."""
        options = task.options if task else {"state": {}, "tools": []}
        self.restore(options["state"], options["tools"])

    def restore(self, states: Mapping[str, Json], offered: Sequence[str]) -> None:
        """Back ends of these states, with these tools."""
        self.parts: dict[str, Service] = {name: SERVICES[name](state) for name, state in states.items()}
        self.offered = list(offered)

    def tools(self) -> list[Tool]:
        """Those offered now."""
        return [getattr(self.parts[HOME[name]], name) for name in self.offered]

    @classmethod
    def listed(cls) -> list[Tool]:
        """None: they are a task's."""
        return []

    def states(self) -> dict[str, Json]:
        """The public state of every back end; a copy."""
        return {name: copied(part.state) for name, part in self.parts.items()}

    def state_key(self) -> str:
        """All states and what is offered."""
        return json.dumps([{name: part.state for name, part in self.parts.items()}, self.offered], sort_keys=True)


class FunctionCallingEnv(Dialogue):
    """``level``: mini, tiny, easy, medium or full. ``kinds`` keeps some of the six kinds of task. ``check``: "state" compares
    state and results with those of the right calls after each user turn, as BFCL's multi-turn categories do; "calls" the calls
    themselves with the right ones, as its single-turn categories do. Further options are those of ``Dialogue``: format, describe,
    max_steps, go_on, reward_scale. Raises ConfigError for what does not fit."""

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"level": tuple(LEVELS)}

    def __init__(
        self,
        level: str = "tiny",
        split: str = "train",
        kinds: Sequence[str] | None = None,
        check: str = "state",
        **options: Any,
    ) -> None:
        if check not in CHECKS:
            raise ConfigError(f"check = {check!r}.{did_you_mean(str(check), CHECKS)}")
        if isinstance(kinds, str) or kinds == []:
            raise ConfigError(f'wanted a list of kinds of task; got {kinds!r}; write ["single"]')
        self.level, self.kinds, self.check = level, tuple(kinds or KINDS), check
        Tasks(level, split, self.kinds)  # an unknown level is an error here, not in the middle of a run
        self._services = Services()
        self._rights: tuple[Task | None, list[tuple[str, list[str]]]] = (None, [])
        super().__init__([self._services], split=split, **options)

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, each generated when it is asked for."""
        return Tasks(self.level, split, self.kinds)

    def find_task(self, task_id: str) -> Task:
        """The generated task of that id."""
        return task_by_id(task_id)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this level."""
        from agentrl.envs.functions import vocabulary

        yield from vocabulary.texts(self.format, LEVELS[self.level].among)

    # ── the user ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def prompt(self, task: Task) -> str:
        """What the user says first. Raises GameError for a task that does not say what it needs."""
        options = task.options
        for key in ("state", "tools", "turns"):
            if not options.get(key):
                raise GameError(
                    f"a FunctionCalling task needs options['{key}']; task '{task.id}' has {sorted(options)}"
                )
        if not isinstance(task.reference, list) or len(task.reference) != len(options["turns"]):
            raise GameError(f"task '{task.id}': wanted as reference a list of calls for each of its turns")
        used = [*options["tools"], *(name for turn in options["turns"] for name in turn.get("offer", ()))]
        for name in (*used, *(call["name"] for calls in task.reference for call in calls)):
            if HOME.get(name) not in options["state"]:
                near = did_you_mean(name, HOME)
                raise GameError(f"task '{task.id}': tool '{name}' has no back end in options['state'].{near}")
        return super().prompt(task)

    def n_turns(self, task: Task) -> int:
        """How many user turns there are."""
        return len(task.options["turns"])

    def said(self, task: Task, turn: int) -> str:
        """What the user says in that turn, with the new tools."""
        turns = task.options["turns"]
        tools = [getattr(SERVICES[HOME[name]], name) for name in turns[turn].get("offer", ())]
        lines = [described(tool, self.as_json) for tool in tools] if self.describe == "text" else []
        return "\n".join([turns[turn]["user"], *lines])

    def together(self, task: Task, turn: int) -> bool:
        """Whether the task says so."""
        return bool(task.options["turns"][turn].get("together"))

    def next_turn(self, turn: int) -> None:
        """New tools, where the user brings some."""
        assert self.task is not None
        self._services.offered += self.task.options["turns"][turn].get("offer", ())

    def right_calls(self, task: Task, turn: int) -> list[ToolCall]:
        """The task's reference."""
        return [ToolCall(call["name"], call["arguments"]) for call in task.reference[turn]]

    # ── what is right ────────────────────────────────────────────────────────────────────────────────────────────────

    def judge(self, turn: int, calls: Sequence[Called]) -> str:
        """As ``check`` says."""
        assert self.task is not None
        if self.check == "calls":
            right = [self._accepted(call) for call in self.right_calls(self.task, turn)]
            schemas = {name: _schema(name) for name, _ in right}
            return check_calls([called.call for called in calls], right, schemas) or ""
        state, results = self._replayed(self.task)[turn]
        found = [called.result.text for called in self.called if called.result.error is None]
        return check_results(state, _public(self._services.parts), results, found) or ""

    def _accepted(self, call: ToolCall) -> tuple[str, dict[str, list[Json]]]:
        """A right call, with the values of its arguments that are right; those that have a default may be left out if that is
        what they should be."""
        validated = getattr(SERVICES[HOME[call.name]], call.name).validated(call.arguments)
        values: dict[str, list[Json]] = {}
        for name, schema in _schema(call.name)["properties"].items():
            if name in validated:
                values[name] = [validated[name]]
            elif "default" in schema:
                values[name] = [schema["default"]]
            if "default" in schema and values[name] == [schema["default"]]:
                values[name].append("")
        return call.name, values

    def _replayed(self, task: Task) -> list[tuple[str, list[str]]]:
        """State and results of the right calls after each user turn; kept for the next member of the group."""
        if self._rights[0] is not task:
            replay = Services()
            replay.open(task)
            found = []
            for turn in range(self.n_turns(task)):
                results = [_result(replay.parts, call) for call in self.right_calls(task, turn)]
                found.append((_public(replay.parts), results))
            self._rights = (task, found)
        return self._rights[1]

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _state_key(self) -> str:
        """The exact state: the public states, the user turn, and the calls that were made with what they gave (whose order does
        not matter, up to the start of the user turn)."""
        seen = [sorted(map(_shown, part)) for part in (self.called[: self._first], self.called[self._first :])]
        task = self.task.id if self.task else None
        about = [
            task,
            self._over,
            self._turn,
            self._wrong,
            self._steps,
            seen,
            self._services.state_key() if task else "",
        ]
        return f"{task} {self._turn} {stable_hash(json.dumps(about)):032x}"

    def snapshot(self) -> dict[str, Any]:
        """The dialogue as it stands, for ``restore`` of this or another environment. Picklable."""
        if self.task is None:
            raise GameError("no task is being played; call reset first")
        place = (self._turn, self._first, self._steps, self._wrong, self._problem, self._over)
        return {
            "task": self.task,
            "place": place,
            "called": list(self.called),
            "states": self._services.states(),
            "offered": list(self._services.offered),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Goes back to a snapshot, also one of another task."""
        if self.task is not snapshot["task"]:
            self.reset(options={"task": snapshot["task"]})
        self._services.restore(snapshot["states"], snapshot["offered"])
        self._turn, self._first, self._steps, self._wrong, self._problem, self._over = snapshot["place"]
        self.called = list(snapshot["called"])
        self._list_tools()

    def expert(self, noise: float = 0.0, seed: int = 0) -> Any:
        """The oracle with slips: on the share ``noise`` of its turns it does something else; ``act(observation, admissible,
        goal)``."""
        from agentrl.envs.functions.careless import Careless

        return Careless(self, noise, seed)


def _schema(name: str) -> Mapping[str, Json]:
    return getattr(SERVICES[HOME[name]], name).parameters


def _public(parts: Mapping[str, Service]) -> str:
    return json.dumps({name: part.state for name, part in parts.items()}, sort_keys=True)


def _shown(called: Called) -> str:
    return json.dumps(
        [called.call.name, called.call.arguments, called.result.text, called.result.error], sort_keys=True
    )


def _result(parts: Mapping[str, Service], call: ToolCall) -> str:
    """What a right call gives, as the model would see it. Raises GameError where it cannot be made."""
    work = getattr(parts[HOME[call.name]], call.name).call(call.arguments)
    try:
        work.send(None)
    except StopIteration as done:
        if done.value.error is None:
            return done.value.text
        raise GameError(f"the reference cannot be played: {call.name}: {done.value.text}") from ToolError(
            done.value.text
        )
    raise GameError(f"the reference cannot be played: {call.name} waits for something")
