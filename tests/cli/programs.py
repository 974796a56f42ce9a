"""Runs the command line in processes of its own, as a user does, and writes exports for it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions, create_job
from tests.support.secrets import KEYS
from zotify_async_crud import crud, database
from zotify_async_crud.schemas import DownloadJobStatus

PROGRAM: Final = (sys.executable, "-m", "zotify_async_crud")
TIMEOUT: Final = 120.0
CTRL_C: Final = "\x03"

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
    "ZOTIFY_TOKEN_KEYS",
    "ZOTIFY_TOKEN_KEY_FILE",
}

Finished = subprocess.CompletedProcess[str]
Running = subprocess.Popen[str]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process without what a developer may have set, and *more*.

    The token's key is that of the tests, so that they can read it.
    """
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**own, "TERM": "xterm-256color", "ZOTIFY_TOKEN_KEYS": KEYS[0], **more}


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


def start(folder: Path, *arguments: str, stdin: int | None = None) -> Running:
    """Start the program in *folder*; its output goes to the file ``output`` there."""
    with (folder / "output").open("w") as output, _interruptible():
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=folder,
            env=environment(),
            stdin=stdin,
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


def run_on_terminal(
    folder: Path, *arguments: str, press: str = CTRL_C, at: str | None = None, **variables: str
) -> tuple[int, str]:
    """Run the program on a terminal of its own; return its exit code and what it drew there.

    *press* these keys there as soon as it has drawn what fits *at*.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_FOREGROUND, *PROGRAM, *arguments],
        cwd=folder,
        env=environment(COLUMNS="100", LINES="40", **variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    drawn = bytearray()
    with contextlib.suppress(OSError):  # EIO is how Linux tells that the other end is closed
        while chunk := os.read(ours, 65_536):
            drawn += chunk
            if at and re.search(at, drawn.decode(errors="replace")):
                os.write(ours, press.encode())
                at = None
    os.close(ours)
    return process.wait(TIMEOUT), drawn.decode()


_IN_FOREGROUND: Final = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # as a shell does: keys that are signals go to it
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


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


async def leave_one_for_later(sessions: Sessions) -> str:
    """Enqueue the first track of the export above for much later, so that no demo ends before."""
    async with sessions.begin() as db:
        await crud.get_or_create_track(db, f"{0:022}", "Song 00")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    return (await create_job(sessions, f"{0:022}", available_at=later)).job_id


async def wait_for_completed_jobs(engine: AsyncEngine, count: int, process: Running) -> None:
    """Wait until at least *count* jobs are completed, while *process* works on them."""
    sessions = database.create_session_factory(engine)
    deadline = time.monotonic() + 60
    done = 0
    while done < count:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        async with sessions.begin() as db:
            page = await crud.list_download_jobs(
                db, status=DownloadJobStatus.COMPLETED, limit=count
            )
        done = len(page.items)
        await asyncio.sleep(0.01)
