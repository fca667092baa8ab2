"""Provided environments. Importing this package registers them with Gymnasium and loads no heavy library."""

from agentrl.envs import alfworld, arithmetic, browser, functions, household, miniwob, remote, search

__all__ = ["alfworld", "arithmetic", "browser", "functions", "household", "miniwob", "remote", "search"]
