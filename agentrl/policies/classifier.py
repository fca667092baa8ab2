"""A sequence classifier with one output over a conversation: what a reward model is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from agentrl.chat.renderer import Renderer
from agentrl.chat.tokenizers import check_exists, first_line, load_tokenizer
from agentrl.errors import CheckpointError, ConfigError
from agentrl.types import Message


class Classifier:
    """f(conversation) -> number, on the model's device, without gradient. Texts act as texts only: the name of a special token in
    them is none."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.renderer = Renderer(tokenizer) if getattr(tokenizer, "chat_template", None) else None
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = limit if isinstance(limit, int) and limit > 0 else None

    @torch.inference_mode()
    def __call__(self, conversations: Sequence[Sequence[Message]], batch_size: int) -> list[float]:
        """One number a conversation, in order, whatever the batches; similar lengths share one."""
        ids = [self._ids(each) for each in conversations]
        order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), index))
        found = [0.0] * len(ids)
        # A decoder's classifier reads the last token that is not padding, which it knows by the padding's id.
        size = 1 if self.model.config.get_text_config().pad_token_id is None else batch_size
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            for index, value in zip(chunk, self._values([ids[index] for index in chunk]), strict=True):
                found[index] = value
        return found

    def _values(self, rows: Sequence[Sequence[int]]) -> list[float]:
        width, device = max(map(len, rows)), next(self.model.parameters()).device
        fill = self.model.config.get_text_config().pad_token_id or 0
        padded = [[*row, *[fill] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        output = self.model(
            input_ids=torch.tensor(padded, device=device), attention_mask=torch.tensor(mask, device=device)
        )
        return output.logits[:, 0].float().tolist()

    def _ids(self, conversation: Sequence[Message]) -> list[int]:
        """The latest ids that fit."""
        if self.renderer is not None:
            ids = self.renderer.prompt(conversation, opens=False)
            return ids if self.limit is None else ids[-self.limit :]
        lines = [("> " if m.get("role") == "assistant" else "") + str(m.get("content")) for m in conversation]
        self.tokenizer.truncation_side = "left"
        bound = {} if self.limit is None else {"truncation": True, "max_length": self.limit}
        # Its own special tokens stay: an encoder reads its value at one of them.
        return list(self.tokenizer("\n".join(lines), split_special_tokens=True, **bound)["input_ids"])


@functools.lru_cache(maxsize=2)
def load_classifier(path: str, device: str = "auto") -> Classifier:
    """The reward model at ``path``, loaded once a process. Raises CheckpointError where it cannot be read, has several outputs or a
    head that was never trained, and ConfigError for a device that is absent."""
    from transformers import AutoModelForSequenceClassification

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            'the reward model\'s device = "cuda", and torch sees no CUDA device here; use "cpu" or "auto"'
        )
    check_exists(path, "config.json")
    tokenizer = load_tokenizer(path)
    try:
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            path, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # safetensors, JSON and hub errors share no base class
        raise CheckpointError(f"the reward model at {path} cannot be read: {first_line(error)}") from error
    model, told = loaded
    if model.config.num_labels != 1:
        raise CheckpointError(f"{path} has {model.config.num_labels} outputs; a reward model has one (num_labels = 1)")
    if missing := sorted(told["missing_keys"]):
        raise CheckpointError(f"{path} is no reward model: its weights have no {', '.join(missing[:3])}")
    return Classifier(model.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"), tokenizer)
