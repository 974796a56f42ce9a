"""What the commands ask for: an answer on the terminal, and lines on standard input."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import sys
import threading
from collections.abc import Callable
from typing import Final

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
    answer = await _read(io.FileIO.readline)
    if not answer:
        sys.stderr.write("\n")  # which nobody has typed
    if answer.strip().lower() not in {b"y", b"yes"}:
        raise Declined("nothing was done")


async def lines_of_stdin() -> list[str]:
    """Return the lines of standard input until it ends, without those that are empty.

    Raises:
        WrongUsage: It is no text.
    """
    try:
        text = (await _read(io.FileIO.readall)).decode()
    except UnicodeDecodeError:
        raise WrongUsage("What comes by standard input is no text in UTF-8") from None
    lines = (line.strip(_AROUND) for line in text.split("\n"))
    return [line for line in lines if line]


async def _read(read: Callable[[io.FileIO], bytes]) -> bytes:
    """Return what *read* finds on standard input, while the loop goes on and obeys Ctrl-C."""
    # without a buffer, whose lock would not be free when this process ends
    file = io.FileIO(sys.stdin.fileno(), closefd=False)
    found = concurrent.futures.Future[bytes]()
    found.set_running_or_notify_cancel()  # so that it may end even where nobody waits any more

    def wait() -> None:
        try:
            found.set_result(read(file))
        except OSError as error:
            found.set_exception(error)

    # not by asyncio.to_thread, whose threads are waited for
    threading.Thread(target=wait, daemon=True).start()
    return await asyncio.wrap_future(found)
