"""Download jobs: every outcome of every coroutine of the queue, with one caller at a time."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from typing import Any, Final

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

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
    short,
    stored_job,
    stored_row,
)
from tests.support.faults import only_postgresql
from zotify_async_crud import crud, models
from zotify_async_crud.errors import DownloadJobClaimed, DownloadJobExists, DownloadJobNotFound
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
CANCELLED: Final = DownloadJobStatus.CANCELLED
FINISHED: Final = [COMPLETED, FAILED, CANCELLED]
HOUR: Final = dt.timedelta(hours=1)
MILLISECOND: Final = dt.timedelta(milliseconds=1)
SAME_MOMENT: Final = dt.timedelta()


# create_download_job


async def test_a_new_job_is_pending_and_has_made_no_progress(sessions: Sessions) -> None:
    """What the caller does not say has a default, in the object and in the table."""
    async with sessions.begin() as db:
        created = await crud.create_download_job(db, new_job("track"))

    stored = await stored_job(sessions, created.job_id)
    for job in (created, stored):
        assert job.track_id == "track"
        assert job.status is PENDING
        assert (job.progress, job.error_message) == (0.0, None)
        assert isinstance(job.progress, float)


async def test_a_job_id_is_a_uuid_that_grows_with_time(sessions: Sessions) -> None:
    """Ids are UUIDv7, so that they sort as they were made."""
    async with sessions.begin() as db:
        created = [(await crud.create_download_job(db, new_job())).job_id for _ in range(20)]

    assert {uuid.UUID(job_id).version for job_id in created} == {7}
    assert created == sorted(set(created))


async def test_a_job_knows_in_utc_and_below_the_second_when_it_was_created(
    sessions: Sessions,
) -> None:
    """The clock is the database's, aware, and finer than a second."""
    before = dt.datetime.now(dt.UTC)
    jobs = [await add_job(sessions) for _ in range(3)]
    after = dt.datetime.now(dt.UTC)

    slack = dt.timedelta(minutes=1)  # the server may be another machine
    assert all(before - slack <= job.created_at <= after + slack for job in jobs)
    assert {job.created_at.utcoffset() for job in jobs} == {dt.timedelta(0)}
    assert any(job.created_at.microsecond for job in jobs)


async def test_the_same_track_can_be_enqueued_again(sessions: Sessions) -> None:
    """A track that was downloaded before may be wanted again."""
    first, second = await add_job(sessions, "track"), await add_job(sessions, "track")

    assert first.job_id != second.job_id


async def test_creating_a_job_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    async with sessions() as db:
        await crud.create_download_job(db, new_job())
        await db.rollback()

    assert (await all_rows(sessions))["download_jobs"] == []


# get_download_job


async def test_a_job_is_found_by_its_id(sessions: Sessions) -> None:
    """Found means all of the row."""
    await add_job(sessions, "other")
    created = await add_job(sessions, "track", status=FAILED, error="gone", progress=0.5)

    async with sessions() as db:
        found = await crud.get_download_job(db, created.job_id)

    assert found is not None
    assert (found.job_id, found.track_id) == (created.job_id, "track")
    assert (found.status, found.progress, found.error_message) == (FAILED, 0.5, "gone")
    assert found.created_at == created.created_at


@pytest.mark.parametrize(
    "job_id",
    ["unknown", "", " ", "\0", "a\0b", "\ud800", "x" * 10_000, "💾" * 10_000, "%", "' OR 1=1 --"],
    ids=short,
)
async def test_an_id_that_no_job_has_finds_nothing(sessions: Sessions, job_id: str) -> None:
    """Any string is a fair question, and the transaction goes on after it."""
    known = await add_job(sessions)

    async with sessions() as db:
        assert await crud.get_download_job(db, job_id) is None
        assert await crud.get_download_job(db, known.job_id) is not None


async def test_reading_a_job_again_shows_what_others_did_meanwhile(sessions: Sessions) -> None:
    """A session that has loaded a job does not answer from memory."""
    job_id = (await add_job(sessions)).job_id
    async with sessions() as db:
        loaded = await crud.get_download_job(db, job_id)
        await db.commit()
        async with sessions.begin() as other:
            theirs = await other.get_one(DownloadJob, job_id)
            await crud.update_download_job_status(other, theirs, COMPLETED, progress=1.0)

        again = await crud.get_download_job(db, job_id)

    assert loaded is again
    assert again is not None
    assert (again.status, again.progress) == (COMPLETED, 1.0)


# get_next_pending_download_job


async def test_the_oldest_pending_job_is_picked_up_first(sessions: Sessions) -> None:
    """First in, first out, whatever the ids are."""
    await add_jobs(sessions, 2, first=EPOCH + dt.timedelta(days=1), prefix="a-younger")
    oldest, *_ = await add_jobs(sessions, 2, prefix="b-older")

    async with sessions.begin() as db:
        job = await crud.get_next_pending_download_job(db)

    assert job is not None
    assert job.job_id == oldest


