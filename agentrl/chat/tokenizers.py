"""The tokenizer of a checkpoint, read as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. Raises CheckpointError."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    check_exists(path, "tokenizer.json")
    try:
        # AutoTokenizer goes by the model's type where transformers distrusts a checkpoint's own word ("qwen2" is one such
        # type), and would cut a word-level vocabulary into bytes. A tokenizer saved as plain tokenizer.json is read as such.
        settings = Path(path) / "tokenizer_config.json"
        saved = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        plain = saved.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
        loader = PreTrainedTokenizerFast if plain else AutoTokenizer
        tokenizer: Any = loader.from_pretrained(path, local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exception for a broken file
        raise unreadable("tokenizer", path, error) from error
    return tokenizer


def unreadable(part: str, path: str, error: Exception) -> CheckpointError:
    """What to say of a ``part`` of the checkpoint at ``path`` that could not be read."""
    if isinstance(error, OSError) and not is_folder(path):  # transformers speaks of a host that it was told not to ask
        return CheckpointError(
            f"the {part} at {path} cannot be read: there is no such folder, and no model of that name on this machine; nothing is "
            "downloaded"
        )
    return CheckpointError(f"the {part} at {path} cannot be read: {first_line(error)}")


def is_folder(path: str) -> bool:
    """Whether a path names a folder, and not a model of Hugging Face's hub."""
    return path.startswith((".", "/", "runs/", "configs/")) or Path(path).exists()


def check_exists(path: str, file: str) -> None:
    """Raises CheckpointError where ``path`` is meant as a folder and has no such file."""
    if is_folder(path) and not (Path(path) / file).is_file():
        raise CheckpointError(f"there is no checkpoint at {path} (no {file} in it)")


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {rest[0].strip()}" if rest and first.endswith(":") else first
