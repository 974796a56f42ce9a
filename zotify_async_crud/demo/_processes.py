"""Workers in processes of their own."""

from __future__ import annotations

import asyncio
import dataclasses
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Final, cast

from zotify_async_crud import _processes
from zotify_async_crud._tasks import first_failure
from zotify_async_crud.demo._downloads import Worker

_PROGRAM: Final = ("-m", "zotify_async_crud.demo._worker")
_PATIENCE: Final = 15.0
"""Seconds that a process has to end, which takes a moment unless the database hangs."""


class Processes:
    """A team of workers, each in a process; one that is killed is missed, and not replaced."""

    def __init__(self, workers: Sequence[Worker], say: Callable[[str], None]) -> None:
        self._workers, self._say = workers, say
        self._all_ready = asyncio.Barrier(len(workers))
        self._stopping, self._over = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Run the processes until ``stop`` is called, or all have ended by themselves."""
        try:
            with first_failure():
                async with asyncio.TaskGroup() as group:
                    for number, worker in enumerate(self._workers, 1):
                        group.create_task(self._run(f"Worker process {number}", worker))
        finally:
            self._over.set()

    async def stop(self) -> None:
        """Let the processes end what they have begun, and wait for them."""
        self._stopping.set()
        await self._over.wait()

    async def _run(self, name: str, worker: Worker) -> None:
        process = await _processes.start(*_PROGRAM, stderr=PIPE)
        ended = asyncio.create_task(_last_words(process))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await cast(StreamReader, process.stdout).readline()  # it is ready, or gone
            await self._all_ready.wait()
            _processes.tell(process, dataclasses.asdict(worker))
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await _processes.end(process, ended, _PATIENCE)
        if process.returncode:
            self._say(f"{name} {_fate(process.returncode, ended.result())}")


async def _last_words(process: Process) -> str:
    """Return the last line that a process wrote for people, once it has ended."""
    said = await cast(StreamReader, process.stderr).read()
    await process.wait()
    return said.decode(errors="replace").strip().rpartition("\n")[2]


def _fate(code: int, said: str) -> str:
    if code < 0:
        return f"was killed by signal {-code}: its jobs come back to the queue"
    return f"failed: {said}"
