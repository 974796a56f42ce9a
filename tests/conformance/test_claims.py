"""Claims: every outcome of claiming, renewing, settling and rescuing, with one caller at a time.

What several callers do at the same moment is in ``tests/concurrency``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.support.factories import (
    EPOCH,
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
    new_claim,
    new_job,
    set_columns,
    statements_sent,
    stored_job,
    stored_row,
)
from tests.support.faults import only_postgresql
from zotify_async_crud import crud, database
from zotify_async_crud.errors import LeaseLost
from zotify_async_crud.models import DownloadJob, Track
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Renewal, Rescue

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
CANCELLED: Final = DownloadJobStatus.CANCELLED
DAY: Final = dt.timedelta(days=1)
SAME_MOMENT: Final = dt.timedelta()
MILLISECOND: Final = dt.timedelta(milliseconds=1)
"""How fine SQLite's clock is."""

HOLD: Final = select(DownloadJob.job_id).with_for_update()
"""Locks every job until the transaction ends."""


def job_ids(claims: list[Claim]) -> list[str]:
    """Return the ids of the jobs that are claimed, in order."""
    return [claim.job_id for claim in claims]


# claim_download_jobs


async def test_a_claim_gives_a_job_to_a_worker_for_a_while(sessions: Sessions) -> None:
    """The claim and the row tell the same: whose it is, which attempt, and until when."""
    job = await create_job(sessions, "track", max_attempts=3)

    claim = await claim_one(sessions, worker_id="worker-1")

    row = await stored_row(sessions, job.job_id)
    assert claim == Claim(job.job_id, "track", 1, 3, "worker-1", row["lease_expires_at"])
    assert (row["status"], row["worker_id"], row["attempt"]) == (IN_PROGRESS, "worker-1", 1)
    assert (row["progress"], row["finished_at"], row["cancel_requested"]) == (0.0, None, False)
    assert row["started_at"] + LEASE - row["lease_expires_at"] <= MILLISECOND


async def test_an_empty_queue_gives_no_claim(sessions: Sessions) -> None:
    """Nothing to do is an empty list."""
    assert await claim_jobs(sessions) == []


async def test_the_highest_priority_is_claimed_first_and_then_the_oldest(
    sessions: Sessions,
) -> None:
    """Of one moment the smaller id; the list has the order of the queue."""
    older = await add_jobs(sessions, 3, prefix="b-older", apart=SAME_MOMENT)
    newer = await add_jobs(sessions, 2, prefix="a-newer", first=EPOCH + DAY)
    high = await add_jobs(sessions, 2, prefix="z-high", first=EPOCH + 2 * DAY)
    low = await add_jobs(sessions, 2, prefix="a-low", first=EPOCH - DAY)
    await set_columns(sessions, *high, priority=7)
    await set_columns(sessions, *low, priority=-7)

    first, then = await claim_jobs(sessions, 4), await claim_jobs(sessions)

    assert job_ids(first) == [*high, *older[:2]]
    assert job_ids(then) == [older[2], *newer, *low]


async def test_a_job_takes_its_turn_by_when_it_became_due(sessions: Sessions) -> None:
    """One that was delayed stands where it would, had it been created when it became due."""
    first, second, delayed = await add_jobs(sessions, 3, apart=-DAY)
    await set_columns(sessions, delayed, available_at=EPOCH - DAY / 2)

    assert job_ids(await claim_jobs(sessions)) == [second, delayed, first]


async def test_any_number_of_priorities_is_claimed_in_order(sessions: Sessions) -> None:
    """From the lowest that there is to the highest."""
    priorities = [-32_768, -32_767, *range(-50, 50), 32_766, 32_767]
    async with sessions.begin() as db:
        created = await crud.create_download_jobs(
            db, [new_job(priority=priority) for priority in priorities]
        )

    assert job_ids(await claim_jobs(sessions, 30)) == created[::-1][:30]
    assert job_ids(await claim_jobs(sessions)) == created[::-1][30:]


async def test_no_more_are_claimed_than_asked_for(sessions: Sessions) -> None:
    """One unless it is said, and up to a thousand at once."""
    queued = await add_jobs(sessions, 1_003)

    async with sessions.begin() as db:
        one = await crud.claim_download_jobs(db, worker_id="w", lease=LEASE)
    two, many = await claim_jobs(sessions, 2), await claim_jobs(sessions, 1_000)

    assert job_ids(one + two) == queued[:3]
    assert job_ids(many) == queued[3:]
    assert await claim_jobs(sessions) == []


async def test_a_job_that_is_not_due_yet_is_passed_over(sessions: Sessions) -> None:
    """Also where its priority is the highest; when its time comes it is the next one."""
    in_an_hour = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    later = await create_job(sessions, "later", priority=5, available_at=in_an_hour)
    now = await create_job(sessions, "now", available_at=EPOCH)

    assert job_ids(await claim_jobs(sessions)) == [now.job_id]
    await set_columns(sessions, later.job_id, available_at=EPOCH)
    assert job_ids(await claim_jobs(sessions)) == [later.job_id]


