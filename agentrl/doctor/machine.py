"""Checks of a machine: what Python, torch, memory, disk and the system give."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentrl import registry
from agentrl.browsers import find_chromium
from agentrl.doctor.checks import Finding, collector, ok
from agentrl.errors import AgentRLError, ConfigError

CHECKS, check = collector("machine")
PYTHON = (3, 11)
GIB = 2**30
LITTLE_DISK, LITTLE_MEMORY, LITTLE_SHM = 2 * GIB, 4 * GIB, GIB


@dataclass
class Machine:
    """What the checks ask the system. ``root`` stands before /proc, /sys and /dev; ``find`` finds programs, ``browser``
    a Chromium (tests give their own)."""

    runs: Path = Path("runs")
    root: Path = Path("/")
    find: Callable[[str], str | None] = shutil.which
    browser: Callable[[], Path] = find_chromium
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def read(self, path: str) -> str:
        """A small file of the system; "" where there is none."""
        try:
            return (self.root / path).read_text(encoding="ascii").strip()
        except OSError:
            return ""

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes by the names of /proc/meminfo."""
        rows = (line.split() for line in self.read("proc/meminfo").splitlines())
        return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if len(row) > 1}

    @property
    def memory_limit(self) -> int | None:
        """The container's own limit in bytes (cgroup, version 2 or 1), where it is below the machine's memory."""
        for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
            text = self.read(path)
            if text.isdecimal() and int(text) < self.memory.get("MemTotal", 0):
                return int(text)
        return None

    @property
    def core_limit(self) -> float | None:
        """How many cores' time the container gets (cgroup), where that is less than the cores that this process may use."""
        words = self.read("sys/fs/cgroup/cpu.max").split()
        if len(words) != 2 or not words[0].isdecimal():
            quota, period = (self.read(f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
            words = [quota, period]
        if not all(word.isdecimal() for word in words):
            return None
        limit = int(words[0]) / int(words[1])
        return limit if limit < self.cores else None

    @cached_property
    def torch(self) -> dict[str, Any] | None:
        """``probes.torch_facts``; None where the extra 'train' is missing."""
        if find_spec("torch") is None or find_spec("transformers") is None or find_spec("accelerate") is None:
            return None
        from agentrl.learning import probes

        return probes.torch_facts()


@check()
def python(machine: Machine) -> Finding:
    """The interpreter and the system."""
    version = platform.python_version()
    says = f"Python {version} on {platform.system()} {platform.machine()}"
    if sys.version_info < PYTHON:
        return Finding(
            "failure",
            says,
            f"agentrl needs Python {'.'.join(map(str, PYTHON))} or later",
            "does not install",
            "a newer Python in a virtual environment",
        )
    if platform.system() != "Linux":
        return Finding(
            "note",
            says,
            "the python tool cannot confine processes here, and memory is only guessed",
            "trains and evaluates; refuses python tools whose isolation is required",
            'backend = "docker" in the tool\'s table',
        )
    return ok(says, version=version)


@check()
def torch(machine: Machine) -> Finding:
    """Torch: its build, its threads, the GPUs that it sees."""
    facts = machine.torch
    gpu = machine.find("nvidia-smi") is not None or (machine.root / "dev" / "nvidia0").exists()
    if facts is None:
        return Finding(
            "warning",
            "torch, transformers or accelerate is not installed",
            "models can be neither trained nor sampled from",
            "plays, checks environments, and evaluates models behind an API",
            "pip install 'agentrl-toolkit[train]'",
        )
    devices = facts["devices"]
    shown = "; ".join(f"{d['name']}, {_gib(d['free'])} of {_gib(d['bytes'])} free" for d in devices)
    says = f"torch {facts['version']} ({facts['build']}), {facts['threads']} threads, {shown or 'no GPU'}"
    numbers = {"version": facts["version"], "build": facts["build"], "threads": facts["threads"], "devices": devices}
    if gpu and not devices:
        cpu = facts["build"] == "cpu"
        return Finding(
            "warning",
            says,
            "there is an NVIDIA GPU, and torch "
            + ("is a build without CUDA" if cpu else "cannot use it: driver, permissions or CUDA_VISIBLE_DEVICES"),
            "computes on the CPU",
            "a CUDA build of the same torch version" if cpu else "the driver, or CUDA_VISIBLE_DEVICES",
            numbers,
        )
    if devices and not facts["bfloat16"]:
        return Finding(
            "note",
            says,
            "the GPU does not compute in bfloat16",
            "computes in float32 unless model.dtype says otherwise",
            'model.dtype = "float32"',
            numbers,
        )
    return Finding("ok", says, numbers=numbers)


@check()
def cores(machine: Machine) -> Finding:
    """Cores that this process may use, and a container's limit."""
    limit, n = machine.core_limit, machine.cores
    if limit is not None:
        whole = max(1, int(limit))
        return Finding(
            "warning",
            f"{n} cores, of which this container gets the time of {limit:g}",
            "threads beyond that limit are stopped again and again, and all wait for the stopped one",
            f"starts as many threads as there are cores: {n}",
            f"resources.threads = {whole}",
            {"cores": n, "limit": limit},
        )
    return ok(f"{n} cores; resources.threads sets torch's threads", cores=n)


@check()
def openmp(machine: Machine) -> Finding:
    """Environment variables that change how threads behave."""
    policy, threads = machine.environ.get("OMP_WAIT_POLICY", ""), machine.environ.get("OMP_NUM_THREADS", "")
    if policy.upper() == "ACTIVE":
        return Finding(
            "warning",
            "OMP_WAIT_POLICY = ACTIVE",
            "idle threads spin, which makes training several times slower beside any other process",
            "leaves a variable that is set alone (it would set PASSIVE)",
            "unset OMP_WAIT_POLICY",
        )
    if threads.isdecimal() and int(threads) < machine.cores:
        return Finding(
            "note",
            f"OMP_NUM_THREADS = {threads}, with {machine.cores} cores",
            "libraries besides torch use that many threads",
            "sets torch's own threads by resources.threads, else to the number of cores",
            f"resources.threads = {threads}, to keep torch to it, too",
        )
    return ok(f"OMP_WAIT_POLICY {policy or 'not set'}, OMP_NUM_THREADS {threads or 'not set'}")


@check()
def memory(machine: Machine) -> Finding:
    """Main memory, and a container's limit."""
    total, free, limit = machine.memory.get("MemTotal"), machine.memory.get("MemAvailable"), machine.memory_limit
    if total is None or free is None:
        return Finding("note", "unknown", "this system does not tell", "starts runs without asking", "nothing")
    room = min(free, limit or free)
    says = f"{_gib(free)} of {_gib(total)} free" + (f"; this container may use {_gib(limit)}" if limit else "")
    numbers = {"total": total, "free": free, "limit": limit}
    if room < LITTLE_MEMORY:
        return Finding(
            "warning",
            says,
            "the system ends a process that wants more than there is",
            "says what a run needs (agentrl train --dry-run), and does not watch it",
            "optimizer.token_budget, rollout.batch_size, model.lora, model.gradient_checkpointing",
            numbers,
        )
    return Finding("ok", says, numbers=numbers)


@check()
def shared_memory(machine: Machine) -> Finding:
    """/dev/shm, which inference engines and Ray use."""
    place = machine.root / "dev" / "shm"
    if not place.is_dir():
        return Finding(
            "note", "there is no /dev/shm", "vLLM and Ray need it", "does not use it itself", "docker run --shm-size=8g"
        )
    size = shutil.disk_usage(place).total
    if size < LITTLE_SHM:
        return Finding(
            "note",
            f"/dev/shm holds {_gib(size)}",
            "vLLM and Ray may fail or slow down with so little",
            "does not use it itself",
            "docker run --shm-size=8g",
            {"bytes": size},
        )
    return ok(f"/dev/shm holds {_gib(size)}", bytes=size)


@check()
def disk(machine: Machine) -> Finding:
    """Room for run folders in the current folder."""
    place = machine.runs.absolute()
    while not place.exists():
        place = place.parent
    free, writable = shutil.disk_usage(place).free, os.access(place, os.W_OK)
    if not writable:
        return Finding(
            "failure",
            f"{machine.runs} cannot be written here",
            "a run has nowhere to put its metrics and checkpoints",
            "refuses to start one",
            "another folder: --out, or cd",
        )
    if free < LITTLE_DISK:
        return Finding(
            "warning",
            f"{_gib(free)} free for {machine.runs}",
            "a checkpoint takes the weights and, to resume, 12 bytes a trained parameter",
            "writes checkpoints whole or not at all, and stops a run when the disk is full",
            "checkpoint.keep, checkpoint.every, or --out on a larger disk",
            {"free": free},
        )
    return ok(f"{_gib(free)} free for {machine.runs}", free=free)


@check()
def browser(machine: Machine) -> Finding:
    """A Chromium and Playwright, for environments with a browser."""
    try:
        program, wanted = str(machine.browser()), ""
    except ConfigError as error:
        program, wanted = None, str(error)
    package = find_spec("playwright") is not None
    if program and package:
        return ok(f"playwright and {program}", program=program)
    return Finding(
        "note",
        "playwright is not installed" if program else wanted,
        "environments and tools with a browser cannot be used",
        "says so when one is asked for",
        "pip install 'agentrl-toolkit[browser]', then playwright install chromium (or the system's package chromium)",
        {"program": program},
    )


@check()
def isolation(machine: Machine) -> Finding:
    """What confines the programs of the tool python here."""
    try:
        found: dict[str, Sequence[str]] = registry.get("tool", "python").isolation()
    except (AgentRLError, OSError) as error:
        return Finding(
            "warning",
            f"programs cannot be confined: {error}",
            "the tool python would run what a model wrote without walls",
            "refuses to start the tool",
            'backend = "docker" in the tool\'s table',
        )
    missing = [name for name, layers in found.items() if not layers]
    held = ", ".join(f"{name} ({' + '.join(layers)})" for name, layers in found.items() if layers)
    engine = next((name for name in ("docker", "podman") if machine.find(name)), None)
    numbers = {"layers": {name: list(layers) for name, layers in found.items()}, "containers": engine}
    if missing:
        return Finding(
            "warning",
            f"no layer for {', '.join(missing)}; {held}",
            "a program that a model wrote is not held back there",
            "runs it with what there is, and refuses where the tool's require names what is missing",
            f'require = ["{missing[0]}"] in the tool\'s table, to refuse; or backend = "{engine or "docker"}"',
            numbers,
        )
    return Finding("ok", f"programs of the tool python are confined: {held}", numbers=numbers)


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:,.1f} GiB"
