"""Agents made of modules: a user's own graph of named roles, and AgentFlow on top of it."""

from agentrl.agents.flow.agentflow import AgentFlow, Command, Final, Plan, Verdict
from agentrl.agents.flow.memory import Memory, Step, cut_middle
from agentrl.agents.flow.rules import first_argument, first_result, last_result
from agentrl.agents.flow.session import Answer, Caller, FlowAgent, FlowLimits, FlowSession, FunctionGraph, Graph, flow
from agentrl.agents.flow.speakers import (
    Asked,
    ChatSpeaker,
    DemoSpeaker,
    Request,
    RuleSpeaker,
    Speaker,
    Stopped,
    TokenSpeaker,
)

__all__ = [
    "AgentFlow",
    "Answer",
    "Asked",
    "Caller",
    "ChatSpeaker",
    "Command",
    "DemoSpeaker",
    "Final",
    "FlowAgent",
    "FlowLimits",
    "FlowSession",
    "FunctionGraph",
    "Graph",
    "Memory",
    "Plan",
    "Request",
    "RuleSpeaker",
    "Speaker",
    "Step",
    "Stopped",
    "TokenSpeaker",
    "Verdict",
    "cut_middle",
    "first_argument",
    "first_result",
    "flow",
    "last_result",
]
