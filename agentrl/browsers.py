"""Where a Chromium is: one that Playwright downloaded, or the system's own."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from agentrl.errors import ConfigError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_CACHES = {"darwin": "Library/Caches/ms-playwright", "win32": "AppData/Local/ms-playwright"}
_INSIDE = (
    "chrome-linux*/chrome",
    "chrome-mac*/*.app/Contents/MacOS/*",
    "chrome-win*/chrome.exe",
    "chrome-headless-shell-*/*headless*shell*",
)
_APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def find_chromium() -> Path:
    """The browser's program: what $AGENTRL_CHROMIUM names, else the newest that Playwright downloaded, else one on the PATH.

    Raises ConfigError where there is none, with the commands that install one.
    """
    if named := os.environ.get("AGENTRL_CHROMIUM"):
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise ConfigError(
                f"AGENTRL_CHROMIUM names {named}, which is no program; name a Chromium or Chrome, or unset it"
            )
        return Path(named)
    found = next(_candidates(), None)
    if found is None:
        raise ConfigError(
            "no Chromium was found: install one with `apt-get install chromium`, or with `pip install "
            "'agentrl-toolkit[browser]'` and `playwright install chromium`, or name one by AGENTRL_CHROMIUM"
        )
    return found


def _candidates() -> Iterator[Path]:
    yield from _downloaded()
    for name in NAMES:
        if place := shutil.which(name):
            yield Path(place)
    yield from (Path(place) for place in _APPLICATIONS if os.access(place, os.X_OK))


def _downloaded() -> Iterator[Path]:
    """Playwright's own, whole browsers before headless shells, newer ones first."""
    said = os.environ.get("PLAYWRIGHT_BROWSERS_PATH", "")
    root = Path(said) if said not in ("", "0") else Path.home() / _CACHES.get(sys.platform, ".cache/ms-playwright")
    for kind in ("chromium", "chromium_headless_shell"):
        folders = [each for each in root.glob(f"{kind}-*") if re.fullmatch(rf"{kind}-\d+", each.name)]
        for folder in sorted(folders, key=lambda each: int(each.name.rpartition("-")[2]), reverse=True):
            for pattern in _INSIDE:
                yield from (
                    each for each in sorted(folder.glob(pattern)) if each.is_file() and os.access(each, os.X_OK)
                )
