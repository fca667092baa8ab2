"""Which checkpoint of a run is the best: by success on the sampled panel, of those that are still there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

PANEL = "sampled"


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint: its ``step`` (iterations until then), the evaluation that says so, its success and interval there."""

    step: int
    evaluation: str
    success_rate: float
    ci95: tuple[float, float]
    n: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95)}


def best_of(results: Mapping[str, Mapping[str, Any]], iteration: int, there: Collection[int]) -> Best | None:
    """The best of a run's evaluations ("before", "iteration_N", "after", in the order in which they were made) whose step is
    ``there``; None where none was played to an end. ``iteration``: the step of "after". Of equals the latest is the best: it has
    learnt the most, and a run that fails every time ends with its newest weights."""
    found: Best | None = None
    for name, panels in results.items():
        step, panel = _step(name, iteration), panels.get(PANEL)
        if step is None or step not in there or not panel or not panel["n"]:
            continue
        if found is None or panel["success_rate"] >= found.success_rate:
            found = Best(step, name, panel["success_rate"], tuple(panel["ci95"]), panel["n"])
    return found


def _step(name: str, iteration: int) -> int | None:
    known = {"before": 0, "after": iteration}
    number = name.removeprefix("iteration_")
    return int(number) if number.isdigit() and number != name else known.get(name)
