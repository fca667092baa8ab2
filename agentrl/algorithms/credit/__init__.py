"""Credit: ``(table) -> advantages [K]``, how much better each turn was than what it is compared with."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
