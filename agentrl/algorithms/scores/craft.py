"""What an action is worth against the right one, in parts; understanding is judged."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.algorithms.scores.judge import Judge, verdicts_of
from agentrl.errors import ConfigError
from agentrl.registry import register
from agentrl.types import Json, Task, Trajectory, Turn

Box = tuple[float, float, float, float]
_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_WORD = re.compile(r"-?\d+(?:\.\d+)?|\w+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Gold(NamedTuple):
    """The right action of a turn; ``box`` (left, top, right, bottom): where its point must lie."""

    action: str
    box: Box | None = None


@register("score", "craft")
@dataclass(frozen=True, kw_only=True)
class CraftScore(Method):
    """r = f (w_f + w_t t + w_p t p) for operations, f (w_f + (1 - w_f) J) for tasks of understanding: CRAFT-GUI's rule and judged
    reward. RECONSTRUCTED from the paper's abstract; the parts, and their weights, are a choice.

    f = 1 where the turn holds an action in the wanted format, t = 1 where it is of the right type, p = 1 where its parameters are
    right. An action is a call, ``fill('a12', 'Oslo')``, whose type is its name, or words, ``go to fridge 1``, whose type is the
    first. Parameters are compared word by word in lower case; where the right action has a box, the first two numbers must lie in
    it (border included), and where it has none and ``radius`` is above 0, no further than that from the right action's.

    ``Task.reference`` says what is right: an action, a table { action, box }, or a list of them, one a turn; an episode's score is
    then the mean over the list (a turn that was not played has 0, further turns count nothing). Tasks of the types in ``judged``
    are understanding: J is the verdict of ``judge``, agentrl's score of that name with all its parameters, on the last answer;
    where it gives none the trajectory has no score. f is then that of the last turn.

    Source: CRAFT-GUI (arXiv 2508.11360), abstract: rule-based signals with model-judged evaluation. A second reading of it has
    w_t = 0.3, w_p = 0.6.
    """

    stage = "score"
    formula = (
        "r = f (w_f + w_t t + w_p t p), or f (w_f + (1 - w_f) J) for understanding: format, type, parameters, judge"
    )
    source = "CRAFT-GUI (arXiv 2508.11360), reconstructed from its abstract"

    w_f: Annotated[float, Field(ge=0, le=1)] = 0.1
    w_t: Annotated[float, Field(ge=0, le=1)] = 0.4
    w_p: Annotated[float, Field(ge=0, le=1)] = 0.5
    radius: Annotated[float, Field(ge=0)] = 0.0
    judged: tuple[str, ...] = ()
    judge: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._judge  # noqa: B018  what is wrong with the judge is an error now

    @functools.cached_property
    def _judge(self) -> Judge:
        return verdicts_of(self.judge, "craft.judge")

    def check(self, tasks: Sequence[Task]) -> None:
        """Raises ConfigError for a task that does not say what is right."""
        for task in tasks:
            if task.type in self.judged:
                self._judge.check([task])
            else:
                golds(task)

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float | None]:
        """One score a trajectory; None where the judge gave none. Raises ConfigError for a task without a right action, and what
        the judge raises."""
        found: list[float | None] = [
            None if each.task.type in self.judged else self.operation(each) for each in trajectories
        ]
        places = [place for place, each in enumerate(trajectories) if each.task.type in self.judged]
        verdicts = await self._judge([trajectories[place] for place in places]) if places else []
        for place, verdict in zip(places, verdicts, strict=True):
            formed = _formed(trajectories[place].turns[-1]) if trajectories[place].turns else False
            found[place] = None if verdict is None else formed * (self.w_f + (1 - self.w_f) * verdict)
        return found

    def operation(self, trajectory: Trajectory) -> float:
        """The mean over the right actions of what the turn in their place is worth."""
        wanted = golds(trajectory.task)
        earned = [self.step(turn, gold) for turn, gold in zip(trajectory.turns, wanted, strict=False)]
        return math.fsum(earned) / len(wanted)

    def step(self, turn: Turn, gold: Gold) -> float:
        """What one turn is worth."""
        (kind, parameters), (right, wanted) = _parts(turn.action), _parts(gold.action)
        same_type = kind == right
        same = same_type and self._same(parameters, wanted, gold.box)
        return _formed(turn) * (self.w_f + self.w_t * same_type + self.w_p * same)

    def _same(self, given: str, wanted: str, box: Box | None) -> bool:
        here, there = _point(given), _point(wanted)
        if box is not None:
            return here is not None and box[0] <= here[0] <= box[2] and box[1] <= here[1] <= box[3]
        if self.radius and here is not None and there is not None:
            return math.dist(here, there) <= self.radius
        return _WORD.findall(given.lower()) == _WORD.findall(wanted.lower())


def golds(task: Task) -> list[Gold]:
    """The right actions of a task, one a turn. Raises ConfigError where its reference holds none."""
    given = task.reference if isinstance(task.reference, (list, tuple)) else [task.reference]
    found = [_gold(each) for each in given]
    if not found or None in found:
        raise ConfigError(
            f"task '{task.id}' has no right action for the score 'craft' to compare with (wanted a text, a table {{ action, box }} "
            f"or a list of them, got {task.reference!r:.60}); name its type '{task.type}' in judged, or leave the score out"
        )
    return [gold for gold in found if gold is not None]


def _gold(given: Json) -> Gold | None:
    table = given if isinstance(given, Mapping) else {"action": given}
    action, box = table.get("action"), table.get("box")
    if not isinstance(action, str) or not action.strip():
        return None
    if box is None:
        return Gold(action)
    numbers = isinstance(box, (list, tuple)) and len(box) == 4 and all(type(each) in (int, float) for each in box)
    return Gold(action, (box[0], box[1], box[2], box[3])) if numbers else None


def _formed(turn: Turn) -> bool:
    """Whether the completion held an action; whether that did anything does not matter. A valid turn's problem is another's: that
    of a module which was asked beside the actor."""
    return bool(turn.action.strip()) and (turn.valid or not turn.info.get("problem"))


def _parts(action: str) -> tuple[str, str]:
    """The type of an action, and its parameters as they are written."""
    if call := _CALL.fullmatch(action):
        return call[1].lower(), call[2]
    kind, _, rest = action.strip().partition(" ")
    return kind.lower(), rest


def _point(parameters: str) -> tuple[float, float] | None:
    numbers = _NUMBER.findall(parameters)
    return (float(numbers[0]), float(numbers[1])) if len(numbers) >= 2 else None
