"""What a user has registered in the training process, for the workers: environments and plug-ins.

    sent = collect(os.getcwd())    in the training process
    problems = install(sent)       in a worker, before anything is built

What stands in a module is imported from there by its name; what stands in the script that was started travels as it is.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from agentrl import registry
from agentrl.env import registered


@dataclass(frozen=True, slots=True)
class Sent:
    """``things``: (kind, name, pickle) with kind "environment" for Gymnasium's registry; ``problems``: of those that could not be
    pickled."""

    folder: str = ""
    things: list[tuple[str, str, bytes]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def collect(folder: str = "") -> Sent:
    """All that is registered here and not agentrl's own. ``folder``: where relative paths of the run file begin ("": where the
    workers are started)."""
    from ray.cloudpickle import dumps  # pyright: ignore[reportAttributeAccessIssue]

    registry.load_plugins()
    sent = Sent(folder)
    specs = [
        ("environment", name, gymnasium.registry[name]) for name in registered() if not name.startswith("agentrl/")
    ]
    for kind, name, thing in (*specs, *registry.foreign()):
        try:
            sent.things.append((kind, name, dumps(thing)))
        except Exception as error:  # whatever its parts do
            sent.problems.append(f"the {kind} '{name}' cannot be sent to workers: {type(error).__name__}: {error}")
    return sent


def install(sent: Sent) -> list[str]:
    """Registers what was sent and is not known here. Returns what could not be: it may be of no use to this run."""
    if os.path.isdir(sent.folder):
        os.chdir(sent.folder)
    registry.load_plugins()
    known = {(kind, name) for kind, name, _ in registry.foreign()} | {("environment", name) for name in registered()}
    problems = list(sent.problems)
    for kind, name, data in sent.things:
        if (kind, name) in known:
            continue
        try:
            _register(kind, name, pickle.loads(data))
        except Exception as error:  # a module that only the training process has
            problems.append(f"the {kind} '{name}' cannot be loaded in a worker: {type(error).__name__}: {error}")
    return problems


def _register(kind: str, name: str, thing: Any) -> None:
    if kind == "environment":
        gymnasium.registry.setdefault(name, thing)  # its module may have registered it while it was loaded
    else:
        registry.register(kind, name)(thing)
