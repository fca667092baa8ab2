"""The task list that a ``ToolEnv`` is given: rows become tasks, and what is wrong with a row is said before the first episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentrl.errors import ConfigError
from agentrl.types import Json, Task

TaskRows = Iterable[Task | Mapping[str, Json]]


def tasks_of(rows: Any, split: str) -> list[Task]:
    """The tasks of a split's rows: each a ``Task``, or a dictionary of ``prompt`` and, if need be, ``id`` (``SPLIT-NUMBER`` without
    one) and ``reference``; further keys become options. Raises ConfigError, which names the row, for anything else, for an id that
    is given twice and for a task of another split."""
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise ConfigError(f"ToolEnv: tasks of '{split}': wanted a list of tasks or dictionaries; got {rows!r:.100}")
    found: dict[str, Task] = {}
    for number, row in enumerate(rows):
        task = _task(row, split, number)
        if task.split != split:
            raise ConfigError(
                f"ToolEnv: task {number} of '{split}' says that its split is '{task.split}'; give Task(split='{split}')"
            )
        if found.setdefault(task.id, task) is not task:
            raise ConfigError(f"ToolEnv: task {number} of '{split}': the id '{task.id:.100}' is taken; give it another")
    return list(found.values())


def _task(row: Any, split: str, number: int) -> Task:
    if isinstance(row, Task):
        return row
    if not (isinstance(row, Mapping) and isinstance(row.get("prompt"), str)):
        raise ConfigError(
            f"ToolEnv: task {number} of '{split}': wanted a Task, or a dictionary with a text as 'prompt'; got {row!r:.100}"
        )
    name = row.get("id", f"{split}-{number}")
    if not isinstance(name, str | int) or name == "":
        raise ConfigError(f"ToolEnv: task {number} of '{split}': wanted a text or a number as 'id'; got {name!r:.100}")
    options = {str(key): value for key, value in row.items() if key not in ("id", "reference")}
    return Task(id=str(name), seed=number, split=split, options=options, reference=row.get("reference"))
