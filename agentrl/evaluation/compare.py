"""Evaluations against the first of them, paired on the same tasks and sample numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl import seeding
from agentrl.errors import CheckpointError, ConfigError, did_you_mean
from agentrl.evaluation.details import ks
from agentrl.evaluation.statistics import mcnemar, paired_bootstrap, paired_difference, pass_at_k, pass_hat_k

Row = Mapping[str, Any]
Pair = tuple[Row, Row]
HEADING = ("env", "split", "seed", "samples", "temperature", "max_turns", "options")  # what is told where it differs
REQUIRED = ("task", "sample", "fault", "success", "score", "turns", "invalid")

# A metric of an episode is a ratio of sums: what is added up, and what it is divided by.
RATIOS: dict[str, tuple[Callable[[Row], float], Callable[[Row], float]]] = {
    "success_rate": (lambda row: row["success"], lambda row: 1),
    "score": (lambda row: row["score"], lambda row: 1),
    "mean_turns": (lambda row: row["turns"], lambda row: 1),
    "valid_action_ratio": (lambda row: row["turns"] - row["invalid"], lambda row: row["turns"]),
    "mean_prompt_tokens": (lambda row: row["tokens"]["prompt"], lambda row: 1),
    "mean_completion_tokens": (lambda row: row["tokens"]["completion"], lambda row: 1),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """An evaluation that was read: its name (the path), what it says of itself, and its episodes."""

    name: str
    heading: Mapping[str, Any]
    rows: Sequence[Row]


def load(path: str) -> Loaded:
    """A folder of ``agentrl eval --out``, or what ``agentrl eval --json`` printed. Raises CheckpointError for anything else."""
    place = Path(path)
    file = place / "eval.json" if place.is_dir() else place
    if place.is_dir() and not file.exists():
        unfinished = (place / "journal.jsonl").exists()
        remedy = "continue it with agentrl eval --resume" if unfinished else "give a folder of agentrl eval --out"
        raise CheckpointError(f"{path} holds no complete evaluation (no eval.json); {remedy}")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        rows = data["episodes"]
        complete = all(key in row for row in rows for key in REQUIRED)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as an evaluation with its episodes: {error!r}") from error
    if not complete:
        raise CheckpointError(f"{path}: each of its episodes needs {', '.join(REQUIRED)}; evaluate again")
    return Loaded(path, {key: data.get(key) for key in ("policy", *HEADING)}, rows)


def compare(paths: Sequence[str]) -> dict[str, Any]:
    """``baseline``: name and policy of the first; ``others``: for each other one what ``against`` gives. Raises CheckpointError
    for what cannot be read and ConfigError where nothing can be paired."""
    if len(paths) < 2:
        raise ConfigError(f"wanted at least two evaluations to compare; got {len(paths)}")
    first, *others = map(load, paths)
    return {
        "baseline": {"name": first.name, **first.heading},
        "others": [against(first, other) for other in others],
    }


def against(first: Loaded, other: Loaded) -> dict[str, Any]:
    """``other`` - ``first`` on the episodes that both have: the same task and sample number, no fault on either side.

    ``n`` episodes of ``n_tasks`` tasks; ``left_out``: how many episodes only one of them has, or ended in a fault;
    ``differs``: what was evaluated otherwise; ``metrics``: by name ``baseline``, ``other``, their difference ``value`` with its
    paired bootstrap interval ``ci95`` over tasks (None for one task); ``mcnemar`` for single samples (else None): tasks ``gained``
    and ``lost``, the exact test's ``p``, and ``ci95`` of the difference by Agresti and Min; ``gained`` and ``lost``: ids of the
    tasks that only the other one, or only the baseline, ever solved; ``by_type``: success as in ``metrics``, with ``n_tasks``, for
    each type of task; ``failures``: by kind how many episodes failed so in the baseline and in the other. Raises ConfigError where
    nothing can be paired.
    """
    mine, theirs = _by_place(first), _by_place(other)
    both = [place for place in mine if place in theirs]
    pairs = [(mine[at], theirs[at]) for at in both if not mine[at]["fault"] and not theirs[at]["fault"]]
    if not pairs:
        raise ConfigError(
            f"{first.name} and {other.name} have no episode in common (task and sample number, without faults); "
            "evaluate both on the same environment, split and episodes"
        )
    groups = list(_by_task(pairs).values())
    solved = {group[0][0]["task"]: _solved(group) for group in groups}
    return {
        "name": other.name,
        **other.heading,
        "n": len(pairs),
        "n_tasks": len(groups),
        "left_out": {
            "only_in_baseline": len(mine) - len(both),
            "only_in_other": len(theirs) - len(both),
            "faults": len(both) - len(pairs),
        },
        "differs": {
            key: [first.heading[key], other.heading[key]] for key in HEADING if first.heading[key] != other.heading[key]
        },
        "metrics": _metrics(groups),
        "mcnemar": _mcnemar(pairs) if len(pairs) == len(groups) else None,
        "gained": [task for task, (before, after) in solved.items() if after and not before],
        "lost": [task for task, (before, after) in solved.items() if before and not after],
        "by_type": _by_type(groups),
        "failures": _failures(pairs),
    }


def _by_place(loaded: Loaded) -> dict[tuple[str, int], Row]:
    found = {(row["task"], row["sample"]): row for row in loaded.rows}
    if len(found) < len(loaded.rows):
        raise CheckpointError(f"{loaded.name} has several episodes of the same task and sample number")
    return found


def _by_task(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair[0]["task"], []).append(pair)
    return found


def _solved(group: Sequence[Pair]) -> tuple[bool, bool]:
    """Whether each side ever solved the task."""
    return any(before["success"] for before, _ in group), any(after["success"] for _, after in group)


def _by_type(groups: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """Success for each type of task; empty where there is one type alone, or none is told."""
    types = [group[0][0].get("type") or "" for group in groups]
    found: dict[str, Any] = {}
    for kind in sorted(set(types)) if len(set(types)) > 1 else ():
        own = [group for group, its in zip(groups, types, strict=True) if its == kind]
        part, whole = RATIOS["success_rate"]
        sums = [
            tuple([sum(of(pair[side]) for pair in group) for group in own] for of in (part, whole)) for side in (0, 1)
        ]
        found[kind or "none"] = {"n_tasks": len(own), **_difference(f"success_rate {kind}", *sums)}
    return found


def _failures(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    kinds = dict.fromkeys(row["failure"] for pair in pairs for row in pair if row.get("failure"))
    return {
        kind: [sum(pair[side].get("failure") == kind for pair in pairs) for side in (0, 1)] for kind in sorted(kinds)
    }


def _mcnemar(pairs: Sequence[Pair]) -> dict[str, Any]:
    before, after = ([bool(pair[side]["success"]) for pair in pairs] for side in (0, 1))
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    _, interval = paired_difference(before, after)
    return {"gained": gained, "lost": lost, "p": mcnemar(gained, lost), "ci95": list(interval)}


def _metrics(groups: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    sides = [[[pair[side] for pair in group] for group in groups] for side in (0, 1)]
    found = {}
    for name, (part, whole) in RATIOS.items():
        if "tokens" in name and not all(_told(row, name) for side in sides for group in side for row in group):
            continue
        sums = [tuple([sum(map(of, group)) for group in side] for of in (part, whole)) for side in sides]
        if all(sum(wholes) for _, wholes in sums):
            found[name] = _difference(name, *sums)
    found.update(_pass_metrics(sides))
    return found


def _told(row: Row, name: str) -> bool:
    kind = "prompt" if "prompt" in name else "completion"
    return row.get("tokens", {}).get(kind) is not None


def _pass_metrics(sides: Sequence[Sequence[Sequence[Row]]]) -> dict[str, Any]:
    """pass@k and pass^k of tasks with at least k pairs."""
    found = {}
    most = max(len(group) for group in sides[0])
    for mark, estimate in (("@", pass_at_k), ("^", pass_hat_k)):
        for k in ks(most)[1:]:
            values = [
                [estimate(len(g), sum(row["success"] for row in g), k) for g in side if len(g) >= k] for side in sides
            ]
            ones = [1] * len(values[0])
            found[f"pass{mark}{k}"] = _difference(f"pass{mark}{k}", *((value, ones) for value in values))
    return found


def _difference(name: str, before: Any, after: Any) -> dict[str, Any]:
    value, interval = paired_bootstrap(before, after, seeding.stream(0, "compare", name))
    return {
        "baseline": sum(before[0]) / sum(before[1]),
        "other": sum(after[0]) / sum(after[1]),
        "value": value,
        "ci95": None if interval is None else list(interval),
    }


@dataclass(frozen=True, slots=True)
class Condition:
    """``METRIC drops|rises by NUMBER``: true where the metric's difference is at least so large in that direction."""

    text: str
    metric: str
    direction: int
    number: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises ConfigError for anything else."""
        match = re.fullmatch(r"\s*(\S+)\s+(drops|rises)\s+by\s+(\d+\.?\d*|\.\d+)\s*", text, re.ASCII)
        if match is None or float(match[3]) <= 0:
            raise ConfigError(
                f"'{text}' is no condition: write METRIC drops|rises by NUMBER with a number above 0, "
                "as in success_rate drops by 0.05"
            )
        return cls(text, match[1], -1 if match[2] == "drops" else 1, float(match[3]))

    def met(self, result: Mapping[str, Any]) -> list[str]:
        """A line for each evaluation that meets it. Raises ConfigError for a metric that one of them does not have."""
        found = []
        for other in result["others"]:
            if self.metric not in other["metrics"]:
                known = ", ".join(other["metrics"])
                hint = did_you_mean(self.metric, list(other["metrics"]))
                raise ConfigError(f"'{self.text}': {other['name']} has no metric '{self.metric}'.{hint} It has {known}")
            difference = other["metrics"][self.metric]
            if difference["value"] * self.direction >= self.number - 1e-12:  # 0.75 - 0.8 is a drop by 0.05
                found.append(
                    f"{other['name']}: {self.metric} {'rises' if self.direction > 0 else 'drops'} by "
                    f"{abs(difference['value']):.4g}, from {difference['baseline']:.4g} to {difference['other']:.4g} "
                    f"on {other['n']} episodes ('{self.text.strip()}')"
                )
        return found
