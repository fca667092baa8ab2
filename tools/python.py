"""``python``: runs a program that a model wrote, in processes of its own.

    [env.options]
    tools = [{ name = "python", wall_s = 5, require = ["network", "writes"] }]

Each call is a new program in a new, empty folder: nothing of an earlier call is left. ``isolation()`` says what this machine
gives; ``require`` names what must hold, or nothing is started. What always holds:

- processes of its own, ended with all that they started (also what left its session) before the call returns;
- limits of each process: CPU time, address space, size of a file, open files, no core files; and of the call: wall-clock
  time, output;
- an environment with none of the caller's variables, no standard input, no open files of the caller.

What holds where the system has it (Linux; a virtual machine or a container with the usual rights), each by one or more
layers:

==========  =================================================  ==================================================
property    what it means                                      given by
==========  =================================================  ==================================================
network     no sockets, not even to this machine               seccomp; a network namespace (an empty one)
signals     it can neither signal nor trace other processes    a pid namespace; a user of its own; seccomp
processes   at most ``processes`` processes and threads, or     a user of its own and RLIMIT_NPROC; seccomp (no further
            none but its own with threads                      processes at all)
reads       it reads the system's programs and libraries, its  a root directory of its own; Landlock (names,
            Python with all packages, ``readable``, no more    sizes and dates of other files stay visible)
writes      it writes to its working folder only               a root directory of its own; Landlock (with a user of
                                                               its own, or seccomp: it may then change no modes)
disk        its files together take ``disk_mb`` at most, and   the working folder in memory
            ``n_files`` in number
memory      its processes together are held to ``memory_mb``   looks at /proc of a pid namespace, 20 a second
            of resident memory
==========  =================================================  ==================================================

What is **not** isolated: the kernel is the machine's own, so a hole in the kernel is a way out (a virtual machine is the
answer to that); time, the number of cores and what ``uname`` tells are visible; CPU time is limited for each process, for
all together only by wall-clock time; without ``memory``, each of its processes has ``memory_mb`` for itself; with it they may
exceed it between two looks; what lies in the page cache can be timed. Without ``reads`` it reads whatever its user can.

``backend = "docker"`` (or "podman") runs each call in a container of ``image`` instead. (Tested by its command line and a
stand-in; with a real one only where one runs.)
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from agentrl.errors import ConfigError, ToolError, ToolFault, did_you_mean
from agentrl.tool import Toolset, register_tool, tool
from agentrl.tools.sandbox import containers, system
from agentrl.tools.sandbox.launch import Ended, LayersMissing, Limits, Setting, Stop, run

__all__ = ["PROPERTIES", "Python", "isolation", "shown"]

# Each is given by any one of its layers.
PROPERTIES: dict[str, tuple[str, ...]] = {
    "network": ("seccomp", "network namespace"),
    "signals": ("pid namespace", "user", "seccomp"),
    "processes": ("process count", "seccomp"),
    "reads": ("root folder", "landlock"),
    "writes": ("root folder", "landlock writes"),
    "disk": ("root folder",),
    "memory": ("proc",),
}
# One thread a call (many calls share the machine), and sets that have the same order each time.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}
MAX_CODE_CHARS = 100_000
MAX_SHOWN_CHARS = 7_000  # below what a tool's result is cut to
CONTROL = {code: "\ufffd" for code in range(32) if chr(code) not in "\t\n\r"}


@functools.cache
def isolation(interpreter: str = sys.executable) -> dict[str, tuple[str, ...]]:
    """What this machine gives to the process back end: for each of ``PROPERTIES`` the layers that give it; none: it does not
    hold. Found by running a program once.

    Raises ToolFault where not even that is possible."""
    layers = set(run("", Limits(), Setting(interpreter=interpreter)).layers)
    return {name: tuple(layer for layer in by if layer in layers) for name, by in PROPERTIES.items()}


@register_tool
@dataclass
class Python(Toolset):
    """The tool ``python``. Limits are for one call. ``output_chars``: what the model is shown of the output, the first and
    the last half of them; ``output_kb``: a program that writes more is killed. ``concurrency``: calls at a time in this
    process (0: as many as there are cores); a call that waits for its turn uses none of its time.

    Raises ConfigError for values out of range, a property of ``require`` that this machine lacks, a system that cannot
    confine processes at all, and a back end that is not there.
    """

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_mb: int = 512
    file_mb: int = 16
    disk_mb: int = 64
    n_files: int = 2000
    open_files: int = 64
    processes: int = 16
    output_chars: int = 4000
    output_kb: int = 1000
    concurrency: int = 0
    interpreter: str = sys.executable
    readable: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    backend: Literal["process", "docker", "podman"] = "process"
    image: str = "python:3.12-slim"
    lifetime: ClassVar[Literal["episode", "task", "run"]] = "run"

    isolation = staticmethod(isolation)  # for who has the class by its registered name

    def __post_init__(self) -> None:
        for name in (
            *("wall_s", "cpu_s", "memory_mb", "file_mb", "disk_mb", "n_files", "open_files", "processes"),
            *("output_chars", "output_kb"),
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"python.{name}: wanted above 0; got {getattr(self, name):g}")
        if self.output_chars > MAX_SHOWN_CHARS:
            raise ConfigError(f"python.output_chars: wanted at most {MAX_SHOWN_CHARS}; got {self.output_chars}")
        for name in self.require:
            if name not in PROPERTIES:
                raise ConfigError(f"python.require: no property '{name}'.{did_you_mean(name, PROPERTIES)}")
        self._setting = Setting(
            self.interpreter,
            tuple(os.path.abspath(path) for path in self.readable),
            ENVIRONMENT,
            tuple(PROPERTIES[name] for name in self.require),
        )
        self._limits = Limits(
            wall_s=self.wall_s,
            cpu_s=self.cpu_s,
            memory_mb=self.memory_mb,
            file_mb=self.file_mb,
            disk_mb=self.disk_mb,
            n_files=self.n_files,
            open_files=self.open_files,
            processes=self.processes,
            output_bytes=self.output_kb * 1000,
        )
        self._threads: ThreadPoolExecutor | None = None
        self._check_backend()

    def _check_backend(self) -> None:
        if self.backend != "process":
            if shutil.which(self.backend) is None:
                raise ConfigError(
                    f'python.backend: "{self.backend}" is not installed here; use "process" or install it'
                )
            return
        if not system.LINUX:
            raise ConfigError('python.backend: "process" needs Linux on x86_64 or arm64; use "docker" or "podman" here')
        if shutil.which(self.interpreter) is None:
            raise ConfigError(f"python.interpreter: no program {self.interpreter}")
        if self.require:
            lacking = [name for name in self.require if not isolation(self.interpreter)[name]]
            if lacking:
                raise ConfigError(
                    f"python.require: this machine cannot give {', '.join(lacking)} (wanted one of: "
                    f"{'; '.join(' or '.join(PROPERTIES[name]) for name in lacking)}); run in a virtual machine, allow user "
                    'namespaces, or use backend = "docker"'
                )

    def open(self, task: object) -> None:
        """Nothing is started: calls do that."""
        return None

    def close(self) -> None:
        """Waits for calls that are still running."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    @tool
    async def python(self, code: str) -> str:
        """Runs a Python program and gives what it prints, errors included.

        Each call is a new program: variables and files of earlier calls are gone. There is no network and no input.

        Args:
            code: The whole program. Print what you want to see.
        """
        if len(code) > MAX_CODE_CHARS:
            raise ToolError(f"a program has {MAX_CODE_CHARS} characters at most; this one has {len(code)}")
        try:
            code.encode()
        except UnicodeEncodeError as error:
            raise ToolError(f"the program is no text: {error}") from error
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.concurrency or os.cpu_count() or 1, "agentrl-python")
        return shown(await self._ended(code), self._limits, self.output_chars)

    async def _ended(self, code: str) -> Ended:
        """The run, in a thread; a caller that gives up ends it first."""
        stop = Stop()
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._runner(code, stop))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            future.exception()  # nobody else will ask
            raise
        except LayersMissing as error:
            raise ToolFault(f"python: this machine no longer gives {error}") from error
        finally:
            stop.close()

    def _runner(self, code: str, stop: Stop) -> Callable[[], Ended]:
        keep_bytes = 4 * self.output_chars
        if self.backend == "process":
            return functools.partial(run, code, self._limits, self._setting, keep_bytes, stop)
        return functools.partial(
            containers.run, code, self.backend, self.image, self._limits, self._setting, keep_bytes, stop
        )


