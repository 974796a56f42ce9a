"""The queue as a whole: pausing it, what it tells of itself, and when it is next worth a look."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import (
    EPOCH,
    EXPIRES_AT,
    LEASE,
    Sessions,
    add_claimed,
    add_job,
    add_jobs,
    all_rows,
    claim_jobs,
    claim_one,
    create_job,
    database_now,
    expire_leases,
    new_job,
    set_columns,
    statements_sent,
    stored_job,
)
from zotify_async_crud import crud
from zotify_async_crud.schemas import DownloadJobStatus, DownloadQueueStats, Rescue

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
CANCELLED: Final = DownloadJobStatus.CANCELLED
HOUR: Final = dt.timedelta(hours=1)
MILLISECOND: Final = dt.timedelta(milliseconds=1)
EMPTY: Final[dict[str, Any]] = {
    "pending": 0,
    "scheduled": 0,
    "in_progress": 0,
    "failed": 0,
    "completed_last_minute": 0,
    "oldest_pending_age": None,
    "paused": False,
}


async def pause(sessions: Sessions) -> None:
    """Commit a pause of the queue."""
    async with sessions.begin() as db:
        await crud.pause_download_queue(db)


async def resume(sessions: Sessions) -> None:
    """Commit the end of a pause."""
    async with sessions.begin() as db:
        await crud.resume_download_queue(db)


async def stats(sessions: Sessions) -> DownloadQueueStats:
    """Return what the queue tells of itself."""
    async with sessions() as db:
        return await crud.get_download_queue_stats(db)


async def time_until_next(sessions: Sessions) -> dt.timedelta | None:
    """Return how long it is until another job becomes due."""
    async with sessions() as db:
        return await crud.get_time_until_next_download_job(db)


# pause_download_queue and resume_download_queue


async def test_a_paused_queue_hands_out_nothing(sessions: Sessions) -> None:
    """Neither by a claim nor by a pickup, however often it is paused, until it is resumed once."""
    queued = await add_jobs(sessions, 2)
    await pause(sessions)
    await pause(sessions)
    before = await all_rows(sessions)

    assert await claim_jobs(sessions) == []
    async with sessions.begin() as db:
        assert await crud.get_next_pending_download_job(db) is None
    assert await all_rows(sessions) == before

    await resume(sessions)
    async with sessions.begin() as db:
        assert await crud.get_next_pending_download_job(db) is not None
    assert [claim.job_id for claim in await claim_jobs(sessions)] == queued


async def test_running_jobs_go_on_while_the_queue_is_paused(sessions: Sessions) -> None:
    """Claims are renewed, report, end in every way and are rescued, and jobs can be enqueued."""
    await add_jobs(sessions, 4)
    one, two, three, four = await claim_jobs(sessions)
    await pause(sessions)

    async with sessions.begin() as db:
        renewal = await crud.renew_download_leases(db, [one, two, three], lease=LEASE)
        assert await crud.report_download_progress(db, {one: 0.5}) == []
        await crud.complete_download_job(db, one)
        await crud.fail_download_job(db, two, "no route")
        assert await crud.release_download_jobs(db, [three]) == []
    await expire_leases(sessions)
    async with sessions.begin() as db:
        assert await crud.rescue_expired_download_jobs(db) == Rescue(1, 0, 0)
        await crud.create_download_job(db, new_job())

    assert len(renewal.renewed) == 3
    assert [
        (await stored_job(sessions, claim.job_id)).status for claim in (one, two, three, four)
    ] == [
        COMPLETED,
        FAILED,
        PENDING,
        PENDING,
    ]


async def test_a_queue_that_was_never_paused_can_be_resumed(sessions: Sessions) -> None:
    """It stays as it is."""
    await add_jobs(sessions, 1)
    await resume(sessions)
    await resume(sessions)

    assert len(await claim_jobs(sessions)) == 1


@pytest.mark.parametrize("paused", [False, True])
async def test_pausing_and_resuming_are_undone_by_the_callers_rollback(
    sessions: Sessions, *, paused: bool
) -> None:
    """The caller owns the transaction."""
    if paused:
        await pause(sessions)

    async with sessions() as db:
        await (crud.resume_download_queue if paused else crud.pause_download_queue)(db)
        assert (await crud.get_download_queue_stats(db)).paused is not paused
        await db.rollback()

    assert (await stats(sessions)).paused is paused


async def test_plain_sql_can_pause_the_queue(sessions: Sessions) -> None:
    """Its row has a default for whatever is not said, and there is one row at most."""
    await add_jobs(sessions, 1)
    async with sessions.begin() as db:
        await db.execute(text("INSERT INTO download_queue (paused) VALUES (true)"))

    assert await claim_jobs(sessions) == []
    assert (await all_rows(sessions))["download_queue"] == [(1, True)]


# get_download_queue_stats


async def test_an_empty_queue_has_nothing_to_tell(sessions: Sessions) -> None:
    """Its counts are zero, and no job is the oldest."""
    found = await stats(sessions)

    assert found == DownloadQueueStats(**EMPTY)
    assert found.rate == 0.0


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        (PENDING, {"pending": 3}),
        (IN_PROGRESS, {"in_progress": 3}),
        (FAILED, {"failed": 3}),
        (COMPLETED, {}),
        (CANCELLED, {}),
    ],
)
async def test_jobs_are_counted_by_what_they_are(
    sessions: Sessions, status: DownloadJobStatus, counted: dict[str, int]
) -> None:
    """Each in one place at most: the finished ones of the past are not counted, but the failed."""
    await add_jobs(sessions, 3, status=status)

    found = await stats(sessions)

    age = found.oldest_pending_age
    assert found == DownloadQueueStats(**{**EMPTY, **counted, "oldest_pending_age": age})
    assert (age is None) is (status is not PENDING)


async def test_pending_jobs_that_are_not_due_are_counted_apart(sessions: Sessions) -> None:
    """They are scheduled until their moment comes."""
    jobs = [await create_job(sessions, available_at=EXPIRES_AT) for _ in range(3)]
    await create_job(sessions)
    before = await stats(sessions)
    await set_columns(sessions, jobs[0].job_id, available_at=EPOCH)
    after = await stats(sessions)

    assert (before.pending, before.scheduled) == (1, 3)
    assert (after.pending, after.scheduled) == (2, 2)


async def test_the_age_of_the_oldest_job_is_how_long_it_has_been_due(sessions: Sessions) -> None:
    """By the database's clock; not how long ago it was created, nor of one that is not due."""
    async with sessions.begin() as db:
        due = await database_now(db) - 3 * HOUR
        job = await crud.create_download_job(db, new_job(available_at=due))
        await crud.create_download_job(db, new_job())
    await add_jobs(sessions, 1, prefix="later")
    await set_columns(sessions, "later-00000", available_at=EXPIRES_AT)

    async with sessions() as db:
        before = await database_now(db)
        age = (await crud.get_download_queue_stats(db)).oldest_pending_age
        after = await database_now(db)
    await set_columns(sessions, job.job_id, status=COMPLETED)
    younger = (await stats(sessions)).oldest_pending_age

    assert age is not None
    assert before - due - MILLISECOND <= age <= after - due + MILLISECOND
    assert younger is not None
    assert younger < HOUR


