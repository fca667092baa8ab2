"""What happens between rollouts and updates: scores, reward columns, credit, and the memory of methods that have one.

A method with ``init(seed) -> state`` remembers. Its state is JSON; it is handed to the method as a last argument
(``method(table, state)``, ``propose(state, …)``), renewed once an iteration by ``observe(state, table, probe)`` over *everything*
that was rolled out, filtered or not, and kept in the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from agentrl.algorithms import TurnTable
from agentrl.algorithms.method import columns
from agentrl.build import Methods
from agentrl.errors import ConfigError, Fault
from agentrl.rollouts.pool import run_to_end
from agentrl.types import Group, Outcome, RolloutRequest, Trajectory

States = dict[str, Any]
TRIES = 3  # of a score method that meets a fault
OUTAGES = (Fault, OSError, TimeoutError, httpx.HTTPError)  # what a judge or server out of reach raises


def initial_states(methods: Methods, seed: int) -> States:
    """The states of all methods that remember, by their place. Raises ConfigError for one that JSON does not keep, and for a
    method that must be told how far the policy moved, which nobody measures yet."""
    for place, method in methods.named():
        if getattr(method, "needs_probe", False):
            raise ConfigError(
                f"algorithm.{place}: {type(method).__name__} with these parameters needs a measure of how far the policy moved "
                'on each task, which the trainer does not take; set forgetting = "constant"'
            )
    return {place: _kept(place, method.init(seed)) for place, method in methods.named() if hasattr(method, "init")}


def observe(methods: Methods, states: States, trajectories: Sequence[Trajectory]) -> States:
    """The states after an iteration in which ``trajectories`` were rolled out."""
    table = TurnTable.from_trajectories(trajectories)
    renewed = dict(states)
    for place, method in methods.named():
        if hasattr(method, "observe"):
            renewed[place] = _kept(place, method.observe(states.get(place), table, None))
    return renewed


def _kept(place: str, state: Any) -> Any:
    try:
        same = json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ConfigError(f"the state of algorithm.{place} must be JSON (text keys, lists, numbers), got {state!r:.80}")
    return state


def score(methods: Methods, trajectories: Sequence[Trajectory]) -> None:
    """Adds each score method's part to ``Trajectory.rewards``. A method that meets an outage at every try is a fault of the
    machinery, as is a score of None: such trajectories are taken out. Any other error is a bug, and is raised.

    Raises ConfigError for scores that are not one finite number a trajectory.
    """
    names = [type(method).__name__ for method in methods.scores]
    for place, method in enumerate(methods.scores):
        name = names[place] if names[place] not in names[:place] else f"{names[place]}_{place}"
        for attempt in range(TRIES):
            try:
                values = [None if value is None else float(value) for value in run_to_end(method(trajectories))]
            except OUTAGES as error:
                if attempt + 1 == TRIES:
                    for trajectory in trajectories:
                        trajectory.outcome, trajectory.error = Outcome.ENV_FAULT, f"{name}: {error!r}"
                continue
            if len(values) != len(trajectories) or not all(value is None or math.isfinite(value) for value in values):
                raise ConfigError(
                    f"{name} must give one finite score for each of {len(trajectories)} trajectories, got {values!r:.80}"
                )
            for trajectory, value in zip(trajectories, values, strict=True):
                if value is None:
                    trajectory.outcome, trajectory.error = Outcome.ENV_FAULT, f"{name} gave no score"
                else:
                    trajectory.rewards[name] = value
            break


def keep(methods: Methods, states: States, groups: list[Group]) -> tuple[list[Group], list[RolloutRequest]]:
    """The groups that every filter keeps, and what the filters ask for again."""
    requests: list[RolloutRequest] = []
    for place, method in enumerate(methods.filters):
        groups, again = method(groups, *_state(states, f"filters[{place}]"))
        requests += again
    return groups, requests


def assign_credit(
    methods: Methods, states: States, members: Sequence[Trajectory], further: Mapping[str, np.ndarray]
) -> tuple[TurnTable, np.ndarray]:
    """The table with the columns of reward and credit methods (and ``further`` ones), and the advantage of each row, [K].

    Credit methods add up; one that reads ``advantage`` changes what the ones before it gave; one that returns columns adds
    them to the table. Each turn's advantage and penalty are written into its record.
    """
    table = TurnTable.from_trajectories(members).with_columns(**further)
    for place, method in enumerate(methods.rewards):
        table = table.with_columns(**method(table, *_state(states, f"rewards[{place}]")))
    advantages = np.zeros(table.n_rows)
    for place, method in enumerate(methods.credit):
        found = method(table.with_columns(advantage=advantages), *_state(states, f"credit[{place}]"))
        if isinstance(found, Mapping):
            table = table.with_columns(**{name: value for name, value in found.items() if name != "advantage"})
            found = found.get("advantage")
        if found is not None:
            advantages = found if "advantage" in columns(method) else advantages + found
    turns = (turn for member in members for turn in member.turns)
    for turn, advantage, penalty in zip(turns, advantages, table["penalty"], strict=True):
        turn.advantage, turn.penalty = float(advantage), float(penalty)
    return table.with_columns(advantage=advantages), advantages


def _state(states: States, place: str) -> tuple[Any, ...]:
    return (states[place],) if place in states else ()
