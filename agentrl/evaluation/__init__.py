"""Evaluation: fixed panels, intervals, tables."""

from agentrl.evaluation.evaluate import Evaluation
from agentrl.evaluation.statistics import mean_interval, paired_difference, student_t, wilson

__all__ = ["Evaluation", "mean_interval", "paired_difference", "student_t", "wilson"]
