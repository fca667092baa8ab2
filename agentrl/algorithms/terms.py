"""Why a number is what it is: formulas with their numbers, and the rows that were compared.

A credit method may have ``explain(table, row[, state]) -> Term``, beside its ``__call__``: the advantage of one row as a formula
over named numbers, some of which are terms of their own. ``Comparison`` holds the arguments of ``normalize``, so that a method
declares once what it compares, and both its advantages and their explanation come from there.

    def __call__(self, table):
        return self.comparison(table).normalized()

    def explain(self, table, row):
        return self.comparison(table).term("A", row, score(table, row))

>>> s = Term("S", "R - penalty", {"R": 1.0, "penalty": 0.25})
>>> a = Term("A", "(S - mean_g) / 2", {"mean_g": 0.5}, (s,))
>>> a.value, a.filled()
(0.125, '(0.75 - 0.5) / 2')
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from agentrl.algorithms.normalize import ZERO_RANGE, normalize
from agentrl.algorithms.table import TurnTable

Array = np.ndarray
MOST_SUMMANDS = 8  # that a formula spells out; the others are one number
OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: dict[str, Callable[..., float]] = {"sqrt": np.sqrt, "exp": np.exp, "min": min, "max": max}
_NAME = re.compile(r"\b[A-Za-z_]\w*")


@dataclass(frozen=True, eq=False)
class Among:
    """The rows that a term compares with each other.

    name: what they are, "group" or "anchor group". symbol: which number of theirs is compared. rows: [n] of the table.
    values: [n] that number. weights: [n] how much each counts; ``n_units`` what they add up to, of ``unit`` ("trajectories",
    "turns" or "tokens"). virtual: (value, m), m further members that no row stands for. about: what they have in common, a
    state's text. listed: whether it helps to see them one by one.
    """

    name: str
    symbol: str
    rows: Array
    values: Array
    weights: Array
    n_units: float
    virtual: tuple[float, int] = (0.0, 0)
    unit: str = "turns"
    about: str = ""
    listed: bool = True


@dataclass(frozen=True, eq=False)
class Term:
    """``symbol = formula``. Each name in the formula is one of ``numbers``, or the symbol of one of ``parts``.

    A formula is Python's arithmetic with ``sqrt``, ``exp``, ``min`` and ``max``. ``note`` says in a few words what the formula
    cannot. ``parts`` may hold terms that the formula does not name: what would have counted, and here is 0.
    """

    symbol: str
    formula: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[Term, ...] = ()
    note: str = ""
    among: Among | None = None

    @functools.cached_property
    def value(self) -> float:
        """What the formula gives. Raises KeyError for a name without a number."""
        return float(_evaluated(ast.parse(self.formula, mode="eval").body, self.known()))

    def known(self) -> dict[str, float]:
        """Every number that the formula may name."""
        return {**self.numbers, **{part.symbol: part.value for part in self.parts}}

    def filled(self, digits: int = 4) -> str:
        """The formula with the numbers in place of the names; negative ones in parentheses where something stands before."""
        known = self.known()

        def shown(name: re.Match[str]) -> str:
            if name.group() not in known:
                return name.group()
            text = f"{known[name.group()]:.{digits}g}"
            before, after = self.formula[: name.start()].rstrip(), self.formula[name.end() :].lstrip()
            alone = (not before or before.endswith("(")) and not after.startswith("**")
            return text if alone or not text.startswith("-") else f"({text})"

        return _NAME.sub(shown, self.formula).replace(" ** ", "^")

    def walk(self) -> Iterator[Term]:
        """This term, then its parts with theirs."""
        yield self
        for part in self.parts:
            yield from part.walk()


def _evaluated(node: ast.expr, known: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name):
            return known[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, known)
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_evaluated(left, known), _evaluated(right, known))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_evaluated(each, known) for each in arguments))
    raise ValueError(f"a term's formula knows + - * / **, {', '.join(FUNCTIONS)}; got {ast.unparse(node)!r}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """``normalize`` with its arguments (see there), what the compared number is called, and with whom it is compared.

    of: the symbol of ``values``. name and short: the words and the letter of the rows of one group: with "group" and "g"
    the formula is (S - mean_g) / (std_g + eps).
    """

    values: Array
    groups: Array
    trajectory: Array | None = None
    times: Array | None = None
    scale: Literal["std", "none"] = "std"
    ddof: int = 1
    eps: float = 1e-6
    eps_placement: Literal["outside", "inside"] = "outside"
    singleton: Literal["zero", "raw"] = "zero"
    leave_one_out: bool = False
    virtual: tuple[float, int | Array] = (0.0, 0)
    of: str = "S"
    name: str = "group"
    short: str = "g"
    listed: bool = True

    def normalized(self) -> Array:
        """Each row's value compared with its group, [K]."""
        return normalize(
            self.values,
            self.groups,
            trajectory=self.trajectory,
            times=self.times,
            scale=self.scale,
            ddof=self.ddof,
            eps=self.eps,
            eps_placement=self.eps_placement,
            singleton=self.singleton,
            leave_one_out=self.leave_one_out,
            virtual=self.virtual,
        )

    def term(self, symbol: str, row: int, *parts: Term, about: str = "") -> Term:
        """``normalized()[row]`` as a term. Among ``parts`` is the term of the compared number, where it has one."""
        of = self.of
        numbers = {} if any(part.symbol == of for part in parts) else {of: float(self.values[row])}
        if self.groups[row] < 0:
            return Term(symbol, "0", numbers, parts, f"in no {self.name}")
        among = self.among(row, about)
        left = among.n_units + (among.virtual[1] if self.leave_one_out else 0) - self._own(row)[1]
        if (left <= 0) if self.leave_one_out else (among.n_units <= 1):
            note = f"alone in its {self.name}"
            return Term(symbol, of if self.singleton == "raw" else "0", numbers, parts, note, among)
        if _is_flat(among):
            return Term(symbol, "0", numbers, parts, f"all of its {self.name} have the same {of}", among)
        mean, statistics = f"mean_{self.short}", self._statistics(among)
        difference = f"{of} - {mean}"
        if self.leave_one_out:
            statistics[f"{mean}_others"] = self._mean_of_others(row, among, statistics[mean])
            difference = f"{of} - {mean}_others"
        formula = self._formula(difference)
        numbers |= {name: statistics[name] for name in _NAME.findall(formula) if name in statistics}
        return Term(symbol, formula, numbers, parts, among=among)

    def among(self, row: int, about: str = "") -> Among:
        """The rows of the group in which ``row`` is, and how much each counts."""
        group = int(self.groups[row])
        rows = np.flatnonzero(self.groups == group)
        if self.times is not None:
            weights = np.asarray(self.times, dtype=np.float64)[rows]
            n_units, unit = float(weights.sum()), "tokens"
        elif self.trajectory is not None:
            _, which, n_rows = np.unique(self.trajectory[rows], return_inverse=True, return_counts=True)
            weights, n_units, unit = 1.0 / n_rows[which], float(n_rows.size), "trajectories"
        else:
            weights, n_units, unit = np.ones(rows.size), float(rows.size), "turns"
        value, m = self.virtual
        virtual = (value, int(m[group] if isinstance(m, np.ndarray) else m))
        values = np.asarray(self.values, dtype=np.float64)[rows]
        return Among(self.name, self.of, rows, values, weights, n_units, virtual, unit, about, self.listed)

    def _formula(self, difference: str) -> str:
        if self.scale == "none":
            return difference
        if self.eps_placement == "inside":
            return f"({difference}) / sqrt(var_{self.short} + eps)"
        return f"({difference}) / (std_{self.short} + eps)"

    def _statistics(self, among: Among) -> dict[str, float]:
        value, m = among.virtual
        n = among.n_units + m
        mean = (float(among.weights @ among.values) + m * value) / n
        squares = float(among.weights @ (among.values - mean) ** 2) + m * (value - mean) ** 2
        variance = squares / max(n - self.ddof, 1)
        names = (f"mean_{self.short}", f"var_{self.short}", f"std_{self.short}", "eps")
        return dict(zip(names, (mean, variance, variance**0.5, self.eps), strict=True))

    def _own(self, row: int) -> tuple[Array, float]:
        """Which rows of the group are the row's own unit, [n] bool, and how much it counts."""
        rows = np.flatnonzero(self.groups == self.groups[row])
        if self.times is not None:
            return rows == row, float(self.times[row])
        if self.trajectory is not None:
            return self.trajectory[rows] == self.trajectory[row], 1.0
        return rows == row, 1.0

    def _mean_of_others(self, row: int, among: Among, mean: float) -> float:
        which, weight = self._own(row)
        n = among.n_units + among.virtual[1]
        own = float(among.weights[which] @ (among.values[which] - mean))
        return mean - own / (n - weight)


