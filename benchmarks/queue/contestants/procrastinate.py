"""procrastinate on psycopg."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, PsycopgConnector

from benchmarks.queue.contestants import Contestant, Handler, dsn


def contestant(url: str, _: str) -> Contestant:
    """Return procrastinate."""
    return _Procrastinate(url)


class _Procrastinate:
    unfinished = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    finished = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"

    def __init__(self, url: str) -> None:
        self._dsn = dsn(url)
        self._handler: Handler | None = None
        self._app: Any = None
        self._task: Any = None

    async def prepare(self) -> None:
        async with App(connector=PsycopgConnector(conninfo=self._dsn)).open_async() as app:
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def connected(self, connections: int) -> AsyncIterator[None]:
        async def download(payload: str) -> None:
            assert self._handler
            await self._handler(payload)

        connector = PsycopgConnector(conninfo=self._dsn, min_size=connections, max_size=connections)
        async with App(connector=connector).open_async() as app:
            self._app, self._task = app, app.task(name="download")(download)
            await connector.pool.wait()
            yield

    async def enqueue(self, payload: str) -> None:
        await self._task.defer_async(payload=payload)

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        await self._task.batch_defer_async(*({"payload": payload} for payload in payloads))

    @asynccontextmanager
    async def working(self, handler: Handler, concurrency: int) -> AsyncIterator[None]:
        self._handler = handler
        running = asyncio.create_task(
            self._app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)
        )
        yield
        running.cancel()
        await asyncio.wait([running])
