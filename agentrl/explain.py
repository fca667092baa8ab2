"""Why does a turn have its advantage? The credit of an iteration is computed again from its record, step by step.

    found = explain(Path("runs/quickstart"), "iteration=12/task=tiny-7/place=0/member=3", 2)
    found["turns"][0]["credit"][0]["term"]       a formula with its numbers
    found["equal"]                               whether the recomputed advantages are the recorded ones

What the record lacks (columns that an older run did not keep, states of methods) is named in ``found["problem"]``, and the
advantages shown are then the record's. No method is known by name: see ``agentrl.algorithms.terms``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agentrl import build, config, registry, stages
from agentrl.algorithms import TurnTable
from agentrl.algorithms.method import columns
from agentrl.algorithms.terms import Term, as_json, label
from agentrl.config import RunConfig
from agentrl.errors import CheckpointError
from agentrl.store import match_id, numbered, read_states, read_trajectories
from agentrl.types import Trajectory

Json = Any


@dataclass(slots=True)
class Recomputed:
    """An iteration whose credit was computed again. ``members`` are the trajectories that have an advantage, in the order of
    the table's rows; ``steps`` are empty and ``problem`` says why where it cannot be computed."""

    run: Path
    iteration: int
    settings: RunConfig
    trajectories: list[Trajectory]
    members: list[Trajectory]
    first_row: dict[str, int]
    steps: list[stages.Step] = field(default_factory=list)
    problem: str = ""

    @property
    def advantages(self) -> np.ndarray | None:
        """[K] recomputed; None where they cannot be."""
        return self.steps[-1].advantages if self.steps else None

    def row(self, trajectory: Trajectory, turn: int) -> int | None:
        """The row of a turn; None where its trajectory was not trained on."""
        first = self.first_row.get(trajectory.id)
        return None if first is None else first + turn

    def member(self, row: int) -> dict[str, Json]:
        """Which turn a row is."""
        table = self.steps[0].given
        trajectory, turn = self.members[int(table["trajectory"][row])], int(table["turn"][row])
        return {"trajectory": trajectory.id, "turn": turn, "action": trajectory.turns[turn].action}


def explain(run: Path, wanted: str, turn: int | None = None, iteration: int | None = None) -> dict[str, Json]:
    """Why the turns of a trajectory (or one of them, from 0) have their advantages, as JSON.

    ``wanted`` is its id, or a part of it that no other of the iteration has. ``iteration`` defaults to the id's own, else to the
    last. Raises CheckpointError for what is not there.
    """
    named = re.match(r"iteration=(\d+)(?:/|$)", wanted)
    if named and iteration is not None and int(named.group(1)) != iteration:
        raise CheckpointError(f"'{wanted}' is not of iteration {iteration}; leave --iteration out")
    found = recompute(run, int(named.group(1)) if named else iteration)
    try:
        name = match_id([trajectory.id for trajectory in found.trajectories], wanted)
    except CheckpointError as error:
        lister = f"`agentrl explain {run} --iteration {found.iteration}` lists them all"
        raise CheckpointError(f"iteration {found.iteration}: {error}; {lister}") from error
    trajectory = next(each for each in found.trajectories if each.id == name)
    if turn is not None and not 0 <= turn < trajectory.n_turns:
        there = f"0 to {trajectory.n_turns - 1}" if trajectory.turns else "none"
        raise CheckpointError(f"{name} has no turn {turn}; its turns are {there}")
    places = range(trajectory.n_turns) if turn is None else [turn]
    turns = [_turn(found, trajectory, place) for place in places]
    group = [each for each in found.trajectories if _group(each) == _group(trajectory)]
    left_out = _left_out(found, trajectory)
    return {
        "run": str(run),
        "iteration": found.iteration,
        "trajectory": name,
        "n_turns": trajectory.n_turns,
        "group": {"id": _group(trajectory), "members": [_member(each) for each in group]},
        "left_out": left_out,
        "problem": "" if left_out else found.problem,
        "turns": turns,
        "equal": bool(left_out) or (not found.problem and all(each["equal"] for each in turns)),
    }


