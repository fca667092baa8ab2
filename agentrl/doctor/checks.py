"""What a check is, what it finds, and how findings are run, printed and written as JSON."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from agentrl.env_check import listing
from agentrl.errors import AgentRLError, ConfigError, did_you_mean
from agentrl.types import Json

Status = Literal["ok", "note", "warning", "failure", "skipped"]
STATUSES: tuple[Status, ...] = ("ok", "note", "warning", "failure", "skipped")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``says``: what is. Where that is not "ok" also what is ``wrong`` with it, what agentrl ``does`` about it
    and what to ``change`` (a setting, a file). ``numbers`` is what was measured, for programs."""

    status: Status
    says: str
    wrong: str = ""
    does: str = ""
    change: str = ""
    numbers: Mapping[str, Json] = field(default_factory=dict)


def ok(says: str, **numbers: Json) -> Finding:
    """A finding that asks for nothing."""
    return Finding("ok", says, numbers=numbers)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the doctor's report. ``what``: what was looked at."""

    name: str
    group: str
    what: str
    finding: Finding
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, the same keys for every line."""
        found = self.finding
        return {
            "group": self.group,
            "name": self.name,
            "what": self.what,
            "status": found.status,
            "says": found.says,
            "wrong": found.wrong,
            "does": found.does,
            "change": found.change,
            "numbers": dict(found.numbers),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """A function that looks at a subject. It is skipped where a check of ``needs`` failed or was skipped; a need that is not
    among the checks of a run does not hold it up."""

    name: str
    group: str
    needs: tuple[str, ...]
    look: Callable[[S], Finding]

    @property
    def what(self) -> str:
        return " ".join((self.look.__doc__ or "").split())


def collector(group: str) -> tuple[list[Check[Any]], Callable[..., Callable[[Any], Any]]]:
    """A list of checks, and the decorator ``@check("needed", …)`` that adds a function to it under its own name."""
    found: list[Check[Any]] = []

    def check(*needs: str) -> Callable[[Any], Any]:
        def add(look: Callable[[Any], Finding]) -> Callable[[Any], Finding]:
            found.append(Check(getattr(look, "__name__", ""), group, needs, look))
            return look

        return add

    return found, check


def chosen(checks: Sequence[Check[S]], only: Sequence[str]) -> list[Check[S]]:
    """The checks that ``only`` names, by name or by group, and those that they need; all where it names none. Raises ConfigError
    for a name that is neither."""
    known = {check.name for check in checks} | {check.group for check in checks}
    for name in only:
        if name not in known:
            raise ConfigError(f"no check and no group of checks is called '{name}'.{did_you_mean(name, known)}")
    wanted = {check.name for check in checks if not only or check.name in only or check.group in only}
    while needed := {need for check in checks if check.name in wanted for need in check.needs} & known - wanted:
        wanted |= needed
    return [check for check in checks if check.name in wanted]


def run(checks: Iterable[Check[S]], subject: S, told: Callable[[Line], None] = lambda line: None) -> list[Line]:
    """Every check, in order; ``told`` hears of each line as it is found."""
    done: dict[str, Line] = {}
    for check in checks:
        started = time.perf_counter()
        stopped = [done[need] for need in check.needs if need in done]
        unmet = next((line for line in stopped if line.finding.status in ("failure", "skipped")), None)
        if unmet:
            how = "failed" if unmet.finding.status == "failure" else "was skipped"
            found = Finding("skipped", f"not run: '{unmet.name}' {how}")
        else:
            found = _outcome(check, subject)
        done[check.name] = Line(check.name, check.group, check.what, found, time.perf_counter() - started)
        told(done[check.name])
    return list(done.values())


def _outcome(check: Check[S], subject: S) -> Finding:
    """What a check finds. An error that it does not expect is a failure of what it looked at."""
    try:
        return check.look(subject)
    except AgentRLError as error:
        return Finding(
            "failure",
            f"it could not be found out: {error}",
            "a run would end with this error",
            "stops",
            "what the error names",
        )
    except Exception as error:  # a model's own code and templates raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return Finding(
            "failure",
            f"it could not be found out: {problem} ({where})",
            "what raises here may raise in a run",
            "does not know this error",
            "nothing in a run file; the line that raised is named above",
        )


def worst(lines: Iterable[Line]) -> Status:
    """The gravest status; what was skipped is as grave as what it was skipped for."""
    found = {line.finding.status for line in lines}
    grave: tuple[Status, ...] = ("failure", "warning", "note", "ok")
    return next(status for status in grave if status in found or status == "ok")


def failed(lines: Iterable[Line]) -> bool:
    """Whether any check failed."""
    return worst(lines) == "failure"


def render(lines: Sequence[Line]) -> str:
    """A line a check, below it what is wrong, what agentrl does and what to change; a last line that counts."""
    rows = []
    for line in lines:
        found = line.finding
        parts = (("wrong", found.wrong), ("agentrl", found.does), ("change", found.change))
        mark = "FAILURE" if found.status == "failure" else found.status
        rows.append((mark, f"{line.name}: {found.says}", [f"{title}: {text}" for title, text in parts if text]))
    counts = {status: sum(line.finding.status == status for line in lines) for status in STATUSES}
    return listing(rows, counts)


def report(about: Mapping[str, Json], lines: Sequence[Line]) -> dict[str, Any]:
    """Everything as plain JSON: ``about`` says what was examined."""
    counts = {status: sum(line.finding.status == status for line in lines) for status in STATUSES}
    return {**about, "status": worst(lines), "counts": counts, "checks": [line.to_dict() for line in lines]}