@pytest.mark.parametrize("status", [IN_PROGRESS, COMPLETED, FAILED, CANCELLED])
async def test_a_job_that_is_not_pending_is_not_claimed(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """Only what waits can be claimed."""
    await add_jobs(sessions, 2, status=status)
    before = await all_rows(sessions)

    assert await claim_jobs(sessions) == []
    assert await all_rows(sessions) == before


async def test_each_claim_of_a_job_is_a_new_attempt(sessions: Sessions) -> None:
    """The number goes on from what it was, also past what the job was allowed."""
    (job_id,) = await add_jobs(sessions, 1)
    await set_columns(sessions, job_id, attempt=7, max_attempts=2, progress=0.5)

    claim = await claim_one(sessions)

    assert (claim.attempt, claim.max_attempts) == (8, 2)
    assert (await stored_row(sessions, job_id))["progress"] == 0.0


@pytest.mark.parametrize(
    "lease", [90, 90.0, dt.timedelta(seconds=90), 0.25, dt.timedelta(days=3_650)], ids=str
)
async def test_a_lease_is_measured_by_the_databases_clock(
    sessions: Sessions, lease: dt.timedelta | float
) -> None:
    """In seconds or as a timedelta, from the moment of the claim; the same for all of them."""
    await add_jobs(sessions, 3)
    async with sessions.begin() as db:
        before = await database_now(db)
        claims = await crud.claim_download_jobs(db, worker_id="w", limit=3, lease=lease)
        after = await database_now(db)

    (end,) = {claim.lease_expires_at for claim in claims}
    length = lease if isinstance(lease, dt.timedelta) else dt.timedelta(seconds=lease)
    assert before <= end - length <= after + MILLISECOND
    assert end.utcoffset() == SAME_MOMENT


async def test_no_clock_but_the_databases_judges_a_lease(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """A worker whose clock is wrong sends no moment of its own, whatever it does with a claim."""
    await add_jobs(sessions, 3)
    with statements_sent(engine) as sent:
        one, two, three = await claim_jobs(sessions, 3)
        async with sessions.begin() as db:
            await crud.renew_download_leases(db, [one, two, three], lease=LEASE)
            await crud.fail_download_job(db, one, "no", retry_in=60)
            await crud.complete_download_job(db, two)
            await crud.release_download_jobs(db, [three])
            await crud.rescue_expired_download_jobs(db)
            await crud.get_time_until_next_download_job(db)

    assert len(sent) > 6
    assert [each for each in sent if "datetime" in repr(each[1])] == []


@pytest.mark.parametrize("plain", [False, True], ids=["the library's engine", "a plain engine"])
async def test_a_claim_is_undone_by_the_callers_rollback(
    sessions: Sessions, plain_sessions: Sessions, *, plain: bool
) -> None:
    """The caller owns the transaction, also where the driver begins as late as it can."""
    await add_jobs(sessions, 2)
    before = await all_rows(sessions)

    async with (plain_sessions if plain else sessions)() as db:
        assert len(await crud.claim_download_jobs(db, worker_id="w", limit=2, lease=LEASE)) == 2
        await db.rollback()

    assert await all_rows(sessions) == before


async def test_a_claim_can_be_a_statement_that_commits_itself(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It is one, so an engine that has no transactions is good enough."""
    await add_jobs(sessions, 2)
    alone = database.create_session_factory(engine.execution_options(isolation_level="AUTOCOMMIT"))

    async with alone() as db:
        (claim,) = await crud.claim_download_jobs(db, worker_id="w", lease=LEASE)
        await db.rollback()

    assert (await stored_job(sessions, claim.job_id)).status is IN_PROGRESS


async def test_a_session_that_has_loaded_a_job_sees_its_claim(sessions: Sessions) -> None:
    """When it asks again, the object is as the claim left it."""
    (job_id,) = await add_jobs(sessions, 1)
    async with sessions.begin() as db:
        loaded = await crud.get_download_job(db, job_id)
        await crud.claim_download_jobs(db, worker_id="w", lease=LEASE)

        assert await crud.get_download_job(db, job_id) is loaded
        assert loaded is not None
        assert (loaded.status, loaded.worker_id, loaded.attempt) == (IN_PROGRESS, "w", 1)


@only_postgresql
async def test_jobs_that_another_transaction_holds_are_passed_over(sessions: Sessions) -> None:
    """At once, and the next ones come instead: the number asked for is reached."""
    first, second, third = await add_jobs(sessions, 3)
    async with asyncio.timeout(20), sessions.begin() as other:
        assert await crud.get_next_pending_download_job(other) is not None

        assert job_ids(await claim_jobs(sessions, 2)) == [second, third]
        assert await claim_jobs(sessions) == []

    assert job_ids(await claim_jobs(sessions)) == [first]


@pytest.mark.parametrize("known", [0, 1, 2, 200], ids=lambda known: f"statistics of {known} jobs")
async def test_statistics_change_nothing_of_what_is_claimed_or_in_which_order(
    engine: AsyncEngine, sessions: Sessions, known: int
) -> None:
    """Whatever a database learned of the table, as it was when ANALYZE ran, is about cost only."""
    if known:
        await add_jobs(sessions, known, prefix="known", first=EPOCH - DAY)
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE"))
    await engine.dispose()  # SQLite reads its statistics when it connects
    low = await add_jobs(sessions, 30, prefix="low")
    high = await add_jobs(sessions, 30, prefix="high", first=EPOCH + DAY, apart=-dt.timedelta(1))
    await set_columns(sessions, *high, priority=1)
    waiting = [*high[::-1], *(f"known-{number:05}" for number in range(known)), *low]

    async with sessions.begin() as db:
        following = await crud.get_next_pending_download_job(db)
        assert following is not None
        assert following.job_id == waiting[0]
        assert (await crud.get_download_queue_stats(db)).pending == known + 60
    claims = [*await claim_jobs(sessions, 40), *await claim_jobs(sessions)]

    assert job_ids(claims) == waiting
    async with sessions.begin() as db:
        assert (await crud.renew_download_leases(db, claims, lease=LEASE)).lost == []
        assert await crud.release_download_jobs(db, claims) == []


# get_download_claims


async def test_a_worker_is_told_what_it_holds(sessions: Sessions) -> None:
    """All of it in the order of the queue, also what has expired; nothing settled or another's."""
    queued = await add_jobs(sessions, 6)
    await set_columns(sessions, queued[3], priority=1)
    claims = await claim_jobs(sessions, 4, worker_id="w1")
    await claim_jobs(sessions, 1, worker_id="w2")
    async with sessions.begin() as db:
        await crud.complete_download_job(db, claims[1])
    await set_columns(sessions, claims[2].job_id, lease_expires_at=EPOCH)

    async with sessions() as db:
        held = await crud.get_download_claims(db, worker_id="w1")
        nothing = await crud.get_download_claims(db, worker_id="w3")

    expired = claims[2]._replace(lease_expires_at=EPOCH)
    assert held == [claims[0], expired, claims[3]]
    assert nothing == []


async def test_a_job_picked_up_without_a_claim_is_no_claim(sessions: Sessions) -> None:
    """It is nobody's by name."""
    await add_job(sessions, status=IN_PROGRESS)

    async with sessions() as db:
        assert await crud.get_download_claims(db, worker_id="w1") == []


# renew_download_leases


async def test_a_renewal_prolongs_leases_from_now_on(sessions: Sessions) -> None:
    """It returns the claims in the order given, with their new ends, and changes nothing else."""
    await add_jobs(sessions, 3)
    claims = await claim_jobs(sessions, lease=10)
    rows = [await stored_row(sessions, claim.job_id) for claim in claims]

    async with sessions.begin() as db:
        before = await database_now(db)
        renewal = await crud.renew_download_leases(db, claims[::-1], lease=dt.timedelta(hours=1))
        after = await database_now(db)

    (end,) = {claim.lease_expires_at for claim in renewal.renewed}
    assert before <= end - dt.timedelta(hours=1) <= after + MILLISECOND
    prolonged = [claim._replace(lease_expires_at=end) for claim in claims[::-1]]
    assert renewal == Renewal(prolonged, [], [])
    assert [await stored_row(sessions, claim.job_id) for claim in claims] == [
        {**row, "lease_expires_at": end} for row in rows
    ]


async def test_nothing_to_renew_is_answered_without_a_statement(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """An idle worker asks nothing of the database."""
    with statements_sent(engine) as sent:
        async with sessions() as db:
            assert await crud.renew_download_leases(db, [], lease=LEASE) == Renewal([], [], [])
            assert await crud.report_download_progress(db, {}) == []
            assert await crud.release_download_jobs(db, []) == []

    assert sent == []


async def test_a_lease_that_is_over_can_be_renewed_until_somebody_takes_the_job(
    sessions: Sessions,
) -> None:
    """A worker that is late, and whose job nobody has rescued, goes on."""
    claim = await add_claimed(sessions)
    await expire_leases(sessions)

    async with sessions.begin() as db:
        renewal = await crud.renew_download_leases(db, [claim], lease=60)
        rescue = await crud.rescue_expired_download_jobs(db)

    assert (len(renewal.renewed), renewal.lost) == (1, [])
    assert rescue == Rescue(0, 0, 0)


Ending = Callable[[Sessions, Claim], Awaitable[object]]


async def _complete(sessions: Sessions, claim: Claim) -> None:
    async with sessions.begin() as db:
        await crud.complete_download_job(db, claim)


async def _fail(sessions: Sessions, claim: Claim) -> None:
    async with sessions.begin() as db:
        await crud.fail_download_job(db, claim, "no route")


async def _fail_to_retry(sessions: Sessions, claim: Claim) -> None:
    async with sessions.begin() as db:
        await crud.fail_download_job(db, claim, "no route", retry_in=60)


async def _release(sessions: Sessions, claim: Claim) -> None:
    async with sessions.begin() as db:
        assert await crud.release_download_jobs(db, [claim]) == []


async def _rescue(sessions: Sessions, _: Claim) -> None:
    await expire_leases(sessions)
    async with sessions.begin() as db:
        await crud.rescue_expired_download_jobs(db)


async def _rescue_and_claim_again(sessions: Sessions, claim: Claim) -> None:
    await _rescue(sessions, claim)
    assert (await claim_one(sessions, worker_id="w2")).job_id == claim.job_id


async def _rescue_and_claim_by_the_same_worker(sessions: Sessions, claim: Claim) -> None:
    await _rescue(sessions, claim)
    assert (await claim_one(sessions, worker_id=claim.worker_id)).job_id == claim.job_id


async def _overwrite(sessions: Sessions, claim: Claim) -> None:
    await expire_leases(sessions)
    async with sessions.begin() as db:
        job = await db.get_one(DownloadJob, claim.job_id)
        await crud.update_download_job_status(db, job, IN_PROGRESS, progress=0.25)


async def _delete(sessions: Sessions, claim: Claim) -> None:
    async with sessions.begin() as db:
        await db.execute(delete(DownloadJob).where(DownloadJob.job_id == claim.job_id))


ENDINGS: Final[list[Ending]] = [
    _complete,
    _fail,
    _fail_to_retry,
    _release,
    _rescue,
    _rescue_and_claim_again,
    _rescue_and_claim_by_the_same_worker,
    _overwrite,
    _delete,
]
"""All that can end a claim."""


async def _renewing(db: AsyncSession, claim: Claim) -> bool:
    renewal = await crud.renew_download_leases(db, [claim], lease=LEASE)
    assert (renewal.renewed, renewal.cancel_requested) == ([], [])
    return renewal.lost == [claim]


async def _reporting(db: AsyncSession, claim: Claim) -> bool:
    return await crud.report_download_progress(db, {claim: 0.75}) == [claim]


async def _completing(db: AsyncSession, claim: Claim) -> bool:
    with pytest.raises(LeaseLost) as lost:
        await crud.complete_download_job(db, claim)
    return (lost.value.job_id, lost.value.attempt) == (claim.job_id, claim.attempt)


async def _failing(db: AsyncSession, claim: Claim) -> bool:
    with pytest.raises(LeaseLost) as lost:
        await crud.fail_download_job(db, claim, "too late")
    return (lost.value.job_id, lost.value.attempt) == (claim.job_id, claim.attempt)


async def _failing_to_retry(db: AsyncSession, claim: Claim) -> bool:
    with pytest.raises(LeaseLost) as lost:
        await crud.fail_download_job(db, claim, "too late", retry_in=0)
    return (lost.value.job_id, lost.value.attempt) == (claim.job_id, claim.attempt)


async def _releasing(db: AsyncSession, claim: Claim) -> bool:
    return await crud.release_download_jobs(db, [claim]) == [claim]


WRITES: Final[list[Callable[[AsyncSession, Claim], Awaitable[bool]]]] = [
    _renewing,
    _reporting,
    _completing,
    _failing,
    _failing_to_retry,
    _releasing,
]
"""All that a worker writes for a claim, each with whether it says that the claim is lost."""


LATE: Final = [
    (ending, write)
    for ending in ENDINGS
    for write in WRITES
    if write is not _renewing or ending not in (_complete, _fail)
]
"""Each write after each ending, but for renewals after the claim itself finished the job."""


@pytest.mark.parametrize(("ending", "write"), LATE)
async def test_what_is_written_for_a_claim_that_has_ended_changes_nothing(
    sessions: Sessions, ending: Ending, write: Callable[[AsyncSession, Claim], Awaitable[bool]]
) -> None:
    """The worker is told, every column is as it was, and the caller's transaction goes on."""
    claim = await add_claimed(sessions)
    await ending(sessions, claim)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        assert await write(db, claim)
        await crud.get_or_create_track(db, "goes on")

    after = await all_rows(sessions)
    assert after.pop("tracks") == [("goes on", None, None, None)]
    assert after == {name: rows for name, rows in before.items() if name != "tracks"}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    "changes", [{"attempt": 0}, {"attempt": 2}, {"worker_id": "w2"}, {"job_id": "unknown"}], ids=str
)
async def test_a_claim_that_is_not_the_jobs_own_writes_nothing(
    sessions: Sessions,
    write: Callable[[AsyncSession, Claim], Awaitable[bool]],
    changes: dict[str, Any],
) -> None:
    """Job, attempt and worker must all be those of the row."""
    claim = (await add_claimed(sessions))._replace(**changes)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        assert await write(db, claim)

    assert await all_rows(sessions) == before


@pytest.mark.parametrize("ending", [_complete, _fail])
async def test_a_claim_that_finished_its_job_itself_is_neither_renewed_nor_lost(
    sessions: Sessions, ending: Ending
) -> None:
    """Nothing went wrong, so a worker must not be told to stop; and nothing is written."""
    claim = await add_claimed(sessions)
    await ending(sessions, claim)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        renewal = await crud.renew_download_leases(db, [claim], lease=LEASE)
        others = claim._replace(worker_id="w2"), claim._replace(attempt=0)
        stale = await crud.renew_download_leases(db, others, lease=LEASE)

    assert renewal == Renewal([], [], [])
    assert stale == Renewal([], [*others], [])
    assert await all_rows(sessions) == before


async def test_a_renewal_tells_apart_what_holds_what_is_lost_and_what_is_to_stop(
    sessions: Sessions,
) -> None:
    """A job that somebody wants to be cancelled is renewed still, and named."""
    await add_jobs(sessions, 4)
    holds, ended, stops, also_holds = claims = await claim_jobs(sessions)
    await _release(sessions, ended)
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, stops.job_id)

    async with sessions.begin() as db:
        unknown = new_claim()
        renewal = await crud.renew_download_leases(db, [*claims, unknown], lease=LEASE)

    assert job_ids(renewal.renewed) == job_ids([holds, stops, also_holds])
    assert renewal.lost == [ended, unknown]
    assert renewal.cancel_requested == [renewal.renewed[1]]


@only_postgresql
async def test_a_job_that_is_just_being_written_is_neither_renewed_nor_lost(
    sessions: Sessions,
) -> None:
    """Nor is it waited for: the other leases must not run out meanwhile."""
    first, second = await add_claimed(sessions, "1"), await add_claimed(sessions, "2")
    async with asyncio.timeout(20), sessions.begin() as other, sessions.begin() as db:
        await crud.complete_download_job(other, first)

        renewal = await crud.renew_download_leases(db, [first, second], lease=LEASE)
        lost = await crud.report_download_progress(db, {first: 0.5, second: 0.5})

    assert (job_ids(renewal.renewed), renewal.lost, lost) == ([second.job_id], [], [])
    assert [(await stored_job(sessions, each.job_id)).progress for each in (first, second)] == [
        1.0,
        0.5,
    ]


async def test_a_renewal_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction, of progress reports as well."""
    claim = await add_claimed(sessions)
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.renew_download_leases(db, [claim], lease=dt.timedelta(hours=1))
        await crud.report_download_progress(db, {claim: 0.5})
        await db.rollback()

    assert await all_rows(sessions) == before


async def test_a_thousand_leases_are_renewed_in_one_statement(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """And a thousand reports of progress are written in another."""
    await add_jobs(sessions, 1_000)
    claims = await claim_jobs(sessions)
    reports = {claim: number / 1_000 for number, claim in enumerate(claims)}

    async with sessions.begin() as db:
        await crud.get_download_claims(db, worker_id="w1")  # begins
        with statements_sent(engine) as sent:
            renewal = await crud.renew_download_leases(db, claims, lease=LEASE)
            assert await crud.report_download_progress(db, reports) == []

    assert len(renewal.renewed) == 1_000
    assert [statement.split()[0] for statement, _ in sent] == ["UPDATE", "UPDATE"]
    async with sessions() as db:
        stored = await db.execute(select(DownloadJob.job_id, DownloadJob.progress))
        assert {tuple(row) for row in stored} == {
            (claim.job_id, progress) for claim, progress in reports.items()
        }


# report_download_progress


async def test_progress_is_written_for_each_claim(sessions: Sessions) -> None:
    """Both ends included, whole numbers too; leases stay as they are, and so do other jobs."""
    await add_jobs(sessions, 5)
    claims = await claim_jobs(sessions, 4)
    before = {row[0]: row for row in (await all_rows(sessions))["download_jobs"]}

    async with sessions.begin() as db:
        reports = dict(zip(claims, [0, 1, 0.25, 1 / 3], strict=True))
        assert await crud.report_download_progress(db, reports) == []

    after = {row[0]: row for row in (await all_rows(sessions))["download_jobs"]}
    assert [after[claim.job_id][3] for claim in claims] == [0.0, 1.0, 0.25, 1 / 3]
    assert [(*row[:3], *row[4:]) for row in after.values()] == [
        (*row[:3], *row[4:]) for row in before.values()
    ]


async def test_of_several_reports_those_that_hold_are_written(sessions: Sessions) -> None:
    """And those of claims that do not are returned."""
    await add_jobs(sessions, 3)
    one, ended, three = await claim_jobs(sessions)
    await _release(sessions, ended)

    async with sessions.begin() as db:
        assert await crud.report_download_progress(db, {one: 0.1, ended: 0.2, three: 0.3}) == [
            ended
        ]

    assert [(await stored_job(sessions, each.job_id)).progress for each in (one, ended, three)] == [
        0.1,
        0.0,
        0.3,
    ]


# complete_download_job


async def test_a_completed_job_is_finished(sessions: Sessions) -> None:
    """Its progress is whole, its error gone, its lease over; who did it, and when, is kept."""
    claim = await add_claimed(sessions, available_at=EPOCH)
    await set_columns(sessions, claim.job_id, error_message="of an attempt before", progress=0.5)
    before = await stored_row(sessions, claim.job_id)

    async with sessions.begin() as db:
        await crud.complete_download_job(db, claim)
        now = await database_now(db)

    after = await stored_row(sessions, claim.job_id)
    assert after == {
        **before,
        "status": COMPLETED,
        "progress": 1.0,
        "error_message": None,
        "lease_expires_at": None,
        "finished_at": after["finished_at"],
    }
    assert before["started_at"] <= after["finished_at"] <= now + MILLISECOND


async def test_a_job_that_was_to_be_cancelled_can_still_be_completed(sessions: Sessions) -> None:
    """The request came too late: the download is there."""
    claim = await add_claimed(sessions)
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, claim.job_id)
        await crud.complete_download_job(db, claim)

    assert (await stored_job(sessions, claim.job_id)).status is COMPLETED


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_result_and_the_callers_own_rows_are_recorded_together(
    sessions: Sessions, ending: str
) -> None:
    """Or neither is: that makes the result recorded exactly once."""
    claim = await add_claimed(sessions)

    async with sessions() as db:
        db.add(Track(id="result"))
        await crud.complete_download_job(db, claim)
        await getattr(db, ending)()

    async with sessions() as db:
        result = await db.get(Track, "result")
    status = (await stored_job(sessions, claim.job_id)).status
    assert (result is not None, status) == (
        (True, COMPLETED) if ending == "commit" else (False, IN_PROGRESS)
    )


async def test_the_rows_of_a_worker_that_lost_its_claim_are_not_recorded(
    sessions: Sessions,
) -> None:
    """The error leaves the caller's block, and takes all of it back."""
    claim = await add_claimed(sessions)
    await _rescue_and_claim_again(sessions, claim)

    async def record() -> None:
        async with sessions.begin() as db:
            db.add(Track(id="result"))
            await crud.complete_download_job(db, claim)

    with pytest.raises(LeaseLost):
        await record()
    assert (await all_rows(sessions))["tracks"] == []


# fail_download_job


@pytest.mark.parametrize("error", ["no route to host", "", "ä💾\n" * 100])
async def test_a_job_that_fails_for_good_keeps_its_error(sessions: Sessions, error: str) -> None:
    """It is failed, as the caller is told, and how far it came stays to be seen."""
    claim = await add_claimed(sessions)
    await set_columns(sessions, claim.job_id, progress=0.5)
    before = await stored_row(sessions, claim.job_id)

    async with sessions.begin() as db:
        assert await crud.fail_download_job(db, claim, error) is FAILED
        now = await database_now(db)

    after = await stored_row(sessions, claim.job_id)
    assert after == {
        **before,
        "status": FAILED,
        "error_message": error,
        "lease_expires_at": None,
        "finished_at": after["finished_at"],
    }
    assert before["started_at"] <= after["finished_at"] <= now + MILLISECOND


@pytest.mark.parametrize("retry_in", [90, 90.0, dt.timedelta(seconds=90)], ids=str)
async def test_a_job_that_fails_is_due_again_after_a_delay(
    sessions: Sessions, retry_in: dt.timedelta | float
) -> None:
    """It is pending, nobody's, keeps the error to be seen, and its attempt counts."""
    claim = await add_claimed(sessions)
    await set_columns(sessions, claim.job_id, progress=0.5)
    row = await stored_row(sessions, claim.job_id)

    async with sessions.begin() as db:
        before = await database_now(db)
        assert await crud.fail_download_job(db, claim, "no route", retry_in=retry_in) is PENDING
        after = await database_now(db)

    stored = await stored_row(sessions, claim.job_id)
    assert stored == {
        **row,
        "status": PENDING,
        "error_message": "no route",
        "progress": 0.0,
        "worker_id": None,
        "lease_expires_at": None,
        "available_at": stored["available_at"],
    }
    assert before <= stored["available_at"] - dt.timedelta(seconds=90) <= after + MILLISECOND
    assert await claim_jobs(sessions) == []


async def test_a_job_that_is_tried_again_without_a_delay_is_due_at_once(
    sessions: Sessions,
) -> None:
    """Behind those that have been due for longer."""
    claim = await add_claimed(sessions)
    other = await create_job(sessions)
    async with sessions.begin() as db:
        assert await crud.fail_download_job(db, claim, "no route", retry_in=0) is PENDING

    again = await claim_jobs(sessions)

    assert [(each.job_id, each.attempt) for each in again] == [(other.job_id, 1), (claim.job_id, 2)]


async def test_a_job_without_attempts_left_fails_whatever_was_asked_for(
    sessions: Sessions,
) -> None:
    """After as many attempts as it may have, and not one before."""
    await create_job(sessions, max_attempts=3)

    became = []
    for _ in range(3):
        claim = await claim_one(sessions)
        async with sessions.begin() as db:
            became.append(await crud.fail_download_job(db, claim, "no route", retry_in=0))

    assert became == [PENDING, PENDING, FAILED]
    assert await claim_jobs(sessions) == []


@pytest.mark.parametrize("retry_in", [None, 0, 60])
async def test_a_failed_attempt_at_a_job_that_was_to_be_cancelled_ends_it(
    sessions: Sessions, retry_in: float | None
) -> None:
    """It is cancelled and not tried again, and what went wrong is kept."""
    claim = await add_claimed(sessions)
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, claim.job_id)

    async with sessions.begin() as db:
        assert await crud.fail_download_job(db, claim, "stopped", retry_in=retry_in) is CANCELLED

    row = await stored_row(sessions, claim.job_id)
    assert (row["status"], row["error_message"]) == (CANCELLED, "stopped")
    assert (row["lease_expires_at"], row["finished_at"] is None) == (None, False)


# release_download_jobs


async def test_a_job_that_is_given_back_is_as_if_it_had_not_been_claimed(
    sessions: Sessions,
) -> None:
    """But for the number of the attempt, which is not used again and does not count."""
    job = await create_job(sessions, max_attempts=1, available_at=EPOCH)
    await set_columns(sessions, job.job_id, error_message="of an attempt before")
    before = await stored_row(sessions, job.job_id)
    claim = await claim_one(sessions)
    async with sessions.begin() as db:
        await crud.report_download_progress(db, {claim: 0.5})

    async with sessions.begin() as db:
        assert await crud.release_download_jobs(db, [claim]) == []

    after = await stored_row(sessions, job.job_id)
    assert after == {
        **before,
        "attempt": 1,
        "max_attempts": 2,
        "started_at": after["started_at"],
    }
    again = await claim_one(sessions)
    assert (again.attempt, again.max_attempts) == (2, 2)
    async with sessions.begin() as db:  # the one attempt that it has is this
        assert await crud.fail_download_job(db, again, "no route", retry_in=0) is FAILED


async def test_a_job_that_is_given_back_keeps_its_place(sessions: Sessions) -> None:
    """It is due at once, before those that came after it."""
    first, second = await add_jobs(sessions, 2)
    async with sessions.begin() as db:
        claims = await crud.claim_download_jobs(db, worker_id="w1", lease=LEASE)
        await crud.release_download_jobs(db, claims)

    assert job_ids(await claim_jobs(sessions)) == [first, second]


async def test_a_job_that_was_to_be_cancelled_is_not_given_back_but_cancelled(
    sessions: Sessions,
) -> None:
    """Nobody wants it to be tried again."""
    claim = await add_claimed(sessions)
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, claim.job_id)
        assert await crud.release_download_jobs(db, [claim]) == []

    row = await stored_row(sessions, claim.job_id)
    assert (row["status"], row["finished_at"] is None) == (CANCELLED, False)


