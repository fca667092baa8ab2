"""Does an environment keep the contract that training rests on?

    checks = check_env(lambda: agentrl.env.make("my/Door-v0"))
    print(render(checks))

``agentrl check ENV`` plays a few hundred turns and verifies what an algorithm takes for granted: Gymnasium's API (its own
checker runs too) with texts in and out; tasks that can be listed, named and stored as JSON, the same in every instance;
splits that share no task, neither by id nor by content; one clear error for an unknown task; the same episode from the
same seed and actions; equal starts within a group, whatever was played before; resets that always give a playable
start; text of any kind survived as an action, and never rewarded with success; ``info`` that is JSON, with a bool
``success`` at the end; instances that do not disturb each other; ``close`` at any time. Of the optional hooks it
verifies those that exist (admissible actions are accepted, equal state keys mean equal replies, a snapshot goes on
here, elsewhere and after pickle, the oracle wins) and says what the missing ones would gain. It reports the size of
observations and the time of ``reset`` and ``step``. Tasks and walks are samples: a pass is evidence, a fail is a proof.

Each ``check_*`` in ``contract`` and ``hooks`` is one line of the output. A line is skipped where one that it needs did
not pass, so the first fail is the cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentrl.env_check import contract, hooks
from agentrl.env_check.probe import CHECKS, Env, Probe, Status, outcome

__all__ = ["CHECKS", "Check", "Status", "check_env", "contract", "failed", "hooks", "listing", "render"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``agentrl check ENV``: ``what`` was verified, and what came of it."""

    name: str
    status: Status
    detail: str
    seconds: float
    what: str = ""


def check_env(
    make: Callable[[], Env],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    n_tasks: int = 24,
    n_walks: int = 6,
    max_turns: int = 50,
    max_characters: int = 4_000,
) -> list[Check]:
    """Every check, in order. ``n_tasks`` of each split are looked at, ``n_walks`` of the first are played; an observation
    above ``max_characters`` is warned about. ``make`` is called about sixty times; all instances are closed.
    """
    probe = Probe(make, tuple(seeds), n_tasks, n_walks, max_turns, max_characters)
    done: dict[str, Check] = {}
    for name, (function, needs) in CHECKS.items():
        started = time.perf_counter()
        unmet = next((done[need] for need in needs if done[need].status in ("fail", "skip")), None)
        if unmet:
            status, detail = "skip", f"not run: '{unmet.name}' {'failed' if unmet.status == 'fail' else 'was skipped'}"
        else:
            status, detail = outcome(function, probe)
        done[name] = Check(name, status, detail, time.perf_counter() - started, (function.__doc__ or "").strip())
    return list(done.values())


def failed(checks: Iterable[Check]) -> bool:
    """True where the environment broke the contract."""
    return any(check.status == "fail" for check in checks)


def render(checks: Sequence[Check]) -> str:
    """A line a check, its detail below it, and a last line that counts."""
    rows = []
    for check in checks:
        mark = "FAIL" if check.status == "fail" else check.status
        head = f"{check.name}: {check.what or '?'} ({check.seconds:.2f} s)"
        rows.append((mark, head, check.detail.splitlines()))
    counts = {status: sum(check.status == status for check in checks) for status in ("pass", "warn", "skip", "fail")}
    return listing(rows, counts)


def listing(rows: Sequence[tuple[str, str, Sequence[str]]], counts: Mapping[str, int]) -> str:
    """Rows of (mark, what was checked, what belongs below it) as lines, then how often each status came; those that never
    came are left out."""
    width = max((len(mark) for mark, _, _ in rows), default=0)
    lines = []
    for mark, head, below in rows:
        lines.append(f"{mark:<{width}}  {head}")
        lines.extend(f"{'':<{width}}  {line}" for line in below)
    return "\n".join([*lines, "", ", ".join(f"{n} {status}" for status, n in counts.items() if n)])
