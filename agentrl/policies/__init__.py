"""Policies: token ids in, token ids out. The only package that imports an engine, and only in the engine's own file."""

from agentrl.policies.base import BatchPolicy, Policy, Request
from agentrl.policies.scripted import ReplayPolicy, ScriptedPolicy

__all__ = ["BatchPolicy", "Policy", "ReplayPolicy", "Request", "ScriptedPolicy"]
