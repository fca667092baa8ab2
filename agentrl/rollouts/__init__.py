"""Rollouts: requests in, finished trajectories out."""

from agentrl.rollouts.episode import Limits, run_episode
from agentrl.rollouts.pool import EnvPool, Rollouts, Seat, play

__all__ = ["EnvPool", "Limits", "Rollouts", "Seat", "play", "run_episode"]
