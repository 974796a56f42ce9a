"""The queue of downloads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud import schemas
from zotify_async_crud._statements import download_jobs as sql
from zotify_async_crud.crud._pages import Page, decode_key, encode_key
from zotify_async_crud.crud._session import begin_unit, database_of, execute
from zotify_async_crud.errors import DownloadJobNotFound, InvalidValue
from zotify_async_crud.models import DownloadJob

_STREAM_CHUNK: Final = 500
"""Jobs that a stream reads at a time."""


async def create_download_job(db: AsyncSession, job: schemas.DownloadJobCreate) -> DownloadJob:
    """Enqueue a download: a new ``pending`` job, which workers see once the caller commits."""
    database = database_of(db)
    if not isinstance(job, schemas.DownloadJobCreate):
        raise InvalidValue("job", "Input should be a DownloadJobCreate")
    # a model that was constructed without validation may have any value, or none
    track_id = check.validated("track_id", check.ID, getattr(job, "track_id", None))
    created: DownloadJob = (
        await execute(db, sql.create_download_job(database, track_id))
    ).scalar_one()
    return created


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
) -> AsyncIterator[DownloadJob]:
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

    Raises:
        DownloadJobNotFound: The job has been deleted.
    """
    statement = sql.update_download_job_status(
        _job_id(job),
        check.validated("status", check.STATUS, status),
        check.validated("error", check.ERROR, error),
        check.validated("progress", check.PROGRESS, progress),
    )
    updated: DownloadJob | None = (await execute(db, statement)).scalar_one_or_none()
    if updated is None:
        raise DownloadJobNotFound(_job_id(job))
    return updated


async def retry_failed_download_jobs(db: AsyncSession) -> int:
    """Give every ``failed`` job back to the queue, its error cleared; return how many."""
    return len((await execute(db, sql.retry_failed_download_jobs())).all())


def _job_id(job: DownloadJob) -> str:
    """Return the id of *job* without a query, also when its attributes are expired."""
    if not isinstance(job, DownloadJob):
        raise InvalidValue("job", "Input should be a DownloadJob")
    identity = inspect(job).identity
    return check.validated("job", check.ID, identity[0] if identity else job.job_id)
