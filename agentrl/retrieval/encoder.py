"""Embeddings of texts by a transformers model: what a dense retriever stands on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from agentrl.chat.tokenizers import check_exists, first_line, load_tokenizer
from agentrl.errors import CheckpointError
from agentrl.seeding import stable_hash

EDGE = 1 << 20  # bytes of the weights, from either end, by which an encoder is known again


class TextEncoder:
    """(texts, kind) -> [n, d] float32, in the way of E5 (arXiv 2212.03533): "query: " or "passage: " before the text, the mean of
    the last hidden states over its tokens, of length 1. What is too long for the model loses its end. ``name`` tells it from
    other encoders."""

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = limit if isinstance(limit, int) and limit > 0 else 512

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> np.ndarray:
        """The embeddings, in order."""
        whole = [f"{kind}: {text}".encode(errors="replace").decode() for text in texts]
        rows = self.tokenizer(whole, truncation=True, max_length=self.limit, split_special_tokens=True)["input_ids"]
        width, device = max(1, *map(len, rows)), next(self.model.parameters()).device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()


@functools.lru_cache(maxsize=2)
def load_encoder(path: str) -> TextEncoder:
    """The encoder in the folder ``path``, loaded once a process, onto a GPU where there is one. Raises CheckpointError where it
    cannot be read."""
    from transformers import AutoModel

    check_exists(path, "config.json")
    tokenizer = load_tokenizer(path)
    try:
        model: Any = AutoModel.from_pretrained(path, local_files_only=True)
    except Exception as error:  # safetensors, JSON and hub errors share no base class
        raise CheckpointError(f"the encoder at {path} cannot be read: {first_line(error)}") from error
    return TextEncoder(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, _name(Path(path)))


def _name(folder: Path) -> str:
    """Known again by its files' names and sizes, and by where their contents begin and end; "" for a model of the hub."""
    about: list[str] = []
    for file in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            data, size = opened.read(EDGE), file.stat().st_size
            opened.seek(max(0, size - EDGE))
            about += [file.name, str(size), (data + opened.read()).decode("latin-1")]
    return f"{stable_hash(*about):032x}" if about else ""
