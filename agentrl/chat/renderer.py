"""Chat messages to token ids, by the model's own template, with texts that cannot act as the model.

The template is applied to placeholders; what it puts around them is tokenised with special tokens, and each message's
text is tokenised by itself without them. So a ``<|im_end|>`` or ``<action>`` inside an observation stays inert, and the
ids around the texts depend only on the sequence of roles (they are computed once and kept).

What was sampled is never decoded and encoded again: ``extend`` appends the ids of new messages behind a prompt and its
completion (memory ``append``); ``prompt`` renders anew (memory ``window``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from agentrl.errors import ConfigError
from agentrl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT, MANY = 200, 20_000  # characters of a text whose ids are kept; texts that are
_SLOT = re.compile("\ue000([0-9]+)\ue001")  # private-use characters: no tokenizer's template writes them


class Renderer:
    """Renders for one tokenizer. Raises ConfigError where the tokenizer has no usable chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the model's tokenizer has no chat template; save one with it (tokenizer.chat_template)")
        self.tokenizer = tokenizer
        self._frames: dict[tuple[str, ...], list[list[int]]] = {}
        self._texts: dict[str, list[int]] = {}
        self._unsplit = _starts_of([t.content for t in tokenizer.added_tokens_decoder.values() if not t.special])
        self.stop_ids = self._ends_of_turn()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a whole conversation, [P], ready for the model to answer."""
        return self._fill(self._frame(_roles(messages)), messages)

    def extend(self, ids: Sequence[int], completion: Sequence[int], messages: Sequence[Message]) -> list[int]:
        """``ids + completion`` followed by what closes the model's turn and by the new ``messages``, [P]. The turn's
        closing token is not written twice where it was sampled."""
        closing, *frame = self._frame(("user", "assistant", *_roles(messages)))[2:]
        if completion and completion[-1] in self.stop_ids and completion[-1] in closing:
            closing = closing[closing.index(completion[-1]) + 1 :]
        return [*ids, *completion, *self._fill([closing, *frame], messages)]

    def completion(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of a demonstrated completion, [C]: markup with special tokens, text without, then the end of the turn."""
        ids: list[int] = []
        for text, is_markup in pieces:
            ids += self._encode_markup(text) if is_markup else self.encode_text(text)
        return [*ids, self.stop_ids[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; a closing end-of-turn token is left out, every other special token is shown."""
        ids = list(ids)
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text that comes from outside the model: special tokens in it are ordinary characters.

        Tokenizers also have added tokens that are not declared special (``<think>``, ``<tool_call>`` in some), which
        ``split_special_tokens`` leaves whole: the text is cut behind the first character of each.
        """
        known = self._texts.get(text)
        if known is None:
            whole = text.encode(errors="replace").decode()  # a lone surrogate becomes "?": no tokenizer takes it
            cuts = [0, *(match.start() + 1 for match in self._unsplit.finditer(whole)), len(whole)]
            known = []
            for start, end in itertools.pairwise(cuts):
                encoded = self.tokenizer(whole[start:end], add_special_tokens=False, split_special_tokens=True)
                known += encoded["input_ids"]
            if len(text) < SHORT:
                if len(self._texts) >= MANY:
                    self._texts.clear()
                self._texts[text] = known
        return known

    def _encode_markup(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _frame(self, roles: tuple[str, ...]) -> list[list[int]]:
        """Ids before, between and after the texts of messages with these roles: len(roles) + 1 lists."""
        known = self._frames.get(roles)
        if known is not None:
            return known
        pieces = self._pieces(roles, add_generation_prompt=True)
        order = [int(piece) for piece in pieces[1::2]]
        if order != list(range(len(roles))):
            raise ConfigError(f"the model's chat template drops or reorders messages with the roles {'/'.join(roles)}")
        frame = [self._encode_markup(piece) if piece else [] for piece in pieces[0::2]]
        self._frames[roles] = frame
        return frame

    def _pieces(self, roles: tuple[str, ...], *, add_generation_prompt: bool) -> list[str]:
        """What the template writes for these roles, cut at the messages' texts: text, number, text, number, …, text."""
        slots = [{"role": role, "content": f"\ue000{index}\ue001"} for index, role in enumerate(roles)]
        try:
            text: Any = self.tokenizer.apply_chat_template(
                slots, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:
            shown = "/".join(roles)
            raise ConfigError(f"the model's chat template cannot render the roles {shown}: {error}") from error
        return _SLOT.split(text)

    def _ends_of_turn(self) -> tuple[int, ...]:
        """The special token that the template writes behind the model's text, then the tokenizer's own end token."""
        special = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        closing = self._encode_markup(self._pieces(("user", "assistant"), add_generation_prompt=False)[-1])
        ends = [index for index in closing if index in special][:1]
        end: Any = self.tokenizer.eos_token_id
        if end is not None:
            ends.append(int(end))
        if not ends:
            raise ConfigError("the model's tokenizer has no end-of-turn token (tokenizer.eos_token)")
        return tuple(dict.fromkeys(ends))

    def _fill(self, frame: Sequence[Sequence[int]], messages: Sequence[Message]) -> list[int]:
        ids = list(frame[0])
        for message, piece in zip(messages, frame[1:], strict=True):
            content = message.get("content")
            if not isinstance(content, str):
                raise ConfigError("image parts need a model with a processor; this renderer takes text")
            ids += self.encode_text(content)
            ids += piece
        return ids


def _roles(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message.get("role", "user") for message in messages)


def _starts_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Matches, with no width, wherever one of ``tokens`` begins; runs of spaces cannot act as anything and are left whole."""
    marks = [re.escape(token) for token in tokens if len(token) > 1 and not token.isspace()]
    return re.compile(f"(?={'|'.join(marks)})" if marks else r"(?!)")
