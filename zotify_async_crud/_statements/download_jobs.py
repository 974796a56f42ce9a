"""Statements of the download queue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import (
    Double,
    Select,
    String,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    inspect,
    literal,
    not_,
    or_,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud._dialects.types import UTCNow
from zotify_async_crud._statements import _given as given
from zotify_async_crud._statements._given import Query
from zotify_async_crud._statements._jobs import JOBS, NOW, QUEUE, has_status
from zotify_async_crud.models import UNIQUE_JOBS, DownloadJob
from zotify_async_crud.schemas import FINISHED, DownloadJobCreate, DownloadJobStatus

NEWEST_FIRST: Final = (DownloadJob.created_at.desc(), DownloadJob.job_id.desc())


def create_download_job(database: Database, job: DownloadJobCreate, *, announced: bool) -> Query:
    """Insert one pending job."""
    also = [database.announcement] if announced else []
    insertion = database.insert(DownloadJob).values(**_values(job))
    return Query(insertion.returning(DownloadJob, *also), {})


def _values(job: DownloadJobCreate) -> dict[str, Any]:
    return {
        "track_id": job.track_id,
        "priority": job.priority,
        "available_at": job.available_at,
        "max_attempts": job.max_attempts,
        "is_unique": job.unique,
    }


def create_download_jobs(
    database: Database,
    jobs: Mapping[str, DownloadJobCreate],
    *,
    skip_duplicates: bool,
    announced: bool,
) -> Query:
    """Insert pending jobs under the ids given, created in their order."""
    columns = given.jobs(list(jobs), list(jobs.values()))
    if skip_duplicates:
        build = partial(_create_missing_jobs, announced=announced)
    else:
        has_unique = any(job.unique for job in jobs.values())
        build = partial(_create_jobs, announced=announced, has_unique=has_unique)
    return given.query(build, database, columns)


def create_default_download_jobs(
    database: Database, job_ids: Sequence[str], track_ids: Sequence[str], *, announced: bool
) -> Query:
    """Insert pending jobs that have what the schema gives them, created in their order."""
    columns = {"job_id": job_ids, "track_id": track_ids}
    return given.query(partial(_create_default_jobs, announced=announced), database, columns)


@cache
def _create_default_jobs(
    database: Database, varying: frozenset[str], *, announced: bool
) -> Executable:
    rows = database.created(given.NAME, given.DEFAULT_JOB, varying)
    statement: Executable = _insert(database, select(rows), announced=announced)
    return statement


@cache
def _create_jobs(
    database: Database, varying: frozenset[str], *, announced: bool, has_unique: bool
) -> Any:
    rows = database.created(given.NAME, given.JOB, varying)
    # who waits for others' unique jobs of a track waits in one order, or they deadlock
    jobs = select(rows)
    if has_unique:
        jobs = jobs.order_by(database.bytewise(rows.c.track_id))
    return _insert(database, jobs, announced=announced)


def _insert(database: Database, rows: Select[Any], *, announced: bool) -> Any:
    # a subquery about no row is evaluated once, and before the rows
    once = select(database.announcement).scalar_subquery().is_not(None) if announced else true()
    return database.insert(JOBS).from_select(rows.selected_columns.keys(), rows.where(once))


@cache
def _create_missing_jobs(
    database: Database, varying: frozenset[str], *, announced: bool
) -> Executable:
    missing = _create_jobs(
        database, varying, announced=announced, has_unique=True
    ).on_conflict_do_nothing(index_elements=[JOBS.c.track_id], index_where=text(UNIQUE_JOBS))
    statement: Executable = missing.returning(JOBS.c.job_id)
    return statement


def active_unique_jobs(database: Database, track_ids: Sequence[str]) -> Query:
    """Read which unique jobs of the tracks are pending or in progress."""
    columns = {"track_id": track_ids}
    rows = database.rows(given.NAME, given.TRACK, given.varying(columns))
    statement = select(JOBS.c.track_id, JOBS.c.job_id).where(
        JOBS.c.track_id == rows.c.track_id, text(UNIQUE_JOBS)
    )
    return Query(statement, given.parameters(database, columns))


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
    """Read the job that is to be done next and hold it until the transaction ends."""
    return database.hold_first(QUEUE)


def update_download_job_status(
    job_id: str, status: DownloadJobStatus, error: str | None, progress: float | None
) -> Query:
    """Write a job's status and error, and its progress unless that is None.

    A job that a worker holds by a claim is left alone.
    """
    parameters: dict[str, Any] = {"of": job_id, "error": error}
    reports = progress is not None
    if reports:
        parameters["reached"] = progress
    return Query(_update_status(status, reports=reports), parameters)


@cache
def _update_status(status: DownloadJobStatus, *, reports: bool) -> Executable:
    values: dict[str, Any] = {
        "status": status,
        "error_message": bindparam("error", type_=Text()),
        "worker_id": None,
        "lease_expires_at": None,
        "finished_at": NOW if status in FINISHED else None,
        **_BEGUN.get(status, {"cancel_requested": False}),
    }
    if reports:
        values["progress"] = bindparam("reached", type_=Double())
    is_free = or_(DownloadJob.lease_expires_at.is_(None), DownloadJob.lease_expires_at <= NOW)
    return (
        update(DownloadJob)
        .where(DownloadJob.job_id == bindparam("of", type_=String()), is_free)
        .values(values)
        .returning(DownloadJob)
        .execution_options(synchronize_session=False)
    )


_IS_NEW_ATTEMPT: Final = not_(has_status(DownloadJobStatus.IN_PROGRESS))
_BEGUN: Final[dict[DownloadJobStatus, dict[str, Any]]] = {
    DownloadJobStatus.IN_PROGRESS: {
        "attempt": DownloadJob.attempt + case((_IS_NEW_ATTEMPT, 1), else_=0),
        "started_at": case((_IS_NEW_ATTEMPT, NOW), else_=DownloadJob.started_at),
    }
}


def retry_failed_download_jobs() -> Executable:
    """Give every failed job back to the queue, as if it had not begun.

    Of unique jobs, only what a track may have: none where one is pending or in progress, and else
    the newest.
    """
    # each condition a literal one, so that small indexes fit: finished jobs may be millions
    rival, other = aliased(DownloadJob), aliased(DownloadJob)
    has_rival = exists().where(rival.track_id == DownloadJob.track_id, text(UNIQUE_JOBS))
    newest = (
        select(func.max(other.job_id))
        .where(has_status(DownloadJobStatus.FAILED, other), other.is_unique)
        .group_by(other.track_id)
    )
    may_come_back = and_(DownloadJob.job_id.in_(newest), not_(has_rival))
    return (
        update(DownloadJob)
        .where(
            has_status(DownloadJobStatus.FAILED), or_(not_(DownloadJob.is_unique), may_come_back)
        )
        .values(
            status=DownloadJobStatus.PENDING,
            error_message=None,
            progress=0.0,
            available_at=None,
            worker_id=None,
            finished_at=None,
            cancel_requested=False,
        )
        .returning(DownloadJob.job_id)
        # "evaluate" would trust what the session remembers of other workers' jobs
        .execution_options(synchronize_session="fetch")
    )


def cancel_download_job(job_id: str) -> Executable:
    """Cancel a pending job, ask the worker of a running one to stop, and leave others alone."""
    is_pending = has_status(DownloadJobStatus.PENDING)
    is_running = has_status(DownloadJobStatus.IN_PROGRESS)
    cancelled = literal(DownloadJobStatus.CANCELLED, DownloadJob.status.type)
    return (
        update(DownloadJob)
        .where(DownloadJob.job_id == job_id)
        .values(
            status=case((is_pending, cancelled), else_=DownloadJob.status),
            finished_at=case((is_pending, NOW), else_=DownloadJob.finished_at),
            cancel_requested=or_(is_pending, is_running, DownloadJob.cancel_requested),
        )
        .returning(DownloadJob)
        .execution_options(synchronize_session=False)
    )


def prune_download_jobs(
    database: Database,
    statuses: Collection[DownloadJobStatus],
    older_than: dt.timedelta,
    limit: int,
) -> Executable:
    """Delete the jobs that finished first, past those that somebody is just writing."""
    old = aliased(DownloadJob, name="old")
    found = (
        select(old.job_id)
        .where(
            old.finished_at <= UTCNow(-older_than.total_seconds()),
            old.status.in_(sorted(statuses)),
        )
        .order_by(old.finished_at)
        .limit(limit)
    )
    return (
        delete(JOBS)
        .where(database.is_free(JOBS.c.job_id, found, inspect(old).selectable))
        .returning(JOBS.c.job_id)
    )
