"""Run files that ship with agentrl: ``importlib.resources.files("agentrl.configs")``."""
