"""This library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.queue.contestants import Contestant, Handler
from zotify_async_crud import crud, database, events, schemas, worker
from zotify_async_crud.enqueuer import Enqueuer


def contestant(url: str, variant: str) -> Contestant:
    """Return ours, by an ``Enqueuer`` for single jobs, and by the ids of tracks for many.

    The variant ``crud`` enqueues single jobs by a coroutine, and ``objects`` many as objects.
    """
    return _Ours(url, by_crud=variant == "crud", as_objects=variant == "objects")


class _Ours:
    unfinished = (
        "SELECT count(*) FROM download_jobs WHERE status = 'in_progress' OR status = 'pending'"
        " AND coalesce(available_at, created_at) <= CURRENT_TIMESTAMP"
    )
    finished = "SELECT count(*) FROM download_jobs WHERE status = 'completed'"

    def __init__(self, url: str, *, by_crud: bool, as_objects: bool) -> None:
        self._url, self._by_crud, self._as_objects = url, by_crud, as_objects
        self._stack = AsyncExitStack()

    async def prepare(self) -> None:
        """Leave the tables as they are: every fresh database has them."""

    @asynccontextmanager
    async def connected(self, connections: int) -> AsyncIterator[None]:
        engine = database.create_engine(self._url)
        if engine.dialect.name == "postgresql":
            engine = database.create_engine(self._url, pool_size=connections)
        self._sessions = database.create_session_factory(engine)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.dispose)
            if self._by_crud:
                await stack.enter_async_context(events.notifying(engine))
            self._enqueuer = await stack.enter_async_context(Enqueuer(self._sessions))
            yield

    async def enqueue(self, payload: str) -> None:
        if not self._by_crud:
            await self._enqueuer.enqueue(schemas.DownloadJobCreate(track_id=payload))
            return
        async with self._sessions.begin() as db:
            await crud.create_download_job(db, schemas.DownloadJobCreate(track_id=payload))

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        jobs: Sequence[str | schemas.DownloadJobCreate] = payloads
        if self._as_objects:
            jobs = [schemas.DownloadJobCreate(track_id=payload) for payload in payloads]
        async with self._sessions.begin() as db:
            await crud.create_download_jobs(db, jobs)

    @asynccontextmanager
    async def working(self, handler: Handler, concurrency: int) -> AsyncIterator[None]:
        async def download(job: worker.JobContext) -> None:
            await handler(job.track_id)

        pool = worker.WorkerPool(self._sessions, download, concurrency=concurrency)
        running = asyncio.create_task(pool.run())
        yield
        await pool.stop()
        await running
