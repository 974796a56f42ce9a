"""Faults of the database while a pool works: it goes on by itself, and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.factories import Sessions, stored_job
from tests.support.faults import apart, only_postgresql, only_sqlite, writer_of
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    an_engine,
    enqueue,
    quick_keeper,
    running,
    statuses,
    until,
    until_status,
)
from tests.worker.proxy import CUTS, Cut, Proxy, proxy
from zotify_async_crud import database
from zotify_async_crud.errors import AccessRefused, OutcomeUnknown, SchemaMismatch
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import Counts, JobContext, Retry, WorkerPool

COMPLETED: Final = DownloadJobStatus.COMPLETED
END_ALL: Final = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
"""Ends every connection to the database but the own."""


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, Sessions]]:
    """Sessions that reach the database at *url* by a proxy."""
    async with proxy(url) as before:
        await before.start()
        async with an_engine(before.url) as engine:
            yield before, database.create_session_factory(engine)


@only_postgresql
@pytest.mark.parametrize("cut", CUTS)
async def test_claims_whose_reply_was_lost_are_found(
    url: str, sessions: Sessions, cut: Cut, caplog: pytest.LogCaptureFixture
) -> None:
    """No lease has to run out for that: each job is done in the attempt that was claimed."""
    await enqueue(sessions, 5)
    async with proxied(url) as (before, through):
        before.cut(cut, of="w-1")
        handler = Held()
        pool = WorkerPool(through, handler, worker_id="w-1", lease=NEVER, poll_interval=NEVER)
        async with running(pool) as run:
            for _ in range(5):
                assert (await handler.next()).attempt == 1
            handler.let_go()
        assert before.cuts == 1
    assert run.result() == Counts(claimed=5, completed=5)
    assert "feeding: " in caplog.text


@only_postgresql
@pytest.mark.parametrize("cut", CUTS)
async def test_results_whose_write_was_cut_are_written_once(
    url: str, sessions: Sessions, cut: Cut
) -> None:
    """Completed is completed, and failed is tried again; a job that waits is claimed besides."""
    fails, succeeds = await enqueue(sessions, 2)
    (later,) = await enqueue(sessions)
    handled: list[tuple[str, int]] = []
    both = asyncio.Barrier(2)

    async with proxied(url) as (before, through):

        async def handle(job: JobContext) -> None:
            handled.append((job.job_id, job.attempt))
            if job.job_id != later and job.attempt == 1:
                await both.wait()
                before.cut(cut, of=succeeds)
                if job.job_id == fails:
                    raise Retry("at first", in_=0)

        pool = WorkerPool(through, handle, concurrency=2, lease=NEVER, poll_interval=NEVER)
        async with running(pool) as run:
            for job_id in (fails, succeeds, later):
                await until_status(sessions, job_id, COMPLETED)
        assert before.cuts == 1
    assert sorted(handled) == sorted([(fails, 1), (fails, 2), (succeeds, 1), (later, 1)])
    assert run.result() == Counts(claimed=4, completed=3, failed=1)
    assert await statuses(sessions) == {"completed": 3}


@only_postgresql
@pytest.mark.parametrize("cut", CUTS)
async def test_a_renewal_that_was_cut_is_made_again(
    url: str,
    sessions: Sessions,
    cut: Cut,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Long before the lease is over; the handler does not notice."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    handler = Held()
    async with (
        proxied(url) as (before, through),
        running(WorkerPool(through, handler, lease=NEVER)) as run,
    ):
        job = await handler.next()
        before.cut(cut, of=job_id)

        async def is_renewed_after_the_cut() -> bool:
            ends = (await stored_job(sessions, job_id)).lease_expires_at
            assert ends is not None
            return before.cuts == 1 and ends > job.claim.lease_expires_at

        await until(is_renewed_after_the_cut)

        async def is_logged() -> bool:
            return "renewal: " in caplog.text

        await until(is_logged)
        handler.let_go()
    assert run.result() == Counts(claimed=1, completed=1)


@only_postgresql
async def test_the_network_may_be_gone_for_a_while(
    url: str, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """All connections are cut, those that listen as well, and none can be made for some time."""
    handler = Held()
    async with (
        proxied(url) as (before, through),
        running(WorkerPool(through, handler, lease=NEVER, poll_interval=0.1)) as run,
    ):
        await enqueue(sessions)
        await handler.next()
        await before.stop()
        handler.let_go()

        async def has_failed_to_write() -> bool:
            return caplog.text.count("feeding: ") >= 2

        await until(has_failed_to_write)
        await enqueue(sessions)
        await before.start()
        await handler.next()
    assert run.result() == Counts(claimed=2, completed=2)
    assert await statuses(sessions) == {"completed": 2}


@only_postgresql
async def test_a_database_that_is_not_there_yet_is_waited_for(
    url: str, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker may be started before its database."""
    await enqueue(sessions)
    handler = Held()
    handler.let_go()
    async with proxy(url) as before, an_engine(before.url) as engine:
        through = database.create_session_factory(engine)
        async with running(WorkerPool(through, handler)) as run:

            async def is_refused() -> bool:
                return "feeding: the database is unavailable" in caplog.text

            await until(is_refused)
            assert not run.done()
            await before.start()
            await handler.next()
    assert run.result() == Counts(claimed=1, completed=1)


