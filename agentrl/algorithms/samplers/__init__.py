"""Samplers: ``propose(state, step, tasks) -> list[RolloutRequest]``, which tasks the next iteration rolls out."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
