"""Strata: a number for each trajectory by which a credit method may tell structures apart."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from agentrl.algorithms.method import Method
from agentrl.algorithms.table import TurnTable
from agentrl.errors import ConfigError
from agentrl.registry import register


@register("reward", "stratum")
@dataclass(frozen=True)
class Stratum(Method):
    """stratum_i = how many of ``edges`` are at most n_i, or n_i itself without edges.

    n_i is a count along trajectory i: ``by = "turns"``, its turns; "calls", its calls of a model; "tool_calls", its calls of
    tools; "invalid", its invalid actions; "actions", its turns whose action matches ``pattern`` (a regular expression found
    anywhere in it), so that ``by = "actions", pattern = "^search"`` counts searches; "function", whatever
    ``function = "module:name"`` gives: a callable ``(table) -> [K]`` of integers that are equal along a trajectory.
    ``edges = [1, 3]`` makes three strata: 0, 1 or 2, and 3 or more.

    It changes no reward: a credit method reads the column (``stratified_grpo``).

    Source: Stratified GRPO (2510.06214), whose strata are the numbers of search calls.
    """

    stage = "reward"
    reads = ("trajectory", "turn", "n_calls", "n_tool_calls", "valid", "action")
    writes = ("stratum",)
    formula = "stratum_i = number of edges at most n_i (n_i without edges)"
    source = "Stratified GRPO (arXiv 2510.06214)"

    by: Literal["turns", "calls", "tool_calls", "actions", "invalid", "function"]
    pattern: str | None = None
    function: str | None = None
    edges: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for needed, name in (("actions", "pattern"), ("function", "function")):
            if (self.by == needed) != (getattr(self, name) is not None):
                state = "is missing" if self.by == needed else f'goes with by = "{needed}"'
                raise ConfigError(f'stratum with by = "{self.by}": {name} {state}')
        if list(self.edges) != sorted(set(self.edges)):
            raise ConfigError(f"stratum wants edges that increase; got {list(self.edges)}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ConfigError(f"stratum: the pattern {self.pattern!r} is no regular expression: {error}") from error
        if self.function is not None:
            _load(self.function)

    def __call__(self, table: TurnTable) -> dict[str, np.ndarray]:
        """The column ``stratum`` [K]."""
        if self.function is not None:
            found = _load(self.function)(table)
            return {"stratum": np.searchsorted(self.edges, found, side="right") if self.edges else np.asarray(found)}
        n = table.sum_by_trajectory(self._counted(table)).astype(np.int64)[table["trajectory"]]
        return {"stratum": np.searchsorted(self.edges, n, side="right") if self.edges else n}

    def _counted(self, table: TurnTable) -> np.ndarray:
        """What each turn adds to the count, [K]."""
        if self.by == "turns":
            return np.ones(len(table))
        if self.by == "calls":
            return table["n_calls"]
        if self.by == "tool_calls":
            return table["n_tool_calls"]
        if self.by == "invalid":
            return ~table["valid"].astype(bool)
        search = re.compile(self.pattern or "").search
        matches = [search(action) is not None for action in table.labels("action")]  # each different action once
        return np.array([*matches, False], dtype=bool)[table["action"]]  # -1, no action: the last


def _load(name: str) -> Callable[[TurnTable], np.ndarray]:
    """What ``module:name`` names. Raises ConfigError where it cannot be had."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f'stratum wants function = "module:name"; {name!r} cannot be imported: {error}') from error
    if not callable(found):
        raise ConfigError(f"stratum wants a function of the table; {name!r} is a {type(found).__name__}")
    return cast("Callable[[TurnTable], np.ndarray]", found)
