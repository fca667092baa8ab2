"""Where a person sits: texts out, in which nothing acts, and lines in, with completion where the system has readline."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from agentrl.errors import ConfigError

# Control characters as their pictures; what turns the reading direction, and what no encoding can write, as a mark.
_INERT = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_INERT |= {0x7F: 0x2421} | dict.fromkeys(
    (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)), 0xFFFD
)


def inert(text: str) -> str:
    """A text that a terminal shows and does not obey.

    >>> inert("a[red]b\\x1b[2J")
    'a[red]b␛[2J'
    """
    return text.replace("\r\n", "\n").translate(_INERT)


class Terminal:
    """Standard input and output. Where either is a pipe or a file there is no prompt: lines are read as they come and
    written again behind ``> ``, so that the output alone tells what happened."""

    def __init__(self) -> None:
        self.console = Console(markup=False, emoji=False, highlight=False)
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()

    def say(self, text: str, style: str = "") -> None:
        """Shows a text as it is, in one of rich's styles."""
        self.console.print(Text(inert(text), style=style), soft_wrap=not self.interactive)
        sys.stdout.flush()

    def ask(self, prompt: str, choices: Sequence[str]) -> str | None:
        """The next line without its end; None where no more will come. TAB completes it to one of ``choices``.

        Raises ConfigError for bytes that are no text.
        """
        try:
            if self.interactive:
                with _completion(choices):
                    return input(f"{prompt}> ")
            line = sys.stdin.readline()
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input is no text: {error}") from error
        if not line:
            return None
        self.say(f"{prompt}> {line.rstrip()}", "bold")
        return line.rstrip("\n")


@contextmanager
def _completion(choices: Sequence[str]) -> Iterator[None]:
    """TAB completes the whole line, spaces included; afterwards everything is as it was."""
    try:
        import readline  # here: in some terminals the import alone writes to standard output
    except ImportError:  # Windows, and Pythons that were built without it: no completion there
        yield
        return

    def complete(text: str, number: int) -> str | None:
        fitting = [choice for choice in choices if choice.startswith(text)]
        return fitting[number] if number < len(fitting) else None

    before, delimiters = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims("")
    libedit = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters)
