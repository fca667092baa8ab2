"""The index that the page embeds: one compact column a property of the episodes, and what the run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.evaluation.failures import failure
from agentrl.evaluation.statistics import wilson
from agentrl.store import in_use
from agentrl.types import Trajectory
from agentrl.viewer.scripts import short
from agentrl.viewer.sources import TRAINING, Run, Source, mapping
from agentrl.watch import account
from agentrl.watch.bounds import SECONDS

Json = Any
MOST_LETTERS = 240  # of an episode's actions in the index, for search and the table
_NAMED = ("phase", "task", "type", "env", "outcome", "failure", "group")


class Columns:
    """The columns of all episodes, under way. Texts that repeat are numbers into ``names``."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, int]] = {name: {} for name in _NAMED}
        self.columns: dict[str, list[Json]] = {}

    def add(self, source: Source, trajectory: Trajectory, chunk: int, place: int) -> None:
        """One more episode; it is number ``place`` of its chunk."""
        calls = list(trajectory.calls())
        advantages = [turn.advantage for turn in trajectory.turns if turn.advantage is not None]
        group = f"{source.phase} {source.path.name} {trajectory.group or trajectory.task.id}"
        row = {
            "id": trajectory.id,
            "phase": self._number("phase", source.phase),
            "iteration": source.iteration,
            "task": self._number("task", trajectory.task.id),
            "type": self._number("type", trajectory.task.type or "all"),
            "env": self._number("env", trajectory.task.env or trajectory.env),
            "outcome": self._number("outcome", str(trajectory.outcome)),
            "failure": self._number("failure", failure(trajectory) or ""),
            "group": self._number("group", group),
            "success": int(trajectory.success),
            "fault": int(trajectory.outcome.is_fault),
            "reward": short(trajectory.reward),
            "turns": trajectory.n_turns,
            "invalid": sum(not turn.valid for turn in trajectory.turns),
            "sampled": sum(len(call.completion_ids) for call in calls),
            "low": short(min(advantages, default=None), 4),
            "high": short(max(advantages, default=None), 4),
            "chunk": chunk,
            "place": place,
            "text": " · ".join(turn.action for turn in trajectory.turns)[:MOST_LETTERS],
        }
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)

    def data(self) -> dict[str, Json]:
        names = {name: list(numbers) for name, numbers in self.names.items()}
        names["group"] = []  # numbers are enough
        return {"n": len(self.columns.get("id", ())), "names": names, "columns": self.columns}

    def _number(self, kind: str, text: str) -> int:
        known = self.names[kind]
        return known.setdefault(text, len(known))


def measured(metrics: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """The columns of ``metrics.jsonl`` that hold numbers, in the order of their first appearance."""
    names = dict.fromkeys(name for line in metrics for name, value in line.items() if _is_number(value))
    names.pop("iteration", None)
    return {
        "iteration": [line.get("iteration", number) for number, line in enumerate(metrics)],
        "columns": {name: [_number_or_none(line.get(name)) for line in metrics] for name in names},
    }


def times(metrics: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    """``phases``: the metric of each phase's seconds, which add up to an iteration; ``account``: their bounds and what binds."""
    return {"phases": SECONDS, "account": account(metrics)}


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_or_none(value: Json) -> float | int | None:
    return short(value) if _is_number(value) else None


def evaluations(run: Run) -> list[dict[str, Json]]:
    """Every panel that was evaluated: ``phase``, ``name``, ``panel``, ``iteration``, ``success_rate``, ``ci95``, ``n``,
    ``mean_turns``, ``valid_action_ratio``, ``by_type`` and, of evaluations on their own, ``failures`` and ``pass_at_k``."""
    summary = run.summary
    if _is_panel(summary):  # of `agentrl eval`
        return [_panel("evaluation", "evaluation", "", 0, summary)]
    found = []
    for name, panels in mapping(summary.get("eval")).items():
        if name == "difference":
            continue
        iteration = _iteration_of(name, summary.get("iterations", 0))
        if _is_panel(panels):
            found.append(_panel(f"{name}/sampled", name, "sampled", iteration, panels))
        for panel, result in mapping(panels).items():
            if _is_panel(result):
                found.append(_panel(f"{name}/{panel}", name, panel, iteration, result))
    return sorted(found, key=lambda each: each["iteration"])


def _is_panel(value: Json) -> bool:
    return _is_number(mapping(value).get("success_rate"))


_KEPT = ("success_rate", "ci95", "n", "score", "mean_turns", "valid_action_ratio", "faults", "seconds")
_FURTHER = ("failures", "pass_at_k", "pass_hat_k", "outcomes", "by_difficulty", "tokens_per_episode", "n_tasks")


def _panel(phase: str, name: str, panel: str, iteration: int, result: Mapping[str, Json]) -> dict[str, Json]:
    kept = {key: result[key] for key in (*_KEPT, *_FURTHER) if key in result}
    n = result.get("n", 0)
    kept.setdefault("ci95", list(wilson(round(result["success_rate"] * n), n)))
    by_type = {
        kind: {key: rates[key] for key in _KEPT if key in rates}
        for kind, rates in mapping(result.get("by_type")).items()
    }
    return {"phase": phase, "name": name, "panel": panel, "iteration": iteration, **kept, "by_type": by_type}


def _iteration_of(name: str, last: int) -> int:
    """
    >>> _iteration_of("before", 80), _iteration_of("iteration_20", 80), _iteration_of("after", 80)
    (0, 20, 80)
    """
    if name == "before":
        return 0
    number = name.removeprefix("iteration_")
    return int(number) if number.isdecimal() else last


def _about(run: Run) -> list[str]:
    """In a few words what was played, by whom, and how it was trained."""
    envs = run.settings.get("env") or []
    tables = [mapping(env) for env in (envs if isinstance(envs, list) else [envs])]
    said = [" ".join(filter(None, (str(env.get("id", "")), str(env.get("name") or "")))) for env in tables]
    if run.kind == "evaluation":
        said += [run.summary.get("policy", ""), run.summary.get("split", "")]
    elif run.kind == TRAINING:
        credit = mapping(run.settings.get("algorithm")).get("credit") or []
        methods = credit if isinstance(credit, list) else [credit]
        said += [str(each.get("name", "")) if isinstance(each, Mapping) else str(each) for each in methods]
    seed = run.summary.get("seed")
    return [*filter(None, map(str, said)), *([] if seed is None else [f"seed {seed}"])]


def _stopped(run: Run) -> dict[str, Json]:
    """A run that was killed could not write so itself."""
    return {"status": "interrupted"} if run.summary.get("status") == "running" and not in_use(run.path) else {}


def heading(run: Run) -> dict[str, Json]:
    """What the page says of the run as a whole."""
    summary = run.summary
    difference = mapping(mapping(summary.get("eval")).get("difference"))
    shown = {panel: result for panel, result in difference.items() if isinstance(result, Mapping)}
    if "value" in difference:
        shown["sampled"] = {key: difference[key] for key in ("value", "ci95")}
    known = ("status", "seconds", "iterations", "seed", "n_updates", "n_parameters", "error", "policy", "env", "split")
    return {
        "name": run.path.resolve().name,
        "folder": str(run.path),
        "kind": run.kind,
        "training": TRAINING,
        "summary": {**{key: summary[key] for key in known if key in summary}, **_stopped(run)},
        "difference": shown,
        "about": _about(run),
        "config": run.config,
        "alarms": run.alarms,
    }
