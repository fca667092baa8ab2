"""Rules for AgentFlow on generated questions: a planner, a verifier and a generator that read what the environment's expert reads.

    [agent]
    name = "agentflow"
    [agent.roles]
    verifier = "rule:agentrl.envs.search.modules:enough"
    generator = "rule:agentrl.envs.search.modules:answer"
    [demos.roles]
    planner = { speaker = "rule:agentrl.envs.search.modules:Planner", options = { noise = 0.4 } }

Each knows how questions and passages are worded, and nothing of the world but the steps in memory. They keep nothing themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from agentrl.envs.search.expert import Expert

if TYPE_CHECKING:
    from agentrl.agents.flow import Asked


def enough(asked: Asked) -> dict[str, Any]:
    """Verifier: stop as soon as the question can be answered from the passages in memory."""
    return {"stop": _reader(asked).answer() is not None}


def answer(asked: Asked) -> dict[str, Any]:
    """Generator: the answer that the passages in memory give; where they give none, a name that was seen, drawn at random."""
    reader = _reader(asked)
    found = reader.answer()
    return {"answer": found if found is not None else _one(reader.names, asked)}


@dataclass(frozen=True)
class Planner:
    """Planner, for demonstrations: searches for the name whose passage is missing. On the share ``noise`` of its steps it
    strays: it searches for any name that was seen, or, the share ``other`` of these times, gives one to another tool."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    other: Annotated[float, Field(ge=0, le=1)] = 0.4

    def __call__(self, asked: Asked) -> dict[str, Any]:
        """The next step as {"tool", "sub_goal"}."""
        reader = _reader(asked)
        asked.strayed = bool(asked.rng.random() < self.noise)
        if not asked.strayed:
            return {"tool": "search", "sub_goal": reader.missing() or _one(reader.names, asked)}
        others = [name for name in asked.facts["tools"] if name != "search"]
        tool = _one(others, asked) if others and asked.rng.random() < self.other else "search"
        return {"tool": tool, "sub_goal": _one(reader.names, asked)}


def _reader(asked: Asked) -> Expert:
    """Who has read the question and what the searches in memory brought."""
    reader = Expert()
    reader.read(asked.facts["question"], [step["result"] for step in asked.facts["steps"] if not step["failed"]])
    return reader


def _one(names: Sequence[str], asked: Asked) -> str:
    return names[int(asked.rng.integers(len(names)))]
