"""agentrl: train language-model agents in multi-turn environments, with credit assigned to turns.

``agentrl.train``, ``agentrl.evaluate`` and ``agentrl.rollout`` are loaded on first use (see ``agentrl.api``).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.api import evaluate, rollout, train

__all__ = ["evaluate", "rollout", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from agentrl import api

        return getattr(api, name)
    raise AttributeError(f"module 'agentrl' has nothing called '{name}'; it offers {', '.join(__all__)}")
