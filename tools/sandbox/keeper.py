"""The process around a program that serves this one: when either of the two ends, nothing of the program is left.

    this process ── keeper ── program ── whatever it starts

The program keeps the standard streams that the keeper was given, so its end is seen through them. The keeper adopts what the
program leaves behind, also what left its session, and kills it; it does the same when the process that started it dies, by
whatever signal, and some time after a SIGTERM. (A SIGKILL of the keeper itself reaches the program and no further.)
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from agentrl.tools.sandbox import system
from agentrl.tools.sandbox.supervisor import kill_rest

GRACE_S = 1.0  # between a SIGTERM, which goes to the program too, and the end
# As in ``launch``: without what stands above this package.
START = """
import sys
for name in ("agentrl", "agentrl.tools", "agentrl.tools.sandbox"):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [sys.argv[1]]
from agentrl.tools.sandbox.keeper import main
main(int(sys.argv[2]), sys.argv[3:])
"""
HERE = str(Path(__file__).parent)


def kept(command: list[str]) -> list[str]:
    """The command that runs ``command`` under a keeper; itself where the system has no such thing."""
    if not system.LINUX or not hasattr(os, "pidfd_open"):
        return command
    return [sys.executable, "-I", "-S", "-c", START, HERE, str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """The keeper's life. Ends with the program's exit code."""
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.set_wakeup_fd(woken)
    starter = os.pidfd_open(parent)
    if os.getppid() != parent:
        os._exit(1)
    program = os.fork()
    if program == 0:
        _become(command)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    ended = os.pidfd_open(program)
    poll = select.poll()
    for event in (starter, ended, wake):
        poll.register(event, select.POLLIN)
    ready = {event for event, _ in poll.poll()}
    if not ready & {starter, ended}:
        poll.unregister(wake)
        ready = {event for event, _ in poll.poll(GRACE_S * 1000)}
    status = os.waitpid(program, 0)[1] if ended in ready else None
    kill_rest()
    os._exit(1 if status is None else os.waitstatus_to_exitcode(status) & 0xFF)


def _become(command: list[str]) -> None:
    """The program, which dies with the keeper. Does not return."""
    try:
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGPIPE):  # Python ignores the second, which a program would inherit
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {os.strerror(error.errno or 0)}\n".encode())
    os._exit(127)
