"""Regularizers: ``(LossInputs) -> loss [N]``, terms that are added to the loss with a coefficient."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
