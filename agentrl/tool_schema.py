"""From a typed function to the JSON schema of its arguments, a check of what a model gives, and a docstring's words."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pydantic
import pydantic_core
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from agentrl.errors import ConfigError
from agentrl.types import Json

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):")
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
Validate = Callable[[dict[str, Json]], dict[str, Any]]


def described(
    function: Callable[..., Any], name: str, arguments: Mapping[str, str], names: Mapping[str, Any]
) -> tuple[dict[str, Json], Validate]:
    """The JSON schema of a function's arguments, and what makes keyword arguments of a model's (it raises pydantic's
    ValidationError). ``arguments`` says what each is for; ``names`` are those of the place where the function stands.

    Raises ConfigError where the function cannot be called by a model.
    """
    adapter = _adapter(function, name, arguments, names)
    try:
        schema = adapter.json_schema(schema_generator=_Schema)
    except pydantic.PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"tool '{name}' has an argument of a type without a JSON schema: {reason}") from error
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title", None)
    schema.setdefault("properties", {})

    def validate(given: dict[str, Json]) -> dict[str, Any]:
        return adapter.validate_python(pydantic_core.ArgsKwargs((), given))

    return schema, validate


class _Schema(GenerateJsonSchema):
    """Without titles, which repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _adapter(
    function: Callable[..., Any], name: str, about: Mapping[str, str], names: Mapping[str, Any]
) -> pydantic.TypeAdapter[dict[str, Any]]:
    """Validates arguments of the function, and gives them as a dictionary with the defaults filled in."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self" and parameters[0].annotation is parameters[0].empty:
        parameters = parameters[1:]
    try:
        hints = typing.get_type_hints(inspect.unwrap(function), localns=dict(names), include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"tool '{name}': an annotation cannot be resolved: {error}; define it in the module"
        ) from error
    annotations = {}
    for parameter in parameters:
        where = f"tool '{name}', argument '{parameter.name}'"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"{where}: a model gives its arguments by name; write them out, without *, ** and /")
        if parameter.name not in hints:
            raise ConfigError(f"{where} has no annotation: write its type ({parameter.name}: str)")
        annotations[parameter.name] = _described(hints[parameter.name], about.get(parameter.name))

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    keyword_only = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    collect.__signature__ = inspect.Signature(keyword_only)  # what pydantic reads
    collect.__annotations__ = annotations
    try:
        callable_type: Any = collect  # pydantic takes a function for the type of its arguments
        return pydantic.TypeAdapter(callable_type)
    except pydantic.PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"tool '{name}' has an argument that pydantic cannot validate: {reason}") from error


def _described(hint: Any, about: str | None) -> Any:
    told = any(isinstance(part, FieldInfo) and part.description for part in getattr(hint, "__metadata__", ()))
    return hint if told or not about else typing.Annotated[hint, pydantic.Field(description=about)]


def docstring(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring in Google's style says of the function, and of each argument."""
    about: list[str] = []
    arguments: dict[str, str] = {}
    section, last, margin = "", "", -1
    for line in text.splitlines():
        match = _SECTION.fullmatch(line.strip())
        if match and not line.startswith(" "):
            section, last, margin = match.group(1), "", -1
        elif not section:
            about.append(line)
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            indent = len(line) - len(line.lstrip())
            margin = indent if margin < 0 else margin
            entry = _ENTRY.fullmatch(line.strip())
            if entry and indent == margin:
                last = entry.group(1)
                arguments[last] = entry.group(2)
            elif last:
                arguments[last] = f"{arguments[last]} {line.strip()}".strip()
    return "\n".join(about).strip(), arguments
