"""Tools that ship with agentrl."""