async def test_of_several_jobs_those_that_are_still_held_are_given_back(
    sessions: Sessions,
) -> None:
    """The others are returned, in the order given."""
    await add_jobs(sessions, 4)
    one, two, three, four = await claim_jobs(sessions)
    await _complete(sessions, two)
    await _fail(sessions, four)

    async with sessions.begin() as db:
        assert await crud.release_download_jobs(db, (four, three, two, one)) == [four, two]

    assert [
        (await stored_job(sessions, each.job_id)).status for each in (one, two, three, four)
    ] == [PENDING, COMPLETED, PENDING, FAILED]


async def test_settling_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    await add_jobs(sessions, 4)
    one, two, three, four = await claim_jobs(sessions)
    await set_columns(sessions, four.job_id, lease_expires_at=EPOCH)
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.complete_download_job(db, one)
        await crud.fail_download_job(db, two, "no route")
        await crud.release_download_jobs(db, [three])
        assert await crud.rescue_expired_download_jobs(db) == Rescue(1, 0, 0)
        await db.rollback()

    assert await all_rows(sessions) == before


# rescue_expired_download_jobs


async def test_only_jobs_whose_leases_are_over_are_rescued(sessions: Sessions) -> None:
    """Not those of a worker that is alive, nor those picked up without a claim."""
    legacy = await add_job(sessions, "legacy", status=IN_PROGRESS)
    alive, expired = await add_claimed(sessions, "alive"), await add_claimed(sessions, "expired")
    await set_columns(sessions, expired.job_id, lease_expires_at=EPOCH, progress=0.5)
    before = await stored_row(sessions, expired.job_id)

    async with sessions.begin() as db:
        assert await crud.rescue_expired_download_jobs(db) == Rescue(1, 0, 0)
        assert await crud.rescue_expired_download_jobs(db) == Rescue(0, 0, 0)

    assert await stored_row(sessions, expired.job_id) == {
        **before,
        "status": PENDING,
        "progress": 0.0,
        "worker_id": None,
        "lease_expires_at": None,
        "error_message": "worker w1 did not renew its lease in attempt 1 of 5",
    }
    assert [(await stored_job(sessions, each.job_id)).status for each in (legacy, alive)] == [
        IN_PROGRESS,
        IN_PROGRESS,
    ]


