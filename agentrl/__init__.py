"""agentrl: train language-model agents in multi-turn environments, with credit assigned to turns.

``agentrl.train``, ``agentrl.evaluate`` and ``agentrl.rollout`` are loaded on first use (see ``agentrl.api``), and so are its
modules: ``import agentrl`` is quick, and enough for ``agentrl.env.make(…)``.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl import env
    from agentrl.api import evaluate, rollout, train

__all__ = ["env", "evaluate", "rollout", "train"]


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "rollout", "train"):
        from agentrl import api

        return getattr(api, name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'agentrl' has nothing called '{name}'; it offers {', '.join(__all__)}")
