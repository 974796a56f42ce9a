"""Picking up jobs: each is handed out once, whoever asks at the same time and on what engine."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.support.factories import Sessions, add_job, add_jobs, all_rows, new_job, stored_job
from tests.support.faults import begin_deferred, is_sqlite, only_sqlite
from tests.support.secrets import KEYRING
from tests.support.workers import drain_together
from zotify_async_crud import crud, database, encryption, migrations
from zotify_async_crud.errors import TransactionConflict, TransactionRequired
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
PENDING: Final = DownloadJobStatus.PENDING

JOBS: Final = 300
TASKS: Final = 20
PROCESSES: Final = 4
REPOSITORY: Final = Path(__file__).parents[2]


async def test_many_tasks_drain_the_queue_and_get_each_job_once(sessions: Sessions) -> None:
    """On the library's engine no job is handed out twice and none is lost."""
    queued = await add_jobs(sessions, JOBS)
    claimed = await drain_together(sessions, tasks=TASKS)
    assert sorted(claimed) == queued
    assert await statuses(sessions) == {IN_PROGRESS: JOBS}


async def test_many_tasks_on_an_engine_of_the_callers_get_each_job_once(
    plain_sessions: Sessions,
) -> None:
    """SQLAlchemy's own engine is as safe; on SQLite its workers may have to run again."""
    queued = await add_jobs(plain_sessions, JOBS)
    claimed = await drain_together(plain_sessions, tasks=TASKS)
    assert sorted(claimed) == queued
    assert await statuses(plain_sessions) == {IN_PROGRESS: JOBS}


async def test_many_processes_drain_the_queue_and_get_each_job_once(
    url: str, sessions: Sessions
) -> None:
    """Processes with several tasks each share one queue."""
    queued = await add_jobs(sessions, JOBS)
    claimed = await drain_by_processes(url, PROCESSES)
    assert sorted(claimed) == queued
    assert await statuses(sessions) == {IN_PROGRESS: JOBS}


async def test_workers_that_look_without_holding_get_a_job_twice(plain_sessions: Sessions) -> None:
    """The control: what the tests above would see if a pickup were a SELECT and then an UPDATE."""
    queued = await add_jobs(plain_sessions, 10)
    both_have_looked = asyncio.Barrier(2)
    late = iter([True, True])

    async def look(db: AsyncSession) -> DownloadJob | None:
        pending = select(DownloadJob).where(DownloadJob.status == PENDING)
        job = await db.scalar(pending.order_by(DownloadJob.created_at).limit(1))
        if next(late, False):  # the first time only
            await both_have_looked.wait()
        return job

    claimed = await drain_together(plain_sessions, tasks=2, pick_up=look)
    assert claimed.count(queued[0]) == 2


async def test_a_held_job_is_skipped_or_waited_for(engine: AsyncEngine, sessions: Sessions) -> None:
    """PostgreSQL gives the next job to a second transaction at once; SQLite lets it wait."""
    oldest, next_oldest = await add_jobs(sessions, 2)
    events = []

    async def second() -> None:
        async with sessions.begin() as db:
            job = await crud.get_next_pending_download_job(db)
            assert job is not None
            events.append(f"second holds {job.job_id}")

    async with asyncio.timeout(20), sessions.begin() as db:
        job = await crud.get_next_pending_download_job(db)
        assert job is not None
        events.append(f"first holds {job.job_id}")
        waiting = asyncio.create_task(second())
        if is_sqlite(engine):
            with pytest.raises(TransactionConflict):
                await pick_up_without_patience(engine)
        else:
            await waiting
        await crud.update_download_job_status(db, job, IN_PROGRESS)
        events.append("first ends")
    await waiting

    first, then, ends = (
        f"first holds {oldest}",
        f"second holds {next_oldest}",
        "first ends",
    )
    assert events == ([first, ends, then] if is_sqlite(engine) else [first, then, ends])


async def test_a_pickup_that_is_rolled_back_gives_the_job_back(sessions: Sessions) -> None:
    """The very next pickup gets it, as it was."""
    (queued,) = await add_jobs(sessions, 1)
    async with sessions() as db:
        lost = await crud.get_next_pending_download_job(db)
        assert lost is not None
        await crud.update_download_job_status(db, lost, IN_PROGRESS, progress=0.5)
        await db.rollback()
    async with sessions.begin() as db:
        again = await crud.get_next_pending_download_job(db)
        assert again is not None
        assert (again.job_id, again.status, again.progress) == (queued, PENDING, 0.0)


