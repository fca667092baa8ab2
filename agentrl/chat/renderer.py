"""Chat messages to token ids, by the model's own template, with texts that cannot act as the model.

The template is applied to placeholders; what it puts around them is tokenised with special tokens, and each message's
text is tokenised by itself without them. So a ``<|im_end|>`` or ``<action>`` inside an observation stays inert, and the
ids around the texts depend only on the sequence of roles (they are computed once and kept).

What was sampled is never decoded and encoded again: ``extend`` appends the ids of new messages behind a prompt and its
completion (memory ``append``); ``prompt`` renders anew (memory ``window``). Where a template wants the past in another form
(it drops the thoughts of earlier turns), ``follow`` renders it so: the model's earlier texts are then encoded again, as context.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from agentrl.chat.history import Traits, opening_of, probe
from agentrl.errors import ConfigError
from agentrl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"  # put before a text, and its ids taken away, where a tokenizer would write a space before every text
SHORT, MANY = 200, 20_000  # characters of a text whose ids are kept; texts that are
FRAMES = 2_000  # sequences of roles whose ids are kept: a server is asked in any
_SLOT = re.compile("\ue000([0-9]+)\ue001")  # private-use characters: no tokenizer's template writes them
CUT = "\ue002"  # stands inside of a token's name where it is only text
_OURS = str.maketrans(dict.fromkeys("\ue000\ue001\ue002", "\ufffd"))


class Renderer:
    """Renders for one tokenizer. ``options`` are further variables of its template (``enable_thinking`` in some); ``stop_ids``
    end a turn besides those that the template and the tokenizer name (a model's generation config has some).

    ``opening`` is what the generation prompt opens a thought with ("" where it opens none). Raises ConfigError where the tokenizer
    has no usable chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        options: Mapping[str, Any] | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the model's tokenizer has no chat template; save one with it (tokenizer.chat_template)")
        self.tokenizer = tokenizer
        self.options = dict(options or {})
        self._frames: dict[tuple[tuple[str, ...], bool], list[list[int]]] = {}
        self._anchor: list[int] = []
        if _adds_a_space(tokenizer):
            self._anchor = self._encoded(ANCHOR)
        self._texts: dict[str, list[int]] = {}
        self._markups: dict[str, list[int]] = {}
        self._traits: dict[bool, Traits] = {}
        added = tokenizer.added_tokens_decoder
        self._added = frozenset(added)
        self._names = _starts_of([token.content for token in added.values()])
        self._unsplit = _starts_of([token.content for token in added.values() if not token.special])
        self.stop_ids = tuple(dict.fromkeys([*self._ends_of_turn(), *stop_ids]))
        self.opening = opening_of(self._pieces(("user",), add_generation_prompt=True)[-1])

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> Renderer:
        """A renderer whose template is given ``tools``, in OpenAI's form. Raises ConfigError where there are none, where the
        template does not show them, and where a description holds the name of a special token, which would act as one."""
        if not tools:
            raise ConfigError('agent.tools = "template" needs an environment that names its tools; this one has none')
        written = json.dumps(list(tools), ensure_ascii=False)
        if found := self._names.search(written):
            near = written[found.start() : found.start() + 20]
            raise ConfigError(f"a tool's description holds a special token of the model: {near!r}; write it otherwise")
        shown = Renderer(self.tokenizer, options={**self.options, "tools": list(tools)}, stop_ids=self.stop_ids)
        text = shown._write([_slot("user", 0)], True)
        for tool in tools:
            if tool["function"]["name"] not in text:
                raise ConfigError('the model\'s chat template shows no tools; use agent.tools = "text"')
        return shown

    def traits(self, *, system: bool = False) -> Traits:
        """What the template does to the turns that lie behind, in conversations with or without a system message."""
        if system not in self._traits:
            self._traits[system] = probe(self._write, system=system)
        return self._traits[system]

    def closing(self) -> list[int]:
        """Ids that the template writes behind the model's text: what ends its turn, and what may follow that."""
        return list(self._frame(("user", "assistant"), opens=False)[-1])

    def prompt(self, messages: Sequence[Message], *, opens: bool = True) -> list[int]:
        """Ids of a whole conversation, [P], ready for the model to answer, or where nothing ``opens`` as it ended."""
        return self._fill(self._frame(_roles(messages), opens=opens), messages)

    def extend(self, ids: Sequence[int], completion: Sequence[int], messages: Sequence[Message]) -> list[int]:
        """``ids + completion`` followed by what closes the model's turn and by the new ``messages``, [P]. The turn's
        closing token is not written twice where it was sampled."""
        closing, *frame = self._frame(("user", "assistant", *_roles(messages)))[2:]
        if completion and completion[-1] in self.stop_ids and completion[-1] in closing:
            closing = closing[closing.index(completion[-1]) + 1 :]
        return [*ids, *completion, *self._fill([closing, *frame], messages)]

    def follow(
        self, ids: Sequence[int], completion: Sequence[int], past: Sequence[Message], messages: Sequence[Message]
    ) -> list[int]:
        """Ids of the conversation ``past``, the turn ``ids + completion`` that ends it included, then ``messages``, as the template
        writes all of it, [P]. ``past`` holds what ``spoken`` gave for the model's turns. Where that reads the same as
        ``extend``, the sampled ids stay."""
        extended = self.extend(ids, completion, messages)
        rendered = self.rendered([*past, *messages])
        return extended if self.decode(extended) == self.decode(rendered) else rendered

    def rendered(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation whose ``assistant`` texts come from ``spoken`` and are the template's to change, [P]. All other
        texts stay inert. Raises ConfigError where the template drops one of them."""
        slots = [
            message if message.get("role") == "assistant" else _slot(message.get("role", "user"), number)
            for number, message in enumerate(messages)
        ]
        pieces = _SLOT.split(self._write(slots, True))
        shown = sorted(int(piece) for piece in pieces[1::2])
        if shown != [number for number, message in enumerate(messages) if message.get("role") != "assistant"]:
            raise ConfigError(f"the model's chat template drops messages of the roles {'/'.join(_roles(messages))}")
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            if place % 2:
                ids += self.encode_text(_text_of(messages[int(piece)]))
                continue
            for part in piece.split(CUT):
                ids += self._encode_markup(part) if part else []
        return ids

    def spoken(self, completion: Sequence[int]) -> str:
        """A completion as the text of an earlier ``assistant`` message, for ``rendered``: with the thought that the generation
        prompt opened, without the end of the turn. A token's name that was spelled out, and not sampled as that token, stays
        text."""
        parts = [self.opening]
        for is_added, run in itertools.groupby(self._without_end(completion), key=self._added.__contains__):
            text = self._decoded(list(run))
            parts.append(text if is_added else CUT.join(_parts(text.translate(_OURS), self._names)))
        return "".join(parts)

    def completion(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of a demonstrated completion, [C]: markup with special tokens, text without, then the end of the turn."""
        ids: list[int] = []
        for text, is_markup in pieces:
            ids += self._encode_markup(text) if is_markup else self.encode_text(text)
        return [*ids, self.stop_ids[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; a closing end-of-turn token is left out, every other special token is shown."""
        return self._decoded(self._without_end(ids))

    def _decoded(self, ids: list[int]) -> str:
        found = [*self._anchor, *ids] if ids else []
        text: Any = self.tokenizer.decode(found, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.removeprefix(ANCHOR) if self._anchor else text

    def _without_end(self, ids: Sequence[int]) -> list[int]:
        return list(ids[:-1] if len(ids) and ids[-1] in self.stop_ids else ids)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text that comes from outside the model: special tokens in it are ordinary characters.

        Tokenizers also have added tokens that are not declared special (``<think>``, ``<tool_call>`` in some), which
        ``split_special_tokens`` leaves whole: the text is cut behind the first character of each.
        """
        known = self._texts.get(text)
        if known is None:
            whole = text.encode(errors="replace").decode()  # a lone surrogate becomes "?": no tokenizer takes it
            known = []
            for part in _parts(whole, self._unsplit):
                known += self._encoded(part, split_special_tokens=True)
            _keep(self._texts, text, known)
        return known

    def _encode_markup(self, text: str) -> list[int]:
        known = self._markups.get(text)
        if known is None:
            known = self._encoded(text)
            _keep(self._markups, text, known)
        return known

    def _encoded(self, text: str, **how: Any) -> list[int]:
        """Ids of a text as it would stand behind another one."""
        anchor = self._anchor
        ids = list(self.tokenizer(ANCHOR + text if anchor else text, add_special_tokens=False, **how)["input_ids"])
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return list(self.tokenizer(text, add_special_tokens=False, **how)["input_ids"])

    def _frame(self, roles: tuple[str, ...], *, opens: bool = True) -> list[list[int]]:
        """Ids before, between and after the texts of messages with these roles: len(roles) + 1 lists."""
        known = self._frames.get((roles, opens))
        if known is not None:
            return known
        pieces = self._pieces(roles, add_generation_prompt=opens)
        order = [int(piece) for piece in pieces[1::2]]
        if order != list(range(len(roles))):
            raise ConfigError(f"the model's chat template drops or reorders messages with the roles {'/'.join(roles)}")
        frame = [self._encode_markup(piece) if piece else [] for piece in pieces[0::2]]
        if len(self._frames) >= FRAMES:
            self._frames.clear()
        self._frames[roles, opens] = frame
        return frame

    def _pieces(self, roles: tuple[str, ...], *, add_generation_prompt: bool) -> list[str]:
        """What the template writes for these roles, cut at the messages' texts: text, number, text, number, …, text."""
        slots = [_slot(role, number) for number, role in enumerate(roles)]
        return _SLOT.split(self._write(slots, add_generation_prompt))

    def _write(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The template's text. Raises ConfigError where it refuses the roles."""
        rows: Any = [dict(message) for message in messages]
        try:
            text: Any = self.tokenizer.apply_chat_template(
                rows,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.options,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            shown = "/".join(_roles(messages))
            raise ConfigError(f"the model's chat template cannot render the roles {shown}: {error}") from error
        return text

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
            ids += self.encode_text(_text_of(message))
            ids += piece
        return ids


def _roles(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message.get("role", "user") for message in messages)


def _slot(role: str, number: int) -> Message:
    return {"role": role, "content": f"\ue000{number}\ue001"}


def _text_of(message: Message) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ConfigError("image parts need a model with a processor; this renderer takes text")
    return content


def _keep(known: dict[str, list[int]], text: str, ids: list[int]) -> None:
    if len(text) < SHORT:
        if len(known) >= MANY:
            known.clear()
        known[text] = ids


def _parts(text: str, names: re.Pattern[str]) -> list[str]:
    """``text`` cut behind the first character of every name in it.

    >>> _parts("a<b>", re.compile("(?=<b>)"))
    ['a<', 'b>']
    """
    places = [0, *(match.start() + 1 for match in names.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


def _adds_a_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text is encoded with a space before it that it does not have, as SentencePiece does."""
    tokens: Any = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    return bool(tokens) and tokens[0].startswith(("▁", "Ġ"))


def _starts_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Matches, with no width, wherever one of ``tokens`` begins; runs of spaces cannot act as anything and are left whole."""
    marks = [re.escape(token) for token in tokens if len(token) > 1 and not token.isspace()]
    return re.compile(f"(?={'|'.join(marks)})" if marks else r"(?!)")
