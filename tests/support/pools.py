"""Worker pools for tests: handlers that wait to be let go, and looks at what a pool does."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
)
from typing import Any, Final

import pytest
from sqlalchemy import Update, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from tests.support.factories import Sessions, stored_job
from zotify_async_crud import crud, database, schemas
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import (
    Counts,
    Handler,
    JobContext,
    WorkerPool,
    _feeder,
    _shift,
)
from zotify_async_crud.worker._keeper import Keeper, Rescuer

PATIENCE: Final = 240.0
"""Seconds after which a test that waits has failed; on a slow disk a short one may take long."""

NEVER: Final = 3_600.0
"""An interval that no test lives to see the end of: something else has to happen."""


class Held:
    """A handler that tells of each job it is called with, and ends it once it is let go."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[JobContext] = asyncio.Queue()
        self.cancelled: list[JobContext] = []
        self.ended: list[JobContext] = []
        self._let_go = asyncio.Event()

    def let_go(self) -> None:
        """Let the jobs end, those that are to come as well."""
        self._let_go.set()

    async def next(self) -> JobContext:
        """Return the next job that was begun."""
        async with asyncio.timeout(PATIENCE):
            return await self.begun.get()

    async def __call__(self, job: JobContext) -> None:
        """Wait until the job may end."""
        self.begun.put_nowait(job)
        try:
            await self._let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise
        self.ended.append(job)


def quick_keeper(monkeypatch: pytest.MonkeyPatch, lease: float = 1.0) -> None:
    """Let pools renew as often as with a short *lease*, whatever theirs is.

    One that is short indeed may run out while a slow machine is busy, and the pool then takes the
    job from itself.
    """
    monkeypatch.setattr(_shift, "Keeper", lambda link, slots, _: Keeper(link, slots, lease))


def quick_rescuer(monkeypatch: pytest.MonkeyPatch, lease: float = 0.5) -> None:
    """Let pools look for lost leases as often as with a short *lease*, whatever theirs is."""
    monkeypatch.setattr(_shift, "Rescuer", lambda link, _: Rescuer(link, lease))


def far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pools claim short jobs far ahead, however slow the machine is, and not give them back."""
    monkeypatch.setattr(_feeder, "_AHEAD", 60.0)
    monkeypatch.setattr(_feeder, "_SOON", NEVER)


async def nothing(job: JobContext) -> None:
    """Handle a job by doing nothing."""


async def drain(sessions: Sessions, handler: Handler = nothing, **options: Any) -> Counts:
    """Run a pool until nothing is due."""
    async with asyncio.timeout(PATIENCE):
        return await WorkerPool(sessions, handler, **options).run(until_idle=True)


@contextlib.asynccontextmanager
async def running(pool: WorkerPool, **how: Any) -> AsyncIterator[asyncio.Task[Counts]]:
    """Run *pool* while the block runs, and stop it then."""
    task = asyncio.create_task(pool.run(**how))
    try:
        yield task
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0)  # it may just have been made
            await pool.stop()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def enqueue(sessions: Sessions, count: int = 1, **options: Any) -> list[str]:
    """Commit jobs of the tracks t0, t1, …; return their ids, first due first."""
    jobs = [schemas.DownloadJobCreate(track_id=f"t{n}", **options) for n in range(count)]
    async with sessions.begin() as db:
        return await crud.create_download_jobs(db, jobs)


async def until(question: Callable[[], Awaitable[bool]], *, patience: float = PATIENCE) -> None:
    """Return once the answer is yes."""
    async with asyncio.timeout(patience):
        while not await question():  # noqa: ASYNC110 - the database sets no event
            await asyncio.sleep(0.01)


async def until_status(
    sessions: Sessions, job_id: str, *statuses: DownloadJobStatus
) -> DownloadJob:
    """Return the job once it has one of *statuses* in the database."""

    async def has_it() -> bool:
        return (await stored_job(sessions, job_id)).status in statuses

    await until(has_it)
    return await stored_job(sessions, job_id)


async def statuses(sessions: Sessions) -> dict[str, int]:
    """Count the jobs of each status."""
    counted = select(DownloadJob.status, func.count()).group_by(DownloadJob.status)
    async with sessions() as db:
        return {status.value: count for status, count in await db.execute(counted)}


async def lose_leases(sessions: Sessions) -> None:
    """Let all leases be over, and take the jobs back at once, as any pool does."""
    async with sessions.begin() as db:
        await db.execute(_expire())
        await crud.rescue_expired_download_jobs(db)


def _expire() -> Update:
    long_ago = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    held = update(DownloadJob).where(DownloadJob.lease_expires_at.is_not(None))
    return held.values(lease_expires_at=long_ago)


async def take_over(sessions: Sessions, worker_id: str = "other") -> schemas.Claim:
    """Let the one job in progress lose its lease, and give it to another worker at once."""
    async with sessions.begin() as db:
        await db.execute(_expire())
        await crud.rescue_expired_download_jobs(db)
        (claim,) = await crud.claim_download_jobs(db, worker_id=worker_id, limit=1, lease=NEVER)
    return claim


async def drains_completely(url: str) -> bool:
    """Tell whether another pool finishes all that is in the database at *url*."""
    async with an_engine(url) as engine:
        sessions = database.create_session_factory(engine)
        await drain(sessions, worker_id="the next")
        return set(await statuses(sessions)) <= {"completed"}


@contextlib.asynccontextmanager
async def an_engine(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Yield another engine of the library's, as another service of the same process has it."""
    engine = database.create_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def checked_out(engine: AsyncEngine) -> int:
    """Return how many connections of *engine* are in use."""
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    return engine.pool.checkedout()


@contextlib.asynccontextmanager
async def leaving_no_task() -> AsyncIterator[None]:
    """Fail if tasks that began in the block go on after it.

    Where SQLAlchemy is cancelled while it closes a connection, a task of its own ends the closing.
    """
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before
    closing = {task for task in left if _is_of_sqlalchemy(task)}
    assert left == closing, left - closing
    if closing:
        _, endless = await asyncio.wait(closing, timeout=PATIENCE)
        assert not endless, endless


def _is_of_sqlalchemy(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_name == "_terminate_graceful_close"


async def job_claimed_ahead(sessions: Sessions, running_job: JobContext) -> DownloadJob:
    """Return a job that a pool has claimed and not begun, given the only one that runs."""
    ahead = select(DownloadJob).where(
        DownloadJob.status == DownloadJobStatus.IN_PROGRESS,
        DownloadJob.job_id > running_job.job_id,  # those before it may be over, and not written
    )
    found: DownloadJob | None = None

    async def is_found() -> bool:
        nonlocal found
        async with sessions() as db:
            found = (await db.scalars(ahead.order_by(DownloadJob.job_id.desc()))).first()
        return found is not None

    await until(is_found)
    assert found is not None
    return found


class HeldAfter(Held):
    """A handler that ends the first jobs at once, and holds those that come then."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    async def __call__(self, job: JobContext) -> None:
        """End at once, or wait until the job may end."""
        if self._first:
            self._first -= 1
        else:
            await super().__call__(job)
