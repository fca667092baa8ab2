"""Which tasks an oracle solves, and by what."""

from __future__ import annotations

from agentrl.envs.miniwob import clicking, writing
from agentrl.envs.miniwob.look import Look, Oracle, Puzzled, Solver

__all__ = ["SOLVERS", "Look", "Oracle", "Puzzled", "Solver"]

SOLVERS: dict[str, Solver] = clicking.SOLVERS | writing.SOLVERS
