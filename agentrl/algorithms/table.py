"""The turn table: named columns, one row a turn. Everything that credit and reward methods read.

>>> table = TurnTable(
...     group=["q", "q", "q"], trajectory=["a", "a", "b"], turn=[0, 1, 0], reward=[0.0, 1.0, 0.0], state=["s", "t", "s"]
... )
>>> table.returns_to_go(gamma=0.5)
array([0.5, 1. , 0. ])
>>> table.group_by("group", "state")
array([0, 1, 0])

Order: ``table[name]`` and everything that has one value a row is in the order in which the rows were given, so a method
never has to think about it. The constructor sorts once by (group, trajectory, turn) and keeps the permutation
(``table.order``); the helpers that need turns in sequence use it and hand their result back in the given order. Sums
along a trajectory run in turn order, whatever the order of the rows: shuffled rows give the same bits.

Shapes: K rows (turns), M trajectories, G groups.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentrl.algorithms.normalize import dense
from agentrl.errors import ConfigError, did_you_mean
from agentrl.types import Trajectory, Turn

Array = np.ndarray
KEYS = ("group", "trajectory", "turn")  # these three define the rows and cannot be replaced
INTERNED = ("group", "trajectory", "state", "observation", "action", "task", "type")  # always codes, also of integers


class TurnTable:
    """Named columns [K], one row a turn.

    ``group``, ``trajectory``, ``state``, ``observation``, ``action``, ``task`` and ``type`` may be strings or integers and
    become codes from 0 in order of appearance; None and -1 mean "none" and become -1, which a group and a trajectory
    cannot be. A further column of strings is interned likewise; ``labels(name)`` has the originals. Numbers become
    float64, int64 or bool. ``penalty`` and ``segment`` default to 0 and ``node`` to the row's own number; other columns
    are absent unless given. Arrays are read-only. Raises ValueError, in one sentence, for what is not a table.
    """

    def __init__(
        self,
        *,
        group: Any,
        trajectory: Any,
        turn: Any,
        reward: Any,
        penalty: Any = None,
        state: Any = None,
        observation: Any = None,
        n_tokens: Any = None,
        segment: Any = None,
        node: Any = None,
        **columns: Any,
    ) -> None:
        self.n_rows = len(trajectory)
        self._columns: dict[str, Array] = {}
        self._labels: dict[str, list[Any]] = {}
        given = {"group": group, "trajectory": trajectory, "turn": turn, "reward": reward, "state": state}
        given |= {"observation": observation, "n_tokens": n_tokens, **columns}
        given["penalty"] = np.zeros(self.n_rows) if penalty is None else penalty
        given["segment"] = np.zeros(self.n_rows, dtype=np.int64) if segment is None else segment
        given["node"] = np.arange(self.n_rows) if node is None else node
        for name, values in given.items():
            if values is not None:
                self._set(name, values)
        self._sort()

    @classmethod
    def from_trajectories(cls, trajectories: Sequence[Trajectory]) -> TurnTable:
        """One row for every turn, in order.

        ``group`` is the trajectory's (its task's id where that is empty); the named score parts are added to the last
        turn's reward; ``n_tokens`` counts the sampled tokens of trainable calls, ``n_calls`` all calls of models,
        ``n_tool_calls`` those of tools (the environment's info of that name, 0 without); ``action`` (interned text) and
        ``valid`` are the turn's, ``success`` the trajectory's, ``outcome`` how it ended, ``task`` and ``type`` its
        task's; ``penalty`` is 0 until a reward method writes it. The column ``state`` is absent where no turn has a state
        key. A trajectory without turns has no row. Raises ValueError for an episode that ended in a fault: it has no place
        in a baseline.
        """
        turns: list[Turn] = []
        reward: list[float] = []
        for trajectory in trajectories:
            if trajectory.outcome.is_fault:
                raise ValueError(
                    f"trajectory '{trajectory.id}' ended as {trajectory.outcome}: faults are retried or left out "
                    "before the table is built"
                )
            turns += trajectory.turns
            reward += [turn.reward for turn in trajectory.turns]
            if trajectory.turns:
                reward[-1] += sum(trajectory.rewards.values())
        n_turns = [trajectory.n_turns for trajectory in trajectories]
        index = np.repeat(np.arange(len(n_turns)), n_turns).tolist()
        states = [turn.state_key for turn in turns]
        return cls(
            group=[trajectories[i].group or trajectories[i].task.id for i in index],
            trajectory=[trajectories[i].id for i in index],
            turn=np.array([place for n in n_turns for place in range(n)], dtype=np.int64),
            reward=np.array(reward, dtype=np.float64),
            state=None if turns and all(state is None for state in states) else states,
            observation=[turn.observation for turn in turns],
            n_tokens=np.array([_n_tokens(turn) for turn in turns], dtype=np.int64),
            n_calls=np.array([sum(call.source != "rule" for call in turn.calls) for turn in turns], dtype=np.int64),
            n_tool_calls=np.array([turn.info.get("n_tool_calls", 0) for turn in turns], dtype=np.int64),
            action=[turn.action for turn in turns],
            valid=np.array([turn.valid for turn in turns], dtype=bool),
            success=np.array([trajectories[i].success for i in index], dtype=bool),
            outcome=[str(trajectories[i].outcome) for i in index],
            task=[trajectories[i].task.id for i in index],
            type=[trajectories[i].task.type for i in index],
        )

    # ---- columns ----------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Array:
        """The column [K], in the order in which the rows were given. Raises ConfigError where there is none."""
        if name not in self._columns:
            known = f" It has: {', '.join(sorted(self._columns))}."
            raise ConfigError(f"the turn table has no column '{name}'.{did_you_mean(name, self._columns) or known}")
        return self._columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __len__(self) -> int:
        return self.n_rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._columns)

    def labels(self, name: str) -> list[Any]:
        """What the codes of an interned column stand for: ``labels("group")[code]``."""
        return self._labels[name]

    def with_columns(self, **new: Any) -> TurnTable:
        """A new table with further or replaced columns [K], in the same row order; this one stays as it is."""
        for name in KEYS:
            if name in new:
                raise ValueError(f"the column '{name}' defines the rows and cannot be replaced: build a new TurnTable")
        table = copy.copy(self)
        table._columns, table._labels = dict(self._columns), dict(self._labels)
        for name, values in new.items():
            table._set(name, values)
        return table

    def _set(self, name: str, values: Any) -> None:
        single = isinstance(values, str) or not hasattr(values, "__len__")
        if single or len(values) != self.n_rows:
            found = "a single value" if single else f"{len(values)}"
            raise ValueError(
                f"column '{name}' must have one value a row, {self.n_rows} as 'trajectory' has; got {found}"
            )
        self._labels.pop(name, None)
        if name in INTERNED or _is_text(values):
            column, self._labels[name] = _intern(name, values)
        else:
            column = _numbers(name, values)
        if name in ("group", "trajectory") and (column < 0).any():
            raise ValueError(f"column '{name}' has no value in row {int(np.argmax(column < 0))}: every row needs one")
        if name == "turn" and column.dtype != np.int64 and self.n_rows:
            raise ValueError(f"column 'turn' must hold integers; got {column.dtype}")
        if name in ("reward", "penalty"):
            column = column.astype(np.float64)
            if not np.isfinite(column).all():
                row = int(np.argmin(np.isfinite(column)))
                raise ValueError(f"column '{name}' must hold finite numbers; row {row} has {column[row]}")
        column.flags.writeable = False
        self._columns[name] = column

    # ---- structure --------------------------------------------------------------------------------------------------

    def _sort(self) -> None:
        """Sorts once, and finds rows given twice and trajectories in two groups."""
        group, trajectory, turn = (self._columns[name] for name in KEYS)
        self.n_groups = len(self._labels["group"])
        self.n_trajectories = len(self._labels["trajectory"])
        self.order = np.lexsort((turn, trajectory, group))  # [K] the input row at each sorted place
        self.n_turns = np.bincount(trajectory, minlength=self.n_trajectories)  # [M]
        self.group_of_trajectory = np.zeros(self.n_trajectories, dtype=np.int64)  # [M]
        self.group_of_trajectory[trajectory] = group
        strays = np.flatnonzero(self.group_of_trajectory[trajectory] != group)
        if strays.size:
            which = self._labels["trajectory"][trajectory[strays[0]]]
            raise ValueError(f"trajectory {which!r} stands in two groups: a trajectory belongs to one group")
        before, after = self.order[:-1], self.order[1:]
        twice = np.flatnonzero((trajectory[before] == trajectory[after]) & (turn[before] == turn[after]))
        if twice.size:
            row = self.order[twice[0]]
            which = self._labels["trajectory"][trajectory[row]]
            raise ValueError(f"turn {turn[row]} of trajectory {which!r} is given twice: a turn is one row")

    def group_by(self, *names: str) -> Array:
        """Codes [K] from 0, equal where all the named columns are equal; -1 where one of them has none (-1)."""
        codes = np.zeros(self.n_rows, dtype=np.int64)
        missing = np.zeros(self.n_rows, dtype=bool)
        for place, name in enumerate(names):
            column = self[name]
            if place > 1:  # dense again, so that the product cannot overflow
                codes = dense(codes)
            missing |= column == -1
            if name not in self._labels:
                column = np.unique(column, return_inverse=True)[1]
            codes = codes * (int(column.max(initial=0)) + 2) + column + 1
        result = np.full(self.n_rows, -1, dtype=np.int64)
        result[~missing] = dense(codes[~missing])
        return result

    # ---- sums along a trajectory ------------------------------------------------------------------------------------

    def sum_by_trajectory(self, values: Array) -> Array:
        """Sums [M] of a column [K]; ``sums[table["trajectory"]]`` spreads them over the rows again."""
        values = np.asarray(values, dtype=np.float64)
        trajectory = self["trajectory"]
        return np.bincount(trajectory[self.order], weights=values[self.order], minlength=self.n_trajectories)

    def scores(self) -> Array:
        """S_it = R_i - penalty_it, [K]: the undiscounted reward of the row's trajectory less the row's own penalty."""
        return self.sum_by_trajectory(self["reward"])[self["trajectory"]] - self["penalty"]

    def returns_to_go(self, gamma: float, values: Array | None = None) -> Array:
        """D_t = Σ_{k ≥ t} gamma^(k - t) r_k within a trajectory, [K]; ``values`` [K] defaults to the reward.

        k and t are turn numbers, so a gap in them discounts as it should.
        """
        order = self.order
        given = np.asarray(self["reward"] if values is None else values, dtype=np.float64)[order]
        returns = np.empty_like(given)
        returns[order] = discounted_sums(given, self["trajectory"][order], self["turn"][order], gamma)
        return returns

    def shifted(self, values: Array, by: int, fill: float) -> Array:
        """``values`` [K] of the turn ``by`` rows later in the same trajectory (before it, where negative), [K]; ``fill``
        where there is none."""
        given, trajectory = np.asarray(values)[self.order], self["trajectory"][self.order]
        found = np.full(given.shape, fill, dtype=np.result_type(given, type(fill)))
        here, there = (slice(None, -by), slice(by, None)) if by > 0 else (slice(-by, None), slice(None, by))
        same = trajectory[here] == trajectory[there]
        found[here][same] = given[there][same]
        result = np.empty_like(found)
        result[self.order] = found
        return result

    def is_last(self) -> Array:
        """[K] bool, the last turn of each trajectory."""
        return self.shifted(np.zeros(self.n_rows, dtype=np.int64), 1, -1) == -1


def discounted_sums(values: Array, unit: Array, turn: Array, gamma: float) -> Array:
    """D_t = Σ_{k ≥ t} gamma^(k - t) x_k within a unit, [K]; the rows come sorted by (unit, turn).

    A scan from the last turns backwards, all units at once: linear in K, and stable for long episodes because it never
    divides by a power of gamma.
    """
    result = np.array(values, dtype=np.float64)
    discount = np.power(float(gamma), np.diff(turn, append=turn[-1:] + 1).clip(min=0))
    last = np.flatnonzero(np.diff(unit, append=-1) != 0)  # the last place of each unit
    n_turns = np.diff(last, prepend=-1)
    longest_first = np.argsort(-n_turns, kind="stable")
    last, n_turns = last[longest_first], n_turns[longest_first]
    reach = np.searchsorted(-n_turns, -np.arange(n_turns[0] if n_turns.size else 0), side="left")
    for back in range(1, len(reach)):
        here = last[: reach[back]] - back  # units with more than `back` turns
        result[here] += discount[here] * result[here + 1]
    return result


def _n_tokens(turn: Turn) -> int:
    return sum(len(call.completion_ids) for call in turn.calls if call.trainable and call.source != "forced")


def _is_text(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "OU"
    return any(value is None or isinstance(value, str) for value in values)


def _intern(name: str, values: Any) -> tuple[Array, list[Any]]:
    """Codes [K] in order of appearance, by hash, and what they stand for; None and -1 become -1."""
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    kinds = set(map(type, values)) - {str, type(None)}
    if not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"column '{name}' must hold strings or integers; got {found}")
    codes: dict[Any, int] = {None: -1, -1: -1}
    result = np.array([codes.setdefault(value, len(codes) - 2) for value in values], dtype=np.int64)
    return result, list(codes)[2:]


def _numbers(name: str, values: Any) -> Array:
    column = np.array(values)
    if column.ndim != 1 or column.dtype.kind not in "biuf":
        raise ValueError(f"column '{name}' must hold one number or string a row; got {column.dtype} of {column.ndim}-d")
    if column.dtype.kind == "b":
        return column
    return column.astype(np.float64 if column.dtype.kind == "f" else np.int64)
