"""What the code says of the keys of a run file and of environments, as JSON."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from agentrl.algorithms.method import inlined
from agentrl.env import SPLITS, hook, make, registered
from agentrl.registry import load_plugins
from agentrl.run_tables import RunConfig

HOOKS = {
    "state_key": "state keys",
    "admissible_actions": "admissible actions",
    "snapshot": "snapshots",
    "oracle": "oracle",
    "expert": "expert",
    "tools": "tools",
    "export": "export",
}
SEVERAL = ("env",)  # tables of which a run file may have an array


def run_keys() -> list[dict[str, Any]]:
    """Every key of a run file, in the order of its tables: ``table``, ``key``, ``schema``, ``default`` (or ``required``), and
    ``meaning``."""
    schema = RunConfig.model_json_schema()
    return list(_keys(inlined(schema, schema["$defs"]), ""))


def run_tables() -> dict[str, str]:
    """What each table of a run file is for, by its dotted name."""
    schema = RunConfig.model_json_schema()
    return dict(_tables(inlined(schema, schema["$defs"]), ""))


def _tables(table: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    for key, field in table["properties"].items():
        if inner := _inner(field):
            place = f"{name}.{key}".strip(".")
            yield place, " ".join(inner["description"].split())
            yield from _tables(inner, place)


def _keys(table: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The keys of a table, then those of the tables in it."""
    inner = {key: _inner(field) for key, field in table["properties"].items()}
    for key, field in table["properties"].items():
        if inner[key] and not name:
            continue  # a table of the run file itself: its keys say it all
        default = {"required": True} if key in table.get("required", ()) else {"default": field.get("default")}
        shape = {part: value for part, value in field.items() if part not in ("title", "default", "description")}
        meaning = " ".join(field.get("description", "").split())
        yield {
            "table": name,
            "key": key,
            "schema": {"type": "object"} if inner[key] else shape,
            **default,
            "meaning": meaning,
        }
    for key, found in inner.items():
        if found:
            yield from _keys(found, f"{name}.{key}".strip("."))


def _inner(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table that a key holds, or an array of, or that it may hold; {} for a key of another kind."""
    candidates = [field, field.get("items", {}), *field.get("anyOf", ())]
    return next((each for each in candidates if each.get("properties")), {})


def environments() -> list[dict[str, Any]]:
    """Every registered environment: ``id``, ``entry_point``, ``about`` (the first paragraph of its module's docstring), ``text``
    (the rest of it, and its class's), ``modules`` (of its class and those above), ``options`` with their defaults, ``levels``
    ({option: values}) and ``offers`` (the hooks that its class has). Of one that cannot be imported: ``problem`` instead."""
    load_plugins()
    return [_environment(name) for name in registered()]


def _environment(name: str) -> dict[str, Any]:
    point = gymnasium.registry[name].entry_point
    found: dict[str, Any] = {"id": name, "entry_point": str(point)}
    try:
        creator = load_env_creator(point) if isinstance(point, str) else point
    except (ImportError, AttributeError) as error:
        return {**found, "problem": f"cannot be imported: {error}"}
    about, _, more = (inspect.getdoc(inspect.getmodule(creator)) or "").partition("\n\n")
    own = inspect.getdoc(creator) or "" if inspect.isclass(creator) else ""
    return {
        **found,
        "about": " ".join(about.split()),
        "text": f"{more}\n\n{own}".strip("\n"),
        "modules": [cls.__module__ for cls in getattr(creator, "__mro__", (creator,))],
        "options": options(creator),
        "levels": {key: list(values) for key, values in getattr(creator, "levels", {}).items()},
        "offers": [label for name, label in HOOKS.items() if hasattr(creator, name)],
    }


def options(creator: Any) -> list[dict[str, Any]]:
    """The options of an environment: the parameters of what makes it, and of the classes above where it takes any
    (``**options``)."""
    found: dict[str, dict[str, Any]] = {}
    classes = creator.__mro__ if inspect.isclass(creator) else ()
    makers = [cls.__init__ for cls in classes if "__init__" in vars(cls)] or [creator]
    for place, maker in enumerate(makers):
        parameters = list(inspect.signature(maker).parameters.values())
        for parameter in parameters:
            further = place == 0 or parameter.kind is parameter.KEYWORD_ONLY  # the rest is the class's own to give
            if further and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                found.setdefault(parameter.name, _option(parameter))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return [option for name, option in found.items() if name != "self"]


def _option(parameter: inspect.Parameter) -> dict[str, Any]:
    if parameter.default is parameter.empty:
        return {"name": parameter.name, "required": True}
    if parameter.default == sys.executable:  # a page is the same on every machine
        return {"name": parameter.name, "default": "sys.executable"}
    try:
        return {"name": parameter.name, "default": json.loads(json.dumps(parameter.default))}
    except TypeError:
        return {"name": parameter.name, "default": repr(parameter.default)}


def sizes(name: str, levels: Mapping[str, list[str]]) -> dict[str, dict[str, int]]:
    """How many tasks each split has, by level, of an environment that has levels. Raises what making it raises."""
    found = {}
    for option, values in levels.items():
        for value in values:
            with closing(make(name, **{option: value})) as env:
                tasks = env.get_wrapper_attr("tasks")
                found[value] = {split: len(tasks(split)) for split in SPLITS}
    return found


def offers(name: str) -> list[str]:
    """The hooks that an environment has once it is played, which can be more than its class shows."""
    with closing(make(name)) as env:
        env.reset(seed=0)
        return [label for key, label in HOOKS.items() if hook(env, key) is not None]
