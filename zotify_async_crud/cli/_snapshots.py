"""The queue at one moment, by the clock of the database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, cast, extract, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import crud
from zotify_async_crud._dialects.types import UTCNow
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.database import translated_errors
from zotify_async_crud.errors import DatabaseUnavailable
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus, DownloadQueueStats

PERIODS: Final = 20
"""Into so many periods the last minute is cut."""

_MINUTE: Final = 60
_MOST_RUNNING: Final = 200
_MOST_FAILED: Final = 20


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job in progress."""

    job_id: str
    track_id: str
    attempt: int
    max_attempts: int
    progress: float
    cancel_requested: bool

    worker_id: str | None
    """None for a job that nobody has claimed: it was set to be in progress."""

    seconds: float | None
    """Since the attempt began."""

    lease_seconds: float | None
    """Until another worker may take it; negative for as long as nobody has."""


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that has failed, and is not tried again by itself."""

    job_id: str
    track_id: str
    attempt: int
    max_attempts: int
    error: str | None

    seconds: float | None
    """Since it failed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is to be seen of the queue."""

    taken_at: dt.datetime
    queue: DownloadQueueStats

    completed: tuple[int, ...]
    """How many jobs were completed in each period of the last minute, the latest last."""

    running: tuple[RunningJob, ...]
    """Some of the jobs in progress, the newest at least; those that run for longest come first."""

    failed: tuple[FailedJob, ...]
    """The newest of the failed jobs."""


async def take_snapshot(sessions: Sessions) -> Snapshot:
    """Look at the queue, in one transaction whose cost does not grow with the jobs completed."""
    with translated_errors(lost=DatabaseUnavailable):
        async with sessions.begin() as db:
            now = (await db.execute(select(UTCNow()))).scalar_one()
            running = await _newest(db, DownloadJobStatus.IN_PROGRESS, _MOST_RUNNING)
            failed = await _newest(db, DownloadJobStatus.FAILED, _MOST_FAILED)
            return Snapshot(
                taken_at=now,
                queue=await crud.get_download_queue_stats(db),
                completed=by_period(now, await _completed_by_second(db)),
                running=tuple(_running(job, now) for job in sorted(running, key=_began)),
                failed=tuple(_failed(job, now) for job in failed),
            )


async def _newest(db: AsyncSession, status: DownloadJobStatus, limit: int) -> list[DownloadJob]:
    return (await crud.list_download_jobs(db, status=status, limit=limit)).items


async def _completed_by_second(db: AsyncSession) -> dict[int, int]:
    second = cast(extract("epoch", DownloadJob.finished_at), BigInteger)
    finished = DownloadJob.finished_at
    counted = (
        select(second, func.count())
        .where(finished > UTCNow(-_MINUTE), finished <= UTCNow())
        .where(DownloadJob.status == DownloadJobStatus.COMPLETED)
        .group_by(second)
    )
    return {row[0]: row[1] for row in await db.execute(counted)}


def by_period(now: dt.datetime, by_second: Mapping[int, int]) -> tuple[int, ...]:
    """Return the sums for the periods of the minute before *now*, the latest last."""
    this, length = int(now.timestamp()), _MINUTE // PERIODS
    sums: Counter[int] = Counter()
    for second, count in by_second.items():
        sums[max(0, this - second) // length] += count  # PostgreSQL has rounded
    return tuple(sums[period] for period in reversed(range(PERIODS)))


def _began(job: DownloadJob) -> tuple[dt.datetime, str]:
    return job.started_at or job.created_at, job.job_id


def _running(job: DownloadJob, now: dt.datetime) -> RunningJob:
    left = _seconds(now, job.lease_expires_at)
    return RunningJob(
        job_id=job.job_id,
        track_id=job.track_id,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        progress=job.progress,
        cancel_requested=job.cancel_requested,
        worker_id=job.worker_id,
        seconds=_seconds(job.started_at, now),
        lease_seconds=left,
    )


def _failed(job: DownloadJob, now: dt.datetime) -> FailedJob:
    return FailedJob(
        job_id=job.job_id,
        track_id=job.track_id,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        error=job.error_message,
        seconds=_seconds(job.finished_at, now),
    )


def _seconds(begin: dt.datetime | None, end: dt.datetime | None) -> float | None:
    return None if begin is None or end is None else (end - begin).total_seconds()


def as_lines(snapshot: Snapshot) -> Iterator[str]:
    """Yield a line for the queue and one for each job: when, what it is about, and the facts."""
    at = f"{snapshot.taken_at:%Y-%m-%dT%H:%M:%SZ}"
    about = ("queue", (snapshot.queue,)), ("running", snapshot.running), ("failed", snapshot.failed)
    for name, found in about:
        for one in found:
            facts = dataclasses.asdict(one).items()
            yield " ".join((at, name, *(f"{key}={_as_word(value)}" for key, value in facts)))


def _as_word(value: object) -> str:
    """Return what is no more than one word to a program that reads lines."""
    if isinstance(value, dt.timedelta):
        return f"{value.total_seconds():.1f}"
    if isinstance(value, float):
        return f"{value:.2f}"
    text = "" if value is None else str(value)
    return text if re.fullmatch(r"[\w.:-]*", text) else json.dumps(text, ensure_ascii=False)
