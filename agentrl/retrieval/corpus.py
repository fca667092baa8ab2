"""A corpus: JSON lines of ``{"id", "contents"}``, read where they lie."""

from __future__ import annotations

import gzip
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from agentrl.errors import GameError
from agentrl.retrieval.base import Passage, passage_of
from agentrl.seeding import stable_hash


class Corpus(Sequence[Passage]):
    """Passages by their place. A plain file stays on the disk: the process keeps 8 bytes a passage and maps the rest, so that the
    21 million passages of Wikipedia need no more memory than the system can spare. Lines are parsed when asked for.
    """

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        self._data, self.name = data, name
        ends = _line_ends(data)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1]) if len(ends) else ends
        kept = ends > starts  # no blank lines
        self._starts, self._ends = starts[kept], ends[kept]
        if not len(self._starts):
            raise GameError(f'the corpus \'{name}\' has no passages; wanted lines of {{"id", "contents"}}')

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        line = self._data[int(self._starts[index]) : int(self._ends[index])]
        try:
            return passage_of(json.loads(line))
        except (ValueError, GameError) as error:
            raise GameError(f"{self.name}, passage {index}: {error}") from error

    def __iter__(self) -> Iterator[Passage]:
        for place in range(len(self)):
            yield self[place]

    @cached_property
    def signature(self) -> str:
        """Tells this corpus from others by its size, its beginning and its end; what a kept index is compared with."""
        edges = bytes(self._data[: 1 << 20]) + bytes(self._data[-(1 << 20) :])
        return f"{len(self)}-{len(self._data)}-{stable_hash(edges.decode('latin-1')):032x}"


def open_corpus(path: str | os.PathLike[str]) -> Corpus:
    """The corpus of a file: ``.jsonl``, which is mapped, or ``.jsonl.gz``, which is read into memory. Raises GameError for a file
    that is none."""
    file = Path(path)
    try:
        if file.suffix == ".gz":
            return Corpus(gzip.decompress(file.read_bytes()), str(file))
        with file.open("rb") as opened:
            return Corpus(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), str(file))
    except (OSError, EOFError) as error:
        raise GameError(f"the corpus '{file}' cannot be read: {error}; give a .jsonl or .jsonl.gz file") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise GameError(f'the corpus \'{file}\' is empty; wanted lines of {{"id", "contents"}}') from error


def written(passages: Sequence[Passage]) -> bytes:
    """Passages as the lines of a corpus file.

    >>> written([Passage("0", "Oslo", "A city.")])
    b'{"id": "0", "contents": "\\\\"Oslo\\\\"\\\\nA city."}\\n'
    """
    lines = [json.dumps({"id": each.id, "contents": each.contents}, ensure_ascii=False) for each in passages]
    return "".join(f"{line}\n" for line in lines).encode()


def _line_ends(data: bytes | mmap.mmap, block: int = 1 << 24) -> np.ndarray:
    """Where each line ends, [n]; the last needs no line feed."""
    found = []
    for begin in range(0, len(data), block):
        chunk = np.frombuffer(data[begin : begin + block], np.uint8)
        found.append(np.flatnonzero(chunk == ord("\n")).astype(np.int64) + begin)
    if len(data) and data[-1] != ord("\n"):
        found.append(np.array([len(data)], np.int64))
    return np.concatenate(found) if found else np.zeros(0, np.int64)
