"""The command ``work`` as a process, with handlers that tests direct by files in its folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.cli.programs import TIMEOUT, Running, start
from tests.support.pools import until

HANDLERS: Final = """
import asyncio, os, pathlib, signal, sys

HERE = pathlib.Path(__file__).parent

async def download(job):
    sys.stdout.write(f"downloaded {job.track_id}\\n")  # whole, whoever else writes there

async def hold(job):
    (HERE / f"{job.track_id}.begun").write_text(str(os.getpid()))
    while not (HERE / "go").exists():
        await asyncio.sleep(0.01)

async def die_at_first(job):
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@contextlib.contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Be in *folder*, and forget afterwards which of its modules were imported."""
    modules, path = set(sys.modules), list(sys.path)
    with contextlib.chdir(folder):
        try:
            yield
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                del sys.modules[name]


class Service:
    """A run of ``work`` in *folder*."""

    def __init__(self, folder: Path, url: str, handler: str, *options: str) -> None:
        self._folder = folder
        (folder / "handlers.py").write_text(HANDLERS)
        arguments = ("work", f"handlers:{handler}", "--database-url", url, *options)
        self.process: Running = start(folder, *arguments)

    @property
    def output(self) -> str:
        """What it has written so far."""
        return (self._folder / "output").read_text()

    async def until_written(self, text: str, times: int = 1) -> None:
        """Wait until *text* stands in its output so many times."""

        async def is_written() -> bool:
            goes_on = self.process.poll() is None  # first: what it wrote before it ended counts
            found = self.output.count(text) >= times
            assert found or goes_on, self.output
            return found

        await until(is_written)

    async def until_begun(self, track_id: str = "t0") -> int:
        """Wait until ``hold`` has the job of a track; return the process that it runs in."""
        path = self._folder / f"{track_id}.begun"

        async def has_begun() -> bool:
            assert self.process.poll() is None, self.output
            return path.exists() and path.read_text() != ""

        await until(has_begun)
        return int(path.read_text())

    def let_go(self) -> None:
        """Let ``hold`` end."""
        (self._folder / "go").touch()

    async def ask_to_stop(self, number: signal.Signals = signal.SIGTERM, times: int = 1) -> None:
        """Send a signal, and wait until it has come."""
        self.process.send_signal(number)
        await self.until_written("asked to stop", times)

    async def ends(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return await asyncio.to_thread(self.process.wait, TIMEOUT)


def counted(output: str) -> dict[str, int]:
    """Return what ``--json`` has written at the end of *output*."""
    found: dict[str, int] = json.loads(output[output.rindex("{") :])
    return found
