"""The jobs in the queue: read, picked up, given a status, tried again, cancelled and pruned."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Collection
from typing import Final

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud import events, schemas
from zotify_async_crud._statements import download_jobs as sql
from zotify_async_crud.crud._pages import Page, decode_key, encode_key
from zotify_async_crud.crud._session import begin_unit, database_of, execute
from zotify_async_crud.crud.enqueueing import naming_duplicates
from zotify_async_crud.errors import (
    ConstraintViolated,
    DownloadJobClaimed,
    DownloadJobNotFound,
    InvalidValue,
    TransactionConflict,
)
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

PRUNED: Final = frozenset({DownloadJobStatus.COMPLETED, DownloadJobStatus.CANCELLED})
"""What ``prune_download_jobs`` deletes unless it is told otherwise."""

_STREAM_CHUNK: Final = 500
"""Jobs that a stream reads at a time."""


async def get_download_job(db: AsyncSession, job_id: str) -> DownloadJob | None:
    """Return the job with this id as it is in the database now, or None."""
    database_of(db)
    if not check.findable(job_id, "job_id"):
        return None
    job: DownloadJob | None = (await execute(db, sql.get_download_job(job_id))).scalar_one_or_none()
    return job


async def get_all_download_jobs(db: AsyncSession) -> list[DownloadJob]:
    """Return every job, newest first. See ``list_download_jobs`` and ``stream_download_jobs``."""
    return list((await execute(db, sql.get_all_download_jobs())).scalars())


async def list_download_jobs(
    db: AsyncSession,
    *,
    status: schemas.DownloadJobStatus | None = None,
    limit: int,
    after: str | None = None,
) -> Page[DownloadJob]:
    """Return a page of at most *limit* jobs (1 to 1,000), newest first, of one status or of all.

    *after* is the ``after`` of the page before. A page costs the same wherever it stands in the
    list, and jobs that come or go between two pages make none appear twice or be left out.
    """
    wanted = None if status is None else check.validated("status", check.STATUS, status)
    size = check.validated("limit", check.LIMIT, limit)
    key = decode_key(after)
    # one more than asked for tells whether more follow
    found = list((await execute(db, sql.list_download_jobs(wanted, size + 1, key))).scalars())
    jobs, more = found[:size], len(found) > size
    return Page(jobs, encode_key(jobs[-1].created_at, jobs[-1].job_id) if more else None)


async def stream_download_jobs(
    db: AsyncSession, *, status: schemas.DownloadJobStatus | None = None
) -> AsyncGenerator[DownloadJob, None]:
    """Yield every job, newest first, of one status or of all, in memory that does not grow.

    It reads page by page and leaves no cursor open between them: the caller may use *db* meanwhile,
    commit, or stop early. A job is never yielded twice.
    """
    after: str | None = None
    while True:
        page = await list_download_jobs(db, status=status, limit=_STREAM_CHUNK, after=after)
        for job in page.items:
            yield job
        if page.after is None:
            return
        after = page.after


async def get_next_pending_download_job(db: AsyncSession) -> DownloadJob | None:
    """Return the oldest ``pending`` job, held for the caller's transaction, or None.

    No other transaction gets the job until this one ends, and its status stays ``pending`` until
    the caller changes it: a transaction that ends without that gives the job back. PostgreSQL holds
    the row (``SELECT … FOR UPDATE SKIP LOCKED``), so that others pick up the next job meanwhile;
    SQLite holds the file's only write lock, so that they wait. Keep the transaction short: pick up,
    mark ``in_progress``, commit.

    Raises:
        TransactionRequired: The session cannot hold anything, because it commits each statement or
            shares its connection.
    """
    database = database_of(db)
    await begin_unit(db)
    held = await execute(db, sql.get_next_pending_download_job(database))
    job: DownloadJob | None = held.scalar_one_or_none()
    return job


async def update_download_job_status(
    db: AsyncSession,
    job: DownloadJob,
    status: schemas.DownloadJobStatus,
    error: str | None = None,
    progress: float | None = None,
) -> DownloadJob:
    """Set the status of *job*, its error message (None clears it) and, unless None, its progress.

    *progress* goes from 0.0 to 1.0. *job* may come from another session; what is returned belongs
    to *db* and shows what was written.

    It is for those who pick up jobs by ``get_next_pending_download_job``; a job that a worker holds
    by a claim is the worker's alone until its lease ends.

    Raises:
        DownloadJobNotFound: The job has been deleted.
        DownloadJobClaimed: A worker holds it by a claim.
        DownloadJobExists: It is unique, would be pending or in progress again, and its track has
            another that is.
    """
    query = sql.update_download_job_status(
        _job_id(job),
        check.validated("status", check.STATUS, status),
        check.validated("error", check.ERROR, error),
        check.validated("progress", check.PROGRESS, progress),
    )
    with naming_duplicates():
        updated: DownloadJob | None = (await execute(db, *query)).scalar_one_or_none()
    if updated is None:
        if await get_download_job(db, _job_id(job)) is None:
            raise DownloadJobNotFound(_job_id(job))
        raise DownloadJobClaimed(_job_id(job))
    if updated.status is DownloadJobStatus.PENDING:
        events.jobs_became_due(db)
    return updated


async def retry_failed_download_jobs(db: AsyncSession) -> int:
    """Give every ``failed`` job back to the queue, its error cleared; return how many.

    Each may have one more attempt, and more as far as its ``max_attempts`` allow. A unique one
    whose track has another that is pending or in progress stays ``failed``.
    """
    try:
        retried = (await execute(db, sql.retry_failed_download_jobs())).all()
    except ConstraintViolated as error:
        # a unique job of the same track was created at this moment; the next time it is seen
        raise TransactionConflict(error.detail, error.code) from error
    if retried:
        events.jobs_became_due(db)
    return len(retried)


async def cancel_download_job(db: AsyncSession, job_id: str) -> DownloadJob:
    """Cancel a job and return it: ``cancelled`` at once if it is ``pending``.

    One that is ``in_progress`` has ``cancel_requested`` from now on. Its worker learns of it when
    it renews its leases, and decides whether it stops; the job is not tried again. A job that is
    finished stays as it is.

    Raises:
        DownloadJobNotFound: There is no such job.
    """
    database_of(db)
    if not check.findable(job_id, "job_id"):
        raise DownloadJobNotFound(job_id)
    cancelled = (await execute(db, sql.cancel_download_job(job_id))).scalar_one_or_none()
    if cancelled is None:
        raise DownloadJobNotFound(job_id)
    job: DownloadJob = cancelled
    return job


async def prune_download_jobs(
    db: AsyncSession,
    *,
    older_than: dt.timedelta | float,
    limit: int,
    statuses: Collection[schemas.DownloadJobStatus] = PRUNED,
) -> int:
    """Delete up to *limit* (1 to 100,000) jobs that finished longer ago than *older_than*.

    *older_than* is a timedelta, or seconds. Failed jobs are kept unless *statuses* says otherwise.
    It returns how many were deleted: commit, and call again while that is *limit*, so that no
    transaction gets long.
    """
    database = database_of(db)
    statement = sql.prune_download_jobs(
        database,
        check.finished_statuses(statuses),
        check.validated("older_than", check.DURATION, older_than),
        check.validated("limit", check.DELETED_AT_ONCE, limit),
    )
    return len((await execute(db, statement)).all())


def _job_id(job: DownloadJob) -> str:
    """Return the id of *job* without a query, also when its attributes are expired."""
    if not isinstance(job, DownloadJob):
        raise InvalidValue("job", "Input should be a DownloadJob")
    identity = inspect(job).identity
    return check.validated("job", check.ID, identity[0] if identity else job.job_id)
