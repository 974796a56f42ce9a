"""Stopping: handlers end or are cancelled, what has not begun goes back, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions, new_job, stored_job
from tests.support.faults import only_postgresql
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    HeldAfter,
    checked_out,
    drain,
    enqueue,
    far_ahead,
    job_claimed_ahead,
    leaving_no_task,
    running,
    statuses,
    until,
    until_status,
)
from tests.support.processes import REPOSITORY
from zotify_async_crud import crud
from zotify_async_crud.errors import PoolRunning
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import Counts, JobContext, WorkerPool, _shift

COMPLETED: Final = DownloadJobStatus.COMPLETED
PENDING: Final = DownloadJobStatus.PENDING
LOCKED: Final = text("SELECT job_id FROM download_jobs WHERE job_id = :job_id FOR UPDATE")


class Deaf:
    """A handler that goes on whatever it is told, until it is let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.told = 0
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, job: JobContext) -> None:
        """Swallow each cancellation."""
        self.begun.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.told += 1
        self.ended.set()


async def test_a_stopped_pool_lets_its_handlers_end(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It waits for them, writes what they did, and begins nothing more."""
    await enqueue(sessions, 5)
    handler = Held()
    pool = WorkerPool(sessions, handler, concurrency=2, shutdown_timeout=NEVER)
    async with leaving_no_task(), running(pool) as run:
        await handler.next()
        await handler.next()
        stopping = asyncio.create_task(pool.stop())
        for _ in range(50):
            await asyncio.sleep(0)
        assert not stopping.done()
        assert handler.cancelled == []
        handler.let_go()
        async with asyncio.timeout(PATIENCE):
            await stopping
        await asyncio.wait({run})
    counts = run.result()
    assert (counts.completed, counts.released) == (2, counts.claimed - 2)
    assert handler.begun.empty()
    assert await statuses(sessions) == {"completed": 2, "pending": 3}
    assert checked_out(engine) == 0


async def test_a_stopped_pool_gives_back_at_once_what_it_claimed_ahead(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pool can have it while the handlers of this one still end; no attempt is spent."""
    far_ahead(monkeypatch)
    await enqueue(sessions, 500, max_attempts=1)
    handler = HeldAfter(250)
    pool = WorkerPool(sessions, handler, concurrency=1, shutdown_timeout=NEVER, lease=NEVER)
    async with running(pool) as run:
        job = await handler.next()
        ahead = await job_claimed_ahead(sessions, job)
        stopping = asyncio.create_task(pool.stop())
        released = await until_status(sessions, ahead.job_id, PENDING)
        assert (released.worker_id, released.error_message) == (None, None)
        assert not stopping.done()
        counts = await drain(sessions)  # another pool, which has to do the same attempt again
        assert counts.completed == 249
        handler.let_go()
        await stopping
    assert run.result().completed == 251
    assert run.result().released >= 1
    assert await statuses(sessions) == {"completed": 500}


async def test_after_the_timeout_handlers_are_cancelled_and_their_jobs_given_back(
    sessions: Sessions,
) -> None:
    """The attempt does not count: also a job with one attempt may be begun again."""
    (job_id,) = await enqueue(sessions, max_attempts=1)
    handler = Held()
    pool = WorkerPool(sessions, handler, shutdown_timeout=0.05)
    async with running(pool) as run:
        await handler.next()
        await pool.stop()
    assert len(handler.cancelled) == 1
    assert run.result() == Counts(claimed=1, released=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.worker_id, job.error_message) == (PENDING, None, None)
    assert (job.progress, job.lease_expires_at) == (0.0, None)
    assert await drain(sessions) == Counts(claimed=1, completed=1)


async def test_a_second_stop_does_not_wait_for_the_timeout(sessions: Sessions) -> None:
    """Both calls return when all is written."""
    await enqueue(sessions)
    handler = Held()
    pool = WorkerPool(sessions, handler, shutdown_timeout=NEVER)
    async with running(pool) as run:
        await handler.next()
        first = asyncio.create_task(pool.stop())
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await pool.stop()
            await first
    assert run.result() == Counts(claimed=1, released=1)
    assert await statuses(sessions) == {"pending": 1}


async def test_a_handler_that_fails_or_ends_when_it_is_cancelled_is_taken_at_its_word(
    sessions: Sessions,
) -> None:
    """One that still returns has completed its job; another exception gives the job back too."""
    returns, raises = await enqueue(sessions, 2, max_attempts=1)
    begun = asyncio.Barrier(3)

    async def handle(job: JobContext) -> None:
        await begun.wait()
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            if job.job_id == raises:
                raise ValueError("while cleaning up") from None

    pool = WorkerPool(sessions, handle, shutdown_timeout=0)
    async with running(pool) as run:
        await begun.wait()
        await pool.stop()
    assert run.result() == Counts(claimed=2, completed=1, released=1)
    assert (await stored_job(sessions, returns)).status is COMPLETED
    assert (await stored_job(sessions, raises)).status is PENDING


async def test_a_handler_that_does_not_stop_is_abandoned(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names its job, which is given to nobody before its lease is over."""
    monkeypatch.setattr(_shift, "_GRACE", 0.05)
    (job_id,) = await enqueue(sessions)
    handler = Deaf()
    pool = WorkerPool(sessions, handler, shutdown_timeout=0, lease=NEVER)
    async with running(pool) as run:
        await handler.begun.wait()
        await pool.stop()
    assert handler.told >= 1
    assert run.result() == Counts(claimed=1, lost=1)
    assert f"the handler of job {job_id} does not stop: abandoned" in caplog.text
    assert (await stored_job(sessions, job_id)).status is DownloadJobStatus.IN_PROGRESS
    handler.let_go.set()
    await handler.ended.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert run.result() == Counts(claimed=1, lost=1)
    assert (await stored_job(sessions, job_id)).status is DownloadJobStatus.IN_PROGRESS


async def test_stopping_a_pool_that_does_not_run_does_nothing(sessions: Sessions) -> None:
    """Neither before its first run nor after its last."""
    pool = WorkerPool(sessions, Held())
    await pool.stop()
    await enqueue(sessions)
    assert (await drain(sessions)).completed == 1
    await pool.run(until_idle=True)
    await pool.stop()


async def test_a_pool_stopped_before_it_has_claimed_anything_ends(sessions: Sessions) -> None:
    """At whatever moment of its first look."""
    for steps in range(12):
        await enqueue(sessions, max_attempts=1)
        pool = WorkerPool(sessions, Held(), shutdown_timeout=0)
        run = asyncio.create_task(pool.run())
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await pool.stop()
            if not steps:  # it had not begun to run
                while not run.done():
                    await pool.stop()
                    await asyncio.sleep(0)
        counts = await run
        assert counts.claimed == counts.released
    assert await statuses(sessions) == {"pending": 12}


async def test_a_pool_runs_once_at_a_time(sessions: Sessions) -> None:
    """A second run is refused, and the first goes on."""
    handler = Held()
    pool = WorkerPool(sessions, handler)
    async with running(pool) as run:
        await enqueue(sessions)
        await handler.next()
        with pytest.raises(PoolRunning):
            await pool.run()
        assert not run.done()
        handler.let_go()
    assert run.result() == Counts(claimed=1, completed=1)


async def test_a_pool_may_run_again_after_it_was_stopped(sessions: Sessions) -> None:
    """Each run counts for itself."""
    handler = Held()
    handler.let_go()
    pool = WorkerPool(sessions, handler)
    for count in (2, 3):
        await enqueue(sessions, count)
        async with running(pool) as run:
            for _ in range(count):
                await handler.next()
        assert run.result() == Counts(claimed=count, completed=count)


async def test_a_drain_can_be_stopped(sessions: Sessions) -> None:
    """It ends before the queue is empty."""
    await enqueue(sessions, 10)
    handler = Held()
    pool = WorkerPool(sessions, handler, concurrency=1, shutdown_timeout=0)
    async with running(pool, until_idle=True) as run:
        await handler.next()
        await pool.stop()
    assert run.result().completed == 0
    assert await statuses(sessions) == {"pending": 10}


async def test_a_job_that_a_stopped_pool_gave_back_goes_on_elsewhere_with_a_higher_attempt(
    sessions: Sessions,
) -> None:
    """The number of an attempt is never used again."""
    (job_id,) = await enqueue(sessions, max_attempts=1)
    attempts = []
    for _ in range(3):
        handler = Held()
        pool = WorkerPool(sessions, handler, shutdown_timeout=0)
        async with running(pool):
            attempts.append((await handler.next()).attempt)
            await pool.stop()
    assert attempts == [1, 2, 3]
    job = await stored_job(sessions, job_id)
    assert (job.attempt, job.max_attempts) == (3, 4)


async def test_a_pool_stops_while_the_queue_is_paused(sessions: Sessions) -> None:
    """What it holds is written nevertheless."""
    await enqueue(sessions)
    handler = Held()
    pool = WorkerPool(sessions, handler)
    async with running(pool) as run:
        await handler.next()
        async with sessions.begin() as db:
            await crud.pause_download_queue(db)
        stopping = asyncio.create_task(pool.stop())
        handler.let_go()
        await stopping
    assert run.result() == Counts(claimed=1, completed=1)


@only_postgresql
async def test_what_cannot_be_written_in_time_is_given_up(
    engine: AsyncEngine,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A database that does not answer cannot keep a process from ending; the log tells."""
    monkeypatch.setattr(_shift, "_GRACE", 1.0)
    (job_id,) = await enqueue(sessions)
    handler = Held()
    pool = WorkerPool(sessions, handler, shutdown_timeout=0, lease=NEVER)
    async with sessions() as holder, running(pool) as run:
        await handler.next()
        await crud.get_download_job(holder, job_id)
        held = (await holder.execute(LOCKED, {"job_id": job_id})).all()
        assert len(held) == 1
        async with asyncio.timeout(PATIENCE):
            await pool.stop()
        await asyncio.wait({run})
        assert "could not be written in time" in caplog.text
        assert checked_out(engine) == 1  # the holder's
    assert run.result().completed == 0
    assert (await stored_job(sessions, job_id)).status is DownloadJobStatus.IN_PROGRESS


async def test_an_interrupted_process_gives_its_jobs_back(url: str, sessions: Sessions) -> None:
    """SIGINT cancels the main task under ``asyncio.run``; that is all it takes."""
    await enqueue(sessions, 3, max_attempts=1)
    process = await interrupted_worker(url, lease=NEVER)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == -signal.SIGINT, errors.decode()
    assert await statuses(sessions) == {"pending": 3}


async def test_a_handler_that_interrupts_its_process_loses_no_job(
    url: str, sessions: Sessions
) -> None:
    """KeyboardInterrupt is no failure of the job; what the process cannot give back is rescued."""
    await enqueue(sessions, 2)
    async with sessions.begin() as db:
        await crud.create_download_job(db, new_job("interrupts"))
    process = await interrupted_worker(url, lease=1)
    _, errors = await process.communicate()
    assert process.returncode == -signal.SIGINT, errors.decode()
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, lease=1, poll_interval=0.1)):

        async def all_are_done() -> bool:
            return await statuses(sessions) == {"completed": 3}

        await until(all_are_done)


async def interrupted_worker(url: str, *, lease: float) -> asyncio.subprocess.Process:
    """Start a worker that obeys SIGINT, even if this process was told not to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.worker.interrupted", url, str(lease)),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, before)
