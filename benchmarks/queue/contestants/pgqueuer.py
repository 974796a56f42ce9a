"""pgqueuer on asyncpg."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from pgqueuer import PgQueuer, Queries

from benchmarks.queue.contestants import Contestant, Handler, dsn

_ENTRYPOINT: Final = "download"


def contestant(url: str, variant: str) -> Contestant:
    """Return pgqueuer; unless *variant* is ``capped``, it runs whatever it claims at once."""
    return _PgQueuer(url, capped=variant == "capped")


class _PgQueuer:
    """Finished jobs move from its queue to its log."""

    unfinished = "SELECT count(*) FROM pgqueuer"
    finished = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"

    def __init__(self, url: str, *, capped: bool) -> None:
        self._dsn, self._capped = dsn(url), capped
        self._pool: Any = None
        self._queries: Any = None

    async def prepare(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        await Queries.from_asyncpg_connection(connection).install()
        await connection.close()

    @asynccontextmanager
    async def connected(self, connections: int) -> AsyncIterator[None]:
        size = max(2, connections)  # one of them listens
        async with asyncpg.create_pool(self._dsn, min_size=size, max_size=size) as pool:
            self._pool, self._queries = pool, Queries.from_asyncpg_pool(pool)
            yield

    async def enqueue(self, payload: str) -> None:
        await self._queries.enqueue(_ENTRYPOINT, payload.encode())

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        await self._queries.enqueue(
            [_ENTRYPOINT] * len(payloads),
            [payload.encode() for payload in payloads],
            [0] * len(payloads),
        )

    @asynccontextmanager
    async def working(self, handler: Handler, concurrency: int) -> AsyncIterator[None]:
        async def download(job: Any) -> None:
            await handler(job.payload.decode())

        queue = PgQueuer.from_asyncpg_pool(self._pool)
        queue.entrypoint(_ENTRYPOINT)(download)
        running = asyncio.create_task(
            queue.run(
                # a batch may be at most half of the cap
                batch_size=concurrency // 2 if self._capped else concurrency,
                max_concurrent_tasks=concurrency if self._capped else None,
                dequeue_timeout=dt.timedelta(seconds=30),
            )
        )
        yield
        queue.shutdown.set()
        await running
