"""What the commands ask for: an answer on the terminal, and lines on standard input."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text


class WrongUsage(Exception):
    """The command can not be run in this way."""


class Declined(Exception):
    """The user was asked, and said no."""


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless *yes* was given.

    Raises:
        WrongUsage: There is nobody to ask.
        Declined: The answer is no, or none.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsage(f"{question} Nobody can answer here: give --yes")
    with _interruptible(), contextlib.suppress(EOFError):
        if Confirm.ask(Text(question), console=Console(stderr=True), default=False):
            return
    raise Declined("nothing was done")


def lines_of_stdin() -> list[str]:
    """Return the lines of standard input until it ends, without those that are empty.

    Raises:
        WrongUsage: It is no text.
    """
    try:
        with _interruptible():
            return [line.strip() for line in sys.stdin if line.strip()]
    except UnicodeDecodeError:
        raise WrongUsage("What comes by standard input is no text") from None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt the block at once; asyncio would only note it, and wait with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
