"""Wake-ups: a pool begins a job as soon as it is there, though it would not poll for an hour."""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.support.factories import Sessions, add_job, new_job, statements_sent, stored_job
from tests.support.faults import apart, file_of, kill, only_postgresql, only_sqlite
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    HeldAfter,
    an_engine,
    drain,
    enqueue,
    far_ahead,
    job_claimed_ahead,
    lose_leases,
    running,
    until,
    until_status,
)
from tests.support.processes import How, service
from zotify_async_crud import crud, database, events
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import Counts, JobContext, WorkerPool

COMPLETED: Final = DownloadJobStatus.COMPLETED

ASKS_FOR_THE_NEXT: Final = "AS now"
"""Part of the statement by which a pool asks when the next job becomes due, and of no other."""

Sent = list[tuple[str, Any]]


def looks(sent: Sent) -> int:
    """Count the statements that claim jobs."""
    return sum("SET status='in_progress'" in statement for statement, _ in sent)


async def until_at_rest(engine: AsyncEngine) -> None:
    """Return once a pool that has just been started has looked, and waits for a wake-up."""
    with statements_sent(engine) as sent:

        async def is_at_rest() -> bool:
            asked = [n for n, (statement, _) in enumerate(sent) if ASKS_FOR_THE_NEXT in statement]
            return bool(asked) and looks(sent[asked[0] :]) > 0  # it looks once more then

        await until(is_at_rest)
    for _ in range(100):  # the answer has to arrive
        await asyncio.sleep(0.001)


async def test_a_commit_in_the_same_process_wakes_the_pool(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """At once, and without a statement for it."""
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)):
        await until_at_rest(engine)
        for _ in range(3):
            (job_id,) = await enqueue(sessions)
            assert (await handler.next()).job_id == job_id


async def test_a_commit_on_another_engine_of_the_process_wakes_the_pool(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """What counts is the database, not the engine."""
    handler = Held()
    handler.let_go()
    async with (
        an_engine(url) as other,
        running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)),
    ):
        await until_at_rest(engine)
        (job_id,) = await enqueue(database.create_session_factory(other))
        assert (await handler.next()).job_id == job_id


async def test_a_commit_in_another_thread_wakes_the_pool(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """A thread with an event loop of its own."""
    handler = Held()
    handler.let_go()

    async def commit() -> None:
        async with an_engine(url) as other:
            await enqueue(database.create_session_factory(other))

    async with running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)):
        await until_at_rest(engine)
        await asyncio.to_thread(asyncio.run, commit())
        await handler.next()


async def create(db: AsyncSession, job_id: str) -> None:
    """Enqueue another job."""
    await crud.create_download_job(db, new_job())


async def create_in_a_savepoint(db: AsyncSession, job_id: str) -> None:
    """Enqueue another job, and roll back what comes after it."""
    await crud.create_download_job(db, new_job())
    with pytest.raises(ZeroDivisionError):
        async with db.begin_nested():
            raise ZeroDivisionError


async def retry_failed(db: AsyncSession, job_id: str) -> None:
    """Give the failed job back to the queue."""
    assert await crud.retry_failed_download_jobs(db) == 1


async def set_pending(db: AsyncSession, job_id: str) -> None:
    """Set the status of the failed job."""
    job = await crud.get_download_job(db, job_id)
    assert job is not None
    await crud.update_download_job_status(db, job, DownloadJobStatus.PENDING)


async def resume(db: AsyncSession, job_id: str) -> None:
    """Let a queue go on which has something due."""
    await crud.create_download_job(db, new_job())
    await crud.resume_download_queue(db)


@pytest.mark.parametrize(
    "make_due", [create, create_in_a_savepoint, retry_failed, set_pending, resume]
)
async def test_whatever_makes_a_job_due_wakes_the_pool(
    engine: AsyncEngine, sessions: Sessions, make_due: Callable[..., Awaitable[None]]
) -> None:
    """Once it is committed."""
    failed = await add_job(sessions, "failed", status=DownloadJobStatus.FAILED)
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)):
        await until_at_rest(engine)
        async with sessions.begin() as db:
            await make_due(db, failed.job_id)
        await handler.next()


async def test_a_rescue_wakes_the_pool(engine: AsyncEngine, sessions: Sessions) -> None:
    """Whoever took the job from a worker that is gone."""
    (job_id,) = await enqueue(sessions)
    handler = Held()
    handler.let_go()
    pool = WorkerPool(sessions, handler, poll_interval=NEVER, listen=False, lease=NEVER)
    async with sessions.begin() as db:
        await crud.claim_download_jobs(db, worker_id="other", limit=1, lease=NEVER)
    async with running(pool):
        await until_at_rest(engine)
        await lose_leases(sessions)
        assert (await handler.next()).job_id == job_id


