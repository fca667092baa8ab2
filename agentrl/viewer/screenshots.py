"""Pictures that a turn's record names: data URIs, and files inside of the run folder. Nothing else is ever loaded."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agentrl.types import Message, Turn

Json = Any
_DATA = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+")
_FILE = re.compile(r"[^\x00-\x1f]{1,400}\.(png|jpe?g|gif|webp)", re.IGNORECASE)
_TYPES = {"jpg": "jpeg"}
_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")


@dataclass(frozen=True, slots=True)
class Screenshots:
    """Looks pictures up for the page that lies in ``run``; with ``inside`` the bytes of files come with it."""

    run: Path
    inside: bool = False

    def of(self, turn: Turn) -> list[str]:
        """The addresses of a turn's pictures, those of its info first; each once."""
        texts = [value for value in turn.info.values() if isinstance(value, str) and _may_be_picture(value)]
        texts += [text for call in turn.calls for message in call.messages or () for text in _addresses(message)]
        return list(dict.fromkeys(filter(None, map(self.address, texts))))

    def address(self, text: str) -> str:
        """What a page may load for ``text``; "" where it names no picture, or one that is not in the run folder."""
        if text.startswith("data:"):
            return text if _DATA.fullmatch(text) else ""
        match = _FILE.fullmatch(text)
        if match is None:
            return ""
        try:
            file, root = (self.run / text).resolve(), self.run.resolve()
            if not (file.is_file() and file.is_relative_to(root)):
                return ""
            if not self.inside:
                return quote(str(file.relative_to(root)))
            kind = _TYPES.get(match[1].lower(), match[1].lower())
            return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        except OSError:  # a name that the file system does not take, or a file that cannot be read: no picture
            return ""

    def message(self, message: Message) -> dict[str, Json]:
        """A message whose pictures are replaced by a word: they are shown beside the turn."""
        content = message.get("content")
        if not isinstance(content, list):
            return dict(message)
        parts = [part if part.get("type") == "text" else {"type": str(part.get("type"))} for part in content]
        return {**message, "content": parts}


def _may_be_picture(text: str) -> bool:
    """Quickly, since every text of every turn is asked about."""
    end = text[-5:]
    return ("." in end and end.lower().endswith(_ENDINGS)) or text.startswith("data:image/")


def _addresses(message: Message) -> Iterator[str]:
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        for value in part.values():
            address = value.get("url") if isinstance(value, Mapping) else value
            if isinstance(address, str) and part.get("type") != "text":
                yield address
