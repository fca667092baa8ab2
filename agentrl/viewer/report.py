"""Writes ``RUN/report.html`` and the chunks of episodes beside it, or everything in one file.

The page loads a chunk by a script element when an episode of it is opened, so that it works from disk, where pages may not
read files. Its content security policy allows no request to any network, and only scripts that bear the page's nonce run: a
digest of what the page holds, which no text of an environment can know ahead.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from agentrl.errors import ConfigError
from agentrl.store import read_trajectories, write_atomic
from agentrl.types import Trajectory
from agentrl.viewer.chunks import Chunk, chunk_name, stale
from agentrl.viewer.index import Columns, evaluations, heading, measured, times
from agentrl.viewer.screenshots import Screenshots
from agentrl.viewer.scripts import as_script
from agentrl.viewer.sources import TRAINING, Run, Source, open_run
from agentrl.viewer.tokens import Vocabulary, vocabulary
from agentrl.viewer.why import Reasons, reasons

Json = Any
PAGE, FOLDER, TOKENS = "report.html", "report", "tokens.js"
CHUNK_BYTES = 400_000  # about; a group is not cut
MOST_BYTES = 200 * 2**20  # of a single file
STYLES = ("base.css", "pages.css", "episode.css")
SCRIPTS = (
    "core.js",
    "data.js",
    "charts.js",
    "overview.js",
    "table.js",
    "tokens.js",
    "why.js",
    "turns.js",
    "episode.js",
    "main.js",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was written. ``notes``: what the page cannot show, and why; ``n_bytes`` of all files."""

    page: Path
    n_episodes: int
    n_chunks: int
    n_bytes: int
    notes: list[str]


@dataclass(slots=True)
class _Parts:
    """Everything of a report, before it is written. ``scripts``: (name, text) of each chunk."""

    build: str
    columns: Columns = field(default_factory=Columns)
    scripts: list[tuple[str, str]] = field(default_factory=list)
    ids: set[int] = field(default_factory=set)
    reasons: dict[int, Reasons] = field(default_factory=dict)
    n_bytes: int = 0
    with_learner: bool = False


def write_report(run: Path, *, single_file: bool = False, formulas: int = 1) -> Report:
    """Writes the report of a run folder, or brings it up to date.

    ``formulas``: for how many of the last iterations the page holds the formulas of ``agentrl explain``, turn by turn. Raises
    CheckpointError for what cannot be read, ConfigError where a single file would be too large, OSError where it cannot be written.
    """
    opened = open_run(run)
    parts = _Parts(build=hashlib.sha256(f"{run.resolve()} {time.time_ns()}".encode()).hexdigest()[:16])
    folder = run / FOLDER
    if not single_file:
        folder.mkdir(exist_ok=True)
    pictures = Screenshots(run, inside=single_file)
    with _without_collection():
        for number, chunk in enumerate(_chunks(opened, parts, pictures, formulas)):
            _keep(parts, chunk_name(number), number, as_script(chunk.data()), None if single_file else folder)
    known = vocabulary(opened, parts.ids)
    tokens = as_script({"ids": list(known.texts), "texts": list(known.texts.values()), "special": known.special})
    if not single_file:
        _write(folder / TOKENS, f'agentrl.loaded("{parts.build}","tokens",{tokens})\n')
    page = _page(opened, parts, known, tokens if single_file else None)
    write_atomic(run / PAGE, page.encode())
    for path in stale(folder, set() if single_file else {TOKENS, *(name for name, _ in parts.scripts)}):
        path.unlink()
    if single_file and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    n = len(parts.columns.columns.get("id", ()))
    return Report(run / PAGE, n, len(parts.scripts), len(page) + len(tokens) + parts.n_bytes, _notes(parts, known))


def _keep(parts: _Parts, name: str, number: int, text: str, folder: Path | None) -> None:
    """A chunk's script: into its file, or (``folder`` None) into memory. Raises ConfigError where that becomes too much."""
    parts.n_bytes += len(text)
    if folder is not None:
        _write(folder / name, f'agentrl.loaded("{parts.build}",{number},{text})\n')
        text = ""
    elif parts.n_bytes > MOST_BYTES:
        limit = MOST_BYTES // 2**20
        raise ConfigError(f"the run is too large for a single file (more than {limit} MiB); leave --single-file out")
    parts.scripts.append((name, text))


@contextmanager
def _without_collection() -> Iterator[None]:
    """In the block nothing looks for cycles: there are millions of objects and no cycle among them, and looking takes half of the
    time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def report_or_reason(run: Path) -> str:
    """Writes the report of a run that has ended; where that fails, whatever the cause, says why: the run itself is complete."""
    try:
        write_report(run)
    except Exception as error:
        return f"report.html could not be written ({type(error).__name__}: {error}); try `agentrl view {run}`"
    return ""


def _chunks(run: Run, parts: _Parts, pictures: Screenshots, formulas: int) -> Iterator[Chunk]:
    """The run's episodes, chunk by chunk; fills ``parts`` on the way."""
    last = [source.iteration for source in run.sources if source.phase == TRAINING][-formulas:] if formulas else []
    number = 0
    for source in run.sources:
        found = Reasons()
        if source.iteration is not None and source.iteration in last:
            found = parts.reasons[source.iteration] = reasons(run.path, source.iteration)
        chunk, group = Chunk(pictures), None
        for trajectory in read_trajectories(source.path):
            if chunk.size > CHUNK_BYTES and trajectory.group != group:
                yield chunk
                chunk, number = Chunk(pictures), number + 1
            group = trajectory.group
            _add(parts, chunk, source, trajectory, found, number)
        if chunk.episodes:
            yield chunk
            number += 1


def _add(parts: _Parts, chunk: Chunk, source: Source, trajectory: Trajectory, found: Reasons, number: int) -> None:
    place = chunk.add(trajectory, found.by_trajectory.get(trajectory.id, ()))
    parts.columns.add(source, trajectory, number, place)
    for call in trajectory.calls():
        parts.ids.update(call.prompt_ids, call.completion_ids)
        parts.with_learner = parts.with_learner or call.learner_logprobs is not None


def _page(run: Run, parts: _Parts, known: Vocabulary, tokens: str | None) -> str:
    index = as_script(
        {
            "build": parts.build,
            "run": heading(run),
            "metrics": measured(run.metrics),
            "times": times(run.metrics),
            "evaluations": evaluations(run),
            "episodes": parts.columns.data(),
            "chunks": [name for name, _ in parts.scripts],
            "folder": FOLDER,
            "single": tokens is not None,
            "tokens": {"file": TOKENS, "problem": known.problem},
            "formulas": {str(number): found.problem for number, found in parts.reasons.items()},
            "learner": parts.with_learner,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_asset("page.html.j2")).render(
        title=run.path.resolve().name,
        nonce=hashlib.sha256(index.encode()).hexdigest()[:32],
        styles="\n".join(map(_asset, STYLES)),
        scripts=[_asset(name) for name in SCRIPTS],
        index=index,
        tokens=tokens,
        chunks=[text for _, text in parts.scripts] if tokens is not None else [],
    )


@cache
def _asset(name: str) -> str:
    return (resources.files("agentrl.viewer") / "assets" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    """A chunk: not flushed to the disk, since a report can be written again."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="ascii")
    temporary.replace(path)


def _notes(parts: _Parts, known: Vocabulary) -> list[str]:
    notes = [f"tokens are shown by their ids: {known.problem}"] if known.problem else []
    missing = [(number, found.problem) for number, found in parts.reasons.items() if found.problem]
    return notes + [f"iteration {number} has no formulas: {problem}" for number, problem in missing]
