"""Draining the queue: each due job is handled once, in order, by as many handlers as allowed."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions, new_job, statements_sent, stored_job
from tests.support.faults import only_postgresql
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    HeldAfter,
    an_engine,
    drain,
    enqueue,
    running,
    statuses,
    until,
)
from zotify_async_crud import crud, database, schemas
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import Counts, JobContext, WorkerPool, _feeder

JOBS: Final = 120


async def test_a_drain_completes_what_is_due_and_counts_it(sessions: Sessions) -> None:
    """The jobs are completed in the database by the time it returns."""
    queued = await enqueue(sessions, JOBS)
    handled: list[tuple[str, str, int]] = []

    async def handle(job: JobContext) -> None:
        handled.append((job.job_id, job.track_id, job.attempt))

    assert await drain(sessions, handle) == Counts(claimed=JOBS, completed=JOBS)
    assert sorted(handled) == sorted((id_, f"t{n}", 1) for n, id_ in enumerate(queued))
    assert await statuses(sessions) == {"completed": JOBS}


async def test_a_completed_job_tells_who_did_it_and_when(sessions: Sessions) -> None:
    """What a dashboard shows of a finished job is in its row."""
    (job_id,) = await enqueue(sessions)
    await drain(sessions, worker_id="w1")
    job = await stored_job(sessions, job_id)
    assert (job.status, job.worker_id, job.attempt) == (DownloadJobStatus.COMPLETED, "w1", 1)
    assert (job.progress, job.error_message, job.lease_expires_at) == (1.0, None, None)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at


async def test_a_drain_of_an_empty_queue_ends_at_once(sessions: Sessions) -> None:
    """Nothing is waited for: not a poll, and not the timers of the pool."""
    assert await drain(sessions, poll_interval=NEVER, lease=NEVER) == Counts()


async def test_a_drain_does_not_wait_for_what_becomes_due_later(sessions: Sessions) -> None:
    """A scheduled job is left as it is."""
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    (scheduled,) = await enqueue(sessions, available_at=later)
    await enqueue(sessions, 3)
    assert await drain(sessions) == Counts(claimed=3, completed=3)
    assert (await stored_job(sessions, scheduled)).status is DownloadJobStatus.PENDING


async def test_a_drain_goes_on_with_what_its_handlers_enqueue(sessions: Sessions) -> None:
    """A job that is due when the last handler ends belongs to the drain."""
    await enqueue(sessions)

    async def handle(job: JobContext) -> None:
        if job.track_id != "t-last":
            following = "t-last" if job.track_id == "t-more" else "t-more"
            async with sessions.begin() as db:
                await crud.create_download_job(db, new_job(following))

    assert await drain(sessions, handle, poll_interval=NEVER) == Counts(claimed=3, completed=3)


async def test_a_drain_waits_for_jobs_that_another_transaction_holds(sessions: Sessions) -> None:
    """They are due, and may be given back: an empty claim is not an empty queue."""
    (held,) = await enqueue(sessions)
    async with sessions() as holder:
        assert await crud.get_next_pending_download_job(holder) is not None
        draining = asyncio.create_task(drain(sessions, poll_interval=NEVER))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not draining.done()
        await holder.rollback()
    assert await draining == Counts(claimed=1, completed=1)
    assert (await stored_job(sessions, held)).status is DownloadJobStatus.COMPLETED


@only_postgresql
async def test_a_drain_asks_again_where_another_transaction_holds_all_that_is_due(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """PostgreSQL passes over what is held; it looks until the jobs are given back or gone."""
    await enqueue(sessions, 2)
    async with an_engine(url) as other:
        holder = database.create_session_factory(other)()
        await holder.execute(text("SELECT * FROM download_jobs FOR UPDATE"))
        with statements_sent(engine) as sent:
            draining = asyncio.create_task(drain(sessions, poll_interval=NEVER))

            async def has_asked_three_times() -> bool:
                return sum("oldest" in statement for statement, _ in sent) >= 3

            await until(has_asked_three_times)
        assert not draining.done()
        await holder.close()
        assert await draining == Counts(claimed=2, completed=2)


async def test_a_paused_queue_counts_as_drained(sessions: Sessions) -> None:
    """A drain does not wait for somebody to resume it."""
    await enqueue(sessions, 2)
    async with sessions.begin() as db:
        await crud.pause_download_queue(db)
    assert await drain(sessions, poll_interval=NEVER) == Counts()
    assert await statuses(sessions) == {"pending": 2}


async def test_a_queue_that_is_paused_hands_out_nothing_until_it_is_resumed(
    sessions: Sessions,
) -> None:
    """What runs goes on; the rest begins as soon as the queue is resumed."""
    handler = Held()
    await enqueue(sessions)
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER)):
        await handler.next()
        async with sessions.begin() as db:
            await crud.pause_download_queue(db)
        await enqueue(sessions, 2)
        handler.let_go()

        async def one_is_completed() -> bool:
            return await statuses(sessions) == {"completed": 1, "pending": 2}

        await until(one_is_completed)
        assert handler.begun.empty()
        async with sessions.begin() as db:
            await crud.resume_download_queue(db)
        await handler.next()
        await handler.next()


@pytest.mark.parametrize("concurrency", [1, 3, 10])
async def test_handlers_run_side_by_side_up_to_the_concurrency(
    sessions: Sessions, concurrency: int
) -> None:
    """It is reached, or the barrier would never open, and never exceeded."""
    rounds = 4
    await enqueue(sessions, concurrency * rounds)
    together = asyncio.Barrier(concurrency)
    at_once = most = 0

    async def handle(job: JobContext) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await together.wait()
        at_once -= 1

    counts = await drain(sessions, handle, concurrency=concurrency)
    assert counts.completed == concurrency * rounds
    assert most == concurrency


async def test_short_jobs_claimed_ahead_do_not_exceed_the_concurrency(sessions: Sessions) -> None:
    """However many wait in the pool, so many run."""
    await enqueue(sessions, 600)
    at_once = most = 0

    async def handle(job: JobContext) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    assert await drain(sessions, handle, concurrency=4) == Counts(claimed=600, completed=600)
    assert most == 4


async def test_the_highest_concurrency_keeps_working(sessions: Sessions) -> None:
    """Also when it has room for all its slots and may claim ahead besides."""
    done = asyncio.Semaphore(0)

    async def handle(job: JobContext) -> None:
        done.release()

    async with running(WorkerPool(sessions, handle, concurrency=1_000)):
        for _ in range(3):
            await enqueue(sessions, 1_500)
            async with asyncio.timeout(PATIENCE):
                for _ in range(1_500):
                    await done.acquire()


async def test_one_worker_takes_the_highest_priority_first_and_then_the_oldest(
    sessions: Sessions,
) -> None:
    """The order of the queue is the order of the work, also where short jobs are claimed ahead."""
    expected = []
    for priority in (0, 5, -5):
        ids = await enqueue(sessions, 400, priority=priority)
        expected.append((-priority, ids))
    handled: list[str] = []

    async def handle(job: JobContext) -> None:
        handled.append(job.job_id)

    await drain(sessions, handle, concurrency=1)
    assert handled == [job_id for _, ids in sorted(expected) for job_id in ids]


async def test_two_pools_share_a_queue_and_handle_each_job_once(
    url: str, sessions: Sessions
) -> None:
    """On two engines, as two services have them; both get some, and none handles a job twice."""
    queued = await enqueue(sessions, JOBS)
    handled: dict[str, list[str]] = {"first": [], "second": []}
    works = {name: asyncio.Event() for name in handled}

    async with an_engine(url) as other:
        pools = {"first": sessions, "second": database.create_session_factory(other)}

        async def work(name: str) -> Counts:
            async def handle(job: JobContext) -> None:
                handled[name].append(job.job_id)
                works[name].set()
                for each in works.values():
                    await each.wait()

            return await drain(pools[name], handle, worker_id=name, concurrency=4)

        first, second = await asyncio.gather(work("first"), work("second"))
    assert first.completed + second.completed == JOBS
    assert first.lost == second.lost == 0
    assert sorted(handled["first"] + handled["second"]) == sorted(queued)


async def test_a_job_is_handled_with_its_claim(sessions: Sessions) -> None:
    """The handler sees the row's facts and the lease that the pool holds for it."""
    job = schemas.DownloadJobCreate(track_id="t", max_attempts=7)
    async with sessions.begin() as db:
        (job_id,) = await crud.create_download_jobs(db, [job])
    seen: list[JobContext] = []

    async def handle(job: JobContext) -> None:
        seen.append(job)

    await drain(sessions, handle, worker_id="w1", lease=30)
    (context,) = seen
    claim = context.claim
    assert (context.job_id, context.track_id, context.attempt) == (job_id, "t", 1)
    assert (claim.job_id, claim.track_id, claim.attempt) == (job_id, "t", 1)
    assert (claim.worker_id, claim.max_attempts) == ("w1", 7)
    assert not context.cancel_requested
    finished = (await stored_job(sessions, job_id)).started_at
    assert finished is not None
    assert claim.lease_expires_at - finished == dt.timedelta(seconds=30)