async def test_a_queue_of_scheduled_jobs_has_no_oldest_one(sessions: Sessions) -> None:
    """Nothing waits."""
    await create_job(sessions, available_at=EXPIRES_AT)

    assert await stats(sessions) == DownloadQueueStats(**{**EMPTY, "scheduled": 1})


async def test_jobs_completed_within_the_last_minute_make_the_rate(sessions: Sessions) -> None:
    """Not those that failed or were cancelled meanwhile, nor what was completed before."""
    async with sessions.begin() as db:
        now = await database_now(db)
    for prefix, status, ago in (
        ("just", COMPLETED, 0),
        ("minute", COMPLETED, 50),
        ("old", COMPLETED, 61),
        ("failed", FAILED, 0),
        ("cancelled", CANCELLED, 0),
    ):
        jobs = await add_jobs(sessions, 3, status=status, prefix=prefix)
        await set_columns(sessions, *jobs, finished_at=now - dt.timedelta(seconds=ago))

    found = await stats(sessions)

    assert (found.completed_last_minute, found.failed) == (6, 3)
    assert found.rate == 0.1


async def test_every_way_to_complete_a_job_counts(sessions: Sessions) -> None:
    """By a claim, and by a status that is set."""
    claim = await add_claimed(sessions)
    async with sessions.begin() as db:
        await crud.complete_download_job(db, claim)
    await add_job(sessions, status=COMPLETED)

    assert (await stats(sessions)).completed_last_minute == 2