async def test_a_lease_that_has_just_ended_is_over(sessions: Sessions) -> None:
    """By the database's clock, without anybody's help."""
    await create_job(sessions)
    claim = (await claim_jobs(sessions, lease=0.001))[0]
    async with sessions.begin() as db:
        while await database_now(db) <= claim.lease_expires_at + MILLISECOND:
            pass
        assert await crud.rescue_expired_download_jobs(db) == Rescue(1, 0, 0)


async def test_a_rescued_job_is_due_at_once_in_its_place(sessions: Sessions) -> None:
    """With the next number, before those that came after it."""
    first, second = await add_jobs(sessions, 2)
    await claim_one(sessions)
    await expire_leases(sessions)
    async with sessions.begin() as db:
        await crud.rescue_expired_download_jobs(db)

    again = await claim_jobs(sessions, worker_id="w2")

    assert [(each.job_id, each.attempt) for each in again] == [(first, 2), (second, 1)]


async def test_a_job_that_kills_its_worker_each_time_ends_failed(sessions: Sessions) -> None:
    """Its attempts are counted before they begin, and its error says why it is given up."""
    job = await create_job(sessions, max_attempts=3)

    rescues = []
    for number in range(3):
        await claim_one(sessions, worker_id=f"worker-{number}")
        await expire_leases(sessions)
        async with sessions.begin() as db:
            rescues.append(await crud.rescue_expired_download_jobs(db))

    assert rescues == [Rescue(1, 0, 0), Rescue(1, 0, 0), Rescue(0, 1, 0)]
    row = await stored_row(sessions, job.job_id)
    assert (row["status"], row["attempt"], row["finished_at"] is None) == (FAILED, 3, False)
    assert row["error_message"] == "worker worker-2 did not renew its lease in attempt 3 of 3"
    assert await claim_jobs(sessions) == []


