"""What an agent answered, and how near that is to the reference: the rule that needs no judge."""

from __future__ import annotations

from agentrl.answers import Match, agreement, normal_form
from agentrl.errors import ConfigError
from agentrl.tags import all_pairs
from agentrl.types import Task, Trajectory

__all__ = ["Match", "agreement", "answer_of", "normal_form", "references_of"]


def answer_of(trajectory: Trajectory) -> str:
    """The agent's last word: the last ``<answer>…</answer>`` of its last action, else that action; "" without a turn."""
    action = trajectory.turns[-1].action if trajectory.turns else ""
    tagged = list(all_pairs(action, "answer"))
    return (tagged[-1].inside if tagged else action).strip()


def references_of(task: Task) -> list[str]:
    """The accepted answers of a task. Raises ConfigError where it has none."""
    given = task.reference
    found = given if isinstance(given, (list, tuple)) else [given]
    if not found or not all(isinstance(each, (str, int, float)) and not isinstance(each, bool) for each in found):
        raise ConfigError(
            f"task '{task.id}' has no reference to compare an answer with (wanted a text, a number or a list of them, got "
            f"{given!r:.60}); give the score 'judge' a model"
        )
    return [str(each) for each in found]
