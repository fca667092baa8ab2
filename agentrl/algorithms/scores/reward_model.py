"""The scalar of a reward model that reads the transcript."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from agentrl.algorithms.method import Method
from agentrl.chat.tokenizers import check_exists
from agentrl.registry import register
from agentrl.types import Message, Task, Trajectory

if TYPE_CHECKING:
    from agentrl.policies.classifier import Classifier


@register("score", "reward_model")
@dataclass(frozen=True, kw_only=True)
class RewardModel(Method):
    """r_i = coef · f(transcript_i), f a sequence classifier with one output.

    ``model`` is a folder, or a Hugging Face name that is at hand (AutoModelForSequenceClassification, ``num_labels = 1``), loaded
    once a process onto ``device`` ("auto": a GPU where there is one). It reads the conversation of observations (user) and
    actions (assistant) in its own chat template, in which their texts stay inert, or, where it has none, a plain transcript;
    what is too long for it loses its beginning. ``clip`` bounds f to [-clip, clip]. A value that is no number is a fault.

    Source: InstructGPT (2203.02155) section 3.5, over a conversation.
    """

    stage = "score"
    formula = "r_i = coef * f(transcript_i), f clipped to [-clip, clip] where asked for"
    source = "InstructGPT (arXiv 2203.02155) section 3.5"

    model: str
    coef: float = 1.0
    clip: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        check_exists(self.model, "config.json")

    def check(self, tasks: Sequence[Task]) -> None:
        """Raises CheckpointError for a path that holds no reward model, ConfigError for a device that is absent."""
        self._classifier()

    async def __call__(self, trajectories: Sequence[Trajectory]) -> list[float | None]:
        """One score a trajectory; None where the model gave no finite number. Raises CheckpointError for a path that is no reward
        model."""
        values = self._classifier()([conversation(each) for each in trajectories], self.batch_size)
        return [self.coef * self._clipped(value) if math.isfinite(value) else None for value in values]

    def _classifier(self) -> Classifier:
        from agentrl.policies.classifier import load_classifier

        return load_classifier(self.model, self.device)

    def _clipped(self, value: float) -> float:
        return value if self.clip is None else max(-self.clip, min(self.clip, value))


def conversation(trajectory: Trajectory) -> list[Message]:
    """What the agent saw and did, as messages that begin and end with what it saw; without an empty last observation."""
    found: list[Message] = []
    for turn in trajectory.turns:
        found.append({"role": "user", "content": turn.observation})
        found.append({"role": "assistant", "content": turn.action})
    if trajectory.last_observation or not found:
        found.append({"role": "user", "content": trajectory.last_observation})
    return found
