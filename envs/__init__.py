"""Provided environments. Importing this package registers them with Gymnasium and loads no heavy library."""

from agentrl.envs import alfworld, arithmetic, browser, critique, functions, household, miniwob, remote, search, webshop

__all__ = [
    "alfworld",
    "arithmetic",
    "browser",
    "critique",
    "functions",
    "household",
    "miniwob",
    "remote",
    "search",
    "webshop",
]
