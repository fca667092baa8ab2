"""What happens between rollouts and updates: scores, reward columns, credit, and the memory of methods that have one.

A method with ``init(seed) -> state`` remembers. Its state is JSON; it is handed to the method as a last argument
(``method(table, state)``, ``propose(state, …)``), renewed once an iteration by ``observe(state, table, probe)`` over *everything*
that was rolled out, filtered or not, and kept in the checkpoint. ``probe`` holds the iteration's metrics by name ("kl",
"entropy", "n_trajectories", "n_updates" …); those of training are absent where nothing was trained on. Where a method
``needs_probe``, it also holds "policy_shift": {task: mean |log p then - log p now| over what was sampled at its last visit}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np

from agentrl.algorithms import TurnTable
from agentrl.algorithms.method import columns
from agentrl.build import Methods
from agentrl.errors import ConfigError, Fault
from agentrl.rollouts.pool import run_to_end
from agentrl.types import Group, Outcome, RolloutRequest, Task, Trajectory

States = dict[str, Any]
TRIES = 3  # of a score method that meets a fault
OUTAGES = (Fault, OSError, TimeoutError, httpx.HTTPError)  # what a judge or server out of reach raises


def initial_states(methods: Methods, seed: int) -> States:
    """The states of all methods that remember, by their place. Raises ConfigError for one that JSON does not keep."""
    return {place: _kept(place, method.init(seed)) for place, method in methods.named() if hasattr(method, "init")}


def observe(
    methods: Methods, states: States, trajectories: Sequence[Trajectory], probe: Mapping[str, Any] | None = None
) -> States:
    """The states after an iteration in which ``trajectories`` were rolled out and whose metrics are ``probe``."""
    table = TurnTable.from_trajectories(trajectories)
    renewed = dict(states)
    for place, method in methods.named():
        if hasattr(method, "observe"):
            renewed[place] = _kept(place, method.observe(states.get(place), table, probe))
    return renewed


def _kept(place: str, state: Any) -> Any:
    try:
        same = json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ConfigError(f"the state of algorithm.{place} must be JSON (text keys, lists, numbers), got {state!r:.80}")
    return state


def check_scores(methods: Methods, tasks: Sequence[Task]) -> None:
    """Lets score methods that have ``check(tasks)`` refuse a run before its first rollout; ``tasks``: one of each environment."""
    for method in methods.scores:
        if hasattr(method, "check"):
            method.check(tasks)


def score(methods: Methods, trajectories: Sequence[Trajectory]) -> None:
    """Adds each score method's part to ``Trajectory.rewards``. A method that meets an outage at every try is a fault of the
    machinery, as is a score of None: such trajectories are taken out, and later methods are not asked about them. Any other error
    is a bug, and is raised.

    Raises ConfigError for scores that are not one finite number a trajectory.
    """
    names = [type(method).__name__ for method in methods.scores]
    for place, method in enumerate(methods.scores):
        asked = [trajectory for trajectory in trajectories if not trajectory.outcome.is_fault]
        if asked:
            _score(method, names[place] if names[place] not in names[:place] else f"{names[place]}_{place}", asked)


def _score(method: Any, name: str, trajectories: Sequence[Trajectory]) -> None:
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


@dataclass(slots=True)
class Proposals:
    """The requests of a sampler, one place of its order (``step``) after the other.

    An iteration begins at the next place; requests that filters leave open take the places after it. What a place proposes
    beyond that is left out, so without open requests ``step`` is the iteration, and a task never stands in two iterations of
    one epoch.
    """

    sampler: Any
    tasks: Sequence[Task]
    state: Any = None
    step: int = 0  # the next place; the trainer's checkpoint keeps it
    left: list[RolloutRequest] = field(default_factory=list)  # of the last place, not yet asked for

    def begin(self, state: Any) -> list[RolloutRequest]:
        """The requests of an iteration's first round."""
        self.state, self.left = state, []
        return self._next()

    def fill(self, requests: Sequence[RolloutRequest]) -> list[RolloutRequest]:
        """The same requests, those without a task replaced by the sampler's next. Raises ConfigError where it has none."""
        return [self._filled(request) if request.task is None else request for request in requests]

    def _filled(self, request: RolloutRequest) -> RolloutRequest:
        if not self.left:
            self.left = list(self._next())
        if not self.left:
            raise ConfigError(
                f"a filter asks for fresh tasks, and the sampler ({type(self.sampler).__name__}) proposes none at place "
                f"{self.step - 1} of its order"
            )
        found = self.left.pop(0)
        return replace(found, n=request.n or found.n, source=request.source)

    def _next(self) -> list[RolloutRequest]:
        self.step += 1
        return list(self.sampler.propose(self.state, self.step - 1, self.tasks))


