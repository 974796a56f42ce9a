"""Cancelled transactions: whatever a task was waiting for, nothing of it is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.pool import AsyncAdaptedQueuePool

from tests.support.factories import (
    LEASE,
    Sessions,
    add_jobs,
    completed,
    new_job,
    playlist_data,
    token_data,
)
from tests.support.faults import (
    MOMENTS,
    Moment,
    apart,
    cancelled_at,
    only_sqlite,
    writer_of,
)
from tests.support.secrets import KEYRING
from zotify_async_crud import crud, database, migrations, models
from zotify_async_crud.schemas import Claim, DownloadJobStatus, TrackData

PATIENCE: Final = 30
"""Seconds that a lock may last after the task that held it has ended: its thread may lag behind."""


class Unit(NamedTuple):
    """A coroutine in a transaction, and SQL that tells whether it has happened."""

    work: Callable[[AsyncSession], Awaitable[object]]
    effect: str


async def pick_up(db: AsyncSession) -> None:
    """Pick up a job as a worker does."""
    job = await crud.get_next_pending_download_job(db)
    assert job is not None
    await crud.update_download_job_status(db, job, DownloadJobStatus.IN_PROGRESS)


async def exchange(db: AsyncSession) -> None:
    """Settle the job that is held, and claim the next one."""
    claims = await crud.get_download_claims(db, worker_id="held")
    await crud.exchange_download_jobs(
        db, list(map(completed, claims)), worker_id="w", limit=1, lease=LEASE
    )


def holding(
    work: Callable[[AsyncSession, Claim], Awaitable[object]],
) -> Callable[[AsyncSession], Awaitable[object]]:
    """Return *work* with the claim that is held."""

    async def with_claim(db: AsyncSession) -> None:
        (claim,) = await crud.get_download_claims(db, worker_id="held")
        await work(db, claim)

    return with_claim


UNITS: Final = {
    "create_download_job": Unit(
        lambda db: crud.create_download_job(db, new_job("new")),
        "SELECT count(*) = 1 FROM download_jobs WHERE track_id = 'new'",
    ),
    "get_next_pending_download_job and update_download_job_status": Unit(
        pick_up, "SELECT count(*) = 2 FROM download_jobs WHERE status = 'in_progress'"
    ),
    "create_download_jobs": Unit(
        lambda db: crud.create_download_jobs(
            db, [new_job("new", unique=True), new_job("held", unique=True), new_job("new")]
        ),
        "SELECT count(*) = 2 FROM download_jobs WHERE track_id = 'new'",
    ),
    "claim_download_jobs": Unit(
        lambda db: crud.claim_download_jobs(db, worker_id="w", lease=LEASE),
        "SELECT count(*) = 1 FROM download_jobs WHERE worker_id = 'w'",
    ),
    "exchange_download_jobs": Unit(
        exchange,
        "SELECT (SELECT count(*) FROM download_jobs WHERE worker_id = 'w') = 1"
        " AND (SELECT count(*) FROM download_jobs WHERE status = 'completed') = 1",
    ),
    "create_download_jobs, ids": Unit(
        lambda db: crud.create_download_jobs(db, ["new", "new"]),
        "SELECT count(*) = 2 FROM download_jobs WHERE track_id = 'new'",
    ),
    "complete_download_job": Unit(
        holding(crud.complete_download_job),
        "SELECT count(*) = 1 FROM download_jobs WHERE status = 'completed'",
    ),
    "fail_download_job": Unit(
        holding(lambda db, claim: crud.fail_download_job(db, claim, "no", retry_in=60)),
        "SELECT count(*) = 1 FROM download_jobs WHERE available_at IS NOT NULL",
    ),
    "release_download_jobs": Unit(
        holding(lambda db, claim: crud.release_download_jobs(db, [claim])),
        "SELECT count(*) = 0 FROM download_jobs WHERE worker_id = 'held'",
    ),
    "renew_download_leases": Unit(
        holding(lambda db, claim: crud.renew_download_leases(db, [claim], lease=60)),
        "SELECT count(*) = 1 FROM download_jobs WHERE lease_expires_at > created_at",
    ),
    "report_download_progress": Unit(
        holding(lambda db, claim: crud.report_download_progress(db, {claim: 0.5})),
        "SELECT count(*) = 1 FROM download_jobs WHERE progress = 0.5",
    ),
    "cancel_download_job": Unit(
        holding(lambda db, claim: crud.cancel_download_job(db, claim.job_id)),
        "SELECT count(*) = 1 FROM download_jobs WHERE cancel_requested",
    ),
    "prune_download_jobs": Unit(
        lambda db: crud.prune_download_jobs(
            db, older_than=0, limit=1, statuses=[DownloadJobStatus.FAILED]
        ),
        "SELECT count(*) = 0 FROM download_jobs WHERE status = 'failed'",
    ),
    "pause_download_queue": Unit(
        crud.pause_download_queue, "SELECT count(*) = 1 FROM download_queue WHERE paused"
    ),
    "resume_download_queue": Unit(
        crud.resume_download_queue, "SELECT count(*) = 1 FROM download_queue WHERE NOT paused"
    ),
    "rescue_expired_download_jobs": Unit(
        crud.rescue_expired_download_jobs,
        "SELECT count(*) = 0 FROM download_jobs WHERE worker_id = 'held'",
    ),
    "retry_failed_download_jobs": Unit(
        crud.retry_failed_download_jobs,
        "SELECT count(*) = 0 FROM download_jobs WHERE status = 'failed'",
    ),
    "get_or_create_track": Unit(
        lambda db: crud.get_or_create_track(db, "new"),
        "SELECT count(*) = 1 FROM tracks WHERE id = 'new'",
    ),
    "create_or_update_playlist": Unit(
        lambda db: crud.create_or_update_playlist(db, "p", "after", ["c", "b", "c"]),
        "SELECT count(*) = 3 FROM playlists JOIN playlist_tracks ON id = playlist_id"
        " WHERE name = 'after'",
    ),
    "sync_playlists": Unit(
        lambda db: crud.sync_playlists(db, [playlist_data("new")], remove_others=True),
        "SELECT count(*) = 1 FROM playlists WHERE id = 'new'",
    ),
    "upsert_tracks": Unit(
        lambda db: crud.upsert_tracks(db, [TrackData(id="a", name="named")]),
        "SELECT count(*) = 1 FROM tracks WHERE name = 'named'",
    ),
    "delete_playlist": Unit(
        lambda db: crud.delete_playlist(db, "p"), "SELECT count(*) = 0 FROM playlists"
    ),
    "delete_orphan_tracks": Unit(
        lambda db: crud.delete_orphan_tracks(db, limit=10),
        "SELECT count(*) = 0 FROM tracks WHERE id = 'orphan'",
    ),
    "clear_all_playlists_and_tracks": Unit(
        crud.clear_all_playlists_and_tracks, "SELECT count(*) = 0 FROM playlist_tracks"
    ),
    "create_or_update_spotify_token": Unit(
        lambda db: crud.create_or_update_spotify_token(db, token_data(scope="new")),
        "SELECT count(*) = 1 FROM spotify_tokens WHERE scope = 'new'",
    ),
    "create_or_update_spotify_token, which keeps the refresh token": Unit(
        lambda db: crud.create_or_update_spotify_token(
            db, token_data(scope="new", refresh_token=None)
        ),
        "SELECT count(*) = 1 FROM spotify_tokens WHERE scope = 'new'",
    ),
    "delete_spotify_token": Unit(
        crud.delete_spotify_token, "SELECT count(*) = 0 FROM spotify_tokens"
    ),
}

READERS: Final[dict[str, Callable[[AsyncSession], Awaitable[object]]]] = {
    "get_download_job": lambda db: crud.get_download_job(db, "job-00000"),
    "get_download_claims": lambda db: crud.get_download_claims(db, worker_id="held"),
    "get_download_queue_stats": crud.get_download_queue_stats,
    "get_time_until_next_download_job": crud.get_time_until_next_download_job,
    "get_all_download_jobs": crud.get_all_download_jobs,
    "list_download_jobs": lambda db: crud.list_download_jobs(db, limit=1),
    "get_playlist": lambda db: crud.get_playlist(db, "p"),
    "get_spotify_token": crud.get_spotify_token,
}


ELSEWHERE: Final = {
    # more pages of one that is here, and what is tested with another key
    *("stream_download_jobs", "list_playlists", "stream_playlist_tracks", "rotate_token_keys"),
}


def test_no_coroutine_is_forgotten_here() -> None:
    """A new one has to say what a cancellation may leave behind."""
    here = {word.strip(",") for name in (*UNITS, *READERS) for word in name.split()}
    assert {name for name in crud.__all__ if callable(getattr(crud, name))} - here - ELSEWHERE == {
        "Page"
    }


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("unit", UNITS)
async def test_a_transaction_cancelled_anywhere_leaves_all_or_nothing_and_no_lock(
    url: str, engine: AsyncEngine, sessions: Sessions, unit: str, moment: Moment
) -> None:
    """At each step in turn: no connection is lost, another session writes, no part is stored."""
    work, effect = UNITS[unit]

    async def transaction() -> None:
        async with sessions.begin() as db:
            await work(db)
            await db.execute(text("INSERT INTO tracks (id) VALUES ('last statement')"))

    last = "SELECT count(*) = 1 FROM tracks WHERE id = 'last statement'"
    outcomes = set()
    step, interrupted = 0, True
    async with apart(url) as observer:
        while interrupted:
            await fill(sessions)
            ended = await cancelled_at(step, moment, transaction())
            assert_nothing_is_checked_out(engine)
            await assert_unlocked(observer)
            happened, complete = await tell(observer, effect, last)
            assert happened == complete, (step, ended)
            outcomes.add(happened)
            step, interrupted = step + 1, ended.was_cancelled
    assert outcomes == {True, False}  # of which the last, not cancelled, is True


@only_sqlite
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("unit", UNITS)
async def test_a_coroutine_cancelled_on_a_plain_engine_leaves_no_lock(
    url: str, plain_sessions: Sessions, unit: str, moment: Moment
) -> None:
    """Also where the library did not set up how connections are closed."""
    work, effect = UNITS[unit]

    async def transaction() -> None:
        async with plain_sessions.begin() as db:
            await work(db)

    step, interrupted = 0, True
    async with apart(url) as observer:
        while interrupted:
            await fill(plain_sessions)
            ended = await cancelled_at(step, moment, transaction())
            await assert_unlocked(observer)
            step, interrupted = step + 1, ended.was_cancelled
        assert await tell(observer, effect) == [True]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("reader", READERS)
async def test_a_read_cancelled_anywhere_leaves_no_lock(
    url: str, engine: AsyncEngine, sessions: Sessions, reader: str, moment: Moment
) -> None:
    """At each step in turn: no connection is lost, and another session can write."""

    async def read() -> None:
        async with sessions() as db:
            await READERS[reader](db)

    await fill(sessions)
    step, interrupted = 0, True
    async with apart(url) as observer:
        while interrupted:
            ended = await cancelled_at(step, moment, read())
            assert_nothing_is_checked_out(engine)
            await assert_unlocked(observer)
            step, interrupted = step + 1, ended.was_cancelled
    assert step > 3


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_first_transaction_cancelled_while_it_connects_leaves_nothing(
    url: str, moment: Moment
) -> None:
    """A new pool has to connect first, and that can be cancelled at each step as well."""

    async def transaction(engine: AsyncEngine) -> None:
        async with database.create_session_factory(engine).begin() as db:
            await crud.get_or_create_track(db, "new")

    step, interrupted = 0, True
    async with apart(url) as observer:
        while interrupted:
            engine = database.create_engine(url, token_keyring=KEYRING)
            ended = await cancelled_at(step, moment, transaction(engine))
            assert_nothing_is_checked_out(engine)
            await assert_unlocked(observer)
            await engine.dispose()
            step, interrupted = step + 1, ended.was_cancelled
    assert step > 5


@only_sqlite
async def test_a_task_cancelled_while_it_waits_for_another_writer_takes_no_lock(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """The lock that its thread still waits for is given back as soon as it is got."""
    sent = asyncio.Event()

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(*_: object) -> None:
        sent.set()

    async def write() -> None:
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job())

    with writer_of(url) as other:
        writing = asyncio.create_task(write())
        await sent.wait()  # for its BEGIN, which has to wait
        writing.cancel()
        other.execute("COMMIT")
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert_nothing_is_checked_out(engine)
    async with apart(url) as observer:
        await assert_unlocked(observer)


async def test_a_memory_database_survives_a_cancellation() -> None:
    """Its one connection is its only home, so that must not be closed."""
    engine = database.create_engine("sqlite://", token_keyring=KEYRING)
    await migrations.upgrade(engine)
    sessions = database.create_session_factory(engine)
    (job_id,) = await add_jobs(sessions, 1)

    async def read() -> None:
        async with sessions() as db:
            await crud.get_all_download_jobs(db)

    try:
        for moment in MOMENTS:
            step, interrupted = 0, True
            while interrupted:
                ended = await cancelled_at(step, moment, read())
                async with sessions() as db:
                    assert await crud.get_download_job(db, job_id) is not None, (step, ended)
                step, interrupted = step + 1, ended.was_cancelled
    finally:
        await engine.dispose()


async def test_a_timeout_in_the_middle_of_many_transactions_leaves_no_lock(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """Tasks that wait for each other and for the pool are cancelled all at once."""
    await add_jobs(sessions, 100)

    async def work() -> None:
        while True:
            async with sessions.begin() as db:
                await crud.create_download_jobs(db, ["t"])  # so that they are never used up
                await pick_up(db)

    tasks = [asyncio.create_task(work()) for _ in range(20)]
    async with apart(url) as observer:
        started = text("SELECT count(*) FROM download_jobs WHERE status = 'in_progress'")
        while (await observer.execute(started)).scalar_one() < 5:
            pass
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert_nothing_is_checked_out(engine)
        await assert_unlocked(observer)


async def fill(sessions: Sessions) -> None:
    """Put the same rows into every table, whatever was there."""
    async with sessions.begin() as db:
        await db.execute(text("DELETE FROM download_jobs"))
        await db.execute(text("DELETE FROM download_queue"))
        await crud.clear_all_playlists_and_tracks(db)
        await crud.create_or_update_playlist(db, "p", "before", ["a", "b"])
        await crud.get_or_create_track(db, "orphan")
        await crud.create_or_update_spotify_token(db, token_data(scope="before"))
        await crud.create_download_job(db, new_job())
        failed = await crud.create_download_job(db, new_job())
        await crud.update_download_job_status(db, failed, DownloadJobStatus.FAILED)
        await crud.create_download_job(db, new_job("held", unique=True, priority=1))
        await crud.claim_download_jobs(db, worker_id="held", lease=LEASE)
        await db.execute(
            text("UPDATE download_jobs SET lease_expires_at = created_at WHERE worker_id = 'held'")
        )


async def tell(observer: AsyncConnection, *questions: str) -> list[bool]:
    """Answer SQL questions by a connection that has nothing to do with the library."""
    return [bool((await observer.execute(text(sql))).scalar_one()) for sql in questions]


def assert_nothing_is_checked_out(engine: AsyncEngine) -> None:
    """Fail if a connection has not come back to the pool."""
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    assert engine.pool.checkedout() == 0


async def assert_unlocked(observer: AsyncConnection) -> None:
    """Fail if another connection cannot soon have all there is to lock."""
    if observer.dialect.name == "sqlite":
        await observer.execute(text(f"PRAGMA busy_timeout = {PATIENCE * 1000}"))
        await observer.execute(text("BEGIN IMMEDIATE"))
    else:
        tables = ", ".join(models.Base.metadata.tables)
        await observer.execute(text(f"SET lock_timeout = '{PATIENCE}s'"))
        await observer.execute(text("BEGIN"))
        await observer.execute(text(f"LOCK TABLE {tables}"))
    await observer.execute(text("ROLLBACK"))
