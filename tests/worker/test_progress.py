"""What a handler says while it works, and what others say to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions, short, statements_sent, stored_job
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    HeldAfter,
    drain,
    enqueue,
    far_ahead,
    job_claimed_ahead,
    quick_keeper,
    running,
    take_over,
    until,
    until_status,
)
from zotify_async_crud import crud
from zotify_async_crud.errors import InvalidValue, LeaseLost
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import Counts, Discard, Handler, JobContext, Retry, WorkerPool

CANCELLED: Final = DownloadJobStatus.CANCELLED


def reports_among(sent: list[tuple[str, Any]]) -> int:
    """Count the statements that write progress."""
    return sum(statement.startswith("UPDATE download_jobs SET progress=") for statement, _ in sent)


async def test_reported_progress_is_soon_in_the_database(sessions: Sessions) -> None:
    """While the job goes on, and the newest report is the one that stays."""
    (job_id,) = await enqueue(sessions)
    let_go = asyncio.Event()

    async def handle(job: JobContext) -> None:
        for done in (0.25, 0.5, 0.75):
            await job.report(done)
        await let_go.wait()

    async with running(WorkerPool(sessions, handle, lease=NEVER)):

        async def is_written() -> bool:
            return (await stored_job(sessions, job_id)).progress == 0.75

        await until(is_written)
        job = await stored_job(sessions, job_id)
        assert job.status is DownloadJobStatus.IN_PROGRESS
        let_go.set()
        assert (await until_status(sessions, job_id, DownloadJobStatus.COMPLETED)).progress == 1.0


async def test_frequent_reports_are_written_now_and_then(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Not one statement for each: about one in a second, for all jobs together."""
    await enqueue(sessions, 5)
    reports = 0

    async def handle(job: JobContext) -> None:
        nonlocal reports
        while reports_among(sent) < 3 or reports < 200:
            reports += 1
            await job.report(0.5)
            await asyncio.sleep(0.002)

    began = time.monotonic()
    with statements_sent(engine) as sent:
        await drain(sessions, handle, lease=NEVER)
    assert reports_among(sent) <= time.monotonic() - began + 1