async def test_a_pickup_whose_worker_fails_gives_the_job_back(sessions: Sessions) -> None:
    """An exception in the block is enough."""
    (queued,) = await add_jobs(sessions, 1)

    async def work() -> None:
        async with sessions.begin() as db:
            job = await crud.get_next_pending_download_job(db)
            assert job is not None
            await crud.update_download_job_status(db, job, IN_PROGRESS)
            raise RuntimeError("the worker fails")

    with pytest.raises(RuntimeError, match="the worker fails"):
        await work()
    assert (await stored_job(sessions, queued)).status is PENDING


async def test_a_job_that_was_only_looked_at_stays_pending_and_is_given_back(
    sessions: Sessions,
) -> None:
    """A transaction that commits without changing the job does not keep it."""
    (queued,) = await add_jobs(sessions, 1)
    for _ in range(2):
        async with sessions.begin() as db:
            job = await crud.get_next_pending_download_job(db)
            assert job is not None
            assert (job.job_id, job.status) == (queued, PENDING)


@only_sqlite
async def test_a_deferred_begin_of_the_callers_is_safe(url: str) -> None:
    """SQLAlchemy's recipe for SQLite begins without a lock; each job is handed out once still."""
    engine = create_async_engine(url)
    begin_deferred(engine)
    sessions = database.create_session_factory(engine)
    queued = await add_jobs(sessions, JOBS // 3)
    claimed = await drain_together(sessions, tasks=TASKS)
    assert sorted(claimed) == queued
    await engine.dispose()


async def test_a_transaction_that_read_before_it_picks_up_gets_each_job_once(
    plain_sessions: Sessions,
) -> None:
    """What a transaction saw before does not decide what it picks up."""
    queued = await add_jobs(plain_sessions, 50)

    async def count_and_pick_up(db: AsyncSession) -> DownloadJob | None:
        await db.scalar(select(func.count()).select_from(DownloadJob))
        return await crud.get_next_pending_download_job(db)

    claimed = await drain_together(plain_sessions, tasks=10, pick_up=count_and_pick_up)
    assert sorted(claimed) == queued


UNITS: Final[dict[str, Callable[[AsyncSession], Awaitable[object]]]] = {
    "get_next_pending_download_job": crud.get_next_pending_download_job,
    "create_or_update_playlist": lambda db: crud.create_or_update_playlist(db, "p", "n", ["a"]),
    "clear_all_playlists_and_tracks": crud.clear_all_playlists_and_tracks,
    "create_or_update_spotify_token": lambda db: crud.create_or_update_spotify_token(
        db, {"access_token": "a", "expires_in": 60}
    ),
    "rotate_token_keys": crud.rotate_token_keys,
}


async def autocommit_for_the_engine(url: str) -> AsyncEngine:
    """Return an engine on which each statement is a transaction."""
    return create_async_engine(url, isolation_level="AUTOCOMMIT")


async def autocommit_by_option(url: str) -> AsyncEngine:
    """Return an engine of SQLAlchemy's on which an option says the same."""
    return create_async_engine(url).execution_options(isolation_level="AUTOCOMMIT")


async def autocommit_for_the_librarys_engine(url: str) -> AsyncEngine:
    """Return an engine of the library's with the same argument."""
    return database.create_engine(url, isolation_level="AUTOCOMMIT")


async def autocommit_by_option_on_the_librarys_engine(url: str) -> AsyncEngine:
    """Return an engine of the library's on which an option says the same."""
    return database.create_engine(url).execution_options(isolation_level="AUTOCOMMIT")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "create",
    [
        autocommit_for_the_engine,
        autocommit_by_option,
        autocommit_for_the_librarys_engine,
        autocommit_by_option_on_the_librarys_engine,
    ],
)
async def test_an_engine_that_commits_each_statement_is_refused(
    url: str, sessions: Sessions, create: Callable[[str], Awaitable[AsyncEngine]], unit: str
) -> None:
    """It could hold no job and would show the parts of a sync; nothing is changed."""
    await add_jobs(sessions, 2)
    before = await all_rows(sessions)
    engine = await create(url)
    encryption.use_keyring(engine, KEYRING)
    async with database.create_session_factory(engine)() as db:
        with pytest.raises(TransactionRequired, match="AUTOCOMMIT"):
            await UNITS[unit](db)
        await db.commit()
    await engine.dispose()
    assert await all_rows(sessions) == before