async def test_a_rescued_job_that_was_to_be_cancelled_is_cancelled(sessions: Sessions) -> None:
    """Whether it has attempts left or not."""
    some = await add_claimed(sessions, "some")
    none = await add_claimed(sessions, "none", max_attempts=1)
    async with sessions.begin() as db:
        for claim in (some, none):
            await crud.cancel_download_job(db, claim.job_id)
    await expire_leases(sessions)

    async with sessions.begin() as db:
        assert await crud.rescue_expired_download_jobs(db) == Rescue(0, 0, 2)

    for claim in (some, none):
        row = await stored_row(sessions, claim.job_id)
        assert (row["status"], row["finished_at"] is None) == (CANCELLED, False)


async def test_a_rescue_counts_what_became_of_each_job(sessions: Sessions) -> None:
    """Retried, failed and cancelled ones in one statement."""
    await add_jobs(sessions, 6)
    claims = await claim_jobs(sessions)
    await set_columns(sessions, *job_ids(claims[:3]), max_attempts=1)
    await set_columns(sessions, claims[5].job_id, cancel_requested=True)
    await expire_leases(sessions)

    async with sessions.begin() as db:
        assert await crud.rescue_expired_download_jobs(db) == Rescue(2, 3, 1)


async def test_a_thousand_jobs_are_rescued_at_once(sessions: Sessions) -> None:
    """And no more, so that no transaction gets long; the next call goes on."""
    jobs = await add_jobs(sessions, 1_001)
    await claim_jobs(sessions)
    await claim_jobs(sessions)
    await expire_leases(sessions)

    async with sessions.begin() as db:
        assert await crud.rescue_expired_download_jobs(db) == Rescue(1_000, 0, 0)
        assert await crud.rescue_expired_download_jobs(db) == Rescue(1, 0, 0)

    assert job_ids(await claim_jobs(sessions)) == jobs[:1_000]


@only_postgresql
async def test_a_rescue_waits_for_nobody(sessions: Sessions) -> None:
    """A job that another transaction holds, such as another rescue's, is passed over."""
    held, free = await add_claimed(sessions, "held"), await add_claimed(sessions, "free")
    await expire_leases(sessions)
    async with asyncio.timeout(20), sessions.begin() as other:
        await other.execute(HOLD.where(DownloadJob.job_id == held.job_id))

        async with sessions.begin() as db:
            assert await crud.rescue_expired_download_jobs(db) == Rescue(1, 0, 0)

    assert (await stored_job(sessions, free.job_id)).status is PENDING
    assert (await stored_job(sessions, held.job_id)).status is IN_PROGRESS