def shown(ended: Ended, limits: Limits, n_chars: int) -> str:
    """What the model sees: the output (its first and last halves where it is longer than ``n_chars``), and a line in
    brackets where the program did not end well."""
    text = output_text(ended, n_chars)
    end = ending(ended, limits)
    if not text and not end:
        return "(no output)"
    return text + ("\n" if text and end and not text.endswith("\n") else "") + end


def output_text(ended: Ended, n_chars: int) -> str:
    """The output as text: what is no UTF-8 and control characters are replaced."""
    kept = [part.decode(errors="replace").translate(CONTROL) for part in (ended.head, ended.tail)]
    if ended.n_bytes == len(ended.output):
        whole = ended.output.decode(errors="replace").translate(CONTROL)
        if len(whole) <= n_chars:
            return whole
        kept = [whole, whole]
    first, last = kept[0][: n_chars // 2], kept[1][-(n_chars - n_chars // 2) :]
    return f"{first}\n… (cut: {ended.n_bytes} bytes in all) …\n{last}"


def ending(ended: Ended, limits: Limits) -> str:
    """How it ended, where it did not end well."""
    reasons = {
        "wall": f"it took longer than {limits.wall_s:g} s",
        "output": f"it wrote more than {limits.output_bytes} bytes",
        "memory": f"it took more than {limits.memory_mb} MB of memory",
        "stopped": "it was stopped",
    }
    if ended.why:
        return f"[killed: {reasons[ended.why]}]"
    if ended.exit_code == 0:
        return ""
    if ended.exit_code > 0:
        return f"[exit code {ended.exit_code}]"
    # The kernel's count and the one that it reports differ by some tenths. A program may survive the first signal.
    if ended.exit_code == -signal.SIGXCPU or (ended.exit_code == -signal.SIGKILL and ended.cpu_s >= limits.cpu_s * 0.8):
        return f"[killed: it used more than {limits.cpu_s} s of CPU time]"
    with suppress(ValueError):
        return f"[killed by {signal.Signals(-ended.exit_code).name}]"
    return f"[killed by signal {-ended.exit_code}]"