async def test_a_shared_connection_in_memory_refuses_a_second_pickup_at_the_same_time() -> None:
    """All sessions share one transaction there, so that one would commit what another began."""
    async with memory(create_async_engine("sqlite+aiosqlite://")) as sessions:
        await add_jobs(sessions, 2)
        async with sessions() as first, sessions() as second:
            assert await crud.get_next_pending_download_job(first) is not None
            with pytest.raises(TransactionRequired, match="shares one connection"):
                await crud.get_next_pending_download_job(second)


async def test_a_refused_pickup_does_not_undo_the_first_one_in_silence() -> None:
    """What the first transaction committed without an error is stored."""
    async with memory(create_async_engine("sqlite+aiosqlite://")) as sessions:
        (queued,) = await add_jobs(sessions, 1)
        try:
            async with sessions.begin() as first:
                job = await crud.get_next_pending_download_job(first)
                assert job is not None
                await crud.update_download_job_status(first, job, IN_PROGRESS)
                with pytest.raises(TransactionRequired):
                    async with sessions.begin() as second:
                        await crud.get_next_pending_download_job(second)
        except TransactionRequired:
            return  # no silence
        assert (await stored_job(sessions, queued)).status is IN_PROGRESS


async def test_a_shared_connection_in_memory_serves_one_session_after_another() -> None:
    """A test suite with one session at a time needs nothing special."""
    async with memory(create_async_engine("sqlite+aiosqlite://")) as sessions:
        queued = await add_jobs(sessions, 5)
        assert await drain_together(sessions, tasks=1) == queued
        async with sessions() as first:
            await crud.create_download_job(first, new_job())
            assert await crud.get_next_pending_download_job(first) is not None
            await first.rollback()
            async with sessions() as second:
                assert await crud.get_next_pending_download_job(second) is None


async def test_the_librarys_memory_database_serves_many_tasks() -> None:
    """Transactions take turns on its one connection, and each job is handed out once."""
    async with memory(database.create_engine("sqlite://")) as sessions:
        queued = await add_jobs(sessions, 50)
        claimed = await drain_together(sessions, tasks=TASKS)
        assert sorted(claimed) == queued
        assert await statuses(sessions) == {IN_PROGRESS: 50}


async def test_a_new_job_goes_to_a_pickup_that_comes_after_its_commit_only(
    sessions: Sessions,
) -> None:
    """A job is not handed out while the transaction that enqueues it can still be rolled back."""
    async with sessions() as db:
        await crud.create_download_job(db, new_job())
        await db.rollback()
    async with sessions.begin() as db:
        assert await crud.get_next_pending_download_job(db) is None
    job = await add_job(sessions)
    async with sessions.begin() as db:
        found = await crud.get_next_pending_download_job(db)
        assert found is not None
        assert found.job_id == job.job_id


async def statuses(sessions: Sessions) -> dict[DownloadJobStatus, int]:
    """Count the jobs of each status."""
    async with sessions() as db:
        rows = await db.execute(
            select(DownloadJob.status, func.count()).group_by(DownloadJob.status)
        )
        return {status: count for status, count in rows}  # noqa: C416 - dict() wants tuples, not rows


async def pick_up_without_patience(engine: AsyncEngine) -> None:
    """Pick up a job from the same SQLite file, and give up where one had to wait."""
    impatient = database.create_engine(engine.url, connect_args={"timeout": 0})
    try:
        async with database.create_session_factory(impatient).begin() as db:
            await crud.get_next_pending_download_job(db)
    finally:
        await impatient.dispose()


async def drain_by_processes(url: str, count: int) -> list[str]:
    """Drain the queue with *count* processes that begin once all of them are ready."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.workers", url),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * count
    return [job_id for output, _ in outputs for job_id in json.loads(output)]


@asynccontextmanager
async def memory(engine: AsyncEngine) -> AsyncIterator[Sessions]:
    """Sessions on an in-memory database with the schema, which ends with the block."""
    try:
        await migrations.upgrade(engine)
        yield database.create_session_factory(engine)
    finally:
        await engine.dispose()
