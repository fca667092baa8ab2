"""Rollouts: requests in, finished trajectories out."""

from agentrl.rollouts.episode import Limits, run_episode
from agentrl.rollouts.pool import EnvPool, Rollouts, play

__all__ = ["EnvPool", "Limits", "Rollouts", "play", "run_episode"]
