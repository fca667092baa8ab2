"""A word-level tokenizer from an environment's own texts: a few hundred tokens, lossless, in Hugging Face form.

A word carries the space before it (``" cabinet"``), so decoding is plain concatenation and any sampled sequence of
known words decodes to exactly one text. Markers (``<action>``, ``<|assistant|>`` …) are one token each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentrl.errors import MissingExtra

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PATTERN = r" ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]"
PAD, UNKNOWN, END = "<|pad|>", "<|unknown|>", "<|end|>"
MARKERS = (PAD, UNKNOWN, END, "<|system|>", "<|user|>", "<|assistant|>", "<action>", "</action>", "<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def words(texts: Iterable[str]) -> list[str]:
    """The distinct words of some texts, each with the space before it where it has one, sorted."""
    found: set[str] = set()
    for text in texts:
        found.update(re.findall(PATTERN, text))
    return sorted(found)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is MARKERS, then every word of ``texts``. ``save_pretrained`` makes it loadable by
    ``AutoTokenizer``. Raises MissingExtra without transformers."""
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingExtra("train", "the word-level tokenizer") from error
    vocabulary = {word: index for index, word in enumerate([*MARKERS, *words(texts)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
