"""The processes around one run of untrusted code. Started by ``launch`` with a request on its standard input:

    supervisor      outside; ends everything when the caller closes its end of the standard input, or dies
      └─ keeper     first process of the pid namespace: when it ends, the kernel kills all that is left in it. It mounts,
         │          watches memory, reaps, and reports how the code ended
         └─ code    gives up its user, its privileges, files, system calls, and becomes the interpreter

Where there are no pid namespaces the keeper adopts whatever the code leaves behind ("subreaper") and kills it until it has
no child left. The code cannot reach the keeper: it has another user, or cannot signal or trace it.

Reports are lines of JSON: the layers that each step put in place, and at the end how the code ended.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

from agentrl.tools.sandbox import files, landlock, seccomp, system

FIRST_UID = 0x70000000  # far from users, services and the ranges that containers take (1 << 16 upwards, by 1 << 16)
LOOK_S = 0.05  # between two looks at memory
HIGHEST_PID = 1 << 22
INNER_ID = 1000  # what the caller's user is called in a user namespace
GRACE_S = 3.0

Request = dict[str, Any]


class Report:
    """Where the lines go. The pipe is closed in the interpreter, so nothing that it runs can write here."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def __call__(self, **values: Any) -> None:
        os.write(self.pipe, json.dumps(values).encode() + b"\n")


def main() -> None:
    """Serves one request."""
    request: Request = json.loads(sys.stdin.buffer.readline())
    report = Report(request["report"])
    for pipe in (request["report"], request["output"]):
        os.set_inheritable(pipe, False)
    try:
        supervise(request, report)
    except BaseException:  # the caller reads the report, not our standard error
        report(error=traceback.format_exc())
        os._exit(1)
    os._exit(0)


def supervise(request: Request, report: Report) -> None:
    """Starts the keeper and waits for its end, or for the caller's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
    place = Place(request)
    place.enter_pid_namespace()
    system.prctl(system.PR_SET_DUMPABLE, 0)  # not before: /proc/self then belongs to root, and ids are mapped there
    alive, keeper_end = os.pipe()
    parent = os.getpid()
    keeper = os.fork()
    if keeper == 0:
        try:
            keep(request, report, place, parent)
        except BaseException:
            report(error=traceback.format_exc())
        os._exit(0)
    os.close(keeper_end)
    poll = select.poll()
    for pipe in (alive, 0):
        poll.register(pipe, select.POLLIN | select.POLLHUP)
    ready = {pipe for pipe, _ in poll.poll()}
    if alive not in ready:
        os.kill(keeper, signal.SIGTERM)
        if not select.select([alive], [], [], GRACE_S)[0]:
            os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)


class Place:
    """Where the code will run: the layers in force so far, and what follows from them."""

    def __init__(self, request: Request) -> None:
        self.left_out = frozenset(request["left_out"])
        self.layers: list[str] = []
        self.root = os.geteuid() == 0
        self.uid: int | None = None
        self.user_namespace = False
        if self.root and "user" not in self.left_out:
            self.uid = free_uid()

    def enter_pid_namespace(self) -> None:
        """For the next child. Root does without a user namespace where it can: files then keep their owners."""
        if "namespaces" in self.left_out:
            return
        user = (os.geteuid(), os.getegid())
        for flags in (system.CLONE_NEWPID, system.CLONE_NEWPID | system.CLONE_NEWUSER)[0 if self.root else 1 :]:
            try:
                system.unshare(flags)
            except OSError:
                continue
            self.layers.append("pid namespace")
            if flags & system.CLONE_NEWUSER:
                self.user_namespace, self.uid = True, None
                self.layers.append("user namespace")
                map_ids(*user)
            return

    def enter_other_namespaces(self, request: Request) -> str:
        """Network, IPC and files; returns the working folder."""
        if "pid namespace" not in self.layers:
            return request["folder"]
        for flags, name in ((system.CLONE_NEWNET, "network namespace"), (system.CLONE_NEWIPC, "ipc namespace")):
            with suppress(OSError):
                system.unshare(flags)
                self.layers.append(name)
        if "files" in self.left_out:
            return request["folder"]
        try:
            system.unshare(system.CLONE_NEWNS)
        except OSError:
            return request["folder"]
        if files.build_root(request["readable"], request["disk_bytes"], request["n_files"]):
            self.layers.append("proc")
        self.layers.append("root folder")
        return files.WORK

    @property
    def shielded(self) -> bool:
        """Whether the code cannot name the processes of others, or may not signal them."""
        return "pid namespace" in self.layers or self.uid is not None

    @property
    def counted(self) -> bool:
        """Whether RLIMIT_NPROC counts this code's processes alone. It never binds the machine's root."""
        return self.uid is not None or (self.user_namespace and not self.root)


def free_uid() -> int | None:
    """A user id that nobody else has: one for each process that may be the supervisor; None where this container has too
    few. Two runs at the same time never share one."""
    with open("/proc/self/uid_map") as lines:
        ranges = [[int(word) for word in line.split()] for line in lines]
    end = FIRST_UID + HIGHEST_PID
    fits = any(first <= FIRST_UID and end <= first + count for first, _, count in ranges)
    return FIRST_UID + os.getpid() if fits else None


def runnable(path: str, uid: int) -> bool:
    """Whether user ``uid`` may run the program (root asks)."""
    os.seteuid(uid)
    try:
        return os.access(path, os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)


def map_ids(uid: int, gid: int) -> None:
    """The caller's user is the only one in this user namespace."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_ID} {uid} 1"),
        ("gid_map", f"{INNER_ID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def keep(request: Request, report: Report, place: Place, parent: int) -> None:
    """The keeper's life."""
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    folder = place.enter_other_namespaces(request)
    if place.uid is not None and not runnable(request["interpreter"], place.uid):
        place.uid = None  # it lies in a folder of root's: the code stays this user, without its capabilities
    owner = -1 if place.uid is None else place.uid
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)  # after every change of user: those clear it
    system.prctl(system.PR_SET_DUMPABLE, 0)
    if os.getppid() not in (0, parent):
        return
    main = os.path.join(folder, "main.py")
    with open(main, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(request["code"])
    for path in (main, folder):
        os.chown(path, owner, owner)
    code = os.fork()
    if code == 0:
        try:
            become_code(request, report, place, folder)
        except BaseException:
            report(error=traceback.format_exc())
        os._exit(127)
    os.close(request["output"])
    wait(request, report, place, code)


def wait(request: Request, report: Report, place: Place, code: int) -> None:
    """Until the code has ended, by itself or because memory or the caller ended it; then nothing of it is left."""
    why = ""
    status, cpu_s = None, 0.0
    while status is None:
        signalled = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, LOOK_S)
        if signalled is not None and signalled.si_signo == signal.SIGTERM:
            why = "stopped"
        elif "proc" in place.layers and memory(request["memory_bytes"]) > request["memory_bytes"]:
            why = "memory"
        if why:
            with suppress(ProcessLookupError):
                os.kill(code, signal.SIGKILL)
        while True:
            try:
                pid, ended, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == code:
                status, cpu_s = ended, used.ru_utime + used.ru_stime
    if "pid namespace" not in place.layers:  # the kernel clears a namespace when its first process ends
        kill_rest()
    report(status=os.waitstatus_to_exitcode(status), cpu_s=cpu_s, why=why)


