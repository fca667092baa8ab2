"""What the command line does, one function a command; importing this package registers them in the order of its help."""

from agentrl.commands import training, episodes, comparing, methods, doctor, serve  # isort: skip
from agentrl.commands.words import app, process_started

__all__ = ["app", "comparing", "doctor", "episodes", "methods", "process_started", "serve", "training"]
