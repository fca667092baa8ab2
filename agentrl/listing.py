"""What there is: environments, tools, methods, keys of a run file, benchmarks."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agentrl import registry
from agentrl.algorithms.method import describe
from agentrl.console import print_table
from agentrl.errors import ConfigError, did_you_mean
from agentrl.facts import environments, run_keys
from agentrl.tool import Recipe, Tool, tools_of

STAGES = ("sampler", "score", "filter", "reward", "credit", "token_weight", "loss", "regularizer")
PLUGINS = ("envs", "tools", "methods")
BENCHMARKS = Path(__file__).resolve().parent.parent / "tests" / "benchmarks"


def listing(what: str = "all") -> dict[str, list[dict[str, Any]]]:
    """``envs``, ``tools`` and ``methods``, or one of them, or the ``keys`` of a run file. Raises ConfigError for another word."""
    makers = {"envs": environments, "tools": _tools, "methods": _methods, "keys": run_keys}
    if what != "all" and what not in makers:
        raise ConfigError(f"there is no list of '{what}'.{did_you_mean(what, ['all', *makers])}")
    registry.load_plugins()
    wanted = PLUGINS if what == "all" else (what,)
    return {name: makers[name]() for name in wanted}


def _tools() -> list[dict[str, Any]]:
    """Each tool; those of a toolset with its name; a toolset whose tools are known once it is open as one row."""
    rows = []
    for name in registry.names("tool"):
        entry = tools_of(name)
        found = (
            [entry] if isinstance(entry, Tool) else entry.cls.listed() if isinstance(entry, Recipe) else entry.tools()
        )
        made_by = entry.cls if isinstance(entry, Recipe) else entry.function if isinstance(entry, Tool) else type(entry)
        toolset = {"module": made_by.__module__, **({} if isinstance(entry, Tool) else {"toolset": name})}
        rows += [{**tool.schema()["function"], **toolset} for tool in found]
        if not found:
            about = inspect.getdoc(entry.cls if isinstance(entry, Recipe) else entry) or ""
            rows.append({"name": "…", "description": " ".join(about.partition("\n\n")[0].split()), **toolset})
    return rows


def _methods() -> list[dict[str, Any]]:
    found = []
    for stage in STAGES:
        for name in registry.names(stage):
            method = registry.get(stage, name)
            about = {"docstring": inspect.getdoc(method) or "", "module": method.__module__}
            found.append({**describe(method, name), **about})
    return found


def print_listing(found: dict[str, list[dict[str, Any]]]) -> None:
    """As tables."""
    console = Console(markup=False, emoji=False)  # names and formulas are data
    for name, rows in found.items():
        if not rows:
            console.print(f"{name}: none")
            continue
        table = Table(title=name, title_justify="left", box=None)
        shown = [
            key
            for key in (
                "stage",
                "toolset",
                "name",
                "id",
                "formula",
                "entry_point",
                "description",
                "table",
                "key",
                "meaning",
            )
            if any(key in row for row in rows)
        ]
        for key in shown:
            table.add_column(key)
        for row in rows:
            table.add_row(*(str(row.get(key, "")).partition("\n")[0] for key in shown))
        print_table(console, table)


def benchmarks(name: str) -> list[dict[str, Any]]:
    """Rows of ``tests/benchmarks/bench_NAME.py``, or of all of them. Raises ConfigError outside a checkout."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(BENCHMARKS.glob("bench_*.py"))}
    if not known:
        raise ConfigError(f"benchmarks live in a checkout's tests/benchmarks; there is none at {BENCHMARKS}")
    if name != "all" and name not in known:
        raise ConfigError(f"no benchmark is called '{name}'.{did_you_mean(name, ['all', *known])}")
    rows: list[dict[str, Any]] = []
    if str(BENCHMARKS) not in sys.path:  # some measure with the parts of another
        sys.path.append(str(BENCHMARKS))
    for key, path in known.items():
        if name in ("all", key):
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # its dataclasses look themselves up
            spec.loader.exec_module(module)
            rows += module.rows()
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Benchmark rows as a table."""
    table = Table(box=None)
    for key in ("name", "value", "unit", "ratio", "bound_ratio", "against"):
        table.add_column(key, justify="right" if key in ("value", "ratio", "bound_ratio") else "left")
    for row in rows:
        against = f"{row['against']:.4g}" if isinstance(row["against"], float) else str(row["against"])
        numbers = ["" if row.get(key) is None else f"{row[key]:.4g}" for key in ("value", "ratio", "bound_ratio")]
        table.add_row(str(row["name"]), numbers[0], str(row["unit"]), numbers[1], numbers[2], against)
    print_table(Console(), table)
