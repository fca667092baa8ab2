"""Rules that ship: Python functions in the place of models, for AgentFlow's executor, verifier and generator.

A rule takes an ``Asked`` and returns a text, or what is written as JSON. ``@register("rule", name)`` gives one the name that
``speaker = "rule:NAME"`` takes; a frozen dataclass with ``__call__`` has parameters (``options``). ``rule:MODULE:NAME`` needs no
registration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentrl.agents.flow.speakers import Asked
from agentrl.registry import register


@register("rule", "first_argument")
def first_argument(asked: Asked) -> dict[str, Any]:
    """Executor: the sub-goal is the argument that the tool requires first (its first one, where it requires none).

    facts: ``plan`` {"tool", "sub_goal"}, ``card`` {"name", "parameters": JSON schema}.
    """
    plan, card = asked.facts["plan"], asked.facts["card"]
    parameters: Mapping[str, Any] = card.get("parameters", {})
    names = [*parameters.get("required", ()), *parameters.get("properties", ())]
    return {"name": card["name"], "arguments": {names[0]: plan["sub_goal"]} if names else {}}


@register("rule", "first_result")
def first_result(asked: Asked) -> dict[str, Any]:
    """Verifier: enough is known as soon as a step has a result that is no error.

    facts: ``steps``, each {"tool", "sub_goal", "command", "result", "failed"}.
    """
    return {"stop": any(not step["failed"] for step in asked.facts["steps"])}


@register("rule", "last_result")
def last_result(asked: Asked) -> dict[str, Any]:
    """Generator: the answer is the last result that is no error, "" where there is none. facts: ``steps``."""
    good = [step["result"] for step in asked.facts["steps"] if not step["failed"]]
    return {"answer": good[-1] if good else ""}
