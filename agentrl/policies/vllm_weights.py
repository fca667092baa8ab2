"""How a model's weights get into an engine of another process: a folder in shared memory, in Hugging Face's layout.

    folder = WeightsFolder("/dev/shm/…")
    path, n_bytes = folder.write(model, version=3)      # …/3/config.json, …/3/model.safetensors

Every worker of the engine maps the file, also several of a tensor-parallel one, whatever their device. With an adapter (LoRA) the
folder holds either the adapter alone or whole weights with the adapter in them.

An engine's attention may know some sizes of heads only. Larger heads with zeros in the new places compute the same: the zeros add
nothing to q·k, the values' zeros meet zeros of the output projection, rotary positions turn the first places as before, and the
queries carry the factor by which the scale 1/√size would shrink.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from agentrl.errors import AgentRLError, ConfigError

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "agentrl-weights"
LOCK = ".lock"  # in a folder, held for the life of the process that made it
_LEFT = re.compile(rf"{PREFIX}-([0-9]+)-")
PADDED = ("qwen2", "llama")  # families whose heads can grow: no norm over a head, default rotary positions
_HEADS = re.compile(r"\.self_attn\.([qkvo])_proj\.(weight|bias)$")

Named = Iterator[tuple[str, torch.Tensor]]


def has_adapter(model: Any) -> bool:
    """Whether a model is one of peft's."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def head_size(config: Any) -> int:
    """The size of an attention head by a model's config."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def tensors_of(model: Any) -> Named:
    """A model's weights by the names of its checkpoint, each storage once; an adapter's product is added to the weight that it
    changes."""
    if not has_adapter(model):
        yield from model.named_parameters()
        return
    prefix = "base_model.model."
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            continue
        plain = name.removeprefix(prefix)
        if plain.endswith(".base_layer.weight"):
            layer = model.get_submodule(name.removesuffix(".base_layer.weight"))
            weight = weight + layer.get_delta_weight(model.active_adapter).to(weight.dtype)
        yield plain.replace(".base_layer.", "."), weight


def padded_config(config: Any, size: int) -> dict[str, Any]:
    """The config of the same model with heads of ``size``. Raises ConfigError for a model whose heads cannot grow."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    own, kind = head_size(config), config.model_type
    if kind not in PADDED or rope.get("rope_type", "default") != "default" or "partial_rotary_factor" in rope:
        raise ConfigError(
            f"the engine's attention on this device has no heads of size {own}, and those of a {kind} with {rope or 'its'} rotary "
            'positions cannot be filled up; use rollout.policy = "transformers"'
        )
    fields = config.to_dict()
    for name in ("layer_types", "use_sliding_window", "max_window_layers", "sliding_window"):
        fields.pop(name, None)
    # Of the engine's families llama is the one that takes a head's size, biases and the share of it that turns from its config.
    # The share is read as int(size * share): the half keeps it from falling below.
    rope["partial_rotary_factor"] = (own + 0.5) / size
    changes = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "head_dim": size}
    biased = kind == "qwen2" or bool(getattr(config, "attention_bias", False))
    return {**fields, **changes, "attention_bias": False, "qkv_bias": biased, "rope_parameters": rope}


def padded_heads(tensors: Named, own: int, size: int) -> Named:
    """The same weights for heads of ``size`` instead of ``own``. Projections: q, k, v [H·own, D], o [D, H·own]."""
    for name, tensor in tensors:
        found = _HEADS.search(name)
        if found is None:
            yield name, tensor
        elif found[1] == "o":
            if found[2] == "weight":
                heads = tensor.unflatten(1, (-1, own))
                tensor = torch.nn.functional.pad(heads, (0, size - own)).flatten(1)
            yield name, tensor
        else:
            heads = tensor.unflatten(0, (-1, own))
            grown = heads.new_zeros(heads.shape[0], size, *heads.shape[2:])
            grown[:, :own] = heads * (size / own) ** 0.5 if found[1] == "q" else heads
            yield name, grown.flatten(0, 1)


class WeightsFolder:
    """Where weights are handed over; the one before the last is removed with each ``write``, all of it with ``close``.

    ``size``: of the heads, where they must be larger than the model's own. ``adapter_alone``: of an adapted model, ``write``
    writes the adapter only, ``write_base`` what it belongs on. Folders that processes which are gone have left are removed
    first: those whose ``.lock`` nobody holds. Raises AgentRLError where there is no room.
    """

    def __init__(self, *, size: int | None = None, adapter_alone: bool = False, place: Path | None = None) -> None:
        self.size = size
        self.adapter_alone = adapter_alone
        where = place or (SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir()))
        _remove_left(where)
        self._folder = tempfile.TemporaryDirectory(prefix=f"{PREFIX}-{os.getpid()}-", dir=where)
        self.path = Path(self._folder.name)
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._last: Path | None = None
        self._n = 0

    def write(self, model: Any, version: int) -> tuple[Path, int]:
        """A new folder with the model's weights (or its adapter's), and its size in bytes."""
        self._n += 1
        folder = self.path / f"{self._n}-version-{version}"
        folder.mkdir()
        try:
            if self.adapter_alone and has_adapter(model):
                model.save_pretrained(folder, save_embedding_layers=False)
            else:
                self._write(model, folder, tensors_of(model))
        except (OSError, RuntimeError) as error:  # safetensors has no OSError for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise AgentRLError(
                f"the weights cannot be handed to the engine: {error}; {self.path.parent} needs room for two copies of them"
            ) from error
        n_bytes = sum(file.stat().st_size for file in folder.iterdir())
        if self._last is not None:
            shutil.rmtree(self._last, ignore_errors=True)
        self._last = folder
        return folder, n_bytes

    def write_base(self, model: Any) -> Path:
        """The weights that an adapter belongs on, without it."""
        folder = self.path / "base"
        folder.mkdir()
        prefix = "base_model.model."
        plain = (
            (name.removeprefix(prefix).replace(".base_layer.", "."), weight)
            for name, weight in model.named_parameters()
            if ".lora_" not in name
        )
        self._write(model, folder, plain)
        return folder

    def _write(self, model: Any, folder: Path, tensors: Named) -> None:
        config = (model.get_base_model() if has_adapter(model) else model).config
        own = head_size(config)
        fields = config.to_dict()
        if self.size is not None and self.size != own:
            fields, tensors = padded_config(config, self.size), padded_heads(tensors, own, self.size)
        else:
            fields["architectures"] = [type(model.get_base_model() if has_adapter(model) else model).__name__]
        fields["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(fields, default=str), encoding="utf-8")
        held = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors}
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    def close(self) -> None:
        """Removes everything; twice is once."""
        self._folder.cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_left(where: Path) -> None:
    """Shared memory outlives a process that is killed; what such a one has left is removed."""
    for path in where.glob(f"{PREFIX}-*"):
        if _is_left(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Whether whoever made a folder is gone. The number of a process says nothing where containers share the memory (vLLM's
    images run with --ipc=host), and is given again: the lock decides, and the number only where there is none."""
    try:
        handle = os.open(path / LOCK, os.O_RDWR)
    except FileNotFoundError:
        found = _LEFT.match(path.name)
        return found is not None and not Path(f"/proc/{found[1]}").exists()
    except OSError:  # somebody else's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
