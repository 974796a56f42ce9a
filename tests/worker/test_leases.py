"""Leases: kept as long as the pool works, and given up with everything once they are lost."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Final

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import EXPIRES_AT, Sessions, statements_sent, stored_job
from tests.support.faults import only_postgresql
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
    quick_keeper,
    quick_rescuer,
    running,
    statuses,
    take_over,
    until,
    until_status,
)
from zotify_async_crud import crud, database
from zotify_async_crud.errors import LeaseLost
from zotify_async_crud.models import DownloadJob, Track
from zotify_async_crud.schemas import Claim, DownloadJobStatus
from zotify_async_crud.worker import Counts, JobContext, Outcome, WorkerHooks, WorkerPool

COMPLETED: Final = DownloadJobStatus.COMPLETED
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS

LEASE: Final = 10.0
"""Seconds; long enough for a slow machine to renew it in time."""


async def lease_of(sessions: Sessions, job_id: str) -> dt.datetime:
    """Return when the lease of a job in progress will be over."""
    ends = (await stored_job(sessions, job_id)).lease_expires_at
    assert ends is not None
    return ends


async def until_renewed(sessions: Sessions, job: JobContext) -> None:
    """Return once the lease of *job* ends later than the one it was claimed with."""

    async def is_renewed() -> bool:
        return await lease_of(sessions, job.job_id) > job.claim.lease_expires_at

    await until(is_renewed)


async def test_the_lease_of_a_job_is_renewed_as_long_as_it_runs(
    url: str, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may take longer than its lease; a pool that rescues finds nothing to rescue."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    handler = Held()
    async with an_engine(url) as engine:
        others = WorkerPool(database.create_session_factory(engine), Held(), lease=0.5)
        pool = WorkerPool(sessions, handler, lease=LEASE)
        async with running(pool) as run:
            job = await handler.next()  # before the others can

            async def has_outlived_its_first_lease() -> bool:
                ends = await lease_of(sessions, job_id)
                return ends > job.claim.lease_expires_at + dt.timedelta(seconds=LEASE)

            async with running(others) as rescuing:
                await until(has_outlived_its_first_lease)
                handler.let_go()
                await until_status(sessions, job_id, COMPLETED)
    assert run.result() == Counts(claimed=1, completed=1)
    assert rescuing.result() == Counts()
    assert (await stored_job(sessions, job_id)).attempt == 1


async def test_leases_are_renewed_while_a_stopped_pool_lets_its_handlers_end(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that takes its time is not given to somebody else meanwhile."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    handler = Held()
    pool = WorkerPool(sessions, handler, lease=NEVER, shutdown_timeout=NEVER)
    async with running(pool) as run:
        job = await handler.next()
        stopping = asyncio.create_task(pool.stop())
        await until_renewed(sessions, job)
        assert not stopping.done()
        handler.let_go()
        async with asyncio.timeout(PATIENCE):
            await stopping
    assert run.result() == Counts(claimed=1, completed=1)
    assert (await stored_job(sessions, job_id)).status is COMPLETED


async def test_leases_of_jobs_that_were_claimed_ahead_are_renewed(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as they wait for a slot, they are the pool's."""
    far_ahead(monkeypatch)
    quick_keeper(monkeypatch)
    await enqueue(sessions, 500)
    handler = HeldAfter(250)
    async with running(WorkerPool(sessions, handler, concurrency=1, lease=NEVER)) as run:
        ahead = await job_claimed_ahead(sessions, await handler.next())

        claimed_until = ahead.lease_expires_at
        assert claimed_until is not None

        async def is_renewed() -> bool:
            return await lease_of(sessions, ahead.job_id) > claimed_until

        await until(is_renewed)
        handler.let_go()
    assert run.result().lost == 0


