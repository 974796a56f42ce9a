"""Statements of the download queue."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, literal, select, tuple_, update
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database, Pick
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

_JOBS: Final = DownloadJob.__table__.c
PICKUP_ORDER: Final = (_JOBS.created_at, _JOBS.job_id)
NEWEST_FIRST: Final = (DownloadJob.created_at.desc(), DownloadJob.job_id.desc())


def has_status(status: DownloadJobStatus) -> ColumnElement[bool]:
    """Compare with a literal: a bound parameter hides that a partial index fits."""
    return DownloadJob.status == literal(status, DownloadJob.status.type, literal_execute=True)


def create_download_job(database: Database, track_id: str) -> Executable:
    """Insert one pending job."""
    return database.insert(DownloadJob).values(track_id=track_id).returning(DownloadJob)


def get_download_job(job_id: str) -> Select[Any]:
    """Read one job."""
    return select(DownloadJob).where(DownloadJob.job_id == job_id)


def get_all_download_jobs() -> Select[Any]:
    """Read every job, newest first."""
    return select(DownloadJob).order_by(*NEWEST_FIRST)


def list_download_jobs(
    status: DownloadJobStatus | None, limit: int, after: tuple[dt.datetime, str] | None
) -> Select[Any]:
    """Read at most *limit* jobs that come after the key *after* in the order newest first."""
    statement = get_all_download_jobs().limit(limit)
    if status is not None:
        statement = statement.where(has_status(status))
    if after is not None:
        key = tuple_(DownloadJob.created_at, DownloadJob.job_id)
        statement = statement.where(key < tuple_(*after))
    return statement


def get_next_pending_download_job(database: Database) -> Executable:
    """Read the oldest pending job and hold it until the transaction ends."""
    return database.pick_up(
        Pick(
            entity=DownloadJob,
            key=_JOBS.job_id,
            criterion=has_status(DownloadJobStatus.PENDING),
            order=PICKUP_ORDER,
            harmless=_JOBS.track_id,
        )
    )


def update_download_job_status(
    job_id: str, status: DownloadJobStatus, error: str | None, progress: float | None
) -> Executable:
    """Write a job's status and error, and its progress unless that is None."""
    values: dict[str, Any] = {"status": status, "error_message": error}
    if progress is not None:
        values["progress"] = progress
    return (
        update(DownloadJob)
        .where(DownloadJob.job_id == job_id)
        .values(values)
        .returning(DownloadJob)
        .execution_options(synchronize_session=False)
    )


def retry_failed_download_jobs() -> Executable:
    """Give every failed job back to the queue, as if it had not begun."""
    return (
        update(DownloadJob)
        .where(has_status(DownloadJobStatus.FAILED))
        .values(status=DownloadJobStatus.PENDING, error_message=None, progress=0.0)
        .returning(DownloadJob.job_id)
        # "evaluate" would trust what the session remembers of other workers' jobs
        .execution_options(synchronize_session="fetch")
    )
