"""Folders that keep an index between runs: written beside their place and then put there, so that none is half written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from agentrl.errors import GameError


def signature_of(folder: Path) -> str:
    """What the folder keeps an index of; "" where it keeps none."""
    try:
        return str(json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["signature"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def keep(folder: Path, signature: str, write: Callable[[Path], None]) -> None:
    """Has ``write`` fill a folder and puts it in the place of ``folder``. Raises GameError where that cannot be written or holds
    something else."""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        if folder.exists() and not (folder.is_dir() and (signature_of(folder) or not any(folder.iterdir()))):
            raise GameError(f"'{folder}' holds something that is no index; give another folder")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        (draft / "corpus.json").write_text(json.dumps({"signature": signature}), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        raise GameError(f"the index cannot be kept in '{folder}': {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
