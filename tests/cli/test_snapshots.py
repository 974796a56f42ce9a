"""What a snapshot of the queue holds, on both databases."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import (
    EPOCH,
    LEASE,
    Sessions,
    add_claimed,
    add_job,
    create_job,
    database_now,
    set_columns,
    statements_sent,
)
from tests.support.faults import is_sqlite
from zotify_async_crud import crud
from zotify_async_crud.cli._snapshots import (
    PERIODS,
    FailedJob,
    RunningJob,
    Snapshot,
    as_lines,
    by_period,
    take_snapshot,
)
from zotify_async_crud.schemas import DownloadJobStatus, DownloadQueueStats

EMPTY = DownloadQueueStats(0, 0, 0, 0, 0, None, paused=False)


async def ago(sessions: Sessions, seconds: float) -> dt.datetime:
    """Return the moment that was so long ago, by the database's clock."""
    async with sessions() as db:
        return await database_now(db) - dt.timedelta(seconds=seconds)


async def test_an_empty_queue_is_one(sessions: Sessions) -> None:
    """The time is that of the database."""
    before = await ago(sessions, 0)
    snapshot = await take_snapshot(sessions)
    assert before <= snapshot.taken_at <= await ago(sessions, 0)
    nothing = Snapshot(snapshot.taken_at, EMPTY, (0,) * PERIODS, (), ())
    assert snapshot == nothing


async def test_jobs_that_run_are_told_with_their_leases(sessions: Sessions) -> None:
    """One that nobody has claimed has none."""
    claim = await add_claimed(sessions, "t1", worker_id="w1")
    held = await add_job(sessions, "t2", status=DownloadJobStatus.IN_PROGRESS)
    async with sessions.begin() as db:
        await crud.report_download_progress(db, {claim: 0.5})
        await crud.cancel_download_job(db, claim.job_id)
    [first, second] = (await take_snapshot(sessions)).running
    assert first.seconds is not None
    assert first.lease_seconds is not None
    assert 0 <= first.seconds < first.lease_seconds <= LEASE.total_seconds()
    assert first == RunningJob(
        claim.job_id, "t1", 1, 5, 0.5, True, "w1", first.seconds, first.lease_seconds
    )
    assert (second.job_id, second.worker_id, second.lease_seconds) == (held.job_id, None, None)


async def test_those_that_run_for_longest_come_first(sessions: Sessions) -> None:
    """Also those whose leases are over."""
    claims = [await add_claimed(sessions, track_id) for track_id in ("t1", "t2", "t3")]
    for claim, seconds in zip(claims, (10.0, 1_000.0, 100.0), strict=True):
        began = await ago(sessions, seconds)
        times = {"started_at": began, "lease_expires_at": began + dt.timedelta(seconds=90)}
        await set_columns(sessions, claim.job_id, **times)
    running = (await take_snapshot(sessions)).running
    assert [job.track_id for job in running] == ["t2", "t3", "t1"]
    leases = [job.lease_seconds for job in running if job.lease_seconds is not None]
    assert leases[0] <= -910
    assert leases[1] <= -10
    assert leases[2] > leases[1]


async def test_failed_jobs_are_told_with_their_errors(sessions: Sessions) -> None:
    """Since when is unknown where something else has set the status."""
    job = await create_job(sessions, "t1", max_attempts=1)
    finished = await ago(sessions, 50)
    values = {"status": DownloadJobStatus.FAILED, "attempt": 1, "error_message": "no route"}
    await set_columns(sessions, job.job_id, **values, finished_at=finished)
    [failed] = (await take_snapshot(sessions)).failed
    assert failed.seconds is not None
    assert failed.seconds >= 50
    assert failed == FailedJob(job.job_id, "t1", 1, 1, "no route", failed.seconds)
    await set_columns(sessions, job.job_id, finished_at=None)
    [failed] = (await take_snapshot(sessions)).failed
    assert failed.seconds is None


async def test_what_was_completed_in_the_last_minute_is_counted_by_period(
    sessions: Sessions,
) -> None:
    """And nothing that failed, or was completed before."""
    for seconds, status, count in (
        (30, DownloadJobStatus.COMPLETED, 3),
        (30, DownloadJobStatus.FAILED, 1),
        (61, DownloadJobStatus.COMPLETED, 1),
    ):
        finished = await ago(sessions, seconds)
        for _ in range(count):
            job = await create_job(sessions)
            await set_columns(sessions, job.job_id, status=status, finished_at=finished)
    snapshot = await take_snapshot(sessions)
    assert snapshot.queue.completed_last_minute == sum(snapshot.completed) == 3
    assert snapshot.completed[-1] == 0


async def test_jobs_that_were_completed_before_are_not_looked_at(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """There may be a million of them, and somebody watches every second."""
    with statements_sent(engine) as sent:
        await take_snapshot(sessions)
    [(statement, parameters)] = [found for found in sent if "GROUP BY" in found[0]]
    explain = "EXPLAIN QUERY PLAN" if is_sqlite(engine) else "EXPLAIN"
    async with engine.connect() as connection:
        if not is_sqlite(engine):  # an empty table is read whole, if that is allowed
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
        lines = "\n".join(str(row) for row in plan)
    assert "ix_download_jobs_finished" in lines
    assert re.search(r"finished_at ?> ?(\?|\(statement)", lines)


@pytest.mark.parametrize(
    ("seconds_ago", "period"), [(-1, 19), (0, 19), (2, 19), (3, 18), (5, 18), (59, 0), (60, None)]
)
def test_a_period_has_three_seconds(seconds_ago: int, period: int | None) -> None:
    """The last one is not over yet."""
    completed = by_period(EPOCH, {int(EPOCH.timestamp()) - seconds_ago: 7})
    assert list(completed) == [7 if number == period else 0 for number in range(PERIODS)]


def test_seconds_of_a_period_add_up() -> None:
    """Each of them counts."""
    this = int(EPOCH.timestamp())
    assert by_period(EPOCH, {this: 1, this - 1: 2, this - 2: 4, this - 3: 8})[-2:] == (8, 7)


def test_a_snapshot_can_be_written_in_lines() -> None:
    """Whatever stands in a text, it is one word on one line."""
    snapshot = Snapshot(
        EPOCH,
        DownloadQueueStats(1, 2, 3, 4, 5, dt.timedelta(seconds=6), paused=True),
        (0,) * PERIODS,
        (RunningJob("j1", "t1", 1, 5, 0.25, False, None, 1.5, -2.0),),
        (FailedJob("j2", "t 2", 5, 5, "no\nroute", None),),
    )
    queue, running, failed = as_lines(snapshot)
    assert queue == (
        "2024-05-06T07:08:09Z queue pending=1 scheduled=2 in_progress=3 failed=4"
        " completed_last_minute=5 oldest_pending_age=6.0 paused=True"
    )
    assert running == (
        "2024-05-06T07:08:09Z running job_id=j1 track_id=t1 attempt=1 max_attempts=5 progress=0.25"
        " cancel_requested=False worker_id= seconds=1.50 lease_seconds=-2.00"
    )
    assert failed == (
        '2024-05-06T07:08:09Z failed job_id=j2 track_id="t 2" attempt=5 max_attempts=5'
        ' error="no\\nroute" seconds='
    )
