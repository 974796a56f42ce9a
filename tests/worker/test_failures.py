"""Handlers that fail: what is written of it, and when the job is tried again."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import logging
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.support.factories import Sessions, short, stored_job
from tests.support.pools import (
    NEVER,
    PATIENCE,
    Held,
    drain,
    enqueue,
    running,
    statuses,
    until_status,
)
from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.fields import ERROR_MAX_LENGTH
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import (
    Counts,
    Discard,
    ExponentialBackoff,
    Handler,
    JobContext,
    Retry,
    WorkerPool,
)

FAILED: Final = DownloadJobStatus.FAILED
PENDING: Final = DownloadJobStatus.PENDING
HOUR: Final = dt.timedelta(hours=1)


def raising(error: BaseException) -> Handler:
    """Return a handler that fails by *error*."""

    async def handle(job: JobContext) -> None:
        raise error

    return handle


async def test_a_failed_attempt_is_tried_again_after_the_backoff(sessions: Sessions) -> None:
    """The row tells what happened and when the next attempt is due."""
    (job_id,) = await enqueue(sessions)
    asked: list[int] = []

    def backoff(attempt: int) -> float:
        asked.append(attempt)
        return 3_600.0

    counts = await drain(sessions, raising(ValueError("no route")), backoff=backoff)
    assert counts == Counts(claimed=1, failed=1)
    assert asked == [1]
    job = await stored_job(sessions, job_id)
    assert (job.status, job.attempt, job.error_message) == (PENDING, 1, "ValueError: no route")
    assert (job.worker_id, job.lease_expires_at, job.progress) == (None, None, 0.0)
    assert job.available_at is not None
    assert job.started_at is not None
    assert HOUR <= job.available_at - job.started_at < 2 * HOUR


async def test_a_job_that_fails_each_time_ends_failed_when_its_attempts_are_spent(
    sessions: Sessions,
) -> None:
    """Each attempt has its number; the last error stays."""
    (job_id,) = await enqueue(sessions, max_attempts=3)
    attempts: list[int] = []

    async def handle(job: JobContext) -> None:
        attempts.append(job.attempt)
        raise ValueError(f"attempt {job.attempt}")

    counts = await drain(sessions, handle, backoff=lambda attempt: 0)
    assert counts == Counts(claimed=3, failed=3)
    assert attempts == [1, 2, 3]
    job = await stored_job(sessions, job_id)
    assert (job.status, job.attempt) == (FAILED, 3)
    assert job.error_message == "ValueError: attempt 3"
    assert job.finished_at is not None


async def test_a_job_that_succeeds_at_last_is_completed_without_an_error(
    sessions: Sessions,
) -> None:
    """The error of the attempt before is cleared."""
    (job_id,) = await enqueue(sessions)

    async def handle(job: JobContext) -> None:
        if job.attempt < 3:
            raise Retry("not yet", in_=0)

    assert await drain(sessions, handle) == Counts(claimed=3, failed=2, completed=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.attempt) == (DownloadJobStatus.COMPLETED, 3)
    assert job.error_message is None


async def test_a_retry_at_once_needs_no_poll(sessions: Sessions) -> None:
    """A pool that runs on begins the next attempt, though nobody wakes it."""
    await enqueue(sessions)
    succeeded = asyncio.Event()

    async def handle(job: JobContext) -> None:
        if job.attempt == 1:
            raise Retry(in_=0)
        succeeded.set()

    async with running(WorkerPool(sessions, handle, poll_interval=NEVER)):
        async with asyncio.timeout(PATIENCE):
            await succeeded.wait()


@pytest.mark.parametrize("delay", [HOUR, 3_600, 3_600.0], ids=short)
async def test_a_handler_decides_when_it_is_tried_again(
    sessions: Sessions, delay: dt.timedelta | float
) -> None:
    """By a timedelta or by seconds, whatever the pool's backoff says."""
    (job_id,) = await enqueue(sessions)
    counts = await drain(sessions, raising(Retry("busy", in_=delay)), backoff=lambda attempt: 0)
    assert counts == Counts(claimed=1, failed=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.error_message) == (PENDING, "busy")
    assert job.available_at is not None
    assert job.started_at is not None
    assert HOUR <= job.available_at - job.started_at < 2 * HOUR


