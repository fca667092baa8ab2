"""What a critique of a proposed action is worth: its form, its score, its suggestion."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from agentrl import critique
from agentrl.algorithms.method import Method
from agentrl.algorithms.scores.judge import Judge, verdicts_of
from agentrl.errors import ConfigError
from agentrl.registry import register
from agentrl.types import Outcome, Task, Trajectory

SAME = "Grade 10 where the last answer asks for the same action as the expected answer, however it is worded, else 0."


@register("score", "s_grpo")
@dataclass(frozen=True, kw_only=True)
class SGRPO(Method):
    """r = λ_f r_f + λ_s r_s + (1 - λ_f - λ_s) r_a of a critic's output, which is the last action of the episode.

    r_f = 1 where the output has the parts ``<thought>``, ``<score>`` and ``<suggestion>``, once each and in this order; r_a = 1
    where the score (Correct or Incorrect) is the label; r_s = 1 where the suggestion says the same as the reference. A part that
    cannot be read earns nothing; the others still count. An episode that a limit ended before its critique earns 0.

    What is right comes from the info of the last turn, ``label`` and ``reference`` (one accepted suggestion a line), as
    ``agentrl/Critique-v0`` gives them, or from ``Task.reference``, a table { score, suggestion }. Such an environment should pay
    no reward of its own (``reward_scale = 0``), for this one is added to it.

    The paper has a model judge whether two suggestions say the same. ``judge`` is agentrl's score of that name, with all its
    parameters: without a ``model`` the rule, "exact" or "f1"; r_s = 1 from the verdict ``same`` on. A judge that cannot grade an
    output leaves its trajectory without a score.

    Source: GUI-Critic-R1 (arXiv 2506.04614) section 3.3.2, S-GRPO: λ_f = λ_s = 0.1, groups of 6, KL 0.01, learning rate 3e-6. No
    training code was released. The advantage is GRPO's, the ratio that of a sequence (``gspo``): recipes/s_grpo.
    """

    stage = "score"
    formula = "r = lambda_f r_f + lambda_s r_s + (1 - lambda_f - lambda_s) r_a: format, suggestion, score of a critique"
    source = "GUI-Critic-R1 (arXiv 2506.04614) section 3.3.2"

    lambda_f: Annotated[float, Field(ge=0, le=1)] = 0.1
    lambda_s: Annotated[float, Field(ge=0, le=1)] = 0.1
    same: Annotated[float, Field(gt=0, le=1)] = 0.5
    judge: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lambda_f + self.lambda_s > 1:
            raise ConfigError(
                f"the score 's_grpo' wants lambda_f + lambda_s of at most 1, the rest being the score's; got "
                f"{self.lambda_f:g} + {self.lambda_s:g}"
            )
        self._judge  # noqa: B018  what is wrong with the judge is an error now

    @functools.cached_property
    def _judge(self) -> Judge:
        rubric = {"rubric": SAME} if "model" in self.judge else {}
        return verdicts_of({**rubric, **self.judge}, "s_grpo.judge")

    def check(self, tasks: Sequence[Task]) -> None:
        """Raises ConfigError for a task whose reference is there and is no { score, suggestion }."""
        for task in tasks:
            if task.reference is not None:
                _reference_of(task)

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float | None]:
        """One reward a trajectory; None where the judge gave no verdict. Raises ConfigError where nobody says what is right, and
        what the judge raises."""
        outputs = [critique.read(each.turns[-1].action if each.turns else "") for each in trajectories]
        right = [_right(each) for each in trajectories]
        asked = [
            (each, said.suggestion, refs) for each, said, (_, refs) in zip(trajectories, outputs, right, strict=True)
        ]
        same = await self._same(asked)
        return [
            None
            if suggested is None
            else critique.reward(said.formed, suggested, said.correct is label, self.lambda_f, self.lambda_s)
            for said, (label, _), suggested in zip(outputs, right, same, strict=True)
        ]

    async def _same(self, asked: Sequence[tuple[Trajectory, str, list[str]]]) -> list[float | None]:
        """Whether each suggestion says the same as one of its references; the judge is asked only of those that are there."""
        places = [place for place, (_, suggestion, _) in enumerate(asked) if suggestion and self.lambda_s]
        found: list[float | None] = [0.0] * len(asked)
        if places:
            verdicts = await self._judge([_as_answer(*asked[place]) for place in places])
            for place, verdict in zip(places, verdicts, strict=True):
                found[place] = None if verdict is None else float(verdict >= self.same)
        return found


def _right(trajectory: Trajectory) -> tuple[bool, list[str]]:
    """The label of the proposed action, and the suggestions that are right."""
    info: Mapping[str, object] = trajectory.turns[-1].info if trajectory.turns else {}
    if trajectory.outcome in (Outcome.MAX_TOKENS, Outcome.TIME_LIMIT):
        return False, []  # the episode ended before the environment read a critique
    if "label" in info:
        return info["label"] == critique.CORRECT, str(info.get("reference", "")).splitlines()
    if trajectory.task.reference is None:
        raise ConfigError(
            f"task '{trajectory.task.id}' does not say which critique is right: the score 's_grpo' wants 'label' and "
            "'reference' in the last turn's info (agentrl/Critique-v0), or a reference { score, suggestion }"
        )
    return _reference_of(trajectory.task)


def _reference_of(task: Task) -> tuple[bool, list[str]]:
    given = task.reference
    score = str(given.get("score")).lower() if isinstance(given, Mapping) else ""
    if score not in (critique.CORRECT.lower(), critique.INCORRECT.lower()) or not isinstance(
        given.get("suggestion"), str
    ):
        raise ConfigError(
            f"the score 's_grpo' wants a reference {{ score = \"Correct\" or \"Incorrect\", suggestion = TEXT }}; task '{task.id}' "
            f"has {given!r:.60}"
        )
    return score == critique.CORRECT.lower(), given["suggestion"].splitlines()


def _as_answer(trajectory: Trajectory, suggestion: str, references: list[str]) -> Trajectory:
    """The trajectory as a judge of answers reads it: its last action is the suggestion alone, its reference the right ones."""
    turns = [*trajectory.turns[:-1], replace(trajectory.turns[-1], action=suggestion)]
    return replace(trajectory, task=replace(trajectory.task, reference=references or [""]), turns=turns)
