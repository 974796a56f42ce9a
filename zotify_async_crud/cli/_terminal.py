"""The keys that are pressed on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def obeying_keys(pressed: Callable[[str], None]) -> Iterator[None]:
    """Call *pressed* with each key, and with nothing once the terminal is gone.

    Where standard input is no terminal, or on Windows, it is never called.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios  # noqa: PLC0415 - Windows has none
    import tty  # noqa: PLC0415 - the same

    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)  # each key comes at once, and is not shown
    loop.add_reader(terminal, lambda: pressed(read_key(terminal)))
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def read_key(terminal: int) -> str:
    """Return what was pressed; nothing, if the terminal is gone."""
    try:
        return os.read(terminal, 1).decode(errors="replace")
    except OSError:
        return ""