def keep(
    methods: Methods, states: States, groups: list[Group], kept: Sequence[Group] = ()
) -> tuple[list[Group], list[RolloutRequest], dict[str, float]]:
    """What is kept of an iteration after a round of it: the groups of earlier rounds (``kept``) and of this one that every
    filter lets through, what the filters ask for, and their metrics.

    A filter gets the groups of this round that those before it keep, or with ``sees = "iteration"`` the earlier ones before
    them, and may then drop any of both.
    """
    earlier = list(kept)
    requests: list[RolloutRequest] = []
    measured: dict[str, float] = {}
    for place, method in enumerate(methods.filters):
        whole = getattr(method, "sees", "round") == "iteration"
        given = [*earlier, *groups] if whole else groups
        measured.update(getattr(method, "metrics", lambda _: {})(given))
        found, again = method(given, *_state(states, f"filters[{place}]"))
        if whole:
            before = {group.id for group in earlier}
            earlier = [group for group in found if group.id in before]
            found = [group for group in found if group.id not in before]
        groups = found
        requests += again
    return [*earlier, *groups], requests, measured


def assign_credit(
    methods: Methods, states: States, members: Sequence[Trajectory], further: Mapping[str, np.ndarray]
) -> tuple[TurnTable, np.ndarray]:
    """The table with the columns of reward and credit methods (and ``further`` ones), and the advantage of each row, [K].

    Each turn's advantage, penalty and further columns are written into its record, so that `agentrl explain` can compute the
    same again.
    """
    table = TurnTable.from_trajectories(members).with_columns(**further)
    advantages = np.zeros(table.n_rows)
    for step in credit_steps(methods, states, table):
        table, advantages = step.table, step.advantages
    turns = [turn for member in members for turn in member.turns]
    for turn, advantage, penalty in zip(turns, advantages, table["penalty"], strict=True):
        turn.advantage, turn.penalty = float(advantage), float(penalty)
    for name, values in further.items():
        for turn, value in zip(turns, np.asarray(values).tolist(), strict=True):
            turn.columns[name] = value
    return table.with_columns(advantage=advantages), advantages


@dataclass(frozen=True, slots=True)
class Step:
    """One reward or credit method at work. A credit method finds what the ones before it gave in ``given["advantage"]``."""

    place: str  # "rewards[0]", "credit[1]" …
    method: Any
    state: tuple[Any, ...]  # its last argument, where it remembers
    given: TurnTable
    gave: np.ndarray | None  # [K] its own advantages; None where it gave columns alone
    table: TurnTable  # after it
    advantages: np.ndarray  # [K] of all credit methods so far

    @property
    def changes(self) -> bool:
        """Whether its advantages take the place of those before it, and are not added to them."""
        return "advantage" in columns(self.method)


def credit_steps(methods: Methods, states: States, table: TurnTable) -> Iterator[Step]:
    """The reward and credit methods one after the other, on a table that has every measured column.

    Credit methods add up; one that reads ``advantage`` changes what the ones before it gave; one that returns columns adds
    them to the table.
    """
    advantages = np.zeros(table.n_rows)
    for number, method in enumerate(methods.rewards):
        place, given = f"rewards[{number}]", table
        table = given.with_columns(**method(given, *_state(states, place)))
        yield Step(place, method, _state(states, place), given, None, table, advantages)
    for number, method in enumerate(methods.credit):
        place, given = f"credit[{number}]", table.with_columns(advantage=advantages)
        found = method(given, *_state(states, place))
        if isinstance(found, Mapping):
            table = table.with_columns(**{name: value for name, value in found.items() if name != "advantage"})
            found = found.get("advantage")
        if found is not None:
            advantages = found if "advantage" in columns(method) else advantages + found
        yield Step(place, method, _state(states, place), given, found, table, advantages)


def states_of_credit(states: States) -> States:
    """The states that reward and credit methods were given, by place; those that are None left out."""
    return {
        place: state
        for place, state in states.items()
        if state is not None and place.startswith(("rewards[", "credit["))
    }


def _state(states: States, place: str) -> tuple[Any, ...]:
    return (states[place],) if place in states else ()
