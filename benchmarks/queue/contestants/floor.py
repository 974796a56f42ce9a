"""The floor: what the same work costs in SQL written by hand, on asyncpg and nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg

from benchmarks.queue.contestants import Contestant, Handler, dsn

BATCH: Final = 50
"""Jobs that one statement finishes and claims."""

_CREATE: Final = """
    CREATE TABLE floor_jobs (LIKE download_jobs INCLUDING DEFAULTS, PRIMARY KEY (job_id));
    CREATE INDEX floor_jobs_pending
        ON floor_jobs (priority DESC, (coalesce(available_at, created_at)), job_id)
        WHERE status = 'pending';
"""
_INSERT: Final = "INSERT INTO floor_jobs (job_id, track_id) VALUES ($1, $2)"
_INSERT_MANY: Final = """
    INSERT INTO floor_jobs (job_id, track_id) SELECT * FROM unnest($1::text[], $2::text[])
"""
_FINISH_AND_CLAIM: Final = """
    WITH finished AS (
        UPDATE floor_jobs
        SET status = 'completed', progress = 1, finished_at = now(), lease_expires_at = NULL
        WHERE job_id = ANY ($1::text[]) AND worker_id = $2 AND status = 'in_progress'
    ), due AS (
        SELECT job_id FROM floor_jobs
        WHERE status = 'pending' AND coalesce(available_at, created_at) <= now()
        ORDER BY priority DESC, coalesce(available_at, created_at), job_id
        LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    UPDATE floor_jobs AS job
    SET status = 'in_progress', attempt = attempt + 1, worker_id = $2, started_at = now(),
        lease_expires_at = now() + interval '60 seconds'
    FROM due WHERE job.job_id = due.job_id
    RETURNING job.job_id, job.track_id
"""


def contestant(url: str, variant: str) -> Contestant:
    """Return the floor; *variant* is ``COPY`` for bulks or ``NOTIFY`` with each single job."""
    return _Floor(url, copies=variant == "COPY", notifies=variant == "NOTIFY")


class _Floor:
    unfinished = "SELECT count(*) FROM floor_jobs WHERE status IN ('pending', 'in_progress')"
    finished = "SELECT count(*) FROM floor_jobs WHERE status = 'completed'"

    def __init__(self, url: str, *, copies: bool, notifies: bool) -> None:
        self._dsn, self._copies, self._notifies = dsn(url), copies, notifies
        self._numbers = itertools.count()
        self._idle: asyncio.LifoQueue[asyncpg.Connection] = asyncio.LifoQueue()

    async def prepare(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        await connection.execute(_CREATE)
        await connection.close()

    @asynccontextmanager
    async def connected(self, connections: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _ in range(connections):
                connection = await asyncpg.connect(self._dsn)
                stack.push_async_callback(connection.close)
                self._idle.put_nowait(connection)
            yield

    async def enqueue(self, payload: str) -> None:
        async with self._connection() as connection:
            if self._notifies:
                await connection.fetchval(
                    f"WITH job AS ({_INSERT}) SELECT pg_notify('floor_jobs', '')",
                    self._job_id(),
                    payload,
                )
            else:
                await connection.execute(_INSERT, self._job_id(), payload)

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        ids = [self._job_id() for _ in payloads]
        async with self._connection() as connection:
            if self._copies:
                await connection.copy_records_to_table(
                    "floor_jobs",
                    records=zip(ids, payloads, strict=True),
                    columns=["job_id", "track_id"],
                )
            else:
                await connection.execute(_INSERT_MANY, ids, payloads)

    @asynccontextmanager
    async def working(self, handler: Handler, concurrency: int) -> AsyncIterator[None]:
        """Have one loop; its batch takes the place of *concurrency*."""
        del concurrency
        loop = asyncio.create_task(self._work(handler))
        yield
        loop.cancel()
        await asyncio.wait([loop])

    async def _work(self, handler: Handler) -> None:
        done: list[str] = []
        async with self._connection() as connection:
            statement = await connection.prepare(_FINISH_AND_CLAIM)
            while True:
                claimed = await statement.fetch(done, "floor", BATCH)
                for job in claimed:
                    await handler(job["track_id"])
                if not claimed and not done:
                    await asyncio.sleep(0.01)
                done = [job["job_id"] for job in claimed]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await self._idle.get()
        try:
            yield connection
        finally:
            self._idle.put_nowait(connection)

    def _job_id(self) -> str:
        """Return an id above the last, as time-ordered ones are."""
        return f"{next(self._numbers):036d}"
