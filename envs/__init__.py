"""Provided environments. Importing this package registers them with Gymnasium and loads no heavy library."""

from agentrl.envs import alfworld, arithmetic, functions, household, miniwob, remote, search

__all__ = ["alfworld", "arithmetic", "functions", "household", "miniwob", "remote", "search"]
