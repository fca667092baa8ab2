"""Tasks as files of another engine: what an environment's hook ``export(task)`` gives, written whole or not at all.

export("agentrl/Household-v0", Path("games"), 20, split="valid_unseen", options={"difficulty": "full"})
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from agentrl import build
from agentrl.config import EnvTable
from agentrl.env import hook
from agentrl.errors import ConfigError, EnvError
from agentrl.store import write_atomic
from agentrl.types import Task


def export(
    env_id: str, out: Path, n: int, *, split: str = "valid_seen", options: Mapping[str, Any] | None = None
) -> int:
    """Writes the first ``n`` tasks of a split (0, or more than there are: all) to the folder ``out``; returns their number.

    Raises ConfigError where ``out`` exists or cannot be written, for an environment without the hook, and for what
    cannot be made; EnvError where the hook gives anything but texts by relative path. Then no file is left behind.
    """
    if n < 0:
        raise ConfigError(f"wanted a number of episodes of at least 0; got {n}")
    _must_be_free(out)
    pool = build.env_pool(EnvTable(id=env_id, options=dict(options or {}), split=split))
    try:
        tasks = build.tasks_of(pool, split)
        env = pool.take()
        pool.put(env)
        found: Callable[[Task], Any] | None = hook(env, "export")
        if found is None:
            raise ConfigError(f"{env_id} cannot be exported: it has no hook export(task); see agentrl.env")
        chosen = tasks[: n or len(tasks)]
        _write_folder(out, chosen, found, env_id)
        return len(chosen)
    finally:
        pool.close()


def _must_be_free(out: Path) -> None:
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists already; remove it or choose another folder with --out")


def _write_folder(out: Path, tasks: Sequence[Task], files_of: Callable[[Task], Any], env_id: str) -> None:
    """Writes all files below a temporary name beside ``out``, which then gets its own."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    written: set[str] = set()
    try:
        temporary.mkdir(parents=True)
        for task in tasks:
            for path, text in _checked(files_of(task), task, env_id).items():
                if path in written:
                    raise EnvError(f"{env_id}: export gives '{path}' for two tasks, the second being '{task.id}'")
                written.add(path)
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(temporary / path, text.encode())
        _must_be_free(out)  # nor did another process make it meanwhile
        os.rename(temporary, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}; choose another folder with --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(files: Any, task: Task, env_id: str) -> Mapping[str, str]:
    """What the hook gave, if it is texts by paths that stay below the folder."""
    if not isinstance(files, Mapping) or not files:
        raise EnvError(f"{env_id}: export('{task.id}') must give texts by path; got {type(files).__name__}")
    for path, text in files.items():
        parts = PurePosixPath(path).parts if isinstance(path, str) else ()
        if not parts or ".." in parts or path.startswith("/") or not isinstance(text, str):
            raise EnvError(f"{env_id}: export('{task.id}') must give texts by relative path; got {path!r}")
    return files