async def test_the_stats_tell_whether_the_queue_is_paused(sessions: Sessions) -> None:
    """What waits is counted all the same."""
    await add_jobs(sessions, 2)
    await pause(sessions)
    paused = await stats(sessions)
    await resume(sessions)
    resumed = await stats(sessions)

    assert (paused.paused, paused.pending) == (True, 2)
    assert (resumed.paused, resumed.pending) == (False, 2)


async def test_the_stats_are_of_one_moment(engine: AsyncEngine, sessions: Sessions) -> None:
    """One statement, so that no job is counted twice or not at all while it moves."""
    async with sessions() as db:
        await crud.get_download_job(db, "begins")
        with statements_sent(engine) as sent:
            await crud.get_download_queue_stats(db)

    assert len(sent) == 1


# get_time_until_next_download_job


@pytest.mark.parametrize("status", [None, PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED])
async def test_without_a_scheduled_job_there_is_nothing_to_wait_for(
    sessions: Sessions, status: DownloadJobStatus | None
) -> None:
    """In an empty queue, or in one whose jobs are due, or are not pending whatever they were."""
    if status is not None:
        jobs = await add_jobs(sessions, 2, status=status)
        moment = EPOCH if status is PENDING else EXPIRES_AT
        await set_columns(sessions, *jobs, available_at=moment)

    assert await time_until_next(sessions) is None


async def test_the_next_moment_at_which_a_job_becomes_due_is_told(sessions: Sessions) -> None:
    """Of all priorities the nearest one, past the jobs that are due already, paused or not."""
    async with sessions.begin() as db:
        now = await database_now(db)
    for priority, hours in ((5, 3), (5, 4), (0, 2), (-5, 1), (-5, 5), (7, 9)):
        await create_job(sessions, priority=priority, available_at=now + hours * HOUR)
        await create_job(sessions, priority=priority)
    nearest = await time_until_next(sessions)
    await pause(sessions)
    paused = await time_until_next(sessions)

    assert nearest is not None
    assert paused is not None
    assert dt.timedelta(minutes=59) < paused <= nearest <= HOUR + MILLISECOND


async def test_a_job_that_is_tried_again_later_is_one_to_wait_for(sessions: Sessions) -> None:
    """A pool that has nothing to do sleeps until then."""
    claim = await add_claimed(sessions)
    async with sessions.begin() as db:
        await crud.fail_download_job(db, claim, "no route", retry_in=HOUR)

    waiting = await time_until_next(sessions)

    assert waiting is not None
    assert dt.timedelta(minutes=59) < waiting <= HOUR + MILLISECOND


async def test_a_job_whose_moment_comes_is_due_without_anybodys_help(sessions: Sessions) -> None:
    """It is claimed, and nothing is left to wait for."""
    async with sessions.begin() as db:
        moment = await database_now(db) + dt.timedelta(milliseconds=50)
        job = await crud.create_download_job(db, new_job(available_at=moment))
    async with sessions() as db:
        while await database_now(db) <= moment:
            pass

    assert await time_until_next(sessions) is None
    assert (await claim_one(sessions)).job_id == job.job_id
