"""Checkpoints in Hugging Face layout, whole or absent.

    checkpoints/step_12/   config.json  model.safetensors  tokenizer…   what anybody can load
                           training.pt  state.json                      what a resume needs besides
                           SHA256SUMS                                   of all of them, as sha256sum -c reads it
    checkpoints/latest  →  step_12
    checkpoints/best    →  step_8                                       where a run keeps it; it is never removed

With LoRA a checkpoint holds the adapter in peft's layout (adapter_config.json, which names the model below it, and
adapter_model.safetensors) in place of the first two; ``export`` writes whole weights.

A checkpoint is written to a temporary folder, flushed and renamed; then ``latest`` is replaced in one operation. A process
that is killed at any moment leaves the previous checkpoint in place. A resume looks at every file before it believes one,
and whoever loads the model alone at the model's.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from agentrl.chat.tokenizers import check_exists, first_line, load_tokenizer, unreadable
from agentrl.errors import AgentRLError, CheckpointError, ConfigError
from agentrl.learning import lora

__all__ = [
    "build_model",
    "check_whole",
    "export",
    "load_model",
    "load_state",
    "load_tokenizer",
    "load_weights",
    "point_best",
    "prune",
    "recover",
    "remedy",
    "save",
    "steps",
    "write_model",
]

SUMS = "SHA256SUMS"
OF_RESUME = ("training.pt", "state.json")  # what is no part of the model

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
    best: int | None = None,
) -> Path:
    """Writes ``step_N`` and points ``latest`` to it, and ``best`` to the step that is given (None: leaves it); removes what
    ``prune`` does. Raises AgentRLError, with nothing left behind, where it cannot be written."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    target, temporary = checkpoints / f"step_{step}", checkpoints / f".step_{step}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    complete = False
    try:
        _write(temporary, model, tokenizer, training, state)
        complete = True
    except (OSError, RuntimeError, SafetensorError) as error:  # of the last two a full disk is no OSError
        raise AgentRLError(f"the checkpoint {target} cannot be written: {first_line(error)}") from error
    finally:
        if not complete:
            shutil.rmtree(temporary, ignore_errors=True)  # weights are what a full disk has no room for
    aside = checkpoints / f".step_{step}.{os.getpid()}.old.tmp"
    if target.exists():  # a rerun of this step after a resume
        os.replace(target, aside)
    os.replace(temporary, target)
    _flush(checkpoints)
    _point(checkpoints / "latest", target.name)
    shutil.rmtree(aside, ignore_errors=True)
    if best is not None:
        point_best(checkpoints, best)
    prune(checkpoints, step, keep)
    return target


def point_best(checkpoints: Path, step: int | None) -> None:
    """Points ``best`` to a step; None: there is none."""
    if step is not None:
        _point(checkpoints / "best", f"step_{step}")
    else:
        (checkpoints / "best").unlink(missing_ok=True)


def prune(checkpoints: Path, step: int, keep: int) -> None:
    """Removes all but ``step``, the ``keep - 1`` newest others (0: removes none) and what ``best`` points to."""
    link = checkpoints / "best"
    best = os.readlink(link) if link.is_symlink() else ""
    others = [number for number in steps(checkpoints) if number != step]
    for old in others[: max(0, len(others) - keep + 1)] if keep else ():
        if best != f"step_{old}":
            aside = checkpoints / f".step_{old}.{os.getpid()}.old.tmp"
            os.replace(checkpoints / f"step_{old}", aside)  # what is half removed must not look like a checkpoint
            shutil.rmtree(aside)


def _write(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    training: dict[str, Any] | None,
    state: dict[str, Any] | None,
) -> None:
    """Everything of a checkpoint, flushed to disk."""
    write_model(folder, model, tokenizer)
    if training is not None:
        torch.save(training, folder / "training.pt")
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    lines = [f"{_sum(file)}  {file.name}" for file in sorted(folder.iterdir())]
    (folder / SUMS).write_text("\n".join([_heading(len(lines)), *lines, ""]), encoding="utf-8")
    for file in folder.iterdir():
        _flush(file)
    _flush(folder)


def _heading(n: int) -> str:
    return f"# of {n} files"  # a list that was cut is found out


