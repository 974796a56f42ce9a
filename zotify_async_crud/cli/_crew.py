"""Worker processes that are kept running until their work is over."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from asyncio import StreamReader
from asyncio.subprocess import Process
from typing import Final, cast

from zotify_async_crud import _processes
from zotify_async_crud._backoff import ExponentialBackoff
from zotify_async_crud._tasks import first_failure
from zotify_async_crud.cli._worker import LOG, Order
from zotify_async_crud.errors import ZotifyCrudError
from zotify_async_crud.worker import Counts

_PROGRAM: Final = ("-c", "from zotify_async_crud.cli._worker import main; main()")

_PAUSES: Final = ExponentialBackoff(first=0.5, longest=30.0)

_LONG: Final = 10.0
"""Seconds after which the death of a process is not that of one that cannot even begin."""

_MOST_DEATHS: Final = 5
"""Deaths in a row, none after a long life, by which it is clear that another try is no use."""

_GRACE: Final = 15.0
"""Seconds that a process has to end, beside those that its handlers have."""


class CrewDied(ZotifyCrudError):
    """A worker process dies again and again; the log says why, unless it was killed."""


class Crew:
    """Worker processes that share the work of *order*. One that dies is replaced after a pause."""

    def __init__(self, order: Order, size: int) -> None:
        self._order, self._size = order, size
        self._counts = Counts()
        self._processes: set[Process] = set()
        self._stopping, self._over = asyncio.Event(), asyncio.Event()

    async def run(self) -> Counts:
        """Return what was done, when all processes have ended in good order.

        What one had done until it was killed is not counted.

        Raises:
            CrewDied: One cannot be kept alive; the others were stopped.
        """
        try:
            with first_failure():
                async with asyncio.TaskGroup() as group:
                    for number in range(1, self._size + 1):
                        group.create_task(self._keep(f"worker process {number}"))
        finally:
            self._over.set()
        return self._counts

    async def stop(self) -> None:
        """Let the processes end what they have begun; a second call breaks that off."""
        patience = _GRACE if self._stopping.is_set() else self._order.shutdown_timeout + _GRACE
        self._stopping.set()
        for process in self._processes:
            _processes.ask_to_stop(process)
        asyncio.get_running_loop().call_later(patience, self._kill)
        await self._over.wait()

    def _kill(self) -> None:
        for process in self._processes:
            _processes.kill(process)

    async def _keep(self, name: str) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            process, counts = await self._run(name)
            if counts is not None:
                self._add(counts)
                return
            deaths = 1 if time.monotonic() - started > _LONG else deaths + 1
            fate = f"{name} {_fate(process)}"
            if deaths >= _MOST_DEATHS:
                raise CrewDied(f"{fate}, {deaths} times in a row soon after its start")
            LOG.warning("%s", fate)
            await self._pause(_PAUSES(deaths))

    async def _run(self, name: str) -> tuple[Process, Counts | None]:
        process = await _processes.start(*_PROGRAM)
        self._processes.add(process)
        LOG.info("%s started: %d", name, process.pid)
        _processes.tell(process, dataclasses.asdict(self._order))
        if self._stopping.is_set():
            _processes.ask_to_stop(process)
        ended = asyncio.create_task(_report(process))
        try:
            await asyncio.wait({ended})
        finally:
            await _processes.end(process, ended, self._order.shutdown_timeout + _GRACE)
            self._processes.discard(process)
        return process, ended.result()

    def _add(self, counts: Counts) -> None:
        for name, number in dataclasses.asdict(counts).items():
            setattr(self._counts, name, getattr(self._counts, name) + number)

    async def _pause(self, seconds: float) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stopping}, timeout=seconds)
        stopping.cancel()


async def _report(process: Process) -> Counts | None:
    """Return what a process has done, once it has ended; None if it did not come to tell."""
    told = await cast(StreamReader, process.stdout).read()
    await process.wait()
    return Counts(**json.loads(told)) if told else None


def _fate(process: Process) -> str:
    code = cast(int, process.returncode)
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
