"""A run that loses a learner starts again from its last checkpoint, in the same process, and says so.

summary = restarted(attempt, config.resources.restarts, progress.note)      attempt(n): n learners were lost until now
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

from agentrl.errors import LearnerLost

R = TypeVar("R")


def restarted(attempt: Callable[[int], R], limit: int, note: Callable[[str], None]) -> R:
    """What ``attempt`` returns, which is called again each time that it raises LearnerLost, ``limit`` times at most. It is told how
    often that happened, and must leave nothing open that the next one needs. Raises what the last one raised."""
    n_lost = 0
    while True:
        try:
            return attempt(n_lost)
        except LearnerLost as error:
            if n_lost >= limit:
                if limit:
                    error.add_note(f"resources.restarts = {limit}: it has been started again that often")
                raise
            problem = error.problem
        gc.collect()  # the lost attempt's model, before the next one makes its own
        n_lost += 1
        note(f"RESTART {n_lost} of at most {limit}: {problem}; the run goes on from its last checkpoint")
