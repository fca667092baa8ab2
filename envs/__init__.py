"""Provided environments. Importing this package registers them with Gymnasium and loads no heavy library."""

from agentrl.envs import household

__all__ = ["household"]
