"""One registry for every kind of plug-in.

    @register("credit", "my_credit")
    @dataclass(frozen=True)
    class MyCredit: ...

A plug-in arrives in one of three ways: decorated by ``register`` in a module named under the entry-point group
``agentrl.plugins`` (agentrl's own arrive so too), decorated in any module the user imports, or named as
``module:attribute`` in a run file. A broken third-party plug-in is reported by a warning, not raised.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import math
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pydantic

from agentrl.errors import ConfigError, MissingExtra, RegistryError, did_you_mean

KINDS = (
    "sampler",
    "score",
    "filter",
    "reward",
    "credit",
    "token_weight",
    "loss",
    "regularizer",
    "memory",
    "agent",
    "flow",
    "rule",
    "policy",
    "tool",
)
OWN_PLUGINS = ("agentrl.algorithms", "agentrl.agents", "agentrl.policies", "agentrl.envs", "agentrl.tools")
ENGINES = ("transformers", "vllm")  # policies whose files are imported when they are asked for
T = TypeVar("T")
_table: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator that files a class or function under (kind, name).

    Raises RegistryError for an unknown kind and for a name that another object holds.
    """
    if kind not in _table:
        raise RegistryError(f"no kind of plug-in is called '{kind}'.{did_you_mean(kind, KINDS)}")

    def add(thing: T) -> T:
        other = _table[kind].get(name)
        if other is not None and _place(other) != _place(thing):
            raise RegistryError(f"{kind} '{name}' is taken by {_place(other)}; give {_place(thing)} another name")
        _table[kind][name] = thing
        return thing

    return add


def _place(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}:{getattr(thing, '__qualname__', thing)}"


def import_all(package: str) -> None:
    """Imports every module in a package's folder, so that a new file there is all that a new plug-in needs."""
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        if not found.name.startswith("_"):
            importlib.import_module(f"{package}.{found.name}")


@functools.cache
def load_plugins() -> None:
    """Imports agentrl's own plug-ins and every installed third party's, once a process."""
    for name in OWN_PLUGINS:
        importlib.import_module(name)
    for point in importlib.metadata.entry_points(group="agentrl.plugins"):
        if point.value in OWN_PLUGINS:
            continue
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"plug-in '{point.name}' ({point.value}) cannot be loaded and is left out: {error!r}", stacklevel=2
            )


def names(kind: str) -> list[str]:
    """Every registered name of a kind, sorted."""
    load_plugins()
    return sorted(_table[kind])


def foreign() -> Iterator[tuple[str, str, Any]]:
    """(kind, name, plug-in) of all that are not agentrl's own."""
    for kind, table in _table.items():
        yield from ((kind, name, thing) for name, thing in table.items() if not _place(thing).startswith("agentrl."))


def get(kind: str, name: str) -> Any:
    """The plug-in of that name, or what ``module:attribute`` names. Raises RegistryError with the nearest names."""
    load_plugins()
    if name not in _table[kind] and kind == "policy" and name.isidentifier():
        _load_engine(name)
    if name in _table[kind]:
        return _table[kind][name]
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RegistryError(f"{kind} '{name}' cannot be imported: {error}") from error
        if getattr(found, "stage", kind) != kind:
            raise RegistryError(f"'{name}' is a {found.stage}, and a {kind} is wanted here")
        return found
    known = {*_table[kind], *(ENGINES if kind == "policy" else ())}
    raise RegistryError(f"no {kind} is called '{name}'.{did_you_mean(name, sorted(known))}")


def _load_engine(name: str) -> None:
    """A policy's file imports its engine, so it is imported only when it is asked for by name."""
    if importlib.util.find_spec(f"agentrl.policies.{name}") is None:
        return
    try:
        importlib.import_module(f"agentrl.policies.{name}")
    except ModuleNotFoundError as error:
        extra = name if name != "transformers" else "train"
        raise MissingExtra(extra, f"the policy '{name}'") from error


def build(kind: str, spec: Mapping[str, Any] | str, where: str = "") -> Any:
    """An instance of the plug-in that ``spec["name"]`` names, its other keys being the parameters.

    Types, ranges and unknown keys are checked by pydantic from the dataclass's annotations. Raises ConfigError with the
    dotted key, RegistryError for an unknown name.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if "name" not in spec:
        raise ConfigError(f"{where or kind}: the table needs a key 'name'. Known: {', '.join(names(kind))}.")
    cls = get(kind, str(spec["name"]))
    parameters = {key: value for key, value in spec.items() if key != "name"}
    return validate(cls, parameters, where or f"{kind}.{spec['name']}")


def validate(cls: Any, parameters: Mapping[str, Any], where: str) -> Any:
    """``cls(**parameters)`` checked by its annotations; nothing is coerced from text. Raises ConfigError that names the key and
    what was wanted."""
    _check_known(cls, parameters, where)
    try:
        made = pydantic.TypeAdapter(cls).validate_python(dict(parameters))
    except pydantic.ValidationError as error:
        raise ConfigError(first_problem(error, where)) from error
    _check_as_given(made, parameters, where)
    return made


def _check_known(cls: Any, parameters: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for a key that the class does not take, with the nearest one that it does."""
    known = _parameters(cls)
    for key in parameters:
        if key not in known:
            raise ConfigError(f"{where} has no parameter '{key}'.{did_you_mean(key, known)}")


def _parameters(cls: Any) -> list[str]:
    """The fields that a dataclass is made of; what it declares of the class itself is none."""
    return [spec.name for spec in dataclasses.fields(cls) if spec.init] if dataclasses.is_dataclass(cls) else []


def _check_as_given(made: Any, parameters: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError where pydantic made a number or a truth value of something else, for a key in a nested table that nothing
    takes (pydantic passes it over), and for NaN, which passes as a number where a field has no bounds. Infinity may be meant: a
    clip that never clips."""
    for key, given in parameters.items():
        found, place = getattr(made, key, given), f"{where}.{key}"
        for name, part, inner in _tables(found, given, place):
            _check_known(type(part), inner, name)
            _check_as_given(part, inner, name)
        if isinstance(given, Mapping) and dataclasses.is_dataclass(found):
            continue
        if isinstance(found, bool) != isinstance(given, bool) or (isinstance(given, str) and _is_number(found)):
            wanted = "true or false" if isinstance(found, bool) else "a number"
            raise ConfigError(f"{place}: {wanted} is wanted; got {given!r}")
        elif isinstance(found, float) and math.isnan(found):
            raise ConfigError(f"{place}: a number is wanted; got {given!r}")


def _tables(found: Any, given: Any, place: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(place, dataclass, the table it was made of) of a parameter that is one, or a list or a table of them."""
    if dataclasses.is_dataclass(found) and isinstance(given, Mapping):
        yield place, found, given
    elif isinstance(found, Mapping) and isinstance(given, Mapping):
        for key in given:
            yield from _tables(found.get(key), given[key], f"{place}.{key}")
    elif isinstance(found, (list, tuple)) and isinstance(given, (list, tuple)):
        for number, (part, inner) in enumerate(zip(found, given, strict=False)):
            yield from _tables(part, inner, f"{place}.{number}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def first_problem(error: pydantic.ValidationError, where: str) -> str:
    """The first problem of a validation error as one line: key, wanted, came."""
    problem = error.errors(include_url=False)[0]
    key = ".".join([where, *(str(part) for part in problem["loc"])]).strip(".")
    if problem["type"] in ("missing", "missing_argument"):
        return f"{key} is missing: it has no default"
    return f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}; got {problem.get('input')!r}"
