"""Wake-ups: who is told of jobs that became due, when, and across engines."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session

from tests.support.factories import (
    EPOCH,
    LEASE,
    Sessions,
    add_claimed,
    add_jobs,
    completed,
    create_job,
    failed,
    new_job,
    released,
    statements_sent,
)
from tests.support.faults import apart, kill, only_postgresql, only_sqlite, until_succeeding
from zotify_async_crud import crud, database, events
from zotify_async_crud.errors import AccessRefused, DatabaseUnavailable, DownloadJobExists
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import Claim, DownloadJobStatus

PENDING: Final = DownloadJobStatus.PENDING
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
AT_MOST_EVERY: Final = 0.02
"""Seconds between two notifications."""


class Calls:
    """Counts how often a watcher is called, and waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self._called = asyncio.Event()

    def __call__(self) -> None:
        """Count one more call."""
        self.count += 1
        self._called.set()

    async def until(self, count: int) -> None:
        """Return once there have been *count* calls."""
        async with asyncio.timeout(30):
            while self.count < count:
                self._called.clear()
                await self._called.wait()


# within a process


async def _set_status(db: AsyncSession, claim: Claim, status: DownloadJobStatus) -> object:
    await db.execute(
        text("UPDATE download_jobs SET lease_expires_at = NULL WHERE job_id = :job_id"),
        {"job_id": claim.job_id},
    )
    job = await db.get_one(DownloadJob, claim.job_id)
    return await crud.update_download_job_status(db, job, status)


async def _rescue(db: AsyncSession, claim: Claim, **changes: Any) -> object:
    job = await db.get_one(DownloadJob, claim.job_id)
    for name, value in {"lease_expires_at": EPOCH, **changes}.items():
        setattr(job, name, value)
    return await crud.rescue_expired_download_jobs(db)


async def _retry(db: AsyncSession, claim: Claim) -> object:
    await crud.fail_download_job(db, claim, "no route")
    return await crud.retry_failed_download_jobs(db)


Does = Callable[[AsyncSession, Claim], Awaitable[object]]

TELLS: Final[dict[str, Does]] = {
    "create_download_job": lambda db, _: crud.create_download_job(db, new_job()),
    "create_download_job, unique": lambda db, _: crud.create_download_job(
        db, new_job("new", unique=True)
    ),
    "create_download_job, or an error": lambda db, _: crud.create_download_job(
        db, new_job("new", unique=True), on_duplicate="error"
    ),
    "create_download_jobs, ids": lambda db, _: crud.create_download_jobs(db, ["t", "s"]),
    "create_download_jobs": lambda db, _: crud.create_download_jobs(db, [new_job(), new_job()]),
    "update_download_job_status": lambda db, claim: _set_status(db, claim, PENDING),
    "retry_failed_download_jobs": _retry,
    "fail_download_job": lambda db, claim: crud.fail_download_job(db, claim, "no", retry_in=0),
    "exchange_download_jobs, released": lambda db, claim: crud.exchange_download_jobs(
        db, [released(claim)], worker_id="w", limit=1, lease=LEASE
    ),
    "exchange_download_jobs, to be retried": lambda db, claim: crud.exchange_download_jobs(
        db, [failed(claim, retry_in=dt.timedelta(0))], worker_id="w", limit=1, lease=LEASE
    ),
    "release_download_jobs": lambda db, claim: crud.release_download_jobs(db, [claim]),
    "rescue_expired_download_jobs": _rescue,
    "resume_download_queue": lambda db, _: crud.resume_download_queue(db),
}
"""What makes jobs due."""

