"""What watches a run in training: alarms, the best checkpoint, what an iteration waited for."""

from agentrl.watch.alarms import Alarm, Watch
from agentrl.watch.best import Best, best_of
from agentrl.watch.episodes import episode_metrics

__all__ = ["Alarm", "Best", "Watch", "best_of", "episode_metrics"]
