"""What an agent answered, and how near that is to the reference: the rule that needs no judge."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from agentrl.errors import ConfigError
from agentrl.types import Task, Trajectory

Match = Literal["exact", "f1"]
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_of(trajectory: Trajectory) -> str:
    """The agent's last word: the last ``<answer>…</answer>`` of its last action, else that action; "" without a turn."""
    action = trajectory.turns[-1].action if trajectory.turns else ""
    tagged = _TAG.findall(action)
    return (tagged[-1] if tagged else action).strip()


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


def normal_form(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks (SQuAD, arXiv 1606.05250, section 6.1).

    >>> normal_form("The  Eiffel-Tower!")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def agreement(answer: str, references: Sequence[str], match: Match) -> float:
    """The best agreement with any reference, in [0, 1], of normal forms: 1 where they are equal ("exact"), or the harmonic mean of
    precision and recall of their words, counted with repetitions ("f1"). An empty form agrees with nothing.

    >>> agreement("in Paris, France", ["Paris"], "exact"), agreement("in Paris, France", ["Paris"], "f1")
    (0.0, 0.5)
    """
    found = normal_form(answer)
    pairs = [(found, wanted) for wanted in map(normal_form, references) if wanted and found]
    if match == "exact":
        return float(any(one == other for one, other in pairs))
    return max((_f1(one.split(), other.split()) for one, other in pairs), default=0.0)


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))
