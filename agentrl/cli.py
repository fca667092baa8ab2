"""The command line: a thin skin over the Python API. ``agentrl COMMAND --help`` explains each command.

Errors that a user can mend are one line on standard error and exit status 2; a check that fails is exit status 1.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from agentrl.commands import app
from agentrl.errors import AgentRLError, UserError
from agentrl.overrides import overrides_first

DESCRIPTION = """Train, evaluate and inspect language-model agents.
`agentrl COMMAND --help` explains a command; `agentrl --version` prints the version. A first run: `agentrl train quickstart`."""


@contextmanager
def _terminable(received: list[int]) -> Iterator[None]:
    """In the block, SIGTERM (a scheduler's) does what Ctrl-C does, and is added to ``received``; outside of the main
    thread, where no signal arrives, nothing changes."""

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        interrupt = signal.getsignal(signal.SIGINT)  # asyncio puts its own there while it runs
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _version() -> str:
    try:
        return importlib.metadata.version("agentrl-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"agentrl {_version()}")
        return 0
    # Idle threads must sleep, not spin: beside any other process, spinning makes training several times slower. The OpenMP
    # runtime reads this when torch is imported, which every command does after this line.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with suppress(OSError):  # a current folder that was removed
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # a user's own modules: module:attribute in a run file, module:my/Env-v0
    received: list[int] = []
    try:
        with _terminable(received):
            app.cli(prog="agentrl", description=DESCRIPTION, args=overrides_first(arguments))
    except UserError as error:
        print(f"agentrl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumable = list(arguments[:1]) in (["train"], ["sweep"]) or (
            list(arguments[:1]) == ["eval"] and any(word.startswith("--out") for word in arguments)
        )
        remedy = "; continue with --resume" if resumable else ""
        print(f"agentrl: interrupted{remedy}", file=sys.stderr)
        return 143 if received else 130
    except BrokenPipeError:
        return 1
    except (
        AgentRLError,
        FloatingPointError,
        OSError,
    ) as error:  # a run that failed, numbers that are none, a full disk
        print(f"agentrl: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
