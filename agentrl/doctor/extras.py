"""What is installed besides the core: one line an extra, with what it is for and how it is had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from agentrl.doctor.checks import Check, Finding, ok
from agentrl.doctor.machine import Machine
from agentrl.errors import INSTALL

PROJECT = "agentrl-toolkit"


@dataclass(frozen=True, slots=True)
class Extra:
    """``packages``: the least version of each, by the name under which it is installed. ``install``: the command where it is not
    pip's."""

    use: str
    packages: Mapping[str, str]
    install: str = ""

    def command(self, name: str) -> str:
        return self.install or f"pip install '{PROJECT}[{name}]'"


EXTRAS: Mapping[str, Extra] = {
    "train": Extra(
        "models: training, sampling, warm starts",
        {
            "torch": "2.11",
            "transformers": "5.16",
            "accelerate": "1.10",
            "peft": "0.18",
            "safetensors": "0.6",
            "jaxtyping": "0.3",
        },
    ),
    "vllm": Extra("sampling with the engine vLLM", {"vllm": "0.32"}, INSTALL["vllm"]),
    "ray": Extra("training on several machines", {"ray": "2.50", "psutil": "5.9"}),
    "browser": Extra("environments and tools with a browser", {"playwright": "1.50"}),
    "search": Extra("BM25 retrieval for agentrl/SearchQA-v0 and the search tool", {"bm25s": "0.2.13"}),
    "mcp": Extra("tools of MCP servers", {"mcp": "2.0"}),
    "alfworld": Extra("ALFWorld games in their own engine", {"alfworld": "0.4.2", "textworld": "1.7.0"}),
    "miniwob": Extra("MiniWoB++ pages", {"miniwob": "1.1"}),
    "track": Extra("metrics in trackio", {"trackio": "0.30"}),
    "plots": Extra("pictures of agentrl study and agentrl sweep", {"matplotlib": "3.10"}),
    "bfcl": Extra("entries for agentrl/BFCL-v0", {"bfcl-eval": "2026.3.23"}, "make bfcl"),
}


def look(name: str, extra: Extra) -> Finding:
    """Whether an extra is installed, in versions that are new enough."""
    found = {package: version_of(package) for package in extra.packages}
    missing = [package for package, version in found.items() if version is None]
    old = [
        f"{package} {version} (wanted {extra.packages[package]} or later)"
        for package, version in found.items()
        if version is not None and numbers_of(version) < numbers_of(extra.packages[package])
    ]
    if missing:
        none_there = len(missing) == len(found)
        return Finding(
            "note",
            "not installed" if none_there else f"not complete: {', '.join(missing)} missing",
            f"without it: no {extra.use}",
            "does without, and says so when it is asked for",
            extra.command(name),
            {"versions": found},
        )
    if old:
        return Finding(
            "warning",
            f"too old: {', '.join(old)}",
            "agentrl is not tested with it",
            "tries it all the same",
            extra.command(name).replace("install", "install --upgrade", 1),
            {"versions": found},
        )
    shown = ", ".join(f"{package} {version}" for package, version in found.items())
    return ok(f"{extra.use}: {shown}", versions=found)


def version_of(package: str) -> str | None:
    """The installed version, also of a build of another name; None where there is none."""
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def numbers_of(version: str) -> tuple[int, ...]:
    """The release of a version, to compare.

    >>> numbers_of("2.13.0+cpu") >= numbers_of("2.11"), numbers_of("1.7.0") >= numbers_of("1.7.0")
    (True, True)
    """
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def _check(name: str, extra: Extra) -> Check[Machine]:
    def installed(machine: Machine) -> Finding:
        return look(name, extra)

    installed.__doc__ = f"The extra {name}: {extra.use}."
    return Check(f"extra {name}", "extras", (), installed)


CHECKS = [_check(name, extra) for name, extra in EXTRAS.items()]
