"""Evaluation: fixed panels, intervals, tables."""

from agentrl.evaluation.evaluate import Evaluation
from agentrl.evaluation.statistics import paired_difference, wilson

__all__ = ["Evaluation", "paired_difference", "wilson"]
