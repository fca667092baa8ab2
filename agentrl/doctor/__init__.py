"""``agentrl doctor``: is this model, this machine, fit for training? See README.md in this folder.

    examine("runs/quickstart", "agentrl/Household-v0")        lines about a model, in an environment
    examine_machine()                                         lines about this machine

Each check is one function of ``tokens``, ``template``, ``formats``, ``weights``, ``engine``, ``play``, ``machine`` or ``extras``;
its docstring says what it looks at, what it returns is a line of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentrl.doctor.checks import Finding, Line, chosen, failed, render, report, run, worst

__all__ = ["Finding", "Line", "examine", "examine_machine", "failed", "render", "report", "worst"]


def examine(
    model: str,
    env: str | None = None,
    *,
    only: Sequence[str] = (),
    told: Callable[[Line], None] = lambda line: None,
    **how: Any,
) -> list[Line]:
    """Every check of a model, in an environment where one is given, in order; ``told`` hears of each line as it is found.

    ``only``: these checks, or groups of checks, and what they need (none: all). ``how``: config, options, overrides, as in
    ``Subject.opened``. Raises UserError where there is no such model, environment, run file or check.
    """
    from agentrl.doctor import engine, formats, play, template, tokens, weights
    from agentrl.doctor.subject import Subject

    with Subject.opened(model, env, **how) as subject:
        played = subject.scene is not None
        checks = [
            *tokens.CHECKS,
            *template.CHECKS,
            *formats.CHECKS,
            *weights.BEFORE,
            *(play.BEFORE if played else ()),
            *engine.BEFORE,
            *weights.CHECKS,
            *engine.CHECKS,
            *(play.CHECKS if played else ()),
        ]
        return run(_in_order(chosen(checks, only)), subject, told)


def examine_machine(only: Sequence[str] = (), told: Callable[[Line], None] = lambda line: None) -> list[Line]:
    """Every check of this machine, in order; ``only`` and ``told`` as in ``examine``."""
    from agentrl.doctor import extras, machine

    return run(chosen([*machine.CHECKS, *extras.CHECKS], only), machine.Machine(), told)


def _in_order(checks: list[Any]) -> list[Any]:
    """The checks with each behind those that it needs, else as they were."""
    names = {check.name for check in checks}
    placed: list[Any] = []
    left = list(checks)
    while left:
        done = {check.name for check in placed}
        ready = next(check for check in left if not (set(check.needs) & names) - done)
        placed.append(ready)
        left.remove(ready)
    return placed
