"""What watches a run in training: alarms, the best checkpoint, what an iteration waited for."""

from agentrl.watch.alarms import Alarm, Watch
from agentrl.watch.best import Best, best_of
from agentrl.watch.bounds import account
from agentrl.watch.episodes import episode_metrics
from agentrl.watch.meter import Meter

__all__ = ["Alarm", "Best", "Meter", "Watch", "account", "best_of", "episode_metrics"]
