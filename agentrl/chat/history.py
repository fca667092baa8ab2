"""What a chat template does to the turns that lie behind, found out by trying it.

A memory that appends puts each new message behind the ids that were sampled. Some templates would write the same
conversation differently: they drop the thoughts of earlier turns, or move a system text to the newest message. ``probe``
compares the two on placeholders, so no model needs to be known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentrl.errors import ConfigError
from agentrl.types import Message

Write = Callable[[Sequence[Message], bool], str]  # (messages, whether the model is to answer) -> the template's text
OPENING = re.compile(r"<think>\s*\Z")
TASK, THOUGHT, ANSWER, REPLY = (f"\ue000{number}\ue001" for number in range(4))


@dataclass(frozen=True)
class Traits:
    """How a chat template treats a conversation.

    ``opening``: the end of the generation prompt that opens a thought ("" where it opens none): a completion then begins inside of
    it. ``drops_thoughts``: earlier turns are rendered without theirs. ``rewrites``: a turn without thoughts, too, is rendered
    differently once it lies behind. ``spaces``: it trims or adds spaces around an answer, and no more. ``system``: whether it takes
    a system message.
    """

    opening: str = ""
    drops_thoughts: bool = False
    rewrites: bool = False
    spaces: bool = False
    system: bool = True

    @property
    def keeps_history(self) -> bool:
        """Whether what stands behind sampled ids is what the template itself would write, spaces aside."""
        return not (self.drops_thoughts or self.rewrites)

    def __str__(self) -> str:
        found = [
            "opens <think> itself" if self.opening else "",
            "drops the thoughts of earlier turns" if self.drops_thoughts else "",
            "rewrites earlier turns" if self.rewrites else "",
            "changes spaces around answers" if self.spaces else "",
            "" if self.system else "takes no system message",
        ]
        return ", ".join(text for text in found if text) or "keeps earlier turns as they are"


def opening_of(generation_prompt: str) -> str:
    """The end of a generation prompt that opens a thought, "" where it opens none.

    >>> opening_of("<|assistant|><think>\\n"), opening_of("<|assistant|><think></think>")
    ('<think>\\n', '')
    """
    found = OPENING.search(generation_prompt)
    return found.group() if found else ""


def probe(write: Write, *, system: bool) -> Traits:
    """The traits of the template that ``write`` applies; ``system``: of conversations that begin with a system message.

    Raises ConfigError for a template that cannot render user and assistant in turn.
    """
    takes_system = _takes_system(write)
    head = [_message("system", "\ue0009\ue001")] if system and takes_system else []
    opening = opening_of(write([*head, _message("user", TASK)], True))

    def texts(answer: str) -> tuple[str, str]:
        """A conversation in which ``answer`` was given twice, as the template writes it and as it grows."""
        return write(_conversation(head, answer), True), _extended(write, head, answer, opening)

    plain, thinking, spaced = map(texts, (ANSWER, f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}", f" {ANSWER}\n"))
    dropped = THOUGHT not in thinking[0]
    rewrites = not _same_but_spaces(plain) or not (dropped or _same_but_spaces(thinking))
    spaces = not rewrites and (plain[0] != plain[1] or spaced[0] != spaced[1])
    return Traits(opening, dropped, rewrites, spaces, takes_system)


def _same_but_spaces(texts: tuple[str, str]) -> bool:
    one, other = ("".join(text.split()) for text in texts)
    return one == other


def _takes_system(write: Write) -> bool:
    try:
        text = write([_message("system", REPLY), _message("user", TASK)], True)
    except ConfigError:
        return False
    return REPLY in text


def _conversation(head: Sequence[Message], answer: str) -> list[Message]:
    turns = [_message("user", TASK), _message("assistant", answer), _message("user", REPLY)]
    return [*head, *turns, _message("assistant", answer), _message("user", REPLY)]


def _extended(write: Write, head: Sequence[Message], answer: str, opening: str) -> str:
    """The same conversation, each turn put behind what was there: what ``Renderer.extend`` does, as text."""
    prompt = write([*head, _message("user", TASK)], True).removesuffix(opening)
    whole = write([_message("user", TASK), _message("assistant", ANSWER), _message("user", REPLY)], True)
    behind = whole.partition(ANSWER)[2]  # what closes the model's turn, the reply, the generation prompt
    text = prompt + answer + behind.removesuffix(opening) + answer + behind
    return text


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
