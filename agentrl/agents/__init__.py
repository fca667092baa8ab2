"""Agents: how an observation becomes calls, and calls an action."""

from agentrl.agents.base import Agent, Decision, Episode, Session, View
from agentrl.agents.chat import ChatAgent
from agentrl.agents.flow import AgentFlow, Caller, FlowAgent
from agentrl.agents.memory import Append, Window
from agentrl.agents.messages import MessageAgent
from agentrl.agents.person import PersonAgent
from agentrl.agents.plain import DemonstratorAgent, ExpertAgent, OracleAgent, RandomAgent

__all__ = [
    "Agent",
    "AgentFlow",
    "Append",
    "Caller",
    "ChatAgent",
    "Decision",
    "DemonstratorAgent",
    "Episode",
    "ExpertAgent",
    "FlowAgent",
    "MessageAgent",
    "OracleAgent",
    "PersonAgent",
    "RandomAgent",
    "Session",
    "View",
    "Window",
]
