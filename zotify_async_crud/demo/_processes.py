"""Workers in processes of their own.

Each has a pipe as its standard input. It brings what to do, and its end, which also comes when this
process is killed, says that the work is over. No signal is needed, and none of a terminal arrives.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Final, cast

from zotify_async_crud.demo._downloads import Worker, first_failure

_PROGRAM: Final = ("-P", "-m", "zotify_async_crud.demo._worker")
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
        process = await _start()
        ended = asyncio.create_task(_last_words(process))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await cast(StreamReader, process.stdout).readline()  # it is ready, or gone
            await self._all_ready.wait()
            _tell(process, worker)
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await _end(process, ended)
        if process.returncode:
            self._say(f"{name} {_fate(process.returncode, ended.result())}")


async def _start() -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *_PROGRAM,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        # it finds what this process finds, and nothing in the folder where it is started
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # Ctrl-C is for this process, which tells the others
    )


def _tell(process: Process, worker: Worker) -> None:
    order = json.dumps(dataclasses.asdict(worker))
    cast(StreamWriter, process.stdin).write(f"{order}\n".encode())


async def _last_words(process: Process) -> str:
    """Return the last line that a process wrote for people, once it has ended."""
    said = await cast(StreamReader, process.stderr).read()
    await process.wait()
    return said.decode(errors="replace").strip().rpartition("\n")[2]


async def _end(process: Process, ended: asyncio.Task[str]) -> None:
    cast(StreamWriter, process.stdin).close()
    await asyncio.wait({ended}, timeout=_PATIENCE)
    if not ended.done():
        process.kill()
        await asyncio.wait({ended})


def _fate(code: int, said: str) -> str:
    if code < 0:
        return f"was killed by signal {-code}: its jobs come back to the queue"
    return f"failed: {said}"