async def test_a_release_wakes_the_pool(engine: AsyncEngine, sessions: Sessions) -> None:
    """The job is another worker's at once."""
    (job_id,) = await enqueue(sessions)
    async with sessions.begin() as db:
        claims = await crud.claim_download_jobs(db, worker_id="other", limit=1, lease=NEVER)
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)):
        await until_at_rest(engine)
        async with sessions.begin() as db:
            assert await crud.release_download_jobs(db, claims) == []
        assert (await handler.next()).job_id == job_id


async def test_what_a_stopped_pool_gives_back_wakes_another_one(
    url: str, engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same process: the jobs need not wait for a poll."""
    far_ahead(monkeypatch)
    await enqueue(sessions, 500)
    ending, going_on = HeldAfter(250), Held()
    going_on.let_go()
    first = WorkerPool(sessions, ending, concurrency=1, poll_interval=NEVER, listen=False)
    async with an_engine(url) as other, running(first) as run:
        await job_claimed_ahead(sessions, await ending.next())
        others = database.create_session_factory(other)
        second = WorkerPool(others, going_on, poll_interval=NEVER, listen=False)
        async with sessions.begin() as db:
            await crud.pause_download_queue(db)
        async with running(second):
            await until_at_rest(other)
            async with sessions.begin() as db:
                await db.execute(text("DELETE FROM download_queue"))  # which nobody is told of
            stopping = asyncio.create_task(first.stop())
            await going_on.next()
            ending.let_go()
            await stopping
    assert run.result().released > 0


async def test_a_rollback_wakes_nobody(engine: AsyncEngine, sessions: Sessions) -> None:
    """There is nothing to be found; a later commit of the session is no reason either."""
    told: list[str] = []
    with events.watching(engine.sync_engine, lambda: told.append("told")):  # as a pool does
        async with sessions() as db:
            await crud.create_download_job(db, new_job())
            await db.rollback()
            await crud.get_or_create_track(db, "t")
            await db.commit()
        assert told == []
        await enqueue(sessions)
    assert told == ["told"]


@pytest.mark.parametrize("how", ["notifying", "by an enqueuer"])
async def test_a_commit_in_another_process_wakes_the_pool(
    url: str, engine: AsyncEngine, sessions: Sessions, how: How
) -> None:
    """By NOTIFY on PostgreSQL. On SQLite the pool watches the file, more often than it polls."""
    handler = Held()
    handler.let_go()
    interval = NEVER if url.startswith("postgresql") else 0.1
    async with (
        service(url, how) as elsewhere,
        running(WorkerPool(sessions, handler, poll_interval=interval)),
    ):
        await until_listening(url)
        for _ in range(3):
            job_id = await elsewhere.enqueue()
            assert (await handler.next()).job_id == job_id


def _insert(path: str, job_id: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO download_jobs (job_id, track_id) VALUES (?, 't')", (job_id,))
    other.close()


@only_sqlite
async def test_a_change_by_other_software_is_seen_in_the_file(url: str, sessions: Sessions) -> None:
    """Whoever writes, PRAGMA data_version tells; it costs no claim to ask."""
    handler = Held()
    handler.let_go()
    pool = WorkerPool(sessions, handler, poll_interval=0.05)
    async with running(pool):
        for number in range(3):
            await asyncio.to_thread(_insert, file_of(url), f"job {number}")
            assert (await handler.next()).job_id == f"job {number}"


async def test_without_listening_a_pool_polls(url: str, sessions: Sessions) -> None:
    """As behind a pooler in transaction mode, and on both databases as often as it was told."""
    handler = Held()
    handler.let_go()
    async with (
        service(url, "silently") as elsewhere,
        running(WorkerPool(sessions, handler, poll_interval=0.1, listen=False)),
    ):
        for _ in range(3):
            job_id = await elsewhere.enqueue()
            assert (await handler.next()).job_id == job_id


@only_postgresql
async def test_without_listening_there_is_no_connection_that_listens(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """A notification reaches nobody."""
    async with running(WorkerPool(sessions, Held(), poll_interval=NEVER, listen=False)):
        await until_at_rest(engine)
        assert await listeners(url) == []
    async with running(WorkerPool(sessions, Held(), poll_interval=NEVER)):
        await until_listening(url)
    assert await listeners(url) == []


@only_postgresql
async def test_a_listening_connection_that_is_lost_is_made_again(
    url: str, sessions: Sessions
) -> None:
    """What came meanwhile is found by one look, and what comes then by a notification."""
    handler = Held()
    handler.let_go()
    async with (
        service(url, "notifying") as elsewhere,
        running(WorkerPool(sessions, handler, poll_interval=NEVER)),
    ):
        await until_listening(url)
        (before,) = await listeners(url)
        await kill(url, before)
        meanwhile = await elsewhere.enqueue()
        assert (await handler.next()).job_id == meanwhile

        async def listens_again() -> bool:
            return await listeners(url) not in ([], [before])

        await until(listens_again)
        later = await elsewhere.enqueue()
        assert (await handler.next()).job_id == later


async def test_a_scheduled_job_begins_when_it_is_due(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """By a timer, whether it was there before the pool or came while it rested."""
    handler = Held()
    handler.let_go()
    soon = dt.timedelta(seconds=0.3)
    await enqueue(sessions, available_at=dt.datetime.now(dt.UTC) + soon)
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)):
        await handler.next()
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        await enqueue(sessions, available_at=later)
        await enqueue(sessions, available_at=dt.datetime.now(dt.UTC) + soon)
        job = await handler.next()
    begun = await stored_job(sessions, job.job_id)
    assert begun.available_at is not None
    assert begun.started_at is not None
    assert begun.started_at >= begun.available_at


async def test_a_job_that_becomes_due_while_the_pool_asks_for_the_next_is_not_missed(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It was too early for the look, and is too late to be the next one that becomes due."""
    handler = Held()
    handler.let_go()
    held_up = 0
    await drain(sessions)  # to connect takes its time

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def hold_up(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal held_up
        if ASKS_FOR_THE_NEXT in statement and dt.datetime.now(dt.UTC) < due:
            held_up += 1
            while dt.datetime.now(dt.UTC) <= due + dt.timedelta(milliseconds=200):
                time.sleep(0.01)

    for margin in (1, 5, 20):  # seconds in which a slow machine has to look, and to ask
        due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=margin)
        (job_id,) = await enqueue(sessions, available_at=due)
        async with running(WorkerPool(sessions, handler, poll_interval=NEVER, listen=False)):
            assert (await handler.next()).job_id == job_id
        if held_up:
            break
    assert held_up == 1


async def test_a_commit_while_a_pool_looks_is_not_missed(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """A wake-up that comes with the look already under way leads to another look."""
    handled: list[str] = []
    all_done = asyncio.Event()

    async def handle(job: JobContext) -> None:
        handled.append(job.job_id)
        if len(handled) == 40:
            all_done.set()

    pool = WorkerPool(sessions, handle, poll_interval=NEVER, listen=False, concurrency=3)
    async with running(pool) as run:
        for number in range(40):
            for _ in range(number):
                await asyncio.sleep(0)
            await enqueue(sessions)
        async with asyncio.timeout(PATIENCE):
            await all_done.wait()
    assert run.result() == Counts(claimed=40, completed=40)


async def test_polls_go_on_where_no_wake_up_reaches_the_pool(url: str, sessions: Sessions) -> None:
    """A commit of other software, which notifies nobody, is found nevertheless."""
    handler = Held()
    handler.let_go()
    async with apart(url) as other, running(WorkerPool(sessions, handler, poll_interval=0.05)):
        for number in range(3):
            insert = f"INSERT INTO download_jobs (job_id, track_id) VALUES ('{number}', 't')"
            await other.execute(text(insert))
            assert (await handler.next()).job_id == str(number)
            await until_status(sessions, str(number), COMPLETED)


async def test_an_idle_pool_sends_next_to_nothing(engine: AsyncEngine, sessions: Sessions) -> None:
    """With the options as they are, about one look in a second, and one for lost leases a minute.

    On SQLite it looks at the file's version instead, and sends still less.
    """
    async with running(WorkerPool(sessions, Held())):
        await until_at_rest(engine)
        began = time.monotonic()
        with statements_sent(engine) as sent:
            await asyncio.sleep(5)
        seconds = time.monotonic() - began
    is_own = [s for s, _ in sent if not s.startswith(("BEGIN", "COMMIT", ";", "SELECT 1"))]
    most = 1 if engine.dialect.name == "sqlite" else 2.5  # a look, and when the next is due
    assert len(sent) <= seconds * most + 2, is_own


async def listeners(url: str) -> list[int]:
    """Return the server processes that listen for notifications."""
    listening = text(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    async with apart(url) as admin:
        return list((await admin.execute(listening)).scalars())


async def until_listening(url: str) -> None:
    """Return once a pool listens, where it does; SQLite has nothing to be ready for."""

    async def is_listening() -> bool:
        return bool(await listeners(url))

    if url.startswith("postgresql"):
        await until(is_listening)
