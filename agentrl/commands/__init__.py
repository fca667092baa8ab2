"""What the command line does, one function a command; importing this package registers them in the order of its help."""

from agentrl.commands import training, episodes, viewing, comparing, methods, doctor, serve, starting  # isort: skip
from agentrl.commands.words import app, process_started

__all__ = [
    "app",
    "comparing",
    "doctor",
    "episodes",
    "methods",
    "process_started",
    "serve",
    "starting",
    "training",
    "viewing",
]
