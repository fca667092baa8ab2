"""Gradient checkpointing (https://arxiv.org/abs/1604.06174): a layer keeps its input only and is computed again in backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from agentrl.errors import ConfigError


class LayerCheckpoints:
    """The layers of a transformers model that are computed again in backward, in the block of ``on``.

    transformers ties this to a layer's training mode, which learning here never uses: only the layer itself is put into
    it, what stands inside (dropout) is not. Raises ConfigError for a model without such layers, and for one whose layers
    drop out by themselves and so would compute something else.
    """

    def __init__(self, model: Any) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not self.layers or not model.supports_gradient_checkpointing:
            raise ConfigError(
                f"{type(model).__name__} has no gradient checkpointing; set model.gradient_checkpointing = false"
            )
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()  # only the reentrant kind needs it
        ids = torch.arange(4, device=next(model.parameters()).device).unsqueeze(0)
        model.eval()
        with torch.no_grad():
            plain = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            with self.on():
                again = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        if not torch.equal(plain, again):
            raise ConfigError(
                f"{type(model).__name__} applies dropout in its layers themselves, which gradient checkpointing would switch "
                "on; set model.gradient_checkpointing = false, or its dropout to 0"
            )

    @contextmanager
    def on(self) -> Iterator[None]:
        """Layers are computed again in backward; outside of it a cache can be used."""
        for layer in self.layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in self.layers:
                layer.training = False