async def test_a_pool_that_is_not_told_to_drain_goes_on_when_the_queue_is_empty(
    sessions: Sessions,
) -> None:
    """It works until it is stopped."""
    done = asyncio.Event()

    async def handle(job: JobContext) -> None:
        done.set()

    async with running(WorkerPool(sessions, handle)) as run:
        for _ in range(2):
            await enqueue(sessions)
            async with asyncio.timeout(PATIENCE):
                await done.wait()
            done.clear()
        assert not run.done()
    assert run.result() == Counts(claimed=2, completed=2)


async def test_long_jobs_are_not_kept_from_other_pools(
    url: str, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a pool claimed ahead, because they used to be short, it gives back."""
    monkeypatch.setattr(_feeder, "_AHEAD", 60.0)  # however slow the machine is
    await enqueue(sessions, 300)
    handler = HeldAfter(250)
    async with an_engine(url) as engine:
        elsewhere = Held()
        other = WorkerPool(database.create_session_factory(engine), elsewhere, concurrency=100)
        async with running(WorkerPool(sessions, handler, concurrency=1)) as run:
            await handler.next()
            async with running(other) as helping:
                for _ in range(49):
                    await elsewhere.next()
                elsewhere.let_go()
            handler.let_go()
    assert helping.result().completed == 49
    counts = run.result()
    assert (counts.completed, counts.lost) == (251, 0)
    assert counts.released > 0