def _sum(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_model(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Model (of an adapted one: the adapter) and tokenizer, as transformers and peft read them."""
    if lora.has_adapter(model):
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def export(checkpoint: Path, folder: Path, dtype: str = "float32", *, merge: bool = True) -> None:
    """Writes the model and tokenizer of a checkpoint alone. An adapter is merged into the weights below it, in float32, or
    written as it is where not ``merge``. Raises CheckpointError for a checkpoint that cannot be read."""
    adapted = (checkpoint / "adapter_config.json").is_file()
    model = load_model(str(checkpoint), "float32" if adapted and merge else dtype)
    if adapted and merge:
        model = lora.merged(model).to(getattr(torch, dtype))
    write_model(folder, model, load_tokenizer(str(checkpoint)))


def steps(checkpoints: Path) -> list[int]:
    """Numbers of the checkpoints in a folder, ascending."""
    found = [path.name.removeprefix("step_") for path in checkpoints.glob("step_*")]
    return sorted(int(number) for number in found if number.isdigit())


def load_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training, state) of a checkpoint, each of whose files is looked at. Raises CheckpointError where it cannot be resumed from;
    the message names the file and what to do."""
    check_whole(path)
    training = _read(path, "training.pt", lambda file: torch.load(file, map_location="cpu", weights_only=True))
    state = _read(path, "state.json", lambda file: json.loads(file.read_text(encoding="utf-8")))
    return training, state


def _read(path: Path, name: str, reader: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        found = reader(path / name)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be resumed from: {name}: {first_line(error)}; {remedy(path)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} cannot be resumed from: {name} holds no table; {remedy(path)}")
    return found


def check_whole(path: Path) -> None:
    """Raises CheckpointError where a file of a checkpoint is not what was written, and says which checkpoint beside it is whole.
    A checkpoint without SHA256SUMS is of an older version, and is believed."""
    if problem := _damage(path):
        raise CheckpointError(f"{path} cannot be resumed from: {problem}; {remedy(path)}")


def _check_model(path: Path) -> None:
    """Raises CheckpointError where a model's files are not those that were written. Only agentrl's own list is believed: another
    program may have written one of that name in another form."""
    try:
        own = (path / SUMS).read_bytes().startswith(b"# of ")
    except OSError:  # there is none
        return
    if own and (problem := _damage(path, skip=OF_RESUME)):
        raise CheckpointError(
            f"the model at {path} cannot be read: {problem}; take another checkpoint, or remove {SUMS} if the file was changed on "
            "purpose"
        )


def _damage(path: Path, skip: Sequence[str] = ()) -> str:
    """What is wrong with a checkpoint's files, but those of ``skip``; "" where nothing is."""
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be read: {first_line(error)}"
    if lines[:1] != [_heading(len(lines) - 1)]:
        return f"{SUMS} is damaged"
    for line in lines[1:]:
        digest, _, name = line.partition("  ")
        if name in skip:
            continue
        try:
            if _sum(path / name) != digest:
                return f"{name} is damaged ({SUMS} does not agree)"
        except OSError as error:
            return f"{name or SUMS} cannot be read: {error.strerror}"
    return ""


def remedy(latest: Path) -> str:
    """What to do where the checkpoint ``latest`` is damaged: go on from the newest whole one beside it."""
    checkpoints, broken = latest.parent, os.path.realpath(latest)
    for step in reversed(steps(checkpoints)):
        older = checkpoints / f"step_{step}"
        if os.path.realpath(older) != broken and (older / "state.json").is_file() and not _damage(older):
            command = shlex.join(["ln", "-sfn", older.name, str(checkpoints / "latest")])
            return f"{older.name} beside it is whole: to go on from there, run `{command}` and resume again"
    return "no other checkpoint beside it is whole; start anew without --resume"


def recover(checkpoints: Path) -> None:
    """Puts a checkpoint back that a kill caught while it was being replaced, and points ``latest`` to the
    first one where a kill came before that. For a process that holds the run folder's lock."""
    latest = checkpoints / "latest"
    if latest.is_symlink() and not latest.exists():
        for aside in checkpoints.glob(f".{os.readlink(latest)}.*.old.tmp"):
            os.replace(aside, checkpoints / os.readlink(latest))
    found = [checkpoints / f"step_{step}" for step in steps(checkpoints)]
    if not os.path.lexists(latest) and len(found) == 1 and (found[0] / SUMS).is_file() and not _damage(found[0]):
        _point(latest, found[0].name)


def load_model(path: str, dtype: str = "float32") -> Any:
    """A causal language model from a folder, or a name that Hugging Face's cache holds; for an adapter's folder the model below it
    with the adapter on, trainable. Raises CheckpointError, also where a file is not the one that ``save`` wrote."""
    _check_model(Path(path))
    return _read_model(path, dtype)


def _read_model(path: str, dtype: str) -> Any:
    if (Path(path) / "adapter_config.json").is_file():
        return lora.read_adapter(load_model(lora.base_of(path), dtype), path)
    check_exists(path, "config.json")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
    except Exception as error:  # safetensors, JSON and hub errors share no base class
        raise unreadable("model", path, error) from error
    return model


def load_weights(model: Any, checkpoint: Path) -> None:
    """Puts the weights of a checkpoint, whose files ``load_state`` has looked at, into ``model``, an adapter's into its adapter.
    Raises CheckpointError where they do not fit."""
    if lora.has_adapter(model):
        lora.load_adapter_weights(model, checkpoint)
        return
    weights = _read_model(str(checkpoint), str(model.dtype).removeprefix("torch.")).state_dict()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the model at {checkpoint} does not fit the run file's [model]") from error


def build_model(config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int, dtype: str = "float32") -> Any:
    """A model with random weights from a table like ``{model_type = "qwen2", hidden_size = 96, …}``; the vocabulary size and
    special ids come from the tokenizer. Weights are drawn in float32 and then rounded to ``dtype``. Raises ConfigError."""
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
        return model.to(getattr(torch, dtype))
    except Exception as error:  # each family of models checks its config in its own way, or divides by zero
        raise ConfigError(f"model.config cannot be built: {first_line(error)}") from error


def set_attention(model: Any, name: str) -> None:
    """How the model computes attention, by transformers' names; "auto" leaves what it chose. Raises ConfigError."""
    if name == "auto":
        return
    if name == "flash_attention_2" and model.dtype == torch.float32:
        raise ConfigError(
            'model.attention = "flash_attention_2" computes in bfloat16 only; set model.dtype = "bfloat16"'
        )
    try:
        lora.causal_lm(model).set_attn_implementation(name)
    except (ImportError, ValueError) as error:  # not installed, or not for this model
        raise ConfigError(f'model.attention = "{name}": {first_line(error)}') from error


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
