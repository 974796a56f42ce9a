"""oban on psycopg."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

from oban import Oban, worker
from oban.schema import install

from benchmarks.queue.contestants import Contestant, Handler, dsn

_QUEUE: Final = "downloads"


def contestant(url: str, _: str) -> Contestant:
    """Return oban."""
    return _Oban(url)


class _Download:
    handler: ClassVar[Handler]

    async def process(self, job: Any) -> None:
        await type(self).handler(job.args["payload"])


_job: Final[Any] = worker(queue=_QUEUE)(_Download)


class _Oban:
    unfinished = "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'executing')"
    finished = "SELECT count(*) FROM oban_jobs WHERE state = 'completed'"

    def __init__(self, url: str) -> None:
        self._dsn = dsn(url)
        self._pool: Any = None
        self._client: Any = None

    async def prepare(self) -> None:
        pool = await Oban.create_pool(self._dsn)
        await install(pool)
        await pool.close()

    @asynccontextmanager
    async def connected(self, connections: int) -> AsyncIterator[None]:
        self._pool = await Oban.create_pool(self._dsn, min_size=connections, max_size=connections)
        await self._pool.wait()
        self._client = Oban(pool=self._pool)
        yield
        await self._pool.close()

    async def enqueue(self, payload: str) -> None:
        await self._client.enqueue(_job.new({"payload": payload}))

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        await self._client.enqueue_many(_job.new({"payload": payload}) for payload in payloads)

    @asynccontextmanager
    async def working(self, handler: Handler, concurrency: int) -> AsyncIterator[None]:
        _Download.handler = staticmethod(handler)
        async with Oban(pool=self._pool, queues={_QUEUE: concurrency}):
            yield