async def test_a_retry_without_a_time_waits_for_the_backoff(sessions: Sessions) -> None:
    """Retry alone says no more than any other exception."""
    (job_id,) = await enqueue(sessions)
    await drain(sessions, raising(Retry()), backoff=lambda attempt: 3_600)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.error_message) == (PENDING, "Retry")
    assert job.available_at is not None


async def test_a_retry_of_the_last_attempt_fails_the_job(sessions: Sessions) -> None:
    """A handler cannot give itself more attempts than the job has."""
    (job_id,) = await enqueue(sessions, max_attempts=1)
    assert await drain(sessions, raising(Retry("again", in_=0))) == Counts(claimed=1, failed=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.error_message) == (FAILED, "again")


@pytest.mark.parametrize(
    "delay", [-1, float("nan"), float("inf"), "1", True, dt.timedelta(days=4_000)], ids=short
)
async def test_a_retry_at_an_impossible_time_is_refused_where_it_is_made(
    sessions: Sessions, delay: Any
) -> None:
    """The handler gets the error; if it lets it through, that is the job's failure."""
    with pytest.raises(InvalidValue) as refused:
        Retry(in_=delay)
    assert refused.value.field == "in_"
    (job_id,) = await enqueue(sessions, max_attempts=1)

    async def handle(job: JobContext) -> None:
        raise Retry(in_=delay)

    await drain(sessions, handle)
    message = (await stored_job(sessions, job_id)).error_message
    assert message is not None
    assert message.startswith("InvalidValue: in_: ")


async def test_a_discarded_job_fails_at_once(sessions: Sessions) -> None:
    """It is not tried again, whatever attempts it has left."""
    (job_id,) = await enqueue(sessions, max_attempts=5)
    counts = await drain(sessions, raising(Discard("the track is gone")))
    assert counts == Counts(claimed=1, failed=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.attempt, job.error_message) == (FAILED, 1, "the track is gone")


class Unspeakable(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Forgetful(Retry):
    """A Retry whose author forgot what its base class needs."""

    def __init__(self) -> None:
        pass


class Grave(BaseException):
    """An exception that ``except Exception`` lets pass, as those of other event loops are."""


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        (ValueError(), "ValueError"),
        (ValueError("a\0b"), "ValueError: a\N{REPLACEMENT CHARACTER}b"),
        (ValueError("a\ud800b"), "ValueError: a?b"),
        (ValueError("x" * 100_000), "ValueError: " + "x" * (ERROR_MAX_LENGTH - 12)),
        (ValueError("\N{PILE OF POO}" * 70_000), None),
        (Discard("a\0\udfff"), "a\N{REPLACEMENT CHARACTER}?"),
        (Discard(), "Discard"),
        (asyncio.CancelledError(), "CancelledError"),
        (asyncio.CancelledError("by itself"), "CancelledError: by itself"),
        (Grave("no memory"), "Grave: no memory"),
        (BaseExceptionGroup("several", [Grave(), ValueError()]), None),
        (SystemExit(3), "SystemExit: 3"),
        (Unspeakable(), None),
        (Forgetful(), None),
    ],
    ids=short,
)
async def test_whatever_a_handler_raises_ends_its_attempt_and_is_stored(
    sessions: Sessions, error: BaseException, stored: str | None
) -> None:
    """As text that both databases take; the pool goes on with the next job."""
    (job_id,) = await enqueue(sessions, max_attempts=1)
    await enqueue(sessions, priority=-1)

    async def handle(job: JobContext) -> None:
        if job.job_id == job_id:
            raise error

    counts = await drain(sessions, handle, concurrency=1)
    assert counts == Counts(claimed=2, failed=1, completed=1)
    job = await stored_job(sessions, job_id)
    assert job.status is FAILED
    assert job.error_message is not None
    assert len(job.error_message) <= ERROR_MAX_LENGTH
    assert job.error_message == stored or (stored is None and job.error_message)


async def _needs_nothing() -> None:
    """Take no argument, and so be no handler."""


def _raises_at_once(job: JobContext) -> Any:
    raise ValueError("called")


def _is_no_coroutine_function(job: JobContext) -> Any:
    return None


@pytest.mark.parametrize("handler", [_needs_nothing, _raises_at_once, _is_no_coroutine_function])
async def test_a_handler_that_cannot_be_called_fails_its_jobs(
    sessions: Sessions, handler: Any
) -> None:
    """Each of them, with the reason in its row; nothing hangs."""
    await enqueue(sessions, 3, max_attempts=1)
    assert await drain(sessions, handler, concurrency=2) == Counts(claimed=3, failed=3)
    assert await statuses(sessions) == {"failed": 3}


