"""The tables of a run file as TOML gives them, against the models that stand for them (``agentrl.config``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from agentrl.errors import ConfigError, did_you_mean


def check_keys(model: type[BaseModel], data: Any, where: str) -> None:
    """Raises ConfigError for what is no table, and for a key that the model, or that of a table inside, does not have; ``where``
    names the table ("" for the whole file)."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the run file'} must be a table, got {data!r}")
    for key, value in data.items():
        field = model.model_fields.get(key)
        place = f"{where}.{key}".strip(".")
        if field is None:
            raise ConfigError(f"unknown key '{place}'.{did_you_mean(key, model.model_fields)}")
        inner, several = _table_in(field.annotation)
        if inner is not None and several and isinstance(value, list):
            for number, item in enumerate(value):
                check_keys(inner, item, f"{place}.{number}")
        elif inner is not None:
            check_keys(inner, value, place)


def _table_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model of a table, and whether the key holds an array of them."""
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        return (inner, True) if isinstance(inner, type) and issubclass(inner, BaseModel) else (None, False)
    kinds = [annotation, *get_args(annotation)]  # a table that may be absent is one of two
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None), False


def tuples(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's arrays as the tuples that strict models want."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        annotation = model.model_fields[key].annotation
        inner, several = _table_in(annotation)
        if inner is not None and several and isinstance(value, list):
            result[key] = tuple(tuples(inner, item) for item in value)
        elif inner is not None and not several:
            result[key] = tuples(inner, value)
        elif isinstance(value, list) and get_origin(annotation) is tuple:
            result[key] = tuple(value)
        else:
            result[key] = value
    return result
