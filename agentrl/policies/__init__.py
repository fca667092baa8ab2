"""Policies: token ids in, token ids out; chat models: messages in, a reply out.

The only package that imports an engine, and only in the engine's own file.
"""

from agentrl.policies.base import BatchPolicy, ChatModel, Policy, Request
from agentrl.policies.scripted import ReplayPolicy, ScriptedPolicy

__all__ = ["BatchPolicy", "ChatModel", "Policy", "ReplayPolicy", "Request", "ScriptedPolicy"]
