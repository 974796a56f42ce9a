"""Cancelled pools: at whatever step it comes, nothing is lost, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.support.factories import Sessions, add_jobs
from tests.support.faults import MOMENTS, Moment, apart, file_of, is_sqlite
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    checked_out,
    drain,
    enqueue,
    leaving_no_task,
    running,
    statuses,
    until,
)
from tests.worker.interruption import Interruption
from zotify_async_crud import database, models
from zotify_async_crud.worker import Counts, JobContext, Retry, WorkerPool, _shift

JOBS: Final = 3

OURS: Final = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'zotify_async_crud'"
)
"""Counts the connections of the library's engines."""


async def handle(job: JobContext) -> None:
    """Do one job at once, one that says how far it is, and one at its second attempt."""
    if job.track_id == "t1":
        for done in range(3):
            await job.report(done / 3)
            await asyncio.sleep(0)
    elif job.track_id == "t2" and job.attempt == 1:
        raise Retry(in_=0)


@pytest.fixture
def hasty_sessions(engine: AsyncEngine, sessions: Sessions) -> Sessions:
    """Sessions of an engine that does not wait for the disk: a step is run some hundred times."""
    if is_sqlite(engine):

        @event.listens_for(engine.sync_engine, "connect")
        def do_not_wait(connection: Any, _: object) -> None:
            connection.run_async(lambda driver: driver.execute("PRAGMA synchronous = OFF"))

    return sessions


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_pool_cancelled_anywhere_loses_no_job_and_leaves_nothing(
    url: str, engine: AsyncEngine, hasty_sessions: Sessions, moment: Moment
) -> None:
    """At each step of any of its tasks: the handlers stop, their jobs are given back.

    No task goes on, no connection is out, no lock is held; no lease has to run out before another
    pool can do the rest.
    """
    step, happened = 0, True
    async with apart(url) as observer:
        while happened:
            await observer.execute(text("DELETE FROM download_jobs"))
            await add_jobs(hasty_sessions, JOBS)
            interruption = Interruption(step, moment)
            pool = WorkerPool(hasty_sessions, handle, concurrency=2, lease=NEVER)
            async with leaving_no_task():
                async with asyncio.timeout(PATIENCE):
                    await run_interrupted(pool, interruption)
            assert checked_out(engine) == 0, step
            await assert_unlocked(observer)
            counted = await counts_of(observer)
            assert set(counted) <= {"pending", "completed"}, (step, counted)
            assert sum(counted.values()) == JOBS, (step, counted)
            step, happened = step + 1, interruption.happened
    assert counted == {"completed": JOBS}  # the last one was not cancelled
    assert step > 50
    await assert_all_is_closed(url, engine)


async def test_a_pool_stopped_anywhere_loses_no_job_and_leaves_nothing(
    url: str, engine: AsyncEngine, hasty_sessions: Sessions
) -> None:
    """The same for ``stop``, whose caller waits until all is written."""
    step, happened = 0, True
    async with apart(url) as observer:
        while happened:
            await observer.execute(text("DELETE FROM download_jobs"))
            await add_jobs(hasty_sessions, JOBS)
            interruption = Interruption(step, "while it waits")
            pool = WorkerPool(hasty_sessions, handle, concurrency=2, lease=NEVER)
            stops: list[asyncio.Task[None]] = []

            def stop() -> None:
                stops.append(asyncio.create_task(pool.stop()))  # noqa: B023 - called in this turn

            async with leaving_no_task():
                async with asyncio.timeout(PATIENCE):
                    with interruption.of(stop):
                        counts = await asyncio.create_task(pool.run(until_idle=True))
                    await asyncio.gather(*stops)
            assert checked_out(engine) == 0, step
            await assert_unlocked(observer)
            counted = await counts_of(observer)
            assert counted.get("completed", 0) == counts.completed, step
            assert counted.get("pending", 0) == JOBS - counts.completed, (step, counted)
            assert counts.lost == 0, step
            step, happened = step + 1, interruption.happened
    assert counted == {"completed": JOBS}
    assert step > 50
    await assert_all_is_closed(url, engine)


async def run_interrupted(pool: WorkerPool, interruption: Interruption) -> None:
    """Run *pool* to its end, or cancel it where *interruption* says."""

    def interrupt() -> None:
        run.cancel()

    with interruption.of(interrupt):
        run = asyncio.create_task(pool.run(until_idle=True))
        await asyncio.wait({run})
    assert run.cancelled() == interruption.happened or run.exception() is None


async def test_a_cancelled_pool_cancels_its_handlers_and_gives_their_jobs_back(
    sessions: Sessions,
) -> None:
    """And then the cancellation goes on; a job with one attempt can be begun again."""
    await enqueue(sessions, 3, max_attempts=1)
    handler = Held()
    run = asyncio.create_task(WorkerPool(sessions, handler, lease=NEVER).run())
    for _ in range(3):
        await handler.next()
    run.cancel()
    await asyncio.wait({run}, timeout=PATIENCE)
    assert run.cancelled()
    assert len(handler.cancelled) == 3
    assert await statuses(sessions) == {"pending": 3}
    assert await drain(sessions) == Counts(claimed=3, completed=3)