@only_postgresql
async def test_a_pool_whose_database_is_not_there_can_be_stopped(url: str) -> None:
    """It holds nothing, so there is nothing to wait for but the pause between two tries."""
    async with proxy(url) as before, an_engine(before.url) as engine:
        pool = WorkerPool(database.create_session_factory(engine), Held())
        async with running(pool) as run:
            await asyncio.sleep(0.05)
            await pool.stop()
    assert run.result() == Counts()


@only_sqlite
async def test_a_file_that_another_process_keeps_locked_is_waited_for(
    url: str, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """Longer than the driver waits by itself, from the start or later."""
    await enqueue(sessions)
    handler = Held()
    impatient = database.create_engine(url, connect_args={"timeout": 0.05})
    through = database.create_session_factory(impatient)
    with writer_of(url) as other:
        run = asyncio.create_task(WorkerPool(through, handler, poll_interval=0.1).run())

        async def is_locked(times: int) -> bool:
            return caplog.text.count("feeding: another transaction was in the way") >= times

        await until(lambda: is_locked(1))
        other.execute("COMMIT")
        await handler.next()
        other.execute("BEGIN IMMEDIATE")
        handler.let_go()
        await until(lambda: is_locked(3))
        other.execute("COMMIT")
    await until_status(sessions, (await handler_job(handler)), COMPLETED)
    run.cancel()
    await asyncio.wait({run})
    await impatient.dispose()


async def handler_job(handler: Held) -> str:
    """Return the id of the job that *handler* has ended."""

    async def has_ended() -> bool:
        return bool(handler.ended)

    await until(has_ended)
    return handler.ended[0].job_id


async def test_missing_tables_end_a_pool_at_its_start(
    url: str, tmp_path: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Another try would not help; the error says what does, and nothing is left running."""
    if url.startswith("sqlite"):
        empty = f"sqlite:///{tmp_path}/empty.db"
        engine = database.create_engine(empty)
    else:
        elsewhere = {"server_settings": {"search_path": "pg_catalog"}}
        engine = database.create_engine(url, connect_args=elsewhere)
    pool = WorkerPool(database.create_session_factory(engine), Held())
    for until_idle in (True, False):
        before = asyncio.all_tasks()
        with pytest.raises(SchemaMismatch, match="check_schema"):
            async with asyncio.timeout(PATIENCE):
                await pool.run(until_idle=until_idle)
        assert asyncio.all_tasks() == before
    await engine.dispose()


async def test_a_database_that_refuses_the_worker_ends_a_pool_at_its_start(url: str) -> None:
    """A user that is unknown, or a folder that is missing."""
    if url.startswith("sqlite"):
        engine = database.create_engine("sqlite:////no/such/folder/zotify.db")
    else:
        refused = create_async_engine(url).url.set(username="nobody_of_that_name")
        engine = database.create_engine(refused)
    with pytest.raises(AccessRefused):
        async with asyncio.timeout(PATIENCE):
            await WorkerPool(database.create_session_factory(engine), Held()).run()
    await engine.dispose()


async def test_an_error_that_comes_later_does_not_end_a_pool(
    engine: AsyncEngine, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """Even one that looks as if no other attempt would help: the tables may come back."""
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, poll_interval=0.05)) as run:
        await enqueue(sessions)
        await handler.next()
        with failing(engine, "download_jobs"):

            async def is_logged() -> bool:
                return "feeding: " in caplog.text

            await until(is_logged)
        await enqueue(sessions)
        await handler.next()
    assert run.result() == Counts(claimed=2, completed=2)


async def test_a_lost_connection_is_no_reason_to_end_even_at_the_start(
    engine: AsyncEngine, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """A first exchange whose outcome is unknown is looked after like any other."""
    await enqueue(sessions)
    handler = Held()
    handler.let_go()
    failed = False

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def fail_once(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal failed
        if "SET status='in_progress'" in statement and not failed:
            failed = True
            raise OutcomeUnknown("lost")

    async with running(WorkerPool(sessions, handler)) as run:
        await handler.next()
    assert failed
    assert run.result() == Counts(claimed=1, completed=1)


async def test_what_could_not_be_written_is_written_later(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Results wait in the pool, with their leases renewed, and are not forgotten."""
    await enqueue(sessions, 30)
    handled: list[str] = []

    async def handle(job: JobContext) -> None:
        handled.append(job.job_id)

    failures = 0

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def fail_now_and_then(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal failures
        if statement.lstrip().startswith(("UPDATE download_jobs SET status", "WITH")):
            failures += 1
            if failures % 3 == 0:
                raise OutcomeUnknown("lost")

    async with asyncio.timeout(PATIENCE):
        pool = WorkerPool(sessions, handle, concurrency=5, lease=NEVER)
        counts = await pool.run(until_idle=True)
    assert counts == Counts(claimed=30, completed=30)
    assert len(handled) == len(set(handled)) == 30
    assert await statuses(sessions) == {"completed": 30}


async def test_the_work_goes_on_while_leases_cannot_be_renewed(
    engine: AsyncEngine,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loops of a pool do not stop each other."""
    quick_keeper(monkeypatch)
    await enqueue(sessions, 2)
    handler = Held()
    with failing(engine, "SET lease_expires_at"):
        async with running(WorkerPool(sessions, handler, lease=NEVER, concurrency=1)) as run:
            await handler.next()

            async def is_logged() -> bool:
                return "renewal: " in caplog.text

            await until(is_logged)
            handler.let_go()
            await handler.next()
    assert run.result().completed >= 1


@contextlib.contextmanager
def failing(engine: AsyncEngine, part: str) -> Iterator[None]:
    """Let the statements of *engine* that contain *part* fail as if there were no such table."""
    error = SchemaMismatch("no such table")

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if part in statement:
            raise error

    event.listen(engine.sync_engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", fail)


@only_postgresql
async def test_server_processes_may_be_ended_at_any_time(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """All of the pool's connections, again and again while it works: each job is done once."""
    await enqueue(sessions, 200)
    handled: list[str] = []

    ended = 0

    async def handle(job: JobContext) -> None:
        await asyncio.sleep(0.01)
        kills = int(job.track_id[1:]) * 12 // 199  # so that the last job needs all of them
        while ended < kills:  # noqa: ASYNC110 - a number is no event
            await asyncio.sleep(0.01)
        handled.append(job.job_id)

    pool = WorkerPool(sessions, handle, concurrency=5, lease=NEVER)
    async with asyncio.timeout(PATIENCE), apart(url) as admin:
        run = asyncio.create_task(pool.run(until_idle=True))
        while ended < 12:
            ended += (await admin.execute(END_ALL)).scalar_one()
            await asyncio.sleep(0.02)
        counts = await run
    assert counts == Counts(claimed=200, completed=200)
    assert len(handled) == len(set(handled)) == 200


@only_postgresql
async def test_an_engine_of_the_callers_is_used_again_after_its_connections_were_lost(
    url: str, sessions: Sessions, plain_sessions: Sessions
) -> None:
    """SQLAlchemy's own engine does not look at a pooled connection before it uses it."""
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(plain_sessions, handler, poll_interval=0.05)) as run:
        for _ in range(2):
            await enqueue(sessions)
            await handler.next()
            async with apart(url) as admin:
                await admin.execute(END_ALL)
            await until_status(sessions, handler.ended[-1].job_id, COMPLETED)
    assert run.result() == Counts(claimed=2, completed=2)
