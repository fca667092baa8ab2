"""Losses: ``(LossInputs) -> loss``, [N] where the scope is the token."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