async def test_of_jobs_created_at_one_moment_the_smaller_id_is_picked_up_first(
    sessions: Sessions,
) -> None:
    """Ids grow with time, so they decide where the clock does not."""
    first, *_ = await add_jobs(sessions, 5, apart=SAME_MOMENT)

    async with sessions.begin() as db:
        job = await crud.get_next_pending_download_job(db)

    assert job is not None
    assert job.job_id == first


async def test_an_empty_queue_has_no_next_job(sessions: Sessions) -> None:
    """Nothing to do is None, not an error."""
    async with sessions.begin() as db:
        assert await crud.get_next_pending_download_job(db) is None


@pytest.mark.parametrize("status", [IN_PROGRESS, *FINISHED])
async def test_a_job_that_is_not_pending_is_not_picked_up(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """Only pending jobs are due, however old the others are."""
    await add_jobs(sessions, 1, status=status, prefix="done")
    (pending,) = await add_jobs(sessions, 1, first=EPOCH + dt.timedelta(days=1))

    async with sessions.begin() as db:
        job = await crud.get_next_pending_download_job(db)
        assert job is not None
        assert job.job_id == pending
        await crud.update_download_job_status(db, job, status)
        assert await crud.get_next_pending_download_job(db) is None


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_transaction_that_leaves_a_picked_job_alone_gives_it_back(
    sessions: Sessions, ending: str
) -> None:
    """Picking up changes nothing: the job is as it was, and is next again."""
    before_id = (await add_job(sessions)).job_id
    before = await all_rows(sessions)
    async with sessions() as db:
        job = await crud.get_next_pending_download_job(db)
        assert job is not None
        assert job.status is PENDING
        await getattr(db, ending)()

    assert await all_rows(sessions) == before
    async with sessions.begin() as db:
        again = await crud.get_next_pending_download_job(db)
    assert again is not None
    assert again.job_id == before_id


async def test_a_transaction_gets_the_job_it_already_holds_again(sessions: Sessions) -> None:
    """Its own lock is not in its way: until it changes the job, that is the next one."""
    await add_jobs(sessions, 3)

    async with sessions.begin() as db:
        first = await crud.get_next_pending_download_job(db)
        second = await crud.get_next_pending_download_job(db)

    assert first is not None
    assert first is second


async def test_a_picked_job_shows_what_others_did_since_the_session_loaded_it(
    sessions: Sessions,
) -> None:
    """A job that is held is fresh: nobody can change it any more."""
    job_id = (await add_job(sessions, status=FAILED, error="gone", progress=0.5)).job_id
    async with sessions() as db:
        loaded = await crud.get_download_job(db, job_id)
        await db.commit()
        async with sessions.begin() as other:
            await crud.retry_failed_download_jobs(other)

        picked = await crud.get_next_pending_download_job(db)

    assert picked is not None
    assert picked is loaded
    assert (picked.status, picked.error_message, picked.progress) == (PENDING, None, 0.0)


async def test_jobs_are_picked_up_in_the_order_of_the_queue(sessions: Sessions) -> None:
    """The same as that of claims: the highest priority, what has been due for longest, the id."""
    first, second, delayed, later, high, low = await add_jobs(sessions, 6, apart=SAME_MOMENT)
    await set_columns(sessions, delayed, available_at=EPOCH - HOUR)
    await set_columns(sessions, later, available_at=EXPIRES_AT, priority=9)
    await set_columns(sessions, high, priority=1, available_at=EPOCH + HOUR)
    await set_columns(sessions, low, priority=-1, available_at=EPOCH - 2 * HOUR)

    picked = []
    async with sessions.begin() as db:
        while job := await crud.get_next_pending_download_job(db):
            picked.append(job.job_id)
            await crud.update_download_job_status(db, job, IN_PROGRESS)

    assert picked == [high, delayed, first, second, low]


async def test_a_pickup_shows_every_column_of_the_job(sessions: Sessions) -> None:
    """It reads the row, and so does whoever gets the object."""
    job = await create_job(
        sessions, "track", priority=3, available_at=EPOCH, max_attempts=2, unique=True
    )

    async with sessions.begin() as db:
        picked = await crud.get_next_pending_download_job(db)

    assert picked is not None
    row = await stored_row(sessions, job.job_id)
    assert {name: getattr(picked, name) for name in row} == row


# update_download_job_status


async def test_an_update_writes_status_error_and_progress(sessions: Sessions) -> None:
    """The object that comes back and the row agree, and no other job changes."""
    other, job = await add_job(sessions), await add_job(sessions)

    async with sessions.begin() as db:
        updated = await crud.update_download_job_status(db, job, FAILED, "no route", 0.25)

    stored = await stored_job(sessions, job.job_id)
    for seen in (updated, stored):
        assert (seen.status, seen.error_message, seen.progress) == (FAILED, "no route", 0.25)
    assert (await stored_job(sessions, other.job_id)).status is PENDING


async def test_an_update_without_an_error_clears_the_one_before(sessions: Sessions) -> None:
    """An error belongs to the status it came with."""
    job = await add_job(sessions, status=FAILED, error="no route")

    async with sessions.begin() as db:
        updated = await crud.update_download_job_status(db, job, IN_PROGRESS)

    assert updated.error_message is None
    assert (await stored_job(sessions, job.job_id)).error_message is None


@pytest.mark.parametrize(("given", "expected"), [(None, 0.5), (0.0, 0.0), (0, 0.0), (1.0, 1.0)])
async def test_progress_changes_only_when_it_is_given(
    sessions: Sessions, given: float | None, expected: float
) -> None:
    """None keeps what is known; 0 is a value."""
    job = await add_job(sessions, status=IN_PROGRESS, progress=0.5)

    async with sessions.begin() as db:
        updated = await crud.update_download_job_status(db, job, IN_PROGRESS, progress=given)

    assert updated.progress == expected
    assert (await stored_job(sessions, job.job_id)).progress == expected


@pytest.mark.parametrize("status", ["pending", "in_progress", "completed", "failed", "cancelled"])
async def test_a_status_may_be_given_as_plain_text(sessions: Sessions, status: str) -> None:
    """A StrEnum's text is as good as its member, and comes back as the member."""
    job = await add_job(sessions)

    async with sessions.begin() as db:
        updated = await crud.update_download_job_status(db, job, status)  # type: ignore[arg-type]

    assert updated.status is DownloadJobStatus(status)
    assert (await stored_job(sessions, job.job_id)).status is DownloadJobStatus(status)


async def test_an_empty_error_is_kept_as_an_error(sessions: Sessions) -> None:
    """Only None clears."""
    job = await add_job(sessions, status=FAILED, error="")

    assert (await stored_job(sessions, job.job_id)).error_message == ""


async def test_an_update_returns_the_sessions_own_object_and_it_is_fresh(
    sessions: Sessions,
) -> None:
    """A job loaded before by the session and one loaded elsewhere lead to the same object."""
    elsewhere = await add_job(sessions)
    async with sessions.begin() as db:
        loaded = await db.get_one(DownloadJob, elsewhere.job_id)

        updated = await crud.update_download_job_status(db, elsewhere, FAILED, "gone", 0.75)

        assert updated is loaded
        assert updated is not elsewhere
        assert updated in db
        assert (loaded.status, loaded.error_message, loaded.progress) == (FAILED, "gone", 0.75)


async def test_a_job_that_another_open_session_holds_can_be_updated(sessions: Sessions) -> None:
    """A handler may get its job from one session and report by another."""
    job_id = (await add_job(sessions)).job_id
    async with sessions() as first, sessions.begin() as second:
        job = await first.get_one(DownloadJob, job_id)
        await first.commit()

        updated = await crud.update_download_job_status(second, job, COMPLETED)

        assert updated in second
        assert job in first

    assert (await stored_job(sessions, job_id)).status is COMPLETED


async def test_a_job_that_expired_when_its_session_committed_can_be_updated(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """SQLAlchemy's own default empties objects at a commit; the job's identity stays."""
    expiring = async_sessionmaker(engine)
    async with expiring() as db:
        job = await crud.create_download_job(db, new_job())
        await db.commit()

        same_session = await crud.update_download_job_status(db, job, IN_PROGRESS)
        assert same_session is job
        assert job.status is IN_PROGRESS
        await db.commit()

        async with sessions.begin() as other:
            updated = await crud.update_download_job_status(other, job, COMPLETED)

    assert updated.status is COMPLETED
    async with sessions.begin() as db:  # and now it is detached as well
        assert (await crud.update_download_job_status(db, job, FAILED)).status is FAILED


async def test_updating_a_deleted_job_is_an_error_that_names_it(sessions: Sessions) -> None:
    """Silence would let a worker believe that its result was recorded."""
    job = await add_job(sessions)
    other = await add_job(sessions)
    async with sessions.begin() as db:
        await db.execute(delete(DownloadJob).where(DownloadJob.job_id == job.job_id))

    async with sessions.begin() as db:
        with pytest.raises(DownloadJobNotFound) as caught:
            await crud.update_download_job_status(db, job, COMPLETED)
        await crud.update_download_job_status(db, other, COMPLETED)  # the transaction goes on

    assert caught.value.job_id == job.job_id
    assert (await stored_job(sessions, other.job_id)).status is COMPLETED


async def test_an_update_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    job = await add_job(sessions)
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.update_download_job_status(db, job, FAILED, "gone", 0.5)
        await db.rollback()

    assert await all_rows(sessions) == before


@pytest.mark.parametrize("status", FINISHED)
async def test_a_job_that_is_set_to_a_finished_status_tells_when_it_finished(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """By the database's clock; and no more when it is set back."""
    job = await add_job(sessions)
    async with sessions.begin() as db:
        before = await database_now(db)
        finished = (await crud.update_download_job_status(db, job, status)).finished_at
        after = await database_now(db)
        unfinished = (await crud.update_download_job_status(db, job, PENDING)).finished_at

    assert finished is not None
    assert before <= finished <= after + MILLISECOND
    assert unfinished is None


async def test_each_pickup_without_a_claim_is_an_attempt(sessions: Sessions) -> None:
    """Its number goes on and its beginning is told; to report progress is not to begin again."""
    job = await add_job(sessions)

    seen = []
    for status in (IN_PROGRESS, IN_PROGRESS, PENDING, IN_PROGRESS, FAILED):
        async with sessions.begin() as db:
            updated = await crud.update_download_job_status(db, job, status, progress=0.5)
            seen.append((updated.attempt, updated.started_at))

    assert [attempt for attempt, _ in seen] == [1, 1, 1, 2, 2]
    first, second = seen[0][1], seen[3][1]
    assert first is not None
    assert second is not None
    assert [moment for _, moment in seen] == [first, first, first, second, second]
    assert first < second


@pytest.mark.parametrize("status", list(DownloadJobStatus))
async def test_a_job_that_a_worker_holds_by_a_claim_is_the_workers_alone(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """Nothing changes, the error names the job, and the caller's transaction goes on."""
    claim = await add_claimed(sessions)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        job = await db.get_one(DownloadJob, claim.job_id)
        with pytest.raises(DownloadJobClaimed) as claimed:
            await crud.update_download_job_status(db, job, status, "by force", 0.5)
        assert await crud.get_download_job(db, claim.job_id) is job

    assert claimed.value.job_id == claim.job_id
    assert await all_rows(sessions) == before


@pytest.mark.parametrize("status", list(DownloadJobStatus))
async def test_a_job_whose_lease_is_over_can_be_overwritten_and_its_worker_is_fenced_off(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """Whatever it becomes, it is no longer the worker's; its number never goes down."""
    claim = await add_claimed(sessions)
    await expire_leases(sessions)

    async with sessions.begin() as db:
        job = await db.get_one(DownloadJob, claim.job_id)
        await crud.update_download_job_status(db, job, status, "by force", 0.5)
    after = await stored_row(sessions, claim.job_id)
    async with sessions.begin() as db:
        renewal = await crud.renew_download_leases(db, [claim], lease=LEASE)
        assert renewal.lost == [claim]
        assert await crud.release_download_jobs(db, [claim]) == [claim]

    assert (after["status"], after["error_message"], after["progress"]) == (status, "by force", 0.5)
    assert (after["worker_id"], after["lease_expires_at"], after["attempt"]) == (None, None, 1)
    assert await stored_row(sessions, claim.job_id) == after


async def test_a_job_that_is_set_back_may_be_claimed_with_the_next_number(
    sessions: Sessions,
) -> None:
    """Pickups and claims count the same attempts."""
    job = await add_job(sessions, status=IN_PROGRESS)
    async with sessions.begin() as db:
        await crud.update_download_job_status(db, job, PENDING)

    assert (await claim_one(sessions)).attempt == 2


@pytest.mark.parametrize("status", [PENDING, IN_PROGRESS])
async def test_a_unique_job_cannot_come_back_beside_another_of_its_track(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """As long as that one is pending or in progress."""
    before = await create_job(sessions, unique=True)
    async with sessions.begin() as db:
        await crud.update_download_job_status(db, before, FAILED)
    rival = await create_job(sessions, unique=True)

    async with sessions.begin() as db:
        with pytest.raises(DownloadJobExists):
            async with db.begin_nested():
                await crud.update_download_job_status(db, before, status)
        await crud.update_download_job_status(db, rival, COMPLETED)
        again = await crud.update_download_job_status(db, before, status)

    assert again.status is status


@pytest.mark.parametrize("status", [PENDING, *FINISHED])
async def test_a_status_that_is_set_ends_the_wish_that_the_job_be_cancelled(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """Or a job that is set back would be cancelled when it fails for the first time."""
    job = await add_job(sessions, status=IN_PROGRESS)
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, job.job_id)
        going_on = await crud.update_download_job_status(db, job, IN_PROGRESS, progress=0.5)
        assert going_on.cancel_requested is True
        ended = await crud.update_download_job_status(db, job, status)

    assert ended.cancel_requested is False


# retry_failed_download_jobs


async def test_a_retry_gives_back_failed_jobs_and_only_them(sessions: Sessions) -> None:
    """The count is that of the jobs given back; their error is gone and they are next."""
    failed = [await add_job(sessions, status=FAILED, error="gone", progress=0.5) for _ in range(3)]
    others = [
        await add_job(sessions, status=status, error="noted", progress=0.5)
        for status in (PENDING, IN_PROGRESS, COMPLETED, CANCELLED)
    ]
    before = {row[0]: row for row in (await all_rows(sessions))["download_jobs"]}

    async with sessions.begin() as db:
        assert await crud.retry_failed_download_jobs(db) == 3
        assert await crud.retry_failed_download_jobs(db) == 0

    after = {row[0]: row for row in (await all_rows(sessions))["download_jobs"]}
    assert [after[job.job_id] for job in others] == [before[job.job_id] for job in others]
    for job in failed:
        stored = await stored_job(sessions, job.job_id)
        assert (stored.status, stored.error_message) == (PENDING, None)
        assert stored.created_at == job.created_at


async def test_a_retry_shows_in_the_jobs_that_the_session_has_loaded(sessions: Sessions) -> None:
    """An object in the caller's hands is never left behind, nor one changed that did not fail."""
    job_id = (await add_job(sessions, status=FAILED, error="gone")).job_id
    other_id = (await add_job(sessions, status=COMPLETED, error="noted")).job_id
    async with sessions.begin() as db:
        job = await db.get_one(DownloadJob, job_id)
        other = await db.get_one(DownloadJob, other_id)

        await crud.retry_failed_download_jobs(db)
        await db.refresh(other)

        assert (job.status, job.error_message, job.progress) == (PENDING, None, 0.0)
        assert (other.status, other.error_message) == (COMPLETED, "noted")


async def test_a_retry_leaves_alone_what_only_seems_failed_to_the_session(
    sessions: Sessions,
) -> None:
    """The table decides, not what the session remembers of it."""
    job_id = (await add_job(sessions, status=FAILED, error="gone")).job_id
    async with sessions() as db:
        job = await db.get_one(DownloadJob, job_id)
        await db.commit()
        async with sessions.begin() as other:
            await crud.update_download_job_status(other, job, COMPLETED)

        assert await crud.retry_failed_download_jobs(db) == 0
        await db.commit()
        assert job.status is not PENDING

    assert (await stored_job(sessions, job_id)).status is COMPLETED


async def test_a_retry_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    await add_job(sessions, status=FAILED, error="gone")
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.retry_failed_download_jobs(db)
        await db.rollback()

    assert await all_rows(sessions) == before


async def test_a_retry_never_lowers_the_number_of_an_attempt(sessions: Sessions) -> None:
    """The job is due at once and may have one more attempt, whose number was never used."""
    claim = await add_claimed(sessions, max_attempts=1, available_at=EPOCH + HOUR)
    async with sessions.begin() as db:
        await crud.fail_download_job(db, claim, "no route", retry_in=0)
    before = await stored_row(sessions, claim.job_id)

    async with sessions.begin() as db:
        assert await crud.retry_failed_download_jobs(db) == 1

    assert await stored_row(sessions, claim.job_id) == {
        **before,
        "status": PENDING,
        "error_message": None,
        "progress": 0.0,
        "available_at": None,
        "worker_id": None,
        "finished_at": None,
    }
    again = await claim_one(sessions)
    assert (again.attempt, again.max_attempts) == (2, 1)
    async with sessions.begin() as db:
        assert await crud.fail_download_job(db, again, "no route", retry_in=0) is FAILED


async def _fail(sessions: Sessions, *jobs: DownloadJob) -> None:
    for job in jobs:
        async with sessions.begin() as db:
            await crud.update_download_job_status(db, job, FAILED, "gone")


@pytest.mark.parametrize("status", [PENDING, IN_PROGRESS])
async def test_a_failed_unique_job_stays_failed_beside_another_of_its_track(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """Whether that one was created before or after; jobs that are not unique come back."""
    failed = await create_job(sessions, unique=True)
    await _fail(sessions, failed)
    active = await create_job(sessions, unique=True)
    plain, other = await create_job(sessions), await create_job(sessions, "other", unique=True)
    await _fail(sessions, plain, other)
    if status is IN_PROGRESS:
        await claim_one(sessions)
    before = [await stored_row(sessions, job.job_id) for job in (failed, active)]

    async with sessions.begin() as db:
        assert await crud.retry_failed_download_jobs(db) == 2

    assert [await stored_row(sessions, job.job_id) for job in (failed, active)] == before
    assert [(await stored_job(sessions, job.job_id)).status for job in (plain, other)] == [
        PENDING,
        PENDING,
    ]


async def test_of_failed_unique_jobs_of_a_track_the_newest_is_retried(sessions: Sessions) -> None:
    """The others stay failed, also when it has been retried already."""
    jobs = []
    for track_id in "abcabca":
        job = await create_job(sessions, track_id, unique=True)
        await _fail(sessions, job)
        jobs.append(job)

    async with sessions.begin() as db:
        assert await crud.retry_failed_download_jobs(db) == 3
        assert await crud.retry_failed_download_jobs(db) == 0

    assert [(await stored_job(sessions, job.job_id)).status for job in jobs] == [
        *[FAILED] * 4,
        *[PENDING] * 3,
    ]


async def test_a_job_that_another_of_its_track_outlived_does_not_bar_it(
    sessions: Sessions,
) -> None:
    """Completed and cancelled jobs are nobody's rivals."""
    failed = await create_job(sessions, unique=True)
    await _fail(sessions, failed)
    for status in (COMPLETED, CANCELLED):
        rival = await create_job(sessions, unique=True)
        async with sessions.begin() as db:
            await crud.update_download_job_status(db, rival, status)

    async with sessions.begin() as db:
        assert await crud.retry_failed_download_jobs(db) == 1


# cancel_download_job


async def test_a_pending_job_is_cancelled_at_once(sessions: Sessions) -> None:
    """It is finished, nobody can claim it, and what is returned shows what was written."""
    job, other = await create_job(sessions), await create_job(sessions)
    before = await stored_row(sessions, job.job_id)

    async with sessions.begin() as db:
        loaded = await db.get_one(DownloadJob, job.job_id)
        cancelled = await crud.cancel_download_job(db, job.job_id)
        now = await database_now(db)

    assert cancelled is loaded
    row = await stored_row(sessions, job.job_id)
    assert {name: getattr(cancelled, name) for name in row} == row
    finished_at = row["finished_at"]
    expected = {"status": CANCELLED, "cancel_requested": True, "finished_at": finished_at}
    assert row == {**before, **expected}
    assert before["created_at"] <= finished_at <= now + MILLISECOND
    assert [claim.job_id for claim in await claim_jobs(sessions)] == [other.job_id]


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "picked up"])
async def test_a_running_job_is_asked_to_stop(sessions: Sessions, *, claimed: bool) -> None:
    """Nothing else of it changes, however often it is asked."""
    if claimed:
        job_id = (await add_claimed(sessions)).job_id
    else:
        job_id = (await add_job(sessions, status=IN_PROGRESS, progress=0.5)).job_id
    before = await stored_row(sessions, job_id)

    async with sessions.begin() as db:
        first = await crud.cancel_download_job(db, job_id)
        second = await crud.cancel_download_job(db, job_id)

    assert first is second
    assert (first.status, first.cancel_requested) == (IN_PROGRESS, True)
    assert await stored_row(sessions, job_id) == {**before, "cancel_requested": True}


@pytest.mark.parametrize("status", FINISHED)
async def test_a_finished_job_is_not_cancelled(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """It stays as it is, and is returned so."""
    job = await add_job(sessions, status=status, error="noted", progress=0.5)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        assert (await crud.cancel_download_job(db, job.job_id)).status is status
        assert (await crud.cancel_download_job(db, job.job_id)).cancel_requested is False

    assert await all_rows(sessions) == before


@pytest.mark.parametrize("job_id", ["unknown", "", "\0", "a\0b", "\ud800", "x" * 10_000], ids=short)
async def test_cancelling_a_job_that_is_not_there_is_an_error_that_names_it(
    sessions: Sessions, job_id: str
) -> None:
    """Any string is an id that might be, and the transaction goes on."""
    job = await create_job(sessions)

    async with sessions.begin() as db:
        with pytest.raises(DownloadJobNotFound) as caught:
            await crud.cancel_download_job(db, job_id)
        await crud.cancel_download_job(db, job.job_id)

    assert caught.value.job_id == job_id
    assert (await stored_job(sessions, job.job_id)).status is CANCELLED


async def test_a_cancelled_unique_job_makes_room_for_another(sessions: Sessions) -> None:
    """Whoever cancels a download may want it again."""
    cancelled = await create_job(sessions, unique=True)
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, cancelled.job_id)

    assert (await create_job(sessions, unique=True)).job_id != cancelled.job_id


@pytest.mark.parametrize("status", [PENDING, IN_PROGRESS])
async def test_a_cancellation_is_undone_by_the_callers_rollback(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """The caller owns the transaction."""
    job = await add_job(sessions, status=status)
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.cancel_download_job(db, job.job_id)
        await db.rollback()

    assert await all_rows(sessions) == before


# prune_download_jobs


async def _finished(sessions: Sessions, *hours_ago: float, **options: Any) -> list[str]:
    """Commit a finished job for each of *hours_ago* and return their ids."""
    jobs = await add_jobs(sessions, len(hours_ago), **{"status": COMPLETED, **options})
    async with sessions.begin() as db:
        now = await database_now(db)
    for job_id, hours in zip(jobs, hours_ago, strict=True):
        await set_columns(sessions, job_id, finished_at=now - hours * HOUR)
    return jobs


async def _left(sessions: Sessions) -> list[str]:
    return [row[0] for row in (await all_rows(sessions))["download_jobs"]]


@pytest.mark.parametrize("older_than", [2 * HOUR, 7_200, 7_200.0], ids=str)
async def test_jobs_that_finished_long_ago_are_deleted(
    sessions: Sessions, older_than: dt.timedelta | float
) -> None:
    """How many is told; by when they finished, and not by when they were created."""
    jobs = await _finished(sessions, 5, 1.9, 2.1, 0, 3)

    async with sessions.begin() as db:
        assert await crud.prune_download_jobs(db, older_than=older_than, limit=100) == 3
        assert await crud.prune_download_jobs(db, older_than=older_than, limit=100) == 0

    assert await _left(sessions) == [jobs[1], jobs[3]]


async def test_a_job_may_be_deleted_as_soon_as_it_is_finished(sessions: Sessions) -> None:
    """Without an age, whatever finished before this moment is old enough."""
    claim = await add_claimed(sessions)
    async with sessions.begin() as db:
        await crud.complete_download_job(db, claim)
    async with sessions.begin() as db:
        assert await crud.prune_download_jobs(db, older_than=0, limit=1) == 1

    assert await _left(sessions) == []


async def test_no_more_jobs_are_deleted_than_asked_for(sessions: Sessions) -> None:
    """Those that finished first go first, so that no transaction gets long."""
    jobs = await _finished(sessions, 3, 6, 4, 5, 7)

    counts = []
    left = []
    for _ in range(4):
        async with sessions.begin() as db:
            counts.append(await crud.prune_download_jobs(db, older_than=HOUR, limit=2))
        left.append(await _left(sessions))

    assert counts == [2, 2, 1, 0]
    assert left == [[jobs[0], jobs[2], jobs[3]], [jobs[0]], [], []]


async def test_failed_jobs_are_kept_and_unfinished_ones_always(sessions: Sessions) -> None:
    """Completed and cancelled ones are deleted, unless it is said otherwise."""
    jobs = {
        status: await _finished(sessions, 5, status=status, prefix=status.value)
        for status in FINISHED
    }
    jobs |= {
        status: await add_jobs(sessions, 1, status=status, prefix=status.value)
        for status in (PENDING, IN_PROGRESS)
    }

    async with sessions.begin() as db:
        assert await crud.prune_download_jobs(db, older_than=HOUR, limit=100) == 2

    assert await _left(sessions) == sorted([*jobs[FAILED], *jobs[PENDING], *jobs[IN_PROGRESS]])


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
@pytest.mark.parametrize("statuses", [[], [FAILED], ["failed", "completed"], FINISHED], ids=str)
async def test_the_statuses_of_the_jobs_to_delete_can_be_chosen(
    sessions: Sessions, statuses: list[DownloadJobStatus], kind: Any
) -> None:
    """As members or as text, in any collection; of none, nothing is deleted."""
    for status in FINISHED:
        await _finished(sessions, 5, status=status, prefix=status.value)

    async with sessions.begin() as db:
        deleted = await crud.prune_download_jobs(
            db, older_than=HOUR, limit=100, statuses=kind(statuses)
        )

    assert deleted == len(statuses)
    assert await _left(sessions) == sorted(
        f"{status}-00000" for status in FINISHED if status not in statuses
    )


async def test_pruning_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    await _finished(sessions, 5, 6)
    before = await all_rows(sessions)

    async with sessions() as db:
        assert await crud.prune_download_jobs(db, older_than=HOUR, limit=100) == 2
        await db.rollback()

    assert await all_rows(sessions) == before


@only_postgresql
async def test_jobs_that_another_transaction_holds_are_not_waited_for(
    sessions: Sessions,
) -> None:
    """They are pruned another time, and others come instead."""
    jobs = await _finished(sessions, 8, 7, 6)
    hold = select(DownloadJob).where(DownloadJob.job_id == jobs[0]).with_for_update()
    async with asyncio.timeout(20), sessions.begin() as other:
        await other.execute(hold)

        async with sessions.begin() as db:
            assert await crud.prune_download_jobs(db, older_than=HOUR, limit=1) == 1

    assert await _left(sessions) == [jobs[0], jobs[2]]


# get_all_download_jobs


async def test_all_jobs_come_newest_first(sessions: Sessions) -> None:
    """By the time of creation, and of one moment the greater id first."""
    middle = await add_jobs(sessions, 3, prefix="middle", apart=SAME_MOMENT)
    newest = await add_jobs(sessions, 2, prefix="a", first=EPOCH + dt.timedelta(microseconds=1))
    oldest = await add_jobs(sessions, 2, prefix="z", first=EPOCH - dt.timedelta(days=1))

    async with sessions() as db:
        jobs = await crud.get_all_download_jobs(db)

    assert isinstance(jobs, list)
    assert [job.job_id for job in jobs] == [*newest[::-1], *middle[::-1], *oldest[::-1]]


async def test_jobs_of_one_transaction_come_newest_first(sessions: Sessions) -> None:
    """Neither the whole second nor the transaction's one moment blurs the order."""
    async with sessions.begin() as db:
        created = [(await crud.create_download_job(db, new_job())).job_id for _ in range(50)]

    async with sessions() as db:
        jobs = await crud.get_all_download_jobs(db)

    assert [job.job_id for job in jobs] == created[::-1]


async def test_no_jobs_are_an_empty_list(sessions: Sessions) -> None:
    """Nothing is not None."""
    async with sessions() as db:
        assert await crud.get_all_download_jobs(db) == []


# list_download_jobs


async def _pages(
    sessions: Sessions, limit: int, status: DownloadJobStatus | None = None
) -> list[list[str]]:
    """Return the ids on each page, read as web requests would: a session for each."""
    pages: list[list[str]] = []
    after: str | None = None
    while after is not None or not pages:
        async with sessions() as db:
            page = await crud.list_download_jobs(db, status=status, limit=limit, after=after)
        pages.append([job.job_id for job in page.items])
        after = page.after
    return pages


@pytest.mark.parametrize("apart", [SAME_MOMENT, dt.timedelta(microseconds=1), dt.timedelta(days=1)])
@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (8, [7]), (1_000, [7])]
)
async def test_pages_show_every_job_once_and_the_last_one_says_so(
    sessions: Sessions, limit: int, sizes: list[int], apart: dt.timedelta
) -> None:
    """Also where many jobs were created at one moment, and where the last page is full."""
    created = await add_jobs(sessions, 7, apart=apart)

    pages = await _pages(sessions, limit)

    assert [len(page) for page in pages] == sizes
    assert [job_id for page in pages for job_id in page] == created[::-1]


async def test_a_list_of_nothing_is_one_empty_page(sessions: Sessions) -> None:
    """There is no second page to ask for."""
    async with sessions() as db:
        assert await crud.list_download_jobs(db, limit=5) == crud.Page([], None)


@pytest.mark.parametrize("status", list(DownloadJobStatus))
async def test_a_list_can_be_of_one_status(sessions: Sessions, status: DownloadJobStatus) -> None:
    """Pages of one status hold that status only, and all of it."""
    created = {
        each: await add_jobs(sessions, 3, status=each, prefix=each.value)
        for each in DownloadJobStatus
    }

    pages = await _pages(sessions, 2, status)

    assert pages == [created[status][:0:-1], created[status][:1]]


async def test_jobs_that_come_or_go_between_pages_neither_repeat_nor_hide_any(
    sessions: Sessions,
) -> None:
    """Not even the deletion of the job that the first page ended with."""
    created = await add_jobs(sessions, 6)
    async with sessions() as db:
        page = await crud.list_download_jobs(db, limit=2)
    last = page.items[-1].job_id
    await add_jobs(sessions, 2, first=EPOCH + dt.timedelta(days=1), prefix="newer")
    async with sessions.begin() as db:
        await db.execute(delete(DownloadJob).where(DownloadJob.job_id.in_([last, created[0]])))

    async with sessions() as db:
        rest = await crud.list_download_jobs(db, limit=10, after=page.after)

    assert [job.job_id for job in page.items] == [created[5], created[4]]
    assert [job.job_id for job in rest.items] == [created[3], created[2], created[1]]
    assert rest.after is None


@pytest.mark.parametrize("job_ids", [["my job 1", "my job 2"], ["ä", "ö"], ["a", "a\x01"]])
async def test_pages_go_on_after_any_id_that_plain_sql_has_inserted(
    sessions: Sessions, job_ids: list[str]
) -> None:
    """Jobs that were there before the library keep their ids, whatever those look like."""
    async with sessions.begin() as db:
        insertion = text("INSERT INTO download_jobs (job_id, track_id) VALUES (:job_id, 't')")
        await db.execute(insertion, [{"job_id": job_id} for job_id in job_ids])

    pages = await _pages(sessions, 1)

    assert sorted(job_id for page in pages for job_id in page) == job_ids


async def test_a_page_shows_what_others_did_since_the_session_loaded_its_jobs(
    sessions: Sessions,
) -> None:
    """A list does not answer from memory."""
    job = await add_job(sessions)
    async with sessions() as db:
        page = await crud.list_download_jobs(db, limit=1)
        await db.commit()
        async with sessions.begin() as other:
            await crud.update_download_job_status(other, job, COMPLETED)

        again = await crud.list_download_jobs(db, limit=1)
        everything = await crud.get_all_download_jobs(db)

    assert again.items == page.items == everything
    assert again.items[0].status is COMPLETED


# stream_download_jobs


async def test_a_stream_yields_every_job_once_newest_first(sessions: Sessions) -> None:
    """Across its chunks too, and with many jobs of one moment."""
    created = await add_jobs(sessions, 1_001, apart=SAME_MOMENT)

    async with sessions() as db:
        streamed = [job.job_id async for job in crud.stream_download_jobs(db)]

    assert streamed == created[::-1]


async def test_a_stream_can_be_of_one_status(sessions: Sessions) -> None:
    """Of one status, or of nothing at all."""
    failed = await add_jobs(sessions, 501, status=FAILED, prefix="failed")
    await add_jobs(sessions, 5)

    async with sessions() as db:
        streamed = [job.job_id async for job in crud.stream_download_jobs(db, status=FAILED)]
        none = [job async for job in crud.stream_download_jobs(db, status=COMPLETED)]

    assert streamed == failed[::-1]
    assert none == []


async def test_the_session_is_free_while_a_stream_runs(sessions: Sessions) -> None:
    """The caller may write with the same session, and commit, between two jobs."""
    await add_jobs(sessions, 600)

    async with sessions() as db:
        count = 0
        async for job in crud.stream_download_jobs(db):
            await crud.update_download_job_status(db, job, COMPLETED)
            if count % 100 == 0:
                await db.commit()
            count += 1
        await db.commit()
        completed = await crud.list_download_jobs(db, status=COMPLETED, limit=1_000)

    assert count == len(completed.items) == 600


async def test_a_stream_that_is_left_early_leaves_the_session_usable(sessions: Sessions) -> None:
    """No cursor stays open behind the caller's back."""
    created = await add_jobs(sessions, 502)

    async with sessions() as db:
        async for job in crud.stream_download_jobs(db):
            assert job.job_id == created[-1]
            break
        await crud.create_download_job(db, new_job("after"))
        await db.commit()
        assert len(await crud.get_all_download_jobs(db)) == 503


async def test_jobs_enqueued_or_deleted_during_a_stream_neither_repeat_nor_hide_any(
    sessions: Sessions,
) -> None:
    """A stream goes backwards in time, so what is new stays out."""
    created = await add_jobs(sessions, 1_001)

    streamed: list[str] = []
    async with sessions() as db:
        async for job in crud.stream_download_jobs(db):
            streamed.append(job.job_id)
            if len(streamed) == 500:
                await crud.create_download_job(db, new_job("new"))
                await db.execute(delete(models.DownloadJob).where(DownloadJob.job_id == created[0]))

    assert streamed == created[:0:-1]