async def test_a_handler_whose_lease_is_lost_is_cancelled_and_writes_nothing(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is another worker's now, and stays so."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    handler = Held()
    async with running(WorkerPool(sessions, handler, lease=NEVER)) as run:
        await handler.next()
        other = await take_over(sessions)

        async def is_cancelled() -> bool:
            return bool(handler.cancelled)

        await until(is_cancelled)
    assert run.result() == Counts(claimed=1, lost=1)
    assert f"attempt 1 at job {job_id} lost its lease" in caplog.text
    await assert_completes(sessions, other)


async def test_the_result_of_a_handler_that_lost_its_lease_unawares_is_refused(
    sessions: Sessions,
) -> None:
    """The pool had no time to notice; the database refuses what it writes."""
    await enqueue(sessions)
    handler = Held()
    async with running(WorkerPool(sessions, handler, lease=NEVER)) as run:
        await handler.next()
        other = await take_over(sessions)
        handler.let_go()
    assert len(handler.ended) == 1
    assert run.result() == Counts(claimed=1, lost=1)
    await assert_completes(sessions, other)


async def test_the_failure_of_a_handler_that_lost_its_lease_unawares_is_refused(
    sessions: Sessions,
) -> None:
    """Neither the error nor a retry of it is written."""
    (job_id,) = await enqueue(sessions)
    begun, fail = asyncio.Event(), asyncio.Event()

    async def handle(job: JobContext) -> None:
        begun.set()
        await fail.wait()
        raise ValueError("late")

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await begun.wait()
        other = await take_over(sessions)
        fail.set()
    assert run.result() == Counts(claimed=1, lost=1)
    job = await stored_job(sessions, job_id)
    assert job.error_message is not None
    assert "late" not in job.error_message
    await assert_completes(sessions, other)


async def test_a_handler_that_ignores_the_loss_of_its_lease_and_returns_changes_nothing(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It swallows the cancellation; its result counts as lost."""
    quick_keeper(monkeypatch)
    await enqueue(sessions)
    begun, returned = asyncio.Event(), asyncio.Event()

    async def handle(job: JobContext) -> None:
        begun.set()
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            returned.set()

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await begun.wait()
        other = await take_over(sessions)
        async with asyncio.timeout(PATIENCE):
            await returned.wait()
    assert run.result() == Counts(claimed=1, lost=1)
    await assert_completes(sessions, other)


async def test_a_job_that_was_claimed_ahead_and_lost_is_never_begun(
    engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as lost, and its new worker keeps it."""
    far_ahead(monkeypatch)
    quick_keeper(monkeypatch)
    await enqueue(sessions, 500)
    handler = HeldAfter(250)
    async with running(WorkerPool(sessions, handler, concurrency=1, lease=NEVER)) as run:
        ahead = await job_claimed_ahead(sessions, await handler.next())
        others = {"attempt": 2, "worker_id": "other", "lease_expires_at": EXPIRES_AT}
        async with sessions.begin() as db:  # as if it had been rescued and claimed again
            taken = update(DownloadJob).where(DownloadJob.job_id == ahead.job_id)
            await db.execute(taken.values(others))
        await until_renewals(engine, 1)
        handler.let_go()

        async def is_all_done() -> bool:
            return await statuses(sessions) == {"completed": 499, "in_progress": 1}

        await until(is_all_done)
    assert run.result() == Counts(claimed=500, completed=499, lost=1)
    assert ahead.job_id not in {job.job_id for job in handler.ended}
    assert (await stored_job(sessions, ahead.job_id)).worker_id == "other"


async def test_a_pool_may_get_a_job_again_that_it_has_lost(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is counted, also where the first handler ends after the second has begun."""
    quick_keeper(monkeypatch)
    await enqueue(sessions)
    second_begun, let_first_end = asyncio.Event(), asyncio.Event()
    told: list[tuple[int, str]] = []

    class Hooks(WorkerHooks):
        def finished(self, claim: Claim, outcome: Outcome, duration: float) -> None:
            told.append((claim.attempt, outcome))

    first_begun = asyncio.Event()

    async def handle(job: JobContext) -> None:
        if job.attempt == 1:
            first_begun.set()
            try:
                await asyncio.sleep(NEVER)
            except asyncio.CancelledError:
                await let_first_end.wait()
        else:
            second_begun.set()
            let_first_end.set()

    pool = WorkerPool(
        sessions, handle, lease=NEVER, concurrency=2, poll_interval=0.1, hooks=Hooks()
    )
    async with running(pool) as run:
        await first_begun.wait()
        await lose_leases(sessions)
        async with asyncio.timeout(PATIENCE):
            await second_begun.wait()
    assert run.result() == Counts(claimed=2, completed=1, lost=1)
    assert sorted(told) == [(1, "lost"), (2, "completed")]


async def test_a_handler_can_complete_its_job_together_with_its_own_rows(
    sessions: Sessions,
) -> None:
    """In one transaction; the pool finds it done, and counts it as completed."""
    (job_id,) = await enqueue(sessions)

    async def handle(job: JobContext) -> None:
        async with sessions.begin() as db:
            await crud.get_or_create_track(db, "result")
            await crud.complete_download_job(db, job.claim)

    assert await drain(sessions, handle) == Counts(claimed=1, completed=1)
    assert (await stored_job(sessions, job_id)).status is COMPLETED
    assert await tracks(sessions) == ["result"]


async def test_a_handler_that_rolls_its_result_back_has_not_completed_its_job(
    sessions: Sessions,
) -> None:
    """Both or neither: the next attempt does it again."""
    (job_id,) = await enqueue(sessions)

    async def handle(job: JobContext) -> None:
        async with sessions.begin() as db:
            await crud.get_or_create_track(db, f"result {job.attempt}")
            await crud.complete_download_job(db, job.claim)
            if job.attempt == 1:
                raise ValueError("changed my mind")

    counts = await drain(sessions, handle, backoff=lambda attempt: 0)
    assert counts == Counts(claimed=2, failed=1, completed=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.attempt) == (COMPLETED, 2)
    assert await tracks(sessions) == ["result 2"]


async def test_a_handler_that_has_completed_its_job_may_go_on_for_long(
    engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal passes over it and takes it for no loss."""
    quick_keeper(monkeypatch)
    await enqueue(sessions)
    completed, let_go = asyncio.Event(), asyncio.Event()

    async def handle(job: JobContext) -> None:
        async with sessions.begin() as db:
            await crud.complete_download_job(db, job.claim)
        completed.set()
        await let_go.wait()

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await completed.wait()
        await until_renewals(engine, 2)
        let_go.set()
    assert run.result() == Counts(claimed=1, completed=1)


@only_postgresql
async def test_a_renewal_does_not_wait_for_a_transaction_of_the_handlers(
    engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes over the locked job, which is not lost by that, and renews the others."""
    quick_keeper(monkeypatch)
    await enqueue(sessions, 2)
    locked, let_go = asyncio.Event(), asyncio.Event()
    neighbour: list[JobContext] = []

    async def handle(job: JobContext) -> None:
        if job.track_id == "t0":
            async with sessions.begin() as db:
                await crud.complete_download_job(db, job.claim)
                locked.set()
                await let_go.wait()
        else:
            neighbour.append(job)
            await let_go.wait()

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await locked.wait()
        await until_renewed(sessions, neighbour[0])
        await until_renewals(engine, 2)
        let_go.set()
    assert run.result() == Counts(claimed=2, completed=2)


async def test_a_handler_cannot_complete_a_job_that_it_has_lost(sessions: Sessions) -> None:
    """Its own rows are rolled back with it."""
    await enqueue(sessions)
    begun, lost = asyncio.Event(), asyncio.Event()

    async def handle(job: JobContext) -> None:
        begun.set()
        await lost.wait()
        async with sessions.begin() as db:
            await crud.get_or_create_track(db, "result")
            await crud.complete_download_job(db, job.claim)

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await begun.wait()
        other = await take_over(sessions)
        lost.set()
    assert run.result() == Counts(claimed=1, lost=1)
    assert await tracks(sessions) == []
    await assert_completes(sessions, other)


async def test_a_job_of_a_worker_that_is_gone_is_rescued_and_done(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any pool looks for leases that are over; the attempt of the other worker is spent."""
    quick_rescuer(monkeypatch)
    (job_id,) = await enqueue(sessions)
    async with sessions.begin() as db:
        await crud.claim_download_jobs(db, worker_id="gone", limit=1, lease=0.001)
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, lease=NEVER, poll_interval=0.1)) as run:
        job = await until_status(sessions, job_id, COMPLETED)
    assert job.attempt == 2
    assert run.result() == Counts(claimed=1, completed=1)


async def until_renewals(engine: AsyncEngine, count: int) -> None:
    """Return once *count* renewals have begun, and the one before the last is over."""
    with statements_sent(engine) as sent:

        async def are_sent() -> bool:
            found = [s for s, _ in sent if s.startswith("UPDATE download_jobs SET lease_expires")]
            return len(found) >= count + 1

        await until(are_sent)


async def tracks(sessions: Sessions) -> list[str]:
    """Return the ids of all tracks."""
    async with sessions() as db:
        return list(await db.scalars(select(Track.id)))


async def assert_completes(sessions: Sessions, claim: Claim) -> None:
    """Fail unless *claim* holds, and can end its job."""
    job = await stored_job(sessions, claim.job_id)
    assert (job.status, job.attempt, job.worker_id) == (
        IN_PROGRESS,
        claim.attempt,
        claim.worker_id,
    )
    async with sessions.begin() as db:
        await crud.complete_download_job(db, claim)
    with pytest.raises(LeaseLost):
        async with sessions.begin() as db:
            await crud.complete_download_job(db, claim)
