"""A terminal of a test's own: it shows what a program draws, has keys, and can be resized."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyte
from pyte.screens import Char

from tests.cli.programs import PROGRAM, TIMEOUT, environment
from tests.support.pools import until

_IN_FOREGROUND: Final = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(1, termios.TIOCSCTTY, 0)  # as a shell does: keys that are signals go to it
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal on which the program runs."""

    def __init__(
        self, process: subprocess.Popen[bytes], end: int, before: list[Any], columns: int, rows: int
    ) -> None:
        self.process, self._end, self.before = process, end, before
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.drawn = bytearray()
        """All that the program has written."""

        asyncio.get_running_loop().add_reader(end, self._read)

    @property
    def text(self) -> str:
        """What is to be seen, in lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def rows(self) -> list[list[Char]]:
        """What is to be seen, with its colours."""
        columns = range(self._screen.columns)
        return [
            [self._screen.buffer[row][column] for column in columns]
            for row in range(self._screen.lines)
        ]

    @property
    def modes(self) -> list[Any]:
        """How the terminal treats keys."""
        return modes(self._end)

    def press(self, keys: str) -> None:
        """Press keys, one after the other."""
        os.write(self._end, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Make the window larger or smaller."""
        set_size(self._end, columns, rows)
        self._screen.resize(rows, columns)

    async def until_shown(self, *texts: str) -> None:
        """Wait until all *texts* are to be seen."""

        async def are_shown() -> bool:
            assert self.process.poll() is None, self.drawn.decode()
            return all(text in self.text for text in texts)

        await until(are_shown)

    async def until_gone(self, text: str) -> None:
        """Wait until *text* is not to be seen any more."""

        async def is_gone() -> bool:
            return text not in self.text

        await until(is_gone)

    async def ends(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        code = await asyncio.to_thread(self.process.wait, TIMEOUT)
        while self._read():  # a part at a time, until it tells that nobody writes any more
            pass
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        asyncio.get_running_loop().remove_reader(self._end)
        os.close(self._end)
        self.process.kill()
        self.process.wait()

    def _read(self) -> bool:
        chunk = b""
        with contextlib.suppress(OSError):  # EIO is how Linux tells that the other end is closed
            chunk = os.read(self._end, 65_536)
        if chunk:
            self.drawn += chunk
            self._stream.feed(chunk)
        else:
            asyncio.get_running_loop().remove_reader(self._end)
        return bool(chunk)


@contextlib.contextmanager
def terminal(
    folder: Path, *arguments: str, columns: int = 110, rows: int = 30, stdin: int | None = None
) -> Iterator[Terminal]:
    """Run the program on a terminal, which is its standard input unless *stdin* is."""
    end, theirs = pty.openpty()
    set_size(end, columns, rows)
    before = modes(end)  # before the program can change them
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_FOREGROUND, *PROGRAM, *arguments],
        cwd=folder,
        env=environment(),
        stdin=theirs if stdin is None else stdin,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = Terminal(process, end, before, columns, rows)
    try:
        yield shown
    finally:
        shown.close()


def modes(end: int) -> list[Any]:
    """Return how a terminal treats keys."""
    return termios.tcgetattr(end)[:4]


def set_size(end: int, columns: int, rows: int) -> None:
    """Say how large a terminal is; what runs on it is told by a signal."""
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
