"""Rollouts: requests in, finished trajectories out."""

from agentrl.rollouts.episode import Limits, run_episode
from agentrl.rollouts.pool import EnvPool, Rollouts, Seat, play
from agentrl.rollouts.process import Maker, ProcessPool
from agentrl.rollouts.scheduler import Ahead

__all__ = ["Ahead", "EnvPool", "Limits", "Maker", "ProcessPool", "Rollouts", "Seat", "play", "run_episode"]
