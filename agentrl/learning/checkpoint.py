"""Checkpoints in Hugging Face layout, whole or absent.

    checkpoints/step_12/   config.json  model.safetensors  tokenizer…   what anybody can load
                           training.pt  state.json                      what a resume needs besides
    checkpoints/latest  →  step_12

A checkpoint is written to a temporary folder, flushed and renamed; then ``latest`` is replaced in one operation. A process
that is killed at any moment leaves the previous checkpoint in place.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from agentrl.chat.tokenizers import check_exists, first_line, load_tokenizer
from agentrl.errors import CheckpointError, ConfigError

__all__ = ["build_model", "load_model", "load_state", "load_tokenizer", "save", "steps"]

disable_progress_bar()  # its bars would break the live view


def save(
    checkpoints: Path,
    step: int,
    *,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    training: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    keep: int = 0,
) -> Path:
    """Writes ``step_N`` and points ``latest`` to it; removes all but it and the ``keep - 1`` newest others (0:
    removes none)."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    target, temporary = checkpoints / f"step_{step}", checkpoints / f".step_{step}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if training is not None:
        torch.save(training, temporary / "training.pt")
    if state is not None:
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for file in temporary.iterdir():
        _flush(file)
    _flush(temporary)
    aside = checkpoints / f".step_{step}.{os.getpid()}.old.tmp"
    if target.exists():  # a rerun of this step after a resume
        os.replace(target, aside)
    os.replace(temporary, target)
    _flush(checkpoints)
    _point(checkpoints / "latest", target.name)
    shutil.rmtree(aside, ignore_errors=True)
    others = [number for number in steps(checkpoints) if number != step]
    for old in others[: max(0, len(others) - keep + 1)] if keep else ():
        shutil.rmtree(checkpoints / f"step_{old}")
    return target


def steps(checkpoints: Path) -> list[int]:
    """Numbers of the checkpoints in a folder, ascending."""
    found = [path.name.removeprefix("step_") for path in checkpoints.glob("step_*")]
    return sorted(int(number) for number in found if number.isdigit())


def load_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training, state) of a checkpoint. Raises CheckpointError where it cannot be resumed from."""
    try:
        training = torch.load(path / "training.pt", map_location="cpu", weights_only=True)
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be resumed from: {error}") from error
    return training, state


def load_model(path: str, dtype: str = "float32") -> Any:
    """A causal language model from a folder, or a name that Hugging Face's cache holds. Raises CheckpointError."""
    check_exists(path, "config.json")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
    except Exception as error:  # safetensors, JSON and hub errors share no base class
        raise CheckpointError(f"the model at {path} cannot be read: {first_line(error)}") from error
    return model


def build_model(config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> Any:
    """A model with random weights from a table like ``{model_type = "qwen2", hidden_size = 96, …}``; the vocabulary size and
    special ids come from the tokenizer. Raises ConfigError."""
    fields = dict(config)
    kind = fields.pop("model_type", None)
    if kind is None:
        raise ConfigError('model.config needs model_type, for instance model_type = "qwen2"')
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    try:
        made = AutoConfig.for_model(kind, **{**vocabulary, **ends, **fields})
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made)
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long))  # shapes that do not fit show only here
        return model
    except Exception as error:  # each family of models checks its config in its own way, or divides by zero
        raise ConfigError(f"model.config cannot be built: {first_line(error)}") from error


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, link)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
