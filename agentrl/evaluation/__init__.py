"""Evaluation: fixed panels, intervals, tables, records that can be resumed, comparisons."""

from agentrl.evaluation.evaluate import Evaluation
from agentrl.evaluation.statistics import (
    clustered_mean,
    clustered_wilson,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    pass_at_k,
    pass_hat_k,
    student_t,
    wilson,
)

__all__ = [
    "Evaluation",
    "clustered_mean",
    "clustered_wilson",
    "mcnemar",
    "mean_interval",
    "paired_bootstrap",
    "paired_difference",
    "pass_at_k",
    "pass_hat_k",
    "student_t",
    "wilson",
]
