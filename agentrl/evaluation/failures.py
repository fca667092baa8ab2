"""Why an episode failed, by plain rules on its record.

Each failed episode has one kind, the first in this order whose rule holds:

fault                    the machinery failed (env_fault, env_timeout, policy_fault, cancelled): no part of any rate
over_budget              it ended by max_tokens or time_limit
invalid_actions          the environment did not end it, and at least half of its actions were invalid
loop                     nor here; at least a third of its turns, and two or more, took an action again on a state where it was
                         taken before; the state is the environment's state key, else the text of the observation
never_found              the environment says so (``failure()``): what the task needs was never come upon
wrong_action             the environment says so: it was, and the wrong thing was done
terminated               the environment ended it without success and says no more: a wrong answer or a wrong last action
out_of_turns             none of these: it used all its turns (max_turns), or the environment cut it off (truncated)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agentrl.env import FAILURES
from agentrl.types import Outcome, Trajectory

KINDS = ("fault", "over_budget", "invalid_actions", "loop", *FAILURES, "terminated", "out_of_turns")


def failure(trajectory: Trajectory) -> str | None:
    """The kind of an episode's failure, one of ``KINDS``; None where it succeeded."""
    if trajectory.outcome.is_fault:
        return "fault"
    if trajectory.success:
        return None
    if trajectory.outcome in (Outcome.MAX_TOKENS, Outcome.TIME_LIMIT):
        return "over_budget"
    if trajectory.outcome is Outcome.TERMINATED:
        return trajectory.failure or "terminated"
    n = trajectory.n_turns
    if n and sum(not turn.valid for turn in trajectory.turns) * 2 >= n:
        return "invalid_actions"
    repeated = repeated_turns(trajectory)
    return "loop" if repeated >= 2 and repeated * 3 >= n else trajectory.failure or "out_of_turns"


def repeated_turns(trajectory: Trajectory) -> int:
    """How many turns took an action on a state where the episode had taken it before."""
    pairs = [(turn.observation if turn.state_key is None else turn.state_key, turn.action) for turn in trajectory.turns]
    return len(pairs) - len(set(pairs))


def counts(kinds: Iterable[str | None]) -> dict[str, int]:
    """How many episodes failed in which way, all kinds in order."""
    found = Counter(kinds)
    return {kind: found[kind] for kind in KINDS}