def memory(limit: int) -> int:
    """Bytes that the processes of this pid namespace hold; exact (shared pages counted once) where a quick look says that
    they are above ``limit``."""
    pids = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    page = resource.getpagesize()
    quick = sum(_number(f"/proc/{pid}/statm", 1) * page for pid in pids)
    if quick <= limit or len(pids) == 1:
        return quick
    return sum(_number(f"/proc/{pid}/smaps_rollup", "Pss:") * 1024 for pid in pids)


def _number(path: str, field: int | str) -> int:
    """A number of a /proc file, by position or by the word before it; 0 where the process has gone."""
    try:
        with open(path) as file:
            words = file.read().split()
    except (ProcessLookupError, FileNotFoundError):
        return 0
    place = field if isinstance(field, int) else words.index(field) + 1 if field in words else None
    return int(words[place]) if place is not None and place < len(words) else 0


def kill_rest() -> None:
    """Kills all descendants until no child is left; orphans become children of this process, so none is overlooked."""
    while True:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)  # a killed process takes a moment to end; SIGCHLD of an orphan's child never comes here


def descendants(root: int) -> list[int]:
    """Process ids below ``root``, by /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {root})


def become_code(request: Request, report: Report, place: Place, folder: str) -> None:
    """Gives everything up, in the order in which each step still may, and becomes the interpreter."""
    os.setsid()
    os.chdir(folder)
    if place.uid is not None:
        os.setgroups([])
        os.setresgid(place.uid, place.uid, place.uid)
        os.setresuid(place.uid, place.uid, place.uid)
        place.layers.append("user")
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    if place.user_namespace or place.uid is None:
        system.drop_capabilities()
    if "landlock" not in place.left_out:
        number = restrict_files(request, place, folder)
        place.layers += ["landlock"] * (number >= 1) + ["landlock tcp"] * (number >= 4)
        place.layers += ["landlock signals"] * (number >= 6)
    if "seccomp" not in place.left_out:
        with suppress(OSError):
            seccomp.apply(place.counted, not place.shielded, "root folder" not in place.layers)
            place.layers.append("seccomp")
    if "landlock" in place.layers and (place.uid is not None or "seccomp" in place.layers):
        place.layers.append("landlock writes")
    if place.counted:
        place.layers.append("process count")
    missing = [" or ".join(group) for group in request["needed"] if not set(group) & set(place.layers)]
    report(layers=place.layers, missing=missing)
    if missing:
        os._exit(126)
    set_limits(request, place)
    for pipe in (1, 2):
        os.dup2(request["output"], pipe)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    environment = request["environment"] | {"HOME": folder, "TMPDIR": folder}
    os.execve(request["interpreter"], [request["interpreter"], "-u", "-s", "main.py"], environment)


def restrict_files(request: Request, place: Place, folder: str) -> int:
    """The Landlock version that now guards the files; 0 where there is none."""
    if "root folder" in place.layers:
        readable = ["/"]
    else:
        readable = [*files.SYSTEM, *request["readable"], "/dev/zero", "/dev/random", "/dev/urandom", "/proc/self"]
    try:
        return landlock.apply(readable, [folder, "/dev/null"])
    except OSError:
        return 0


def set_limits(request: Request, place: Place) -> None:
    """The kernel's own limits, each for one process; the number of processes is the user's."""
    limits = {
        resource.RLIMIT_CPU: request["cpu_s"],
        resource.RLIMIT_FSIZE: request["file_bytes"],
        resource.RLIMIT_NOFILE: request["open_files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_AS: request["memory_bytes"],
    }
    if place.counted:
        own = 2 if place.user_namespace else 0  # supervisor and keeper are of the same user there
        limits[resource.RLIMIT_NPROC] = request["processes"] + own
    for kind, value in limits.items():
        ceiling = value + 1 if kind == resource.RLIMIT_CPU else value
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value, ceiling = min(value, hard), min(ceiling, hard)
        resource.setrlimit(kind, (value, ceiling))
