"""A seccomp filter: system calls that computing never needs answer with an error, whoever makes them.

It is a list of what is denied, not of what is allowed: a new library must not fail on a harmless call. What it denies is
what reaches other processes, the network, the kernel's own tables, and memory that no limit counts.
"""

from __future__ import annotations

import ctypes
import errno
import os

from agentrl.tools.sandbox import system

# x86_64, aarch64 (None: that machine has no such call)
DENIED: dict[str, tuple[int, int | None]] = {
    # sockets: no namespace is needed to have no network, and sockets in the file system are out of reach too
    "socket": (41, 198),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the kernel's own tables, and the parts of it that break most often
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "syslog": (103, 116),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "fanotify_init": (300, 262),
    # memory that no limit of a process counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
# Owners, modes, times and attributes of files: Landlock lets a process change them wherever the file itself allows it.
METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
FORKS = {"x86_64": (57, 58), "aarch64": ()}  # fork, vfork
# Calls whose first argument names a process, and which may name the caller: kill, tkill, tgkill, and the queueing forms.
SIGNALS = {"x86_64": (62, 200, 234, 129, 297), "aarch64": (129, 130, 131, 138, 240)}
PIDFD = (424, 434)  # pidfd_send_signal, pidfd_open
PRLIMIT = {"x86_64": (302, 203), "aarch64": (261, 122)}  # prlimit64, sched_setaffinity: 0 means the caller
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

NEW_NAMESPACES = 0x7E020080
CLONE_THREAD = 0x00010000

LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000

Instruction = tuple[int, int, int, int]


def program(machine: str, pid: int, forks: bool, alone: bool, fenced: bool) -> list[Instruction]:
    """The filter for process ``pid``. Without ``forks`` it may start threads only; ``alone`` (where no pid namespace and no
    user of its own shields the others) lets it signal and change none but itself; ``fenced`` (where
    it can name files of others) keeps it from changing modes, owners, dates and attributes."""
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (GREATER_EQUAL, 0, 1, 0x40000000),  # the x32 calls of x86_64: the same calls under other numbers
        (RETURN, 0, 0, KILL),
    ]
    column = 0 if machine == "x86_64" else 1
    for numbers in [*DENIED.values(), *(METADATA.values() if fenced else ())]:
        code += deny(numbers[column], errno.EPERM)
    code += deny(CLONE3, errno.ENOSYS)  # its flags lie where a filter cannot look; libc then uses clone
    if not forks:
        for number in FORKS[machine]:
            code += deny(number, errno.EAGAIN)
    code += clone(CLONE[machine], forks)
    if alone:
        for number in PIDFD:
            code += deny(number, errno.EPERM)
        for number in SIGNALS[machine]:
            code += only(number, pid)
        for number in PRLIMIT[machine]:
            code += only(number, pid, 0)
    return [*code, (RETURN, 0, 0, ALLOW)]


def deny(number: int | None, error: int) -> list[Instruction]:
    """The call answers with ``error``."""
    return [] if number is None else [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERROR | error)]


def clone(number: int, forks: bool) -> list[Instruction]:
    """No new namespaces; without ``forks`` nothing but threads."""
    body: list[Instruction] = [
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (ANY_BIT, 0, 1, NEW_NAMESPACES),
        (RETURN, 0, 0, ERROR | errno.EPERM),
    ]
    if not forks:
        body += [(ANY_BIT, 1, 0, CLONE_THREAD), (RETURN, 0, 0, ERROR | errno.EAGAIN)]
    return [(EQUAL, 0, len(body) + 1, number), *body, (RETURN, 0, 0, ALLOW)]


def only(number: int, *values: int) -> list[Instruction]:
    """The call is allowed when its first argument is one of ``values``."""
    last = len(values) - 1
    tests: list[Instruction] = [(EQUAL, last - at + 1, 0, value) for at, value in enumerate(values)]
    body = [(LOAD, 0, 0, FIRST_ARGUMENT_AT), *tests, (RETURN, 0, 0, ERROR | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    return [(EQUAL, 0, len(body), number), *body]


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def apply(forks: bool, alone: bool, fenced: bool) -> None:
    """Puts this process and all that it starts under the filter, for good. ``no_new_privs`` must be set."""
    code = program(system.MACHINE, os.getpid(), forks, alone, fenced)
    table = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    whole = _Program(len(code), ctypes.cast(table, ctypes.POINTER(_Instruction)))
    system.prctl_pointer(system.PR_SET_SECCOMP, 2, ctypes.byref(whole))
