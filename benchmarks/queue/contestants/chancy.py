"""chancy on psycopg."""

# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from chancy import Chancy, Job, Queue, Worker

from benchmarks.queue.contestants import Contestant, Handler, dsn

_QUEUE: Final = "default"
"""Its worker declares this one too, and starts a pool of processes unless it is there already."""

_handlers: Final[list[Handler]] = []


def contestant(url: str, _: str) -> Contestant:
    """Return chancy."""
    return _Chancy(url)


async def download(*, payload: str) -> None:
    """Handle a job: chancy finds its functions by their import path."""
    await _handlers[-1](payload)


class _Chancy:
    unfinished = "SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running')"
    finished = "SELECT count(*) FROM chancy_jobs WHERE state = 'succeeded'"

    def __init__(self, url: str) -> None:
        self._dsn = dsn(url)
        self._chancy: Any = None
        # its own logger would print a line for each job
        self._logger = logging.getLogger("benchmarks.chancy")
        self._logger.setLevel(logging.WARNING)

    async def prepare(self) -> None:
        async with Chancy(self._dsn, log=self._logger) as chancy:
            await chancy.migrate()

    @asynccontextmanager
    async def connected(self, connections: int) -> AsyncIterator[None]:
        async with Chancy(
            self._dsn,
            log=self._logger,
            min_connection_pool_size=connections,
            max_connection_pool_size=connections,
        ) as chancy:
            await chancy.pool.wait()
            self._chancy = chancy
            yield

    async def enqueue(self, payload: str) -> None:
        await self._chancy.push(_job(payload))

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        jobs = [_job(payload) for payload in payloads]
        async for _ in self._chancy.push_many(jobs, batch_size=len(jobs)):
            pass

    @asynccontextmanager
    async def working(self, handler: Handler, concurrency: int) -> AsyncIterator[None]:
        _handlers.append(handler)
        queue = Queue(
            name=_QUEUE,
            concurrency=concurrency,
            executor=Chancy.Executor.Async,
            eager_polling=True,  # or it would wait between one batch and the next
        )
        await self._chancy.declare(queue, upsert=True)
        async with Worker(self._chancy, register_signal_handlers=False):
            yield


def _job(payload: str) -> Any:
    return Job.from_func(download, queue=_QUEUE, kwargs={"payload": payload})