async def test_reports_of_the_same_moment_share_a_statement(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """However many handlers there are."""
    ids = await enqueue(sessions, 8)
    together = asyncio.Barrier(8)
    let_go = asyncio.Event()

    async def handle(job: JobContext) -> None:
        await together.wait()
        await job.report(int(job.track_id[1:]) / 10)
        await let_go.wait()

    with statements_sent(engine) as sent:
        async with running(WorkerPool(sessions, handle, lease=NEVER)):
            for number, job_id in enumerate(ids):

                async def is_written(number: int = number, job_id: str = job_id) -> bool:
                    return (await stored_job(sessions, job_id)).progress == number / 10

                await until(is_written)
            let_go.set()
    assert reports_among(sent) == 1


async def test_a_report_after_another_is_written_as_well(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that comes while the one before is on its way, or has just been written."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    let_go = asyncio.Event()
    wanted: asyncio.Queue[float] = asyncio.Queue()

    async def handle(job: JobContext) -> None:
        while not let_go.is_set():
            await job.report(await wanted.get())

    async with running(WorkerPool(sessions, handle, lease=NEVER)):
        for done in (0.1, 0.2, 0.1):
            wanted.put_nowait(done)

            async def is_written(done: float = done) -> bool:
                return (await stored_job(sessions, job_id)).progress == done

            await until(is_written)
        let_go.set()
        wanted.put_nowait(1.0)


@pytest.mark.parametrize(
    "progress", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True], ids=short
)
async def test_impossible_progress_is_refused_inside_the_handler(
    engine: AsyncEngine, sessions: Sessions, progress: Any
) -> None:
    """The handler may go on; nothing is written."""
    await enqueue(sessions)
    refused: list[InvalidValue] = []

    async def handle(job: JobContext) -> None:
        try:
            await job.report(progress)
        except InvalidValue as error:
            refused.append(error)

    with statements_sent(engine) as sent:
        assert await drain(sessions, handle) == Counts(claimed=1, completed=1)
    assert [error.field for error in refused] == ["progress"]
    assert reports_among(sent) == 0


async def test_a_report_after_the_lease_was_lost_tells_the_handler(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that did not listen to its cancellation learns here that it should stop."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    begun, told = asyncio.Event(), asyncio.Event()

    async def handle(job: JobContext) -> None:
        begun.set()
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            with pytest.raises(LeaseLost) as lost:
                await job.report(0.9)
            assert (lost.value.job_id, lost.value.attempt) == (job_id, 1)
            told.set()

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await begun.wait()
        await take_over(sessions)
        async with asyncio.timeout(PATIENCE):
            await told.wait()
    assert run.result() == Counts(claimed=1, lost=1)
    job = await stored_job(sessions, job_id)
    assert (job.worker_id, job.attempt, job.progress) == ("other", 2, 0.0)


async def cancel(sessions: Sessions, job_id: str) -> None:
    """Ask for a job to be cancelled, as a web service does."""
    async with sessions.begin() as db:
        await crud.cancel_download_job(db, job_id)


async def _returns(job: JobContext) -> None:
    """Do the job to its end nevertheless."""


async def _raises(job: JobContext) -> None:
    raise RuntimeError("stopped")


async def _wants_a_retry(job: JobContext) -> None:
    raise Retry("stopped", in_=0)


async def _discards(job: JobContext) -> None:
    raise Discard("stopped")


@pytest.mark.parametrize(
    ("ending", "status", "counts"),
    [
        (_returns, DownloadJobStatus.COMPLETED, Counts(claimed=1, completed=1)),
        (_raises, CANCELLED, Counts(claimed=1, failed=1)),
        (_wants_a_retry, CANCELLED, Counts(claimed=1, failed=1)),
        (_discards, CANCELLED, Counts(claimed=1, failed=1)),
    ],
)
async def test_a_request_to_cancel_reaches_the_handler_which_decides(
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    ending: Handler,
    status: DownloadJobStatus,
    counts: Counts,
) -> None:
    """By the renewal of its lease; the job is cancelled unless the handler completes it."""
    quick_keeper(monkeypatch)
    (job_id,) = await enqueue(sessions)
    begun = asyncio.Event()

    async def handle(job: JobContext) -> None:
        assert not job.cancel_requested
        begun.set()
        while not job.cancel_requested:  # noqa: ASYNC110 - a handler has nothing else to go by
            await asyncio.sleep(0.01)
        await ending(job)

    async with running(WorkerPool(sessions, handle, lease=NEVER)) as run:
        await begun.wait()
        await cancel(sessions, job_id)
        await until_status(sessions, job_id, DownloadJobStatus.COMPLETED, CANCELLED)
    assert run.result() == counts
    assert (await stored_job(sessions, job_id)).status is status


async def test_a_job_that_is_cancelled_before_its_turn_is_never_begun(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a pool has claimed ahead: it is cancelled while others run."""
    far_ahead(monkeypatch)
    quick_keeper(monkeypatch)
    await enqueue(sessions, 500)
    handler = HeldAfter(250)
    async with running(WorkerPool(sessions, handler, concurrency=1, lease=NEVER)):
        ahead = await job_claimed_ahead(sessions, await handler.next())
        await cancel(sessions, ahead.job_id)
        assert (await until_status(sessions, ahead.job_id, CANCELLED)).attempt == 1
        handler.let_go()
    assert ahead.job_id not in {job.job_id for job in handler.ended}


async def test_a_pending_job_that_is_cancelled_is_not_handed_out(sessions: Sessions) -> None:
    """The pool never sees it."""
    gone, stays = await enqueue(sessions, 2)
    await cancel(sessions, gone)
    handler = Held()
    handler.let_go()
    assert await drain(sessions, handler) == Counts(claimed=1, completed=1)
    assert [job.job_id for job in handler.ended] == [stays]
