"""Environments behind HTTP, a session an episode: for those that need another Python, another machine, or both.

    agentrl serve env agentrl/Household-v0 --option difficulty=tiny --port 9000
    agentrl eval agentrl/Remote-v0 --option url=http://127.0.0.1:9000 --policy random

``server`` needs nothing but the standard library of Python 3.8 or later and may be copied beside an old environment:

    python3.8 server.py old_package:make_env --port 9000

What goes over the wire is JSON; every reply is an object:

    GET    /about                        {"name", "hooks", "tools"?}       hooks: what /sessions/ID/call may name
    GET    /tasks?split=S&start=I&n=N    {"n": of the split, "tasks": [task, …]}
    POST   /call  {"name", "args"}       {"value"}                         find_task, vocabulary
    POST   /sessions                     {"session": ID}
    POST   /sessions/ID/reset            {"seed", "task"}   -> {"observation", "info"}
    POST   /sessions/ID/step             {"action"}         -> {"observation", "reward", "terminated", "truncated", "info"}
    POST   /sessions/ID/call             {"name", "args"}   -> {"value"}
    DELETE /sessions/ID                  {}

A task is the object of ``agentrl.types.Task``: id, seed, type, split, options … What fails is status 4xx or 5xx with
{"error": text, "kind": "request" | "user" | "session" | "environment"}: a request that is none, what a user can mend (an
unknown task), a session that is gone, what the environment raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentrl.errors import ConfigError, UserError
from agentrl.remote.client import RemoteEnv, task_of
from agentrl.remote.server import CannotListen, EnvServer, serve

__all__ = ["EnvServer", "RemoteEnv", "serve", "served"]


def served(
    factory: Callable[[], Any], name: str, host: str = "127.0.0.1", port: int = 9000, **limits: Any
) -> EnvServer:
    """A server of agentrl's own environments, made by ``factory``. Raises ConfigError for an address that cannot be listened on,
    and what making an environment raises."""
    try:
        return EnvServer(factory, host, port, name=name, decode=task_of, user_errors=(UserError,), **limits)
    except CannotListen as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}; give another --port or --host") from error
