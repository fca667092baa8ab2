"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) by peft: W x + (alpha / rank) · B A x, where only A and B are trained.

B starts at zero, so a new adapter changes nothing. The weights below it stay as they are, which also makes them the reference
policy: ``Reference`` needs no second model where there is an adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from agentrl import seeding
from agentrl.errors import CheckpointError, ConfigError


def has_adapter(model: Any) -> bool:
    """Whether a model is one of peft's."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def causal_lm(model: Any) -> Any:
    """The transformers model itself, with its adapter in it where it has one."""
    return model.get_base_model() if has_adapter(model) else model


def add_adapter(model: Any, *, rank: int, alpha: float, targets: str | Sequence[str], base: str, seed: int) -> Any:
    """The model with a new adapter, whose parameters are the only ones that are trained (in float32, whatever the model's).

    ``targets``: "all-linear" (every linear layer but the head) or the names of layers; ``base`` is where the model was
    read from, for checkpoints to name. Raises ConfigError for targets that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    place = str(Path(base).resolve()) if Path(base).is_dir() else base
    chosen = targets if isinstance(targets, str) else list(targets)
    scale: Any = alpha  # peft says int, and only ever divides by the rank
    settings = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=scale, target_modules=chosen)
    model.name_or_path = place  # what peft writes into its config
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.seed(seed, "lora"))
            return get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"model.lora.targets = {chosen!r} cannot be used: {str(error).splitlines()[0]}") from error


def check_adapter(model: Any, *, rank: int, alpha: float, path: str) -> None:
    """Raises ConfigError where the adapter that was read from ``path`` is not the one that the run file asks for."""
    found = model.peft_config["default"]
    if (found.r, found.lora_alpha) != (rank, alpha):
        raise ConfigError(
            f"the adapter at {path} has rank {found.r} and alpha {found.lora_alpha:g}, but model.lora asks for {rank} and "
            f"{alpha:g}; ask for what it has, or export it merged and start a new one on that"
        )


def base_of(path: str) -> str:
    """Where the model below a saved adapter is. Raises CheckpointError where the adapter does not tell or it is not there."""
    from peft import PeftConfig

    try:
        base = PeftConfig.from_pretrained(path).base_model_name_or_path
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the adapter at {path} cannot be read: {error}") from error
    looks_local = base is not None and Path(base).is_absolute()
    if not base or (looks_local and not Path(base).is_dir()):
        raise CheckpointError(
            f"the adapter at {path} belongs on the model at {base}, which is not there; put it back, or write its new "
            "place into adapter_config.json (base_model_name_or_path)"
        )
    return base


def read_adapter(model: Any, path: str) -> Any:
    """The model with the adapter at ``path``, trainable. Raises CheckpointError where it cannot be read or does not fit."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, path, is_trainable=True, local_files_only=True)
    except Exception as error:  # safetensors, JSON, peft and torch share no base class
        raise CheckpointError(f"the adapter at {path} cannot be read: {str(error).splitlines()[0]}") from error


def load_adapter_weights(model: Any, path: Path) -> None:
    """Puts the weights of the adapter at ``path`` into the model's own. Raises CheckpointError where they do not fit."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the adapter at {path} cannot be read: {error}") from error
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in weights.items()}:
        raise CheckpointError(f"the adapter at {path} does not fit the run file's [model]")
    set_peft_model_state_dict(model, weights)


def merged(model: Any) -> Any:
    """The model without an adapter: its weights with what the adapter adds, all of them trainable again."""
    return model.merge_and_unload().requires_grad_(True)


class Reference:
    """The policy as it is when this is made, frozen. With an adapter it costs no second model: a new adapter is switched off, one
    that has been trained before is kept as it was, and only the adapter; without one the whole model is copied."""

    def __init__(self, model: Any) -> None:
        self.copy: Any = None
        self.adapter: list[tuple[torch.Tensor, torch.Tensor]] = []  # (parameter, its value at the start)
        if not has_adapter(model):
            self.copy = copy.deepcopy(model).eval().requires_grad_(False)
        elif any(bool(p.any()) for name, p in model.named_parameters() if ".lora_B." in name):
            self.adapter = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    @contextmanager
    def of(self, model: Any) -> Iterator[Any]:
        """The frozen policy, to compute log-probs with in the block. ``model`` is what it was made of."""
        if self.copy is not None:
            yield self.copy
        elif not self.adapter:
            with model.disable_adapter():
                yield model
        else:
            now = [p.detach().clone() for p, _ in self.adapter]
            self._put(value for _, value in self.adapter)
            try:
                yield model
            finally:
                self._put(now)

    @torch.no_grad()
    def _put(self, values: Any) -> None:
        for (parameter, _), value in zip(self.adapter, values, strict=True):
            parameter.copy_(value)