def _is_flat(among: Among) -> bool:
    values = np.append(among.values, among.virtual[0]) if among.virtual[1] else among.values
    low, high = float(values.min()), float(values.max())
    return high - low <= ZERO_RANGE * max(abs(low), abs(high))


# ── what many methods begin with ─────────────────────────────────────────────────────────────────────────────────────


def score(table: TurnTable, row: int) -> Term:
    """S = R - penalty, a row of ``table.scores()``."""
    total = float(table.sum_by_trajectory(table["reward"])[table["trajectory"][row]])
    return Term("S", "R - penalty", {"R": total, "penalty": float(table["penalty"][row])})


def to_go(
    table: TurnTable,
    row: int,
    gamma: float,
    values: Array | None = None,
    *,
    symbol: str = "D",
    of: str = "r",
    less: str = "",
) -> Term:
    """D = Σ_{k ≥ t} gamma^(k - t) r_k, a row of ``table.returns_to_go(gamma, values)``, and minus ``less``, a column of the
    table. Turns with r_k = 0 are left out of the formula, and many are summed up as one number."""
    column = np.asarray(table["reward"] if values is None else values, dtype=np.float64)
    rows = own_rows(table, row)
    rows = rows[(table["turn"][rows] >= table["turn"][row]) & (column[rows] != 0)]
    numbers, summands = {}, []
    for later in rows[:MOST_SUMMANDS].tolist():
        turn, gap = int(table["turn"][later]), int(table["turn"][later] - table["turn"][row])
        numbers[f"{of}_{turn}"] = float(column[later])
        summands.append(f"{discount(gap, gamma)}{of}_{turn}")
    if "gamma" in " ".join(summands):
        numbers["gamma"] = gamma
    rest = rows[MOST_SUMMANDS:]
    if rest.size:
        gaps = (table["turn"][rest] - table["turn"][row]).astype(np.float64)
        numbers["later"] = float(np.power(gamma, gaps) @ column[rest])
        summands.append("later")
    formula = " + ".join(summands) or "0"
    if less:
        formula, numbers[less] = f"{formula} - {less}", float(table[less][row])
    note = f"later: the same of {rest.size} more turns" if rest.size else "" if summands else f"no {of} from here on"
    return Term(symbol, formula, numbers, note=note)


