"""Run files on disk: found by path or name, and read together with what they build on.

    extends = "../quickstart.toml"      # relative to this file, else the name of a run file that ships with agentrl

    [algorithm]
    credit = { name = "grpo" }

says what the other file says, but for what stands here. Tables are merged key by key, at any depth. A list replaces a list, and
a table with a ``name`` below the top (a method, a memory) replaces the whole table: the keys of one method mean nothing to
another. The other file may extend a third.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl.errors import ConfigError, did_you_mean


def find(name: str) -> Path:
    """A run file by path, or one that ships with agentrl by its name (``quickstart``, ``recipes/grpo``)."""
    return shipped(name) if not Path(name).exists() and shipped(name).is_file() else Path(name)


def shipped(name: str) -> Path:
    """Where a run file of this name would be, if it shipped with agentrl."""
    return Path(__file__).parent / "configs" / f"{name.removesuffix('.toml').removeprefix('configs/')}.toml"


def _names() -> list[str]:
    """The run files that ship, as ``find`` takes them."""
    folder = shipped("").parent
    files = [*folder.glob("*.toml"), *folder.glob("paper/*.toml"), *folder.glob("recipes/*.toml")]
    return [file.relative_to(folder).with_suffix("").as_posix() for file in files]


def read(path: str | Path) -> dict[str, Any]:
    """The tables of a run file and of those it extends, merged but unchecked. Raises ConfigError for a file that is no TOML, and
    for ``extends`` that names no file or leads back to where it came from."""
    return _read(Path(path), ())


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    own = _tables(path)
    if "extends" not in own:
        return own
    base = _extended(path, own.pop("extends"))
    chain = (*above, path)
    if any(base.samefile(file) for file in chain):
        raise ConfigError(
            f"run files extend each other in a circle: {' -> '.join(str(file) for file in (*chain, base))}"
        )
    return merged(_with_model_beside(_read(base, chain), base.parent), own)


def _joined(folder: Path, path: str) -> Path:
    """The file at ``path`` from ``folder``, without the ``..`` in between where that is the same file."""
    whole = folder / path
    plain = Path(os.path.normpath(whole))
    return plain if plain.exists() and whole.exists() and plain.samefile(whole) else whole


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        is_name = isinstance(error, FileNotFoundError) and not path.suffix
        known = f".{did_you_mean(path.as_posix(), _names())}" if is_name else ""
        raise ConfigError(f"the run file {path} cannot be read: {error.strerror or error}{known}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _extended(path: Path, wanted: Any) -> Path:
    """The file that ``path`` extends."""
    if not isinstance(wanted, str) or not wanted:
        raise ConfigError(
            f'{path}: extends wants another run file, as in extends = "../quickstart.toml"; got {wanted!r}'
        )
    beside = _joined(path.parent, wanted)
    found = beside if beside.is_file() else shipped(wanted)
    if not found.is_file():
        raise ConfigError(
            f"{path} extends '{wanted}', and there is no file {beside}; give a path from the folder of this run file, or the name "
            "of a run file that ships with agentrl"
        )
    return found


def merged(base: Mapping[str, Any], own: Mapping[str, Any], *, top: bool = True) -> dict[str, Any]:
    """``base`` with what ``own`` says; both stay as they are.

    >>> merged({"run": {"name": "a", "seed": 1}}, {"run": {"name": "b"}})
    {'run': {'name': 'b', 'seed': 1}}
    >>> merged({"agent": {"memory": {"name": "window", "turns": 4}}}, {"agent": {"memory": {"name": "append"}}})
    {'agent': {'memory': {'name': 'append'}}}
    """
    result = dict(base)
    for key, value in own.items():
        before = base.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and (top or "name" not in value):
            result[key] = merged(before, value, top=False)  # [run] and [env] have names, and are no methods
        else:
            result[key] = value
    return result


def _with_model_beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables with ``model.path`` as it is seen from elsewhere than the file it stands in."""
    model = data.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("path"), str):
        return data
    return {**data, "model": {**model, "path": model_beside(model["path"], folder)}}


def model_beside(path: str, folder: Path) -> str:
    """The path of a model that a run file in ``folder`` names: relative to the working folder, else to the run file."""
    beside = _joined(folder, path)
    return str(beside) if path and not Path(path).exists() and holds_model(beside) else path


def holds_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint: of a model, or of an adapter."""
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
