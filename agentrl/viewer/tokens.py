"""The text of each token id that a run saw: decoded once an id, by the tokenizer of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agentrl.chat.tokenizers import load_tokenizer
from agentrl.errors import CheckpointError, ConfigError
from agentrl.viewer.sources import Run, mapping


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Texts by token id; ``special`` are the ids of the model's own marks. ``problem`` says why there are no texts."""

    texts: dict[int, str] = field(default_factory=dict)
    special: list[int] = field(default_factory=list)
    problem: str = ""


def vocabulary(run: Run, ids: Iterable[int]) -> Vocabulary:
    """The texts of ``ids``. A token that is a part of a character is shown by the tokenizer's own name for it."""
    wanted = sorted(set(ids))
    if not wanted:
        return Vocabulary()
    try:
        tokenizer: Any = load_tokenizer(_model(run))
    except (CheckpointError, ConfigError) as error:
        return Vocabulary(problem=str(error))
    except ImportError:
        return Vocabulary(problem="texts of tokens need the extra 'train': pip install 'agentrl-toolkit[train]'")
    names = tokenizer.convert_ids_to_tokens(wanted)
    texts = {}
    for token, name, text in zip(wanted, names, tokenizer.batch_decode([[token] for token in wanted]), strict=True):
        texts[token] = text if text and "�" not in text else str(name)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return Vocabulary(texts, [token for token in wanted if token in special])


def _model(run: Run) -> str:
    """Where the tokenizer is: the last checkpoint, the model that an evaluation played with, that of the run file."""
    latest = run.path / "checkpoints" / "latest"
    if (latest / "tokenizer.json").is_file():
        return str(latest)
    for path in (run.request.get("model"), mapping(run.settings.get("model")).get("path")):
        if path:
            return str(path)
    raise CheckpointError("the folder has no checkpoint and names no model, so token ids are shown without their texts")
