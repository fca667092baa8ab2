"""What a folder holds that can be looked at: files of trajectories, metrics, the summary, alarms, the run file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.errors import CheckpointError
from agentrl.store import RunFolder

Json = Any
TRAINING = "training"
_KINDS = {"demos": "demonstrations", "play": "recorded games"}
_NUMBERED = re.compile(r"(iteration|demos|play)_(\d+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One file of trajectories. ``phase``: "training", a panel as in "before/sampled", "evaluation", "demonstrations" or "recorded
    games". ``iteration``: of training; None elsewhere."""

    path: Path
    phase: str
    iteration: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A folder that was read, its trajectories not yet."""

    path: Path
    sources: list[Source]
    metrics: list[dict[str, Json]]
    summary: dict[str, Json]
    alarms: list[dict[str, Json]]
    config: str  # the text of config.toml
    settings: dict[str, Json]  # what it says
    request: dict[str, Json]  # of an evaluation

    @property
    def kind(self) -> str:
        """ "training", "evaluation", or what the trajectories are called."""
        if (self.path / "request.json").is_file():
            return "evaluation"
        if self.metrics or any(source.phase == TRAINING for source in self.sources):
            return TRAINING
        return self.sources[0].phase if self.sources else TRAINING


def open_run(path: Path) -> Run:
    """Reads a run folder, the folder of an evaluation, of demonstrations or of recorded games. Raises CheckpointError for a folder
    with nothing to look at, and for files that cannot be read."""
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give a run, an evaluation or recorded games")
    config = _text(path / "config.toml")
    run = Run(
        path,
        sources=_sources(path),
        metrics=RunFolder(path).metrics(),
        summary=_json(path / "summary.json"),
        alarms=_lines(path / "alarms.jsonl"),
        config=config,
        settings=_settings(path / "config.toml", config),
        request=_json(path / "request.json"),
    )
    if not (run.sources or run.metrics or run.summary):
        more = "; the evaluation is not finished, continue it with --resume" if run.request else ""
        raise CheckpointError(f"{path} holds no trajectories and no metrics; give a run or an evaluation{more}")
    return run


def _sources(path: Path) -> list[Source]:
    """In the order of their happening: the first evaluations, iterations, the evaluations between and after them."""
    found = []
    for file in (path / "trajectories").glob("*.jsonl.zst"):
        stem = file.name.removesuffix(".jsonl.zst")
        if stem.startswith("."):
            continue
        if match := _NUMBERED.fullmatch(stem):
            kind, number = match[1], int(match[2])
            source = Source(file, TRAINING, number) if kind == "iteration" else Source(file, _KINDS[kind])
            order = (1, number, 0)
        else:
            source, order = Source(file, _panel(stem)), _panel_order(stem)
        found.append((order, file.name, source))
    return [source for _, _, source in sorted(found, key=lambda each: each[:2])]


def _panel(stem: str) -> str:
    """
    >>> _panel("eval_iteration_20_sampled"), _panel("eval")
    ('iteration_20/sampled', 'evaluation')
    """
    name = stem.removeprefix("eval_")
    if name == "eval":
        return "evaluation"
    head, _, panel = name.rpartition("_")
    return f"{head}/{panel}" if head else name


def _panel_order(stem: str) -> tuple[int, int, int]:
    if stem.startswith("eval_before"):
        return (0, 0, 0)
    match = re.match(r"eval_iteration_(\d+)_", stem)
    return (1, int(match[1]) - 1, 1) if match else (2, 0, 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def mapping(value: Json) -> Mapping[str, Json]:
    """A value that should be an object, empty where it is none: what a file written by another hand holds is not shown."""
    return value if isinstance(value, Mapping) else {}


def _settings(path: Path, text: str) -> dict[str, Json]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _json(path: Path) -> dict[str, Json]:
    try:
        found = json.loads(_text(path) or "{}")
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> list[dict[str, Json]]:
    """JSON lines; a last one that a kill cut short is left out."""
    lines, found = _text(path).splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise CheckpointError(f"{path}, line {number} cannot be read: {error}") from error
            continue
        if isinstance(value, Mapping):
            found.append(dict(value))
    return found
