"""Token weights: ``(LossInputs) -> weight [N], mask [N]``, which tokens of a turn carry its advantage."""

from typing import Any

from agentrl.algorithms.method import find_method


def __getattr__(name: str) -> Any:
    return find_method(__name__, name)
