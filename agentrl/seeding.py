"""Random streams with names.

Every stream is a ``numpy.random.SeedSequence`` over the run's root seed and a named key, hashed by BLAKE2 (never by
``hash(str)``, which differs between processes). A stream is a pure function of its key: nothing has to be saved for a
resume, and the order in which episodes run cannot change what they draw.

>>> stream(0, "sampling", "task-3", 1).random() == stream(0, "sampling", "task-3", 1).random()
True
"""

from __future__ import annotations

import hashlib

import numpy as np

Key = int | str


def stable_hash(*key: Key) -> int:
    """128 bits that depend on the key only, on every machine. Keys are length-prefixed: ("ab",) is not ("a", "b")."""
    digest = hashlib.blake2b(digest_size=16)
    for part in key:
        text = f"{'i' if isinstance(part, int) else 's'}{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def stream(root: int, *key: Key) -> np.random.Generator:
    """The generator that belongs to ``key`` under the root seed."""
    entropy = stable_hash(root, *key)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def seed(root: int, *key: Key) -> int:
    """A 31-bit integer seed that belongs to ``key``, for libraries that want one."""
    return stable_hash(root, "seed", *key) & 0x7FFFFFFF
