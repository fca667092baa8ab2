"""Filters: ``(groups) -> (kept, list[RolloutRequest])``, which groups are trained on and what is asked for again."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
