"""What watches a run in training: alarms, the best checkpoint, what an iteration waited for."""

from agentrl.watch.alarms import Alarm, Watch
from agentrl.watch.episodes import episode_metrics

__all__ = ["Alarm", "Watch", "episode_metrics"]
