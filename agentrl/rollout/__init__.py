"""Rollouts: requests in, finished trajectories out."""

from agentrl.rollout.episode import Limits, run_episode
from agentrl.rollout.pool import EnvPool, Rollouts, rollout

__all__ = ["EnvPool", "Limits", "Rollouts", "rollout", "run_episode"]