async def test_a_pool_that_was_cancelled_may_run_again(sessions: Sessions) -> None:
    """The same object, as a supervisor does it."""
    await enqueue(sessions, max_attempts=1)
    handler = Held()
    pool = WorkerPool(sessions, handler)
    run = asyncio.create_task(pool.run())
    await handler.next()
    run.cancel()
    await asyncio.wait({run})
    handler.let_go()
    assert await pool.run(until_idle=True) == Counts(claimed=1, completed=1)


async def test_a_pool_that_is_cancelled_while_it_stops_does_not_wait_any_longer(
    sessions: Sessions,
) -> None:
    """Its handlers are cancelled at once, and who waits for the stop is told."""
    await enqueue(sessions)
    handler = Held()
    pool = WorkerPool(sessions, handler, shutdown_timeout=NEVER)
    run = asyncio.create_task(pool.run())
    await handler.next()
    stopping = asyncio.create_task(pool.stop())
    await asyncio.sleep(0)
    run.cancel()
    async with asyncio.timeout(PATIENCE):
        await stopping
        await asyncio.wait({run})
    assert run.cancelled()
    assert await statuses(sessions) == {"pending": 1}


async def test_a_pool_that_is_cancelled_twice_ends_at_once(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for its stop is told as well; its jobs are rescued when their leases end."""
    monkeypatch.setattr(_shift, "_GRACE", NEVER)
    await enqueue(sessions)
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def ignore(job: JobContext) -> None:
        begun.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    pool = WorkerPool(sessions, ignore, lease=NEVER)
    run = asyncio.create_task(pool.run())
    await begun.wait()
    run.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(pool.stop())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not run.done()
    run.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({run})
        await stopping
    assert run.cancelled()
    let_go.set()


async def test_a_handler_that_does_not_stop_holds_up_a_cancelled_pool_for_a_while_only(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it is abandoned, and what others did is written."""
    monkeypatch.setattr(_shift, "_GRACE", 4.0)
    await enqueue(sessions, 2)
    begun = asyncio.Barrier(3)
    let_go = asyncio.Event()

    async def ignore(job: JobContext) -> None:
        await begun.wait()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                if job.track_id == "t0":
                    return

    run = asyncio.create_task(WorkerPool(sessions, ignore, lease=NEVER).run())
    await begun.wait()
    run.cancel()
    await asyncio.wait({run}, timeout=PATIENCE)
    assert run.cancelled()
    assert "does not stop: abandoned" in caplog.text
    assert await statuses(sessions) == {"completed": 1, "in_progress": 1}
    let_go.set()


async def test_a_timeout_around_a_pool_is_a_timeout(sessions: Sessions) -> None:
    """The cancellation comes out as it went in."""
    await enqueue(sessions)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await WorkerPool(sessions, Held()).run()
    assert await statuses(sessions) == {"pending": 1}


async def test_a_pool_in_a_task_group_ends_with_the_group(sessions: Sessions) -> None:
    """Another task's failure cancels it, and is what the caller gets."""
    await enqueue(sessions)
    handler = Held()

    async def fail() -> None:
        await handler.next()
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as group:  # noqa: PT012 - the group as a whole fails
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(WorkerPool(sessions, handler).run())
            tasks.create_task(fail())
    assert group.group_contains(ZeroDivisionError)
    assert await statuses(sessions) == {"pending": 1}


async def test_pools_leave_no_thread_and_no_descriptor(url: str) -> None:
    """However many have come and gone."""

    async def come_and_go() -> None:
        engine = database.create_engine(url)
        async with running(WorkerPool(database.create_session_factory(engine), Held())):
            await asyncio.sleep(0.02)
        await engine.dispose()

    def used() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    await come_and_go()
    before = used()
    for _ in range(5):
        await come_and_go()

    async def no_more_are_used() -> bool:  # the thread of a connection ends when it can
        return all(now <= then for now, then in zip(used(), before, strict=True))

    await until(no_more_are_used)


async def counts_of(observer: AsyncConnection) -> dict[str, int]:
    """Count the jobs of each status by a connection that has nothing to do with the library."""
    rows = await observer.execute(text("SELECT status, count(*) FROM download_jobs GROUP BY 1"))
    return {str(status): count for status, count in rows}


async def assert_unlocked(observer: AsyncConnection) -> None:
    """Fail if another connection cannot have all there is to lock.

    It waits long enough for a slow disk: a lock that is left behind stays for ever.
    """
    if observer.dialect.name == "sqlite":
        await observer.execute(text("PRAGMA busy_timeout = 30000"))
        await observer.execute(text("BEGIN IMMEDIATE"))
    else:
        tables = ", ".join(models.Base.metadata.tables)
        await observer.execute(text("SET lock_timeout = '30s'"))
        await observer.execute(text("BEGIN"))
        await observer.execute(text(f"LOCK TABLE {tables}"))
    await observer.execute(text("ROLLBACK"))


async def assert_all_is_closed(url: str, engine: AsyncEngine) -> None:
    """Fail if a connection is open once the engine's own pool is closed."""
    await engine.dispose()

    async def none_is_left() -> bool:
        if url.startswith("sqlite"):
            return file_of(url) not in open_files()
        async with apart(url) as observer:
            return not (await observer.execute(OURS)).scalar_one()

    await until(none_is_left)


def open_files() -> list[str]:
    """Return the paths of the files that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(str(descriptor.readlink()))
    return found
