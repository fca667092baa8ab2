"""The processes of a sweep: some runs at a time, each an ``agentrl train``, stopped by their ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from agentrl.config import RunConfig
from agentrl.errors import ConfigError
from agentrl.rollouts.worker import PR_SET_PDEATHSIG, prctl
from agentrl.sweep.plan import Plan, Run

GRACE_S = 30.0  # that a run has to write its summary
LOOK_S = 1.0  # how often the runs' files are read for the display
GPUS = Path("/proc/driver/nvidia/gpus")


class Watcher(Protocol):
    """Who is told how a sweep goes on."""

    def began(self, run: Run) -> None: ...

    def ended(self, run: Run, reason: str) -> None: ...

    def look(self, running: Sequence[Run], waiting: Sequence[Run]) -> None: ...


def shares(n_runs: int, config: RunConfig, jobs: int | None, threads: int | None) -> tuple[int, int]:
    """(runs at a time, threads of each): what is not given is chosen so that their product is the number of cores, and one run
    at a time where there is a GPU that it may use. Raises ConfigError for a number below 1."""
    for key, number in (("--jobs", jobs), ("--threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{key} must be at least 1, got {number}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs is None:
        on_gpu = config.resources.device != "cpu" and GPUS.is_dir()
        jobs = max(1, min(n_runs, 1 if on_gpu else cores // (threads or 1)))
    return jobs, threads or max(1, cores // jobs)


def command(arguments: Sequence[str]) -> list[str]:
    """``agentrl`` with these arguments, in the package that runs here, as a process that is ended with this one."""
    path = [str(entry) for entry in sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}; from agentrl.sweep.processes import end_with; end_with({os.getpid()}); "
        "from agentrl.cli import main; sys.exit(main())"
    )
    return [sys.executable, "-c", code, *arguments]


def end_with(parent: int) -> None:
    """Ends this process as Ctrl-C would when the sweep's is gone (Linux; elsewhere it goes on to its end)."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if sys.platform == "linux" and os.getppid() != parent:  # it died before the line above
        sys.exit("the sweep has ended")


def environment(threads: int) -> dict[str, str]:
    """Of a child: as many threads in numpy's libraries as in torch."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONUNBUFFERED": "1"}


def check(files: Mapping[str, Sequence[str]], seed: int, jobs: int, threads: int) -> None:
    """Lets ``agentrl train --dry-run`` make every part of each recipe, ``jobs`` at a time. ``files``: by recipe the run file and
    the overrides. Raises ConfigError with the first one's complaint."""

    def complaint(given: Sequence[str]) -> str:
        own = (f"run.seed={seed}", f"resources.threads={threads}", "--dry-run")
        done = subprocess.run(
            command(["train", *given, *own]),
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return (_complaint(done.stderr) or _status(done.returncode)) if done.returncode else ""

    with ThreadPoolExecutor(jobs) as pool:
        for name, found in zip(files, pool.map(complaint, files.values()), strict=True):
            if found:
                raise ConfigError(f"{name}: {found}")


class Workers:
    """Runs in processes of their own. As a context it stops at its end what still runs."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self.plan = plan
        self.threads = threads
        self.processes: dict[Run, subprocess.Popen[bytes]] = {}
        self.logged: dict[Run, int] = {}  # bytes that earlier processes of a run have printed

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, run: Run) -> None:
        """Begins a run, or continues it from its last checkpoint."""
        file = self.plan.run_file(run.recipe)
        arguments = [
            "train",
            str(file),
            f"run.seed={run.seed}",
            f"resources.threads={self.threads}",
            "--out",
            str(run.folder),
        ]
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(run.log, "ab") as log:
            self.logged[run] = log.tell()
            self.processes[run] = subprocess.Popen(
                command([*arguments, *(["--resume"] if run.begun else [])]),
                env=environment(self.threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process to hear, which stops its children
            )

    def wait(self, timeout_s: float) -> dict[Run, str]:
        """The runs that have ended, and why ("" where they are complete), after at most ``timeout_s``."""
        with suppress(subprocess.TimeoutExpired):
            next(iter(self.processes.values())).wait(timeout_s)
        codes = {run: process.poll() for run, process in self.processes.items()}
        return {run: self._forget(run, code) for run, code in codes.items() if code is not None}

    def _forget(self, run: Run, code: int) -> str:
        del self.processes[run]
        return reason(run, code, self.logged[run])

    def stop(self) -> None:
        """Ends all processes that still run as Ctrl-C would, and kills what has not ended after ``GRACE_S``."""
        for process in self.processes.values():
            process.terminate()
        ends = time.monotonic() + GRACE_S
        try:
            for process in self.processes.values():
                process.wait(max(0.0, ends - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in self.processes.values():
                process.kill()
        for process in self.processes.values():
            process.wait()
        self.processes = {}


def reason(run: Run, code: int, logged: int = 0) -> str:
    """Why a run is not complete: what its process complained of after ``logged`` bytes, else how it ended; "" for one that is."""
    summary = run.summary()
    if summary.get("status") == "completed":
        return ""
    if code < 0:
        return _status(code)
    log = run.log.read_bytes()[logged:].decode(errors="replace")
    return _complaint(log) or summary.get("error") or _status(code)


def _status(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was killed ({name})"


def _complaint(text: str) -> str:
    """The last line that ``agentrl`` printed about an error; else the last line of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line.removeprefix("agentrl: ") for line in lines if line.startswith("agentrl: ")]
    if own:
        return own[-1]
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else ""


def train_all(workers: Workers, runs: Sequence[Run], jobs: int, watcher: Watcher, reasons: dict[Run, str]) -> None:
    """Trains ``runs``, ``jobs`` at a time, and writes into ``reasons`` why those that failed did. The others go on."""
    waiting = list(runs)
    while waiting or workers.processes:
        while waiting and len(workers.processes) < jobs:
            run = waiting.pop(0)
            watcher.began(run)
            workers.start(run)
        watcher.look(list(workers.processes), waiting)
        for run, why in workers.wait(LOOK_S).items():
            if why:
                reasons[run] = why
            watcher.ended(run, why)
