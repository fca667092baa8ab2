"""Metrics in a trackio project besides ``metrics.jsonl``, on this machine: ``[run] trackio = "PROJECT"``.

trackio (https://github.com/gradio-app/trackio) writes them into a file of its own, below ``$TRACKIO_DIR`` or the user's cache, and
``trackio show --project PROJECT`` draws them. Nothing leaves the machine unless the user's own environment tells trackio to
(``TRACKIO_SPACE_ID``, ``TRACKIO_SERVER_URL``).
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from agentrl.errors import MissingExtra


class Tracker:
    """A run's way to trackio. Without a project nothing happens. Raises MissingExtra where there is one and no trackio."""

    def __init__(self, project: str | None) -> None:
        self.project = project
        self._run: Any = None
        if project is not None and importlib.util.find_spec("trackio") is None:
            raise MissingExtra("track", f"run.trackio = '{project}'")

    def begin(self, name: str, config: Mapping[str, Any], *, resumed: bool) -> str:
        """Opens the run ``name``; one that was resumed goes on in the run of that name. Returns what to tell the user, "" for
        nothing."""
        if self.project is None:
            return ""
        import trackio

        with redirect_stdout(io.StringIO()):  # what it prints would break a live view
            self._run = trackio.init(
                project=self.project,
                name=name,
                config=dict(config),
                resume="allow" if resumed else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return f"metrics also go to trackio: trackio show --project '{self.project}'"

    def log(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """The numbers among some metrics, at an iteration (or so many of them, for an evaluation between two)."""
        if self._run is not None:
            self._run.log(numbers(metrics), step=iteration)

    def end(self) -> None:
        """Waits until all is written."""
        if self._run is not None:
            with redirect_stdout(io.StringIO()):
                self._run.finish()
            self._run = None


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers among metrics, by their names behind a prefix.

    >>> numbers({"loss": 0.5, "binds": "training", "ok": True, "none": None}, "eval/")
    {'eval/loss': 0.5}
    """
    return {
        prefix + name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
