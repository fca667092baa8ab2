"""Landlock: a process without privileges gives up access to files, for itself and all that it starts (Linux 5.13).

Later versions of it also refuse TCP, and signals and abstract sockets that reach outside (``version()``: 4 and 6).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from agentrl.tools.sandbox import system

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE = 1 << 14
READ = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
TCP = 0b11  # bind, connect
SCOPES = 0b11  # abstract unix sockets, signals
ACCESS_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_VERSION_FLAG = 1
_BENEATH = 1


def version() -> int:
    """What this kernel offers; 0 where it has no Landlock or has it switched off."""
    try:
        return system.syscall(system.LANDLOCK_CREATE_RULESET, "landlock", None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def apply(readable: Iterable[str], writable: Iterable[str]) -> int:
    """From here on files are read below ``readable`` and changed below ``writable`` only (paths that do not exist are left
    out); returns the version that did it. ``no_new_privs`` must be set. Raises OSError where there is none."""
    number = version()
    access = ACCESS_OF_VERSION.get(number, ACCESS_OF_VERSION[5])
    attributes = struct.pack("<QQQ", access, TCP, SCOPES)[: 8 if number < 4 else 16 if number < 6 else 24]
    ruleset = system.syscall(system.LANDLOCK_CREATE_RULESET, "landlock", attributes, len(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, READ & access)
        for path in writable:
            _allow(ruleset, path, access)
        system.syscall(system.LANDLOCK_RESTRICT_SELF, "landlock", ruleset, 0)
    finally:
        os.close(ruleset)
    return number


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not os.path.isdir(path):
            access &= OF_A_FILE
        rule = struct.pack("<Qi", access, place)
        system.syscall(system.LANDLOCK_ADD_RULE, "landlock", ruleset, _BENEATH, rule, 0)
    finally:
        os.close(place)