def overview(run: Path, iteration: int | None = None) -> dict[str, Json]:
    """The groups and trajectories of an iteration with what each got, and whether all advantages can be computed again."""
    found = recompute(run, iteration)
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in found.trajectories:
        groups.setdefault(_group(trajectory), []).append(trajectory)
    pairs = list(_pairs(found))
    n_equal = sum(_same(recorded, now) for recorded, now in pairs)
    return {
        "run": str(run),
        "iteration": found.iteration,
        "groups": [{"id": name, "members": [_member(each) for each in members]} for name, members in groups.items()],
        "n_turns": len(pairs),
        "n_equal": n_equal,
        "problem": found.problem,
        "equal": not found.problem and n_equal == len(pairs),
    }


# ── computing again ──────────────────────────────────────────────────────────────────────────────────────────────────


def recompute(run: Path, iteration: int | None = None) -> Recomputed:
    """The credit of an iteration (default: the last) from its record. Raises CheckpointError where there is no such record."""
    run_file = run / "config.toml"
    if not run_file.is_file():
        raise CheckpointError(f"{run} has no config.toml; give the folder of a training run")
    number, file = _file(run, iteration)
    trajectories = list(read_trajectories(file))
    members = [each for each in trajectories if any(turn.advantage is not None for turn in each.turns)]
    ends = np.cumsum([0, *(member.n_turns for member in members)]).tolist()
    first_row = {member.id: row for member, row in zip(members, ends, strict=False)}
    found = Recomputed(run, number, config.load(run_file), trajectories, members, first_row)
    if members:
        methods = build.credit_methods(found.settings.algorithm)
        states, table = read_states(run, number), _table(members)
        found.problem = _lacking(methods, states, table)
        if not found.problem:
            found.steps = list(stages.credit_steps(methods, {**_none(methods), **states}, table))
    return found


def _file(run: Path, iteration: int | None) -> tuple[int, Path]:
    files = numbered(run, "iteration")
    if not files:
        raise CheckpointError(f"{run} holds no iterations of training; credit is given there alone")
    if iteration is None:
        return max(files), files[max(files)]
    if iteration not in files:
        raise CheckpointError(f"{run} has no iteration {iteration}; it has {min(files)} to {max(files)}")
    return iteration, files[iteration]


def _table(members: Sequence[Trajectory]) -> TurnTable:
    """The table that the first method was given. A measured column that not every turn has stays out of it."""
    turns = [turn for member in members for turn in member.turns]
    names = set.intersection(*(set(turn.columns) for turn in turns)) if turns else set()
    measured = {name: np.array([turn.columns[name] for turn in turns]) for name in sorted(names)}
    return TurnTable.from_trajectories(members).with_columns(**measured)


def _lacking(methods: build.Methods, states: Mapping[str, Json], table: TurnTable) -> str:
    """What the record lacks; "" where it has everything."""
    known = {*table.columns, "advantage"}
    for place, method in _of_credit(methods):
        if missing := [name for name in columns(method) if name not in known]:
            return f"{place} ({type(method).__name__}) reads {', '.join(missing)}, which the record does not have"
        if place not in states and hasattr(method, "init") and method.init(0) is not None:
            return f"{place} ({type(method).__name__}) remembers, and what it knew then was not kept"
        known |= set(columns(method, "writes"))
    return ""


def _of_credit(methods: build.Methods) -> list[tuple[str, Any]]:
    return [(place, method) for place, method in methods.named() if place.startswith(("rewards[", "credit["))]


def _none(methods: build.Methods) -> dict[str, None]:
    """The states of methods that could remember and, with their parameters, do not."""
    return {place: None for place, method in _of_credit(methods) if hasattr(method, "init")}


def _pairs(found: Recomputed) -> list[tuple[float | None, float | None]]:
    """Recorded and recomputed advantages of every turn that has one."""
    recorded = [turn.advantage for member in found.members for turn in member.turns]
    now = [None] * len(recorded) if found.advantages is None else found.advantages.tolist()
    return list(zip(recorded, now, strict=True))


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _group(trajectory: Trajectory) -> str:
    return trajectory.group or trajectory.task.id


def _member(trajectory: Trajectory) -> dict[str, Json]:
    advantages = [turn.advantage for turn in trajectory.turns if turn.advantage is not None]
    return {
        "id": trajectory.id,
        "outcome": str(trajectory.outcome),
        "success": trajectory.success,
        "reward": trajectory.reward,
        "rewards": dict(trajectory.rewards),
        "turns": trajectory.n_turns,
        "advantage_min": min(advantages, default=None),
        "advantage_max": max(advantages, default=None),
    }


