"""What watches a run in training: alarms, the best checkpoint, what an iteration waited for, other trackers."""

from agentrl.watch.alarms import Alarm, Watch
from agentrl.watch.best import Best, best_of
from agentrl.watch.bounds import account
from agentrl.watch.episodes import episode_metrics
from agentrl.watch.meter import Meter
from agentrl.watch.tracking import Tracker

__all__ = ["Alarm", "Best", "Meter", "Tracker", "Watch", "account", "best_of", "episode_metrics"]