def discount(gap: int, gamma: float, name: str = "gamma") -> str:
    """The factor of a formula's summand that is ``gap`` turns away: "", "gamma * " or "gamma ** 2 * "."""
    if gap == 0 or gamma == 1:
        return ""
    return f"{name} * " if gap == 1 else f"{name} ** {gap} * "


def own_rows(table: TurnTable, row: int) -> Array:
    """The rows of the same trajectory, in the order of their turns."""
    ordered = table.order
    return ordered[table["trajectory"][ordered] == table["trajectory"][row]]


def label(table: TurnTable, column: str, row: int) -> str:
    """What the code of a row in a column stands for, as text; "" for none."""
    code = int(table[column][row])
    if code < 0:
        return ""
    try:
        return str(table.labels(column)[code])
    except KeyError:
        return str(code)


def as_json(term: Term, member: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """A term as JSON; ``member(row)`` says which turn a row is."""
    found: dict[str, Any] = {
        "symbol": term.symbol,
        "value": term.value,
        "formula": term.formula,
        "filled": term.filled(),
    }
    found |= {"numbers": dict(term.numbers), "note": term.note, "parts": [as_json(part, member) for part in term.parts]}
    if term.among is not None:
        found["among"] = {
            "name": term.among.name,
            "about": term.among.about,
            "symbol": term.among.symbol,
            "n_rows": int(term.among.rows.size),
            "n_units": term.among.n_units,
            "unit": term.among.unit,
            "virtual": {"value": term.among.virtual[0], "n": term.among.virtual[1]},
        }
        if term.among.listed:
            each = zip(term.among.rows.tolist(), term.among.values.tolist(), term.among.weights.tolist(), strict=True)
            found["among"]["members"] = [{**member(row), "value": v, "weight": w} for row, v, w in each]
    return found
