"""Rollouts: requests in, finished trajectories out."""

from agentrl.rollouts.episode import Limits, run_episode
from agentrl.rollouts.pool import Rollouts, play
from agentrl.rollouts.process import Maker, ProcessPool
from agentrl.rollouts.scheduler import Ahead
from agentrl.rollouts.tries import EnvPool, Seat, Try, Workers, play_try

__all__ = [
    "Ahead",
    "EnvPool",
    "Limits",
    "Maker",
    "ProcessPool",
    "Rollouts",
    "Seat",
    "Try",
    "Workers",
    "play",
    "play_try",
    "run_episode",
]
