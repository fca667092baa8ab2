"""The methods: one folder a stage, one file a method.

    samplers ─► scores ─► filters ─► rewards ─► credit ─► token_weights ─► losses ─► regularizers

Importing this package files every method under its stage and name (see ``agentrl.registry``); a new file in one of the
folders is all that a new method needs. Nothing here imports torch.
"""

from agentrl.algorithms.table import TurnTable
from agentrl.registry import import_all

__all__ = ["TurnTable"]

STAGE_PACKAGES = (
    "samplers",
    "scores",
    "filters",
    "rewards",
    "credit",
    "token_weights",
    "losses",
    "regularizers",
)

for _package in STAGE_PACKAGES:
    import_all(f"{__name__}.{_package}")
