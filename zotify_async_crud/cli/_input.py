"""What the commands ask for: an answer on the terminal, and lines on standard input."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final

_INPUT: Final = 0
_AROUND: Final = " \t\r\n\ufeff"
"""What may stand around a line and is no part of it: also the mark that some editors begin with."""


class WrongUsage(Exception):
    """The command can not be run in this way."""


class Declined(Exception):
    """The user was asked, and said no."""


async def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless *yes* was given.

    Raises:
        WrongUsage: There is nobody to ask.
        Declined: The answer is no, or none.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsage(f"{question} Nobody can answer here: give --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = await _line_of_terminal()
    if not answer:
        sys.stderr.write("\n")  # which nobody has typed
    if answer.strip().lower() not in {b"y", b"yes"}:
        raise Declined("nothing was done")


async def _line_of_terminal() -> bytes:
    """Return what is typed, while the loop goes on and obeys Ctrl-C."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        # without a buffer, whose lock would not be free when this process ends
        typed = io.FileIO(_INPUT, closefd=False).readline()
        with contextlib.suppress(RuntimeError):  # the loop is closed, since nobody waits any more
            loop.call_soon_threadsafe(line.set_result, typed)

    # not by asyncio.to_thread, whose threads are waited for
    threading.Thread(target=read, daemon=True).start()
    return await line


def lines_of_stdin() -> list[str]:
    """Return the lines of standard input until it ends, without those that are empty.

    Raises:
        WrongUsage: It is no text.
    """
    try:
        with _interruptible():
            lines = [line.strip(_AROUND) for line in sys.stdin]
    except UnicodeDecodeError:
        raise WrongUsage("What comes by standard input is no text") from None
    return [line for line in lines if line]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt the block at once; asyncio would only note it, and wait with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
