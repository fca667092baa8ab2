"""A root directory of its own for a process: the system's programs and libraries and a Python, all read-only, and one small
folder in memory to write to. Nothing else of the machine's files has a name there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from agentrl.tools.sandbox import system

WORK = "/work"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
LINKS = {"/dev/fd": "/proc/self/fd", "/dev/shm": WORK, "/etc/mtab": "/proc/mounts"}
_OLD = "/.old"
_SAFE = system.MS_NOSUID | system.MS_NODEV


def build_root(readable: Iterable[str], disk_bytes: int, n_files: int) -> bool:
    """Moves this process (in a mount namespace of its own) into such a root; ``WORK`` then takes ``disk_bytes`` and
    ``n_files`` at most. Returns whether ``/proc`` could be mounted (needs a pid namespace). Raises OSError where the system
    forbids it; the process is then of no use."""
    system.mount("", "/", flags=system.MS_REC | system.MS_PRIVATE)
    base = os.path.dirname(os.path.abspath(__file__))  # any folder serves: nobody else sees what is mounted over it
    system.mount("tmpfs", base, "tmpfs", _SAFE, "mode=755,size=1m")
    os.mkdir(base + _OLD)
    system.pivot_root(base, base + _OLD)
    os.chdir("/")
    for path in _outermost([*SYSTEM, *readable]):
        _show(path)
    for path in DEVICES:
        _show(path)
    for link, target in LINKS.items():
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(target, link)
    os.makedirs("/tmp", exist_ok=True)
    proc = _mount_proc()
    os.mkdir(WORK)
    system.mount("tmpfs", WORK, "tmpfs", _SAFE, f"mode=700,size={disk_bytes},nr_inodes={n_files}")
    system.unmount(_OLD)
    os.rmdir(_OLD)
    system.mount("", "/", flags=system.MS_REMOUNT | system.MS_BIND | system.MS_RDONLY | _SAFE)
    return proc


def _outermost(paths: list[str]) -> list[str]:
    """Without what lies below another of them."""
    known: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}):
        if not any(path.startswith(above.rstrip("/") + "/") and not os.path.islink(_OLD + above) for above in known):
            known.append(path)
    return known


def _show(path: str) -> None:
    """Gives ``path`` of the old root the same name here, read-only; a link stays a link, what is absent stays absent."""
    old = _OLD + path
    if not os.path.lexists(old) or os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
        return
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    system.mount(old, path, flags=system.MS_BIND | system.MS_REC)
    if path not in DEVICES:
        system.protect(path, system.MS_RDONLY | _SAFE)


def _mount_proc() -> bool:
    """``/proc`` with the processes of this pid namespace and nothing of the machine."""
    os.mkdir("/proc")
    for options in ("subset=pid", ""):  # older kernels know no subsets
        try:
            system.mount("proc", "/proc", "proc", _SAFE | system.MS_NOEXEC, options)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
        else:
            return True
    return False
