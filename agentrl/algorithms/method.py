"""What every method shares: a frozen dataclass, its fields the hyper-parameters, its ``__call__`` the formula.

    @register("credit", "centred")
    @dataclass(frozen=True)
    class Centred(Method):
        \"\"\"A = c (R - mean of the group).\"\"\"

        stage = "credit"
        reads = ("group", "trajectory", "reward")
        writes = ("advantage",)
        formula = "A_i = c (R_i - mean_g R)"
        source = "own"

        c: Annotated[float, Field(gt=0)] = 1.0

        def __call__(self, table: TurnTable) -> np.ndarray: ...

Arrays in, arrays out; no trainer, no config object, no I/O. Deriving from ``Method`` is a convenience, not a condition.

A credit method may also say why: ``explain(table, row[, state]) -> Term`` is the advantage of one row (the number that
``__call__`` has there) as a formula over named numbers, with the rows that were compared. `agentrl explain` prints it; of a method
without it, it prints the one line ``formula`` and the number. ``Comparison`` declares once what both need:

        def __call__(self, table: TurnTable) -> np.ndarray:
            return self.c * self._comparison(table).normalized()

        def explain(self, table: TurnTable, row: int) -> Term:
            return Term("A", "c * C", {"c": self.c}, (self._comparison(table).term("C", row, score(table, row)),))

        def _comparison(self, table: TurnTable) -> Comparison:
            return Comparison(values=table.scores(), groups=table["group"], trajectory=table["trajectory"], scale="none")

See ``agentrl.algorithms.terms``.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import pydantic

from agentrl import registry
from agentrl.errors import ConfigError, did_you_mean

TABLE_COLUMNS = frozenset(
    {
        "group",
        "trajectory",
        "turn",
        "reward",
        "penalty",
        "observation",
        "n_tokens",
        "n_calls",
        "n_tool_calls",
        "action",
        "segment",
        "node",
        "valid",
        "success",
        "outcome",
        "task",
        "type",
    }
)
"""What ``TurnTable.from_trajectories`` writes for every environment; ``state`` needs an environment with state keys."""

LEARNER_COLUMNS = frozenset({"logp", "logp_old", "logp_sampler", "logp_ref", "entropy", "row", "sequence", "coef"})
"""What the learner computes where a method reads it."""

MEASURED_COLUMNS = frozenset({"entropy", "kl"})
"""What the learner measures of each turn where a reward or credit method reads it: the mean entropy of the turn's sampled tokens,
and the sum of logp_old - logp_ref over them."""

TOKEN_STAGES = ("token_weight", "loss", "regularizer")
WHOLE = ("group", "update")  # scopes of a loss that gives one number for the whole update


class Method:
    """The declarations of a method. A name in braces among ``reads`` or ``writes`` stands for the value of that
    hyper-parameter: with ``reads = ("{key}",)``, ``GiGPO(key="observation")`` reads the column ``observation``.

    ``scope`` says what a loss must see at once. "token" and "sequence" (the tokens of a whole sample) give one value a token,
    [N], from any part of the update that cuts no sample. "group" and "update" give their share of the loss as one number,
    from all tokens of the update, and are trained in two passes; the groups of such an update are whole.
    """

    stage: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    formula: ClassVar[str] = ""  # one line
    source: ClassVar[str] = ""  # paper and equation, or the code it was read in
    scope: ClassVar[Literal["token", "sequence", "group", "update"]] = "token"  # of losses and regularizers, see below
    sees: ClassVar[Literal["round", "iteration"]] = (
        "round"  # of filters: the groups of this round, or all that are kept too
    )
    drops_equal: ClassVar[bool] = False  # of filters: groups of equal rewards do not get through
    teaches_equal: ClassVar[bool] = False  # of credit: groups of equal rewards are what it is for
    bounded: ClassVar[bool] = False  # of credit: rewards must lie between bounds
    unbounds: ClassVar[bool] = False  # of rewards: what it makes of a reward has no bounds
    remedies: ClassVar[Mapping[str, str]] = MappingProxyType({})  # column -> what to do where nobody writes it


def columns(method: Any, direction: str = "reads") -> tuple[str, ...]:
    """The columns that a method (its instance) reads or writes, names in braces filled in.

    >>> columns(GiGPO(key="observation"))
    ('group', 'trajectory', 'turn', 'reward', 'penalty', 'observation')
    """
    names = getattr(method, direction, ())
    return tuple(str(getattr(method, name[1:-1])) if name.startswith("{") else name for name in names)


def scope(method: Any) -> str:
    """What a loss or regularizer must see at once, "token" where it does not say."""
    return getattr(method, "scope", "token")


def check_columns(methods_in_order: Sequence[Any], produced: Iterable[str] = ()) -> None:
    """Raises ConfigError where a method reads a column that nobody before it writes.

    Known from the start: ``TABLE_COLUMNS``, ``MEASURED_COLUMNS``, and what this run's environment and learner produce besides
    ("state" where the environment has state keys, "value" where there is a critic); from the token weights on also
    ``LEARNER_COLUMNS``. Each method then adds the columns it writes.
    """
    known = TABLE_COLUMNS | MEASURED_COLUMNS | set(produced)
    for place, method in enumerate(methods_in_order):
        if getattr(method, "stage", "") in TOKEN_STAGES:
            known = known | LEARNER_COLUMNS
        for column in columns(method):
            if column not in known:
                raise ConfigError(_missing(method, column, known, methods_in_order[place + 1 :]))
        known = known | set(columns(method, "writes"))


def _missing(method: Any, column: str, known: Iterable[str], later: Sequence[Any]) -> str:
    """Wanted, found, remedy."""
    head = f"{type(method).__name__} reads the column '{column}', which nobody before it writes"
    found = f"; there are: {', '.join(sorted(set(known) - LEARNER_COLUMNS))}. "
    for other in later:
        if column in columns(other, "writes"):
            return f"{head}{found}{type(other).__name__} writes it but runs later: put it first."
    remedy = getattr(method, "remedies", {}).get(column)
    return f"{head}{found}{remedy or 'Add a method or an environment that writes it.'}"


def describe(method_cls: type, name: str | None = None) -> dict[str, Any]:
    """A method as JSON, for ``agentrl list methods --json``; ``name`` defaults to the one it is registered under.

    ``parameters`` maps each hyper-parameter to its JSON schema (type, range, choices), with ``default``, or with
    ``required`` where it has none.
    """
    stage = getattr(method_cls, "stage", "")
    if name is None:
        known = registry.names(stage) if stage in registry.KINDS else []
        name = next((each for each in known if registry.get(stage, each) is method_cls), method_cls.__name__)
    schema = pydantic.TypeAdapter(method_cls).json_schema()
    parameters = {}
    for field, details in inlined(schema.get("properties", {}), schema.get("$defs", {})).items():
        parameters[field] = {key: value for key, value in details.items() if key != "title"}
        if field in schema.get("required", ()):
            parameters[field]["required"] = True
    for made in dataclasses.fields(method_cls) if dataclasses.is_dataclass(method_cls) else ():
        if (
            made.default_factory is not dataclasses.MISSING and made.name in parameters
        ):  # pydantic's schemas leave these out
            parameters[made.name].setdefault("default", made.default_factory())
    return {
        "stage": stage,
        "name": name,
        "parameters": parameters,
        "reads": list(getattr(method_cls, "reads", ())),
        "writes": list(getattr(method_cls, "writes", ())),
        "formula": getattr(method_cls, "formula", ""),
        "source": getattr(method_cls, "source", ""),
    }


def inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema with its references replaced by what they name; what stands beside a reference goes first."""
    if isinstance(part, Mapping):
        if "$ref" in part:
            own = {key: value for key, value in part.items() if key != "$ref"}
            return {**inlined(definitions[part["$ref"].rpartition("/")[2]], definitions), **inlined(own, definitions)}
        return {key: inlined(value, definitions) for key, value in part.items() if key != "discriminator"}
    return [inlined(value, definitions) for value in part] if isinstance(part, list) else part


def find_method(package: str, name: str) -> Any:
    """The class called ``name`` in any module of a stage's package: what the package's ``__getattr__`` returns.

    So ``from agentrl.algorithms.credit import GiGPO`` works for every file in that folder. Raises AttributeError.
    """
    found: dict[str, Any] = {}
    if not name.startswith("_"):
        registry.import_all(package)
        for module in [key for key in sys.modules if key.startswith(f"{package}.")]:
            contents = vars(sys.modules[module])
            found |= {key: each for key, each in contents.items() if getattr(each, "__module__", None) == module}
    if name in found:
        return found[name]
    raise AttributeError(f"module '{package}' has nothing called '{name}'.{did_you_mean(name, found)}")