def _left_out(found: Recomputed, trajectory: Trajectory) -> str:
    """Why a trajectory has no advantage; "" where it has one."""
    if trajectory.id in found.first_row:
        return ""
    if trajectory.outcome.is_fault:
        return f"it ended as {trajectory.outcome}, a fault of the machinery: such an episode is in no baseline ({trajectory.error})"
    if not trajectory.turns:
        return "it has no turns"
    specs = found.settings.algorithm.filters
    if not specs:
        return "it was not trained on"
    filters = (registry.get("filter", _name(spec)) for spec in specs)
    formulas = "; ".join(f"{_name(spec)}: {getattr(f, 'formula', '')}" for spec, f in zip(specs, filters, strict=True))
    return f"the filters left it out, so it was not trained on ({formulas})"


def _name(spec: Any) -> str:
    return str(spec["name"]) if isinstance(spec, Mapping) else str(spec)


def _turn(found: Recomputed, trajectory: Trajectory, place: int) -> dict[str, Json]:
    turn, row = trajectory.turns[place], found.row(trajectory, place)
    said: dict[str, Json] = {
        "turn": place,
        "observation": turn.observation,
        "state": turn.state_key,
        "action": turn.action,
        "valid": turn.valid,
        "reward": turn.reward,
        "penalty": turn.penalty,
        "measured": dict(turn.columns),
        "rewards": [],
        "credit": [],
        "recorded": turn.advantage,
        "recomputed": None,
    }
    if row is not None and found.advantages is not None:
        said["recomputed"] = float(found.advantages[row])
        for step in found.steps:
            if step.place.startswith("rewards"):
                said["rewards"].append({**_place(found, step), "columns": _written(step, row)})
            else:
                said["credit"].append({**_place(found, step), **_credit_step(found, step, row)})
    said["equal"] = _same(said["recorded"], said["recomputed"]) and all(each["agrees"] for each in said["credit"])
    return said


def _place(found: Recomputed, step: stages.Step) -> dict[str, Json]:
    kind, number = step.place.rstrip("]").split("[")
    specs = getattr(found.settings.algorithm, kind)
    specs = specs if isinstance(specs, list) else [specs]
    return {
        "place": step.place,
        "name": _name(specs[int(number)]),
        "formula": getattr(step.method, "formula", ""),
    }


def _written(step: stages.Step, row: int) -> dict[str, list[Json]]:
    """The columns that a method wrote, at this row before and after."""
    given, table = step.given, step.table
    names = [name for name in table.columns if name not in given or table[name] is not given[name]]
    return {name: [_cell(given, name, row), _cell(table, name, row)] for name in names}


def _cell(table: TurnTable, name: str, row: int) -> Json:
    if name not in table:
        return None
    value = table[name][row].item()
    if isinstance(value, int) and not isinstance(value, bool):
        return label(table, name, row) or None
    return value


def _credit_step(found: Recomputed, step: stages.Step, row: int) -> dict[str, Json]:
    """What it gave, what the advantage was before and is after it, and its explanation. ``agrees``: the explanation's number is
    the method's."""
    before, after = float(step.given["advantage"][row]), float(step.advantages[row])
    gave = None if step.gave is None else float(step.gave[row])
    said: dict[str, Json] = {"before": before, "gave": gave, "after": after, "changes": step.changes}
    said |= {"columns": _written(step, row), "term": None, "agrees": True}
    if gave is not None and hasattr(step.method, "explain"):
        term: Term = step.method.explain(step.given, row, *step.state)
        said["term"] = _within_group(as_json(term, found.member), step, row)
        said["agrees"] = math.isclose(term.value, gave, rel_tol=1e-6, abs_tol=1e-9)
    return said


def _within_group(term: dict[str, Json], step: stages.Step, row: int) -> dict[str, Json]:
    """Marks the comparisons that are with the whole group, whose members are known already."""
    n_rows = int((step.given["group"] == step.given["group"][row]).sum())
    if "among" in term:
        term["among"]["whole_group"] = term["among"]["name"] == "group" and term["among"]["n_rows"] == n_rows
    for part in term["parts"]:
        _within_group(part, step, row)
    return term