SILENT: Final[dict[str, Does]] = {
    "get_download_job": lambda db, claim: crud.get_download_job(db, claim.job_id),
    "get_next_pending_download_job": lambda db, _: crud.get_next_pending_download_job(db),
    "create_download_jobs, none": lambda db, _: crud.create_download_jobs(db, []),
    "update_download_job_status": lambda db, claim: _set_status(db, claim, COMPLETED),
    "retry_failed_download_jobs, none": lambda db, _: crud.retry_failed_download_jobs(db),
    "cancel_download_job": lambda db, claim: crud.cancel_download_job(db, claim.job_id),
    "prune_download_jobs": lambda db, _: crud.prune_download_jobs(db, older_than=0, limit=1),
    "claim_download_jobs": lambda db, _: crud.claim_download_jobs(db, worker_id="w", lease=LEASE),
    "exchange_download_jobs": lambda db, claim: crud.exchange_download_jobs(
        db, [completed(claim)], worker_id="w", limit=1, lease=LEASE
    ),
    "renew_download_leases": lambda db, claim: crud.renew_download_leases(db, [claim], lease=LEASE),
    "report_download_progress": lambda db, claim: crud.report_download_progress(db, {claim: 0.5}),
    "complete_download_job": crud.complete_download_job,
    "fail_download_job": lambda db, claim: crud.fail_download_job(db, claim, "no route"),
    "release_download_jobs, none": lambda db, _: crud.release_download_jobs(db, []),
    "rescue_expired_download_jobs, none": lambda db, _: crud.rescue_expired_download_jobs(db),
    "rescue_expired_download_jobs, spent": lambda db, claim: _rescue(db, claim, max_attempts=1),
    "pause_download_queue": lambda db, _: crud.pause_download_queue(db),
    "get_download_queue_stats": lambda db, _: crud.get_download_queue_stats(db),
}
"""What makes none due."""


@pytest.mark.parametrize("name", TELLS)
async def test_what_makes_jobs_due_calls_watchers_once_it_is_committed(
    engine: AsyncEngine, sessions: Sessions, name: str
) -> None:
    """Once for each commit, and neither before nor after."""
    claim, calls = await add_claimed(sessions), Calls()
    with events.watching(engine.sync_engine, calls):
        async with sessions() as db:
            await TELLS[name](db, claim)
            before = calls.count
            await db.commit()
            after = calls.count
            await crud.get_all_download_jobs(db)
            await db.commit()

    assert (before, after, calls.count) == (0, 1, 1)


@pytest.mark.parametrize("name", SILENT)
async def test_what_makes_no_job_due_calls_nobody(
    engine: AsyncEngine, sessions: Sessions, name: str
) -> None:
    """A pool that was woken would look in vain."""
    claim, calls = await add_claimed(sessions), Calls()
    with events.watching(engine.sync_engine, calls):
        async with sessions.begin() as db:
            await SILENT[name](db, claim)

    assert calls.count == 0


