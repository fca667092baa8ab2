"""Rewards: ``(table) -> columns``, what is added to or taken from the reward of a turn."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
