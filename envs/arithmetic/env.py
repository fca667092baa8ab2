"""Word problems with a calculator, as an environment.

env = agentrl.env.make("agentrl/Arithmetic-v0", level="tiny")
text, info = env.reset(seed=0)
text, reward, terminated, truncated, info = env.step('<tool_call>{"name": "calculator", "arguments": …}</tool_call>')
text, reward, terminated, truncated, info = env.step("50")
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from agentrl.envs.arithmetic import problems
from agentrl.errors import GameError
from agentrl.tool_env import Called, ToolEnv
from agentrl.types import Task, ToolCall

_NUMBER = re.compile(r"[0-9]+")
_SIGNS = ("+", "-", "*")


class ArithmeticEnv(ToolEnv):
    """``level``: tiny, easy, medium or full. Further options are those of ``ToolEnv``: format, describe, answer, max_calls,
    max_parallel. The reward is 1 for the right number, else 0. Raises ConfigError for what does not fit.

    Tasks of one's own have the problem in ``options["prompt"]`` and {"value"} as reference, and for the oracle "expression".
    """

    levels: ClassVar[Mapping[str, Sequence[str]]] = {"level": tuple(problems.LEVELS)}

    def __init__(self, level: str = "tiny", split: str = "train", **options: Any) -> None:
        self.level = level
        problems.Tasks(level, split)  # an unknown level is an error here, not in the middle of a run
        super().__init__(["calculator"], split=split, **options)

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, each generated when it is asked for."""
        return problems.Tasks(self.level, split)

    def find_task(self, task_id: str) -> Task:
        """The generated task of that id."""
        return problems.task_by_id(task_id)

    def prompt(self, task: Task) -> str:
        """The problem. Raises GameError for a task that does not say what is right."""
        if not isinstance(task.reference, Mapping) or type(task.reference.get("value")) not in (int, float):
            raise GameError(f"an Arithmetic task needs a reference with a number as 'value'; task '{task.id}' has none")
        return super().prompt(task)

    def score(self, task: Task, answer: str, calls: Sequence[Called]) -> float:
        """1 where the answer is the number, also written as "50." or "50.0"; else 0."""
        assert isinstance(task.reference, Mapping), "prompt has looked"
        try:
            return float(float(answer.removesuffix(".")) == task.reference["value"])
        except ValueError:
            return 0.0

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def state_key(self) -> str:
        """The exact state: the task, whether it is over, and which calls were made with what they gave, in any order."""
        known = sorted({json.dumps([dict(done.call.arguments), done.result.text]) for done in self.called})
        used = None if self.max_calls is None else len(self.called)
        return json.dumps([self.task.id if self.task else None, self._over, used, known])

    def snapshot(self) -> tuple[Task, tuple[Called, ...], bool]:
        """The episode as it stands, for ``restore`` of this or another environment. Picklable."""
        if self.task is None:
            raise GameError("no task is being played; call reset first")
        return self.task, tuple(self.called), self._over

    def restore(self, snapshot: tuple[Task, tuple[Called, ...], bool]) -> None:
        """Goes back to a snapshot, also one of another task."""
        task, called, over = snapshot
        self.reset(options={"task": task})
        self.called, self._over = list(called), over

    def oracle(self) -> list[str]:
        """The call, where it has not been made, and the number."""
        if self.task is None or self._over:
            return []
        reference: Any = self.task.reference
        answer = str(reference["value"])
        if "expression" not in reference or any(done.result.text == answer for done in self.called):
            return [answer]
        return [self._written(reference["expression"]), answer]

    def expert(self, noise: float = 0.0, seed: int = 0) -> Careless:
        """The oracle with slips: on the share ``noise`` of its turns it computes something else, or answers with some number;
        ``act(observation, admissible, goal)``."""
        return Careless(self, noise, seed)

    def vocabulary(self) -> Iterator[str]:
        """Texts that hold every word of this environment."""
        yield from problems.texts(problems.LEVELS[self.level])
        for expression in ("x 1 + 1 - 1 * 1 // 1", "(1)"):
            yield self._written(expression)
            yield self.format.respond([("calculator", expression)])
        yield from (self.description(), "Error: it has no value: the reply is empty; wanted a call of a tool")
        yield from (*string.punctuation, " ", "\n")

    def _written(self, expression: str) -> str:
        return self.format.render([ToolCall("calculator", {"expression": expression})])


class Careless:
    """Knows what is right, and slips on the share ``noise`` of its turns; ``strayed`` says whether it did on the last."""

    def __init__(self, env: ArithmeticEnv, noise: float, seed: int) -> None:
        self.env, self.noise, self.random = env, noise, Random(seed)
        self.strayed = False

    def act(self, observation: str, admissible: list[str], goal: str) -> str:
        """The next completion."""
        plan = self.env.oracle()
        self.strayed = self.random.random() < self.noise or not plan
        if not self.strayed:
            return plan[0]
        numbers = _NUMBER.findall(str(self.env.task.options["prompt"])) if self.env.task else ["1"]
        first, second = self.random.choice(numbers), self.random.choice(numbers)
        if self.random.random() < 0.4:
            return first
        return self.env._written(f"{first} {self.random.choice(_SIGNS)} {second}")