async def test_many_jobs_of_one_transaction_are_one_call(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """One says as much as a hundred; and the next transaction of the session is another."""
    calls = Calls()
    counts = []
    with events.watching(engine.sync_engine, calls):
        async with sessions() as db:
            for _ in range(3):
                for _ in range(3):
                    await crud.create_download_job(db, new_job())
                await db.commit()
                counts.append(calls.count)

    assert counts == [1, 2, 3]


async def test_a_rollback_calls_nobody(engine: AsyncEngine, sessions: Sessions) -> None:
    """Nor does the commit of what the session does after it."""
    calls = Calls()
    with events.watching(engine.sync_engine, calls):
        async with sessions() as db:
            await crud.create_download_job(db, new_job())
            await db.rollback()
            await crud.get_all_download_jobs(db)
            await db.commit()
            await db.begin_nested()
            await crud.create_download_job(db, new_job())
            await db.rollback()
            await crud.get_all_download_jobs(db)
            await db.commit()

    assert calls.count == 0


async def test_a_released_savepoint_is_no_commit(engine: AsyncEngine, sessions: Sessions) -> None:
    """The call comes with the commit of the whole."""
    calls = Calls()
    with events.watching(engine.sync_engine, calls):
        async with sessions() as db:
            async with db.begin_nested():
                await crud.create_download_job(db, new_job())
            released_count = calls.count
            await db.commit()

    assert (released_count, calls.count) == (0, 1)


async def test_a_savepoint_that_is_rolled_back_leaves_what_came_before(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """The job that was created outside of it is due after the commit."""
    calls = Calls()
    with events.watching(engine.sync_engine, calls):
        async with sessions() as db:
            await crud.create_download_job(db, new_job())
            savepoint = await db.begin_nested()
            await crud.create_download_job(db, new_job())
            await savepoint.rollback()
            before = calls.count
            await db.commit()

    assert (before, calls.count) == (0, 1)


async def test_a_watcher_is_called_no_more_when_it_has_stopped_watching(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """The others still are; one that begins in the middle of a transaction may miss it."""
    first, second = Calls(), Calls()
    with events.watching(engine.sync_engine, first):
        with events.watching(engine.sync_engine, second):
            await create_job(sessions)
        await create_job(sessions)
    await create_job(sessions)

    assert (first.count, second.count) == (2, 1)


async def test_only_watchers_of_the_same_database_are_called(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Whatever the engine or session is; another database's jobs are nothing to them."""
    calls, others = Calls(), Calls()
    elsewhere = database.create_engine("sqlite:///elsewhere.db")
    same = database.create_engine(engine.url)
    with events.watching(same.sync_engine, calls), events.watching(elsewhere.sync_engine, others):
        await create_job(sessions)
        async with engine.connect() as connection, AsyncSession(connection) as db:
            await crud.create_download_job(db, new_job())
            await db.commit()
    await same.dispose()
    await elsewhere.dispose()

    assert (calls.count, others.count) == (2, 0)


async def test_a_scoped_session_calls_watchers_too(engine: AsyncEngine, sessions: Sessions) -> None:
    """It stands for the session of the task at hand."""
    calls = Calls()
    scoped = async_scoped_session(sessions, asyncio.current_task)
    with events.watching(engine.sync_engine, calls):
        await crud.create_download_job(scoped, new_job())  # type: ignore[arg-type]
        await scoped.commit()
        await scoped.remove()

    assert calls.count == 1


# across processes


@asynccontextmanager
async def watching_others(engine: AsyncEngine, calls: Calls) -> AsyncIterator[None]:
    """Let *calls* be called for what other engines do, as another process would."""
    elsewhere = database.create_engine(engine.url)
    watching = asyncio.create_task(events.watch_others(elsewhere, calls, interval=0.01))
    try:
        await calls.until(1)  # it begins with a call
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        assert elsewhere.pool.checkedout() == 0  # type: ignore[attr-defined]
        await elsewhere.dispose()
    assert watching.cancelled()


async def test_a_job_that_another_process_commits_reaches_a_watcher(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """While that notifies: PostgreSQL carries a NOTIFY, and SQLite's file tells by itself."""
    calls = Calls()
    async with watching_others(engine, calls), events.notifying(engine):
        for number in range(3):
            await create_job(sessions)
            await calls.until(2 + number)


async def test_a_pause_that_ends_reaches_a_watcher(engine: AsyncEngine, sessions: Sessions) -> None:
    """As everything does that makes jobs due."""
    calls = Calls()
    async with watching_others(engine, calls), events.notifying(engine):
        async with sessions.begin() as db:
            await crud.resume_download_queue(db)
        await calls.until(2)


async def test_a_job_committed_just_before_the_end_is_notified(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """A program that enqueues and ends at once tells of its jobs all the same."""
    calls = Calls()
    async with watching_others(engine, calls):
        async with events.notifying(engine):
            await create_job(sessions)
        await calls.until(2)


ENQUEUES: Final[dict[str, Callable[[AsyncSession], Awaitable[object]]]] = {
    "one": lambda db: crud.create_download_job(db, new_job()),
    "one unique": lambda db: crud.create_download_job(db, new_job("new", unique=True)),
    "objects": lambda db: crud.create_download_jobs(db, [new_job(), new_job("another")]),
    "ids": lambda db: crud.create_download_jobs(db, ["a", "b"]),
    "unique": lambda db: crud.create_download_jobs(db, [new_job("new", unique=True)]),
}


def notifications(sent: Sequence[tuple[str, Any]], *, alone: bool) -> list[str]:
    """Return the statements that notify: alone, after a commit, or while they enqueue."""
    notify = [statement for statement, _ in sent if "pg_notify" in statement]
    return [statement for statement in notify if statement.startswith("INSERT") is not alone]


@asynccontextmanager
async def notified_before(
    engine: AsyncEngine, sessions: Sessions, calls: Calls
) -> AsyncIterator[list[tuple[str, Any]]]:
    """Notify, with a first notification that came long ago; yield the statements since."""
    async with watching_others(engine, calls), events.notifying(engine):
        await create_job(sessions)
        await calls.until(2)
        await until_succeeding(engine)
        await asyncio.sleep(2 * AT_MOST_EVERY)
        calls.count = 0
        with statements_sent(engine) as sent:
            yield sent


@only_postgresql
@pytest.mark.parametrize("enqueue", ENQUEUES.values(), ids=list(ENQUEUES))
async def test_a_notification_leaves_with_the_commit(
    engine: AsyncEngine, sessions: Sessions, enqueue: Callable[[AsyncSession], Awaitable[object]]
) -> None:
    """It needs no statement of its own, and none follows."""
    calls = Calls()
    async with notified_before(engine, sessions, calls) as sent, sessions() as db:
        await enqueue(db)
        await asyncio.sleep(0)
        before = calls.count
        await db.commit()
        await calls.until(1)

    assert before == 0
    assert len(notifications(sent, alone=False)) == 1
    assert notifications(sent, alone=True) == []


async def _close(db: AsyncSession) -> None:
    await crud.create_download_job(db, new_job())
    await db.close()


async def _roll_back(db: AsyncSession) -> None:
    await crud.create_download_job(db, new_job())
    await db.rollback()


async def _roll_back_a_savepoint(db: AsyncSession) -> None:
    savepoint = await db.begin_nested()
    await crud.create_download_job(db, new_job())
    await savepoint.rollback()


async def _roll_back_a_savepoint_of_the_connection(db: AsyncSession) -> None:
    savepoint = await (await db.connection()).begin_nested()
    await crud.create_download_job(db, new_job())
    await savepoint.rollback()


async def _fail(db: AsyncSession) -> None:
    await crud.create_download_job(db, new_job(unique=True))
    with pytest.raises(DownloadJobExists):
        await crud.create_download_job(db, new_job(unique=True), on_duplicate="error")
    await db.rollback()


@only_postgresql
@pytest.mark.parametrize(
    "undone",
    [_close, _roll_back, _roll_back_a_savepoint, _roll_back_a_savepoint_of_the_connection, _fail],
)
@pytest.mark.parametrize("name", ["create_download_job", "resume_download_queue"])
async def test_what_is_undone_takes_no_notification_along(
    engine: AsyncEngine,
    sessions: Sessions,
    undone: Callable[[AsyncSession], Awaitable[None]],
    name: str,
) -> None:
    """What the same session commits next is told of, and so is what it commits in a savepoint."""
    claim, calls = await add_claimed(sessions), Calls()
    async with notified_before(engine, sessions, calls):
        for number in range(2):
            async with sessions() as db:
                await undone(db)
                async with db.begin_nested() if number else nullcontext():
                    await TELLS[name](db, claim)
                await db.commit()
            await calls.until(1)
            calls.count = 0


@only_postgresql
async def test_each_commit_of_a_session_that_commits_each_statement_is_notified(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """The session itself never commits, as far as it knows."""
    calls = Calls()
    each = database.create_engine(url, isolation_level="AUTOCOMMIT")
    async with notified_before(engine, sessions, calls), AsyncSession(each) as db:
        await crud.create_download_job(db, new_job())
        await calls.until(1)
        await crud.create_download_job(db, new_job())
        await db.commit()
        await calls.until(2)
    await each.dispose()


@only_postgresql
async def test_a_transaction_in_two_phases_carries_no_notification(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """The server would refuse to prepare it (https://www.postgresql.org/docs/current/sql-notify)."""
    calls = Calls()
    both = AsyncSession(engine, twophase=True)
    async with notified_before(engine, sessions, calls) as sent, both as db:
        await crud.create_download_job(db, new_job())
        await db.rollback()

    assert notifications(sent, alone=False) == []


@only_postgresql
async def test_what_a_savepoint_enqueues_is_notified_after_the_commit(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """The server forgets what it was told in one that is rolled back."""
    calls = Calls()
    async with notified_before(engine, sessions, calls) as sent:
        async with sessions.begin() as db, db.begin_nested():
            await crud.create_download_job(db, new_job())
        await calls.until(1)

    assert notifications(sent, alone=False) == []
    assert notifications(sent, alone=True) != []


@only_postgresql
async def test_no_enqueuing_fails_by_a_notification(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Who may not notify enqueues all the same, and pools find the jobs when they poll."""

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def refuse(_: object, __: object, statement: str, *___: object) -> None:
        if "pg_notify" in statement:
            raise AccessRefused("permission denied for function pg_notify")

    async with events.notifying(engine):
        for _ in range(5):
            await create_job(sessions)
            await asyncio.sleep(AT_MOST_EVERY)


@only_postgresql
async def test_a_notification_that_is_under_way_at_the_end_is_sent(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It is not cancelled and lost."""
    calls, sending = Calls(), asyncio.Event()

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *___: object) -> None:
        if notifications([(statement, ())], alone=True):
            sending.set()

    async with watching_others(engine, calls):
        async with events.notifying(engine):
            async with sessions.begin() as db:
                await crud.resume_download_queue(db)
            await sending.wait()
        await calls.until(2)


@only_postgresql
async def test_notifications_are_few_however_many_commits_there_are(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Each is a commit of its own, which others would have to wait for."""
    loop = asyncio.get_running_loop()
    with statements_sent(engine) as sent:
        began = loop.time()
        async with events.notifying(engine):
            for _ in range(200):
                await create_job(sessions)
        took = loop.time() - began

    notify = [statement for statement, _ in sent if "pg_notify" in statement]
    assert 1 <= len(notify) <= 2 + took / AT_MOST_EVERY


async def test_nothing_is_notified_of_what_makes_no_job_due(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """An idle service sends nothing."""
    claim = await add_claimed(sessions)
    with statements_sent(engine) as sent:
        async with events.notifying(engine), sessions.begin() as db:
            await crud.complete_download_job(db, claim)

    assert [statement for statement, _ in sent if "notify" in statement] == []


async def test_a_notification_of_whoever_commits_elsewhere_reaches_a_pool(
    url: str, engine: AsyncEngine
) -> None:
    """``notify`` is for other software; on SQLite the file itself tells, and nothing is sent."""
    with statements_sent(engine) as sent:
        await events.notify(engine)
    assert len(sent) == (0 if url.startswith("sqlite") else 1)


async def test_a_notification_that_fails_is_logged_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The pools poll; whoever committed has nothing to do with it."""
    nowhere = database.create_engine("postgresql://u@/d?host=/nowhere/at/all")
    with caplog.at_level(logging.DEBUG, "zotify_async_crud.events"):
        await events.notify(nowhere)
    await nowhere.dispose()

    assert "could not notify" in caplog.text


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://u@/d?host=/nowhere/at/all", DatabaseUnavailable),
        ("sqlite:////nowhere/at/all/zotify.db", AccessRefused),
    ],
    ids=["postgresql", "sqlite"],
)
async def test_a_database_that_cannot_be_watched_is_an_error_of_the_librarys(
    url: str, error: type[Exception]
) -> None:
    """It tells what to do, as everywhere; nobody is called."""
    nowhere, calls = database.create_engine(url), Calls()
    with pytest.raises(error):
        await events.watch_others(nowhere, calls, interval=0.01)
    await nowhere.dispose()

    assert calls.count == 0


async def test_an_error_of_the_watchers_own_passes_as_it_is(engine: AsyncEngine) -> None:
    """It says nothing about the database."""

    def fail() -> None:
        raise ValueError("of the watcher")

    with pytest.raises(ValueError, match="of the watcher"):
        await events.watch_others(engine, fail, interval=0.01)


async def listeners(url: str) -> set[int]:
    """Return the server processes that listen on this database."""
    listening = text(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
    )
    async with apart(url) as admin:
        return set((await admin.execute(listening)).scalars())


@only_postgresql
async def test_a_lost_connection_ends_the_watch(url: str, engine: AsyncEngine) -> None:
    """The caller is told, and watches again when it likes."""
    calls = Calls()
    before = await listeners(url)  # a worker that a test killed may not have been noticed yet
    watching = asyncio.create_task(events.watch_others(engine, calls, interval=1))
    await calls.until(1)
    (ours,) = await listeners(url) - before
    await kill(url, ours)

    with pytest.raises(DatabaseUnavailable):
        async with asyncio.timeout(20):
            await watching
    again = asyncio.create_task(events.watch_others(engine, calls, interval=1))
    await calls.until(2)
    again.cancel()
    await asyncio.wait([again])


async def test_a_watch_takes_no_place_in_the_pool(url: str) -> None:
    """An engine with a single connection still serves transactions beside it."""
    engine, calls = (
        database.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=5),
        Calls(),
    )
    watching = asyncio.create_task(events.watch_others(engine, calls, interval=0.01))
    await calls.until(1)

    await add_jobs(database.create_session_factory(engine), 3)

    watching.cancel()
    await asyncio.wait([watching])
    await engine.dispose()


@only_postgresql
async def test_a_watch_that_is_cancelled_leaves_no_connection(
    url: str, engine: AsyncEngine
) -> None:
    """The server has no session any more that listens."""
    calls = Calls()
    watching = asyncio.create_task(events.watch_others(engine, calls, interval=1))
    await calls.until(1)
    watching.cancel()
    await asyncio.wait([watching])

    listening = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN %'"
    )
    async with apart(url) as admin, asyncio.timeout(20):
        while (await admin.execute(listening)).scalar_one():
            pass


@only_sqlite
async def test_a_database_in_memory_has_no_others_to_watch(url: str) -> None:
    """It ends with this process, so there is nothing to wait for."""
    engine, calls = database.create_engine("sqlite://"), Calls()

    await events.watch_others(engine, calls, interval=1)
    await engine.dispose()

    assert calls.count == 0
