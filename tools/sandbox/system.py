"""The system calls that Python's ``os`` lacks (Linux, through libc). Each raises OSError as ``os`` does."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

# Numbers of system calls that have no wrapper in libc and are the same on both machines.
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446
MOUNT_SETATTR = 442
_OWN = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522

MACHINE = platform.machine() if not sys.platform.startswith("linux") else os.uname().machine
LINUX = sys.platform.startswith("linux") and MACHINE in _OWN

_libc = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, what: str, *arguments: object) -> int:
    """Any system call by number; plain ints go in as longs."""
    longs = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *longs), what)


def prctl(option: int, value: int) -> None:
    """``prctl`` with one argument."""
    rest = (ctypes.c_ulong(0),) * 3
    _checked(_libc.prctl(option, ctypes.c_ulong(value), *rest), f"prctl {option}")


def prctl_pointer(option: int, value: int, pointer: object) -> None:
    """``prctl`` whose third argument points to something."""
    _checked(
        _libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}"
    )


def unshare(flags: int) -> None:
    """New namespaces for this process (a pid namespace: for its next child)."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """``mount``; paths must exist."""
    arguments = [os.fsencode(text) or None for text in (source, target, kind)]
    _checked(_libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data) or None), f"mount {target}")


def unmount(target: str) -> None:
    """Detaches a mount and all below it."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """``new`` becomes the root, what was the root appears at ``old``."""
    syscall(_OWN[MACHINE]["pivot_root"], "pivot_root", ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))


def protect(target: str, flags: int) -> None:
    """Sets mount flags (read-only, no devices, no set-uid programs) on a mount and all below it, and clears none. Linux 5.12."""
    attributes = MountAttributes(attr_set=flags)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    path = ctypes.c_char_p(os.fsencode(target))
    syscall(MOUNT_SETATTR, "mount_setattr", _AT_FDCWD, path, _AT_RECURSIVE, ctypes.byref(attributes), size)


def drop_capabilities() -> None:
    """This process keeps no capability, and with ``no_new_privs`` never gets one back."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    syscall(_OWN[MACHINE]["capset"], "capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