def _fails(attempt: int) -> float:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "backoff",
    [_fails, *((lambda attempt, value=value: value) for value in (-1, float("nan"), "soon", None))],
    ids=["raises", "negative", "not a number", "text", "nothing"],
)
async def test_a_backoff_that_fails_is_replaced_by_the_default(
    sessions: Sessions, caplog: pytest.LogCaptureFixture, backoff: Callable[[int], Any]
) -> None:
    """The job is tried again later nevertheless, and the log tells."""
    (job_id,) = await enqueue(sessions)
    counts = await drain(sessions, raising(ValueError()), backoff=backoff)
    assert counts == Counts(claimed=1, failed=1)
    job = await stored_job(sessions, job_id)
    assert (job.status, job.error_message) == (PENDING, "ValueError")
    assert job.available_at is not None
    assert job.started_at is not None
    assert dt.timedelta(seconds=2) < job.available_at - job.started_at < dt.timedelta(minutes=1)
    assert "the backoff failed" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize("attempt", [1, 2, 5, 50, 10_000])
def test_the_default_backoff_doubles_up_to_a_limit(attempt: int) -> None:
    """No attempt's number is too high, and chance only shortens the wait."""
    steady = ExponentialBackoff(first=2, longest=100, jitter=0)
    assert steady(attempt) == min(100, 2.0 ** min(attempt, 60))
    spread = ExponentialBackoff(first=2, longest=100, jitter=0.5)
    assert steady(attempt) / 2 <= spread(attempt) <= steady(attempt)


async def test_a_failed_job_is_tried_again_when_its_wait_is_over(sessions: Sessions) -> None:
    """By a timer: neither a poll nor anybody else wakes the pool."""
    await enqueue(sessions)
    attempts: list[int] = []
    succeeded = asyncio.Event()

    async def handle(job: JobContext) -> None:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise Retry(in_=0.1)
        succeeded.set()

    async with running(WorkerPool(sessions, handle, poll_interval=NEVER)):
        async with asyncio.timeout(PATIENCE):
            await succeeded.wait()
    assert attempts == [1, 2, 3]


async def test_a_job_that_fails_while_others_run_is_tried_again_in_time(
    sessions: Sessions,
) -> None:
    """The timer that was set before is moved forward."""
    await enqueue(sessions)
    held = Held()
    fails = asyncio.Event()
    succeeded = asyncio.Event()

    async def handle(job: JobContext) -> None:
        if job.track_id == "t0" and job.attempt == 1:
            await fails.wait()
            raise Retry(in_=0.1)
        if job.attempt == 2:
            succeeded.set()
        else:
            await held(job)

    async with running(WorkerPool(sessions, handle, poll_interval=NEVER, concurrency=3)):
        await enqueue(sessions, priority=1)  # after which the pool waits, with a timer
        fails.set()
        async with asyncio.timeout(PATIENCE):
            await succeeded.wait()
        held.let_go()


async def test_context_variables_do_not_pass_from_job_to_job(sessions: Sessions) -> None:
    """Each handler sees those of the one who runs the pool, and not what another one set."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    await enqueue(sessions, 100)
    seen: list[str] = []

    async def handle(job: JobContext) -> None:
        seen.append(user.get())
        user.set(job.job_id)

    user.set("the pool's")
    await drain(sessions, handle, concurrency=2)
    assert set(seen) == {"the pool's"}
    assert len(seen) == 100


async def test_a_handler_that_ends_its_attempt_late_is_not_a_failure_of_others(
    sessions: Sessions,
) -> None:
    """One job fails, its neighbours are completed, each with its own row."""
    ids = await enqueue(sessions, 20, max_attempts=1)

    async def handle(job: JobContext) -> None:
        await asyncio.sleep(0)
        if int(job.track_id[1:]) % 5 == 0:
            raise ValueError(job.track_id)

    assert await drain(sessions, handle) == Counts(claimed=20, failed=4, completed=16)
    for number, job_id in enumerate(ids):
        job = await until_status(sessions, job_id, FAILED, DownloadJobStatus.COMPLETED)
        assert job.error_message == (f"ValueError: t{number}" if number % 5 == 0 else None)
