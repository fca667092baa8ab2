"""Scores: ``async score(trajectories) -> rewards``, named reward parts that may need I/O (a judge, a reward model)."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
