"""Runs the command line in processes of its own, as a user does, and writes exports for it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROGRAM: Final = (sys.executable, "-m", "zotify_async_crud")
TIMEOUT: Final = 120.0

# what would change where the program works, or how its output looks
_FOREIGN: Final = {
    "COLUMNS",
    "FORCE_COLOR",
    "LINES",
    "NO_COLOR",
    "TERM",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "ZOTIFY_DATABASE_URL",
}

Finished = subprocess.CompletedProcess[str]
Running = subprocess.Popen[str]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process without what a developer may have set, and *more*."""
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**own, "TERM": "xterm-256color", **more}


def run(folder: Path, *arguments: str, **variables: str) -> Finished:
    """Run the program in *folder* to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


def start(folder: Path, *arguments: str) -> Running:
    """Start the program in *folder*; its output goes to the file ``output`` there."""
    with (folder / "output").open("w") as output, _interruptible():
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a process that is started in the block obey SIGINT, even if this one was told not to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_on_terminal(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run the program on a terminal of its own; return its exit code and what it drew there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment(COLUMNS="100", LINES="40", **variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = bytearray()
    with contextlib.suppress(OSError):  # EIO is how Linux tells that the other end is closed
        while chunk := os.read(ours, 65_536):
            drawn += chunk
    os.close(ours)
    return process.wait(TIMEOUT), drawn.decode()


def small_export(folder: Path, tracks: int = 12) -> Path:
    """Write an export of one playlist and a library, which share a track, and return its folder."""
    path = folder / "export"
    path.mkdir()
    uris = [f"spotify:track:{number:022}" for number in range(tracks)]
    items = [{"track": {"trackName": f"Song {uri[-2:]}", "trackUri": uri}} for uri in uris[:-2]]
    playlists = [{"name": "Mix", "items": [*items, items[0], {"track": None}]}]
    library = [{"track": "Saved", "uri": uri} for uri in uris[-3:]]
    (path / "Playlist1.json").write_text(json.dumps({"playlists": playlists}))
    (path / "YourLibrary.json").write_text(json.dumps({"tracks": library}))
    return path
