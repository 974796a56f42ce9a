"""Statements of claims: each write is fenced by job, attempt and worker.

They are about the table and not about entities: a worker has no use for objects, which cost more
than the statement.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Double,
    FromClause,
    Integer,
    String,
    Subquery,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    false,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud._dialects.types import UTCNow
from zotify_async_crud._statements import _given as given
from zotify_async_crud._statements._given import Query
from zotify_async_crud._statements._jobs import JOBS, NOW, QUEUE, due_since, the
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Settlement

PENDING: Final = the(DownloadJobStatus.PENDING)
IN_PROGRESS: Final = the(DownloadJobStatus.IN_PROGRESS)
COMPLETED: Final = the(DownloadJobStatus.COMPLETED)
FAILED: Final = the(DownloadJobStatus.FAILED)
CANCELLED: Final = the(DownloadJobStatus.CANCELLED)
_COMPLETED: Final = DownloadJobStatus.COMPLETED.value
_PENDING: Final = DownloadJobStatus.PENDING.value

_CLAIMED: Final = (
    JOBS.c.job_id,
    JOBS.c.track_id,
    JOBS.c.attempt,
    JOBS.c.max_attempts,
    JOBS.c.worker_id,
    JOBS.c.lease_expires_at,
    (literal(0) - JOBS.c.priority).label("rank"),  # a smallint has no opposite of its lowest
    due_since().label("turn"),
)


def claim_download_jobs(
    database: Database, worker_id: str, limit: int, lease: dt.timedelta
) -> Query:
    """Give the first *limit* due jobs to a worker."""
    return Query(_claim(database), _claiming(worker_id, limit, lease))


def _claiming(worker_id: str, limit: int, lease: dt.timedelta) -> dict[str, Any]:
    return {"claimer": worker_id, "most": limit, "lease": lease.total_seconds()}


@cache
def _claim(database: Database) -> Any:
    return (
        update(JOBS)
        .where(database.is_among_first(QUEUE, bindparam("most", type_=Integer())))
        .values(
            status=IN_PROGRESS,
            attempt=JOBS.c.attempt + 1,
            worker_id=bindparam("claimer", type_=String()),
            lease_expires_at=UTCNow(bindparam("lease", type_=Double())),
            started_at=NOW,
            progress=0.0,
        )
        .returning(*_CLAIMED)
    )


def _fence(database: Database, rows: Subquery, jobs: FromClause = JOBS) -> ColumnElement[bool]:
    """Return whether a row of *jobs* is that of a claim in *rows*, which still holds.

    The job's own conditions stand in a CASE, where no planner looks. It would take them for rare,
    as in its statistics they are, and read a whole table, or all rows for each claim.
    """
    is_held = and_(jobs.c.attempt == rows.c.attempt, jobs.c.worker_id == rows.c.worker_id)
    return and_(
        database.by_index(jobs.c.job_id, select(rows.c.job_id)),
        jobs.c.job_id == rows.c.job_id,
        case((jobs.c.status == IN_PROGRESS, is_held), else_=false()),
    )


def settle_download_jobs(database: Database, settlements: Sequence[Settlement]) -> Query:
    """End the claims of *settlements*, each as it says, where they still hold."""
    columns = given.settlements(settlements)
    build = partial(_settle_alone, all_complete=_all_complete(settlements))
    return given.query(build, database, columns)


def _all_complete(settlements: Sequence[Settlement]) -> bool:
    return all(each.outcome is DownloadJobStatus.COMPLETED for each in settlements)


@cache
def _settle_alone(database: Database, varying: frozenset[str], *, all_complete: bool) -> Executable:
    rows = database.rows(given.NAME, given.SETTLEMENT, varying)
    statement: Executable = _settle(database, rows, all_complete=all_complete)
    return statement


def _settle(database: Database, rows: Subquery, *, all_complete: bool) -> Any:
    # what is known beforehand a planner leaves out
    is_completed = true() if all_complete else rows.c.outcome == _COMPLETED
    is_released = false() if all_complete else rows.c.outcome == _PENDING
    may_retry = and_(rows.c.retry_in.is_not(None), JOBS.c.attempt < JOBS.c.max_attempts)
    status = case((is_completed, COMPLETED), else_=_unfinished(or_(is_released, may_retry)))
    is_retried = and_(status == PENDING, not_(is_released))
    return (
        update(JOBS)
        .where(_fence(database, rows))
        .values(
            **_over(status),
            progress=case((is_completed, 1.0), (status == PENDING, 0.0), else_=JOBS.c.progress),
            error_message=case((is_released, JOBS.c.error_message), else_=rows.c.error),
            available_at=case((is_retried, UTCNow(rows.c.retry_in)), else_=JOBS.c.available_at),
            # an attempt that was given back does not count, and its number is not used again
            max_attempts=JOBS.c.max_attempts + case((is_released, 1), else_=0),
        )
        .returning(JOBS.c.job_id, JOBS.c.attempt, JOBS.c.status)
    )


def _unfinished(goes_on: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return the status of a job whose attempt ended without success."""
    return case((JOBS.c.cancel_requested, CANCELLED), (goes_on, PENDING), else_=FAILED)


def _over(status: ColumnElement[Any]) -> dict[str, Any]:
    """Return what changes when an attempt is over; who did it stays on a job that is finished."""
    return {
        "status": status,
        "worker_id": case((status == PENDING, null()), else_=JOBS.c.worker_id),
        "lease_expires_at": null(),
        "finished_at": case((status == PENDING, null()), else_=NOW),
    }


def exchange_download_jobs(
    database: Database,
    settlements: Sequence[Settlement],
    worker_id: str,
    limit: int,
    lease: dt.timedelta,
) -> Query:
    """Settle jobs and claim the next in one statement.

    It returns what ``claim_download_jobs`` does, and for each settlement whose claim does not hold
    any more a row that has only the job's id and the attempt.
    """
    columns = given.settlements(settlements)
    build = partial(_exchange, all_complete=_all_complete(settlements))
    statement, parameters = given.query(build, database, columns)
    return Query(statement, parameters | _claiming(worker_id, limit, lease))


@cache
def _exchange(database: Database, varying: frozenset[str], *, all_complete: bool) -> Executable:
    rows = database.rows(given.NAME, given.SETTLEMENT, varying)
    settled = _settle(database, rows, all_complete=all_complete).cte("settled")
    claimed = _claim(database).cte("claimed")
    given_claim = {"job_id": rows.c.job_id, "attempt": rows.c.attempt}
    is_settled = exists().where(*(settled.c[key] == value for key, value in given_claim.items()))
    unsettled = select(
        *(given_claim.get(column.key, cast(null(), column.type)) for column in claimed.c)
    )
    return union_all(select(claimed), unsettled.where(~is_settled))


def get_download_claims(worker_id: str) -> Executable:
    """Read what a worker holds."""
    return select(*_CLAIMED).where(JOBS.c.status == IN_PROGRESS, JOBS.c.worker_id == worker_id)


def renew_download_leases(
    database: Database, claims: Sequence[Claim], lease: dt.timedelta
) -> Query:
    """Prolong the leases of *claims* where they hold, past those whose jobs are locked."""
    columns = given.claims(claims)
    rows = database.rows(given.NAME, given.CLAIM, given.varying(columns))
    statement = (
        update(JOBS)
        .where(_fence(database, rows), _is_free(database, rows))
        .values(lease_expires_at=UTCNow(lease.total_seconds()))
        .returning(JOBS.c.job_id, JOBS.c.attempt, JOBS.c.lease_expires_at, JOBS.c.cancel_requested)
    )
    return Query(statement, given.parameters(database, columns))


def report_download_progress(database: Database, progress: Mapping[Claim, float]) -> Query:
    """Write how far jobs are, where the claims hold, past those whose jobs are locked."""
    columns = {**given.claims(list(progress)), "progress": list(progress.values())}
    rows = database.rows(given.NAME, given.REPORT, given.varying(columns))
    statement = (
        update(JOBS)
        .where(_fence(database, rows), _is_free(database, rows))
        .values(progress=rows.c.progress)
        .returning(JOBS.c.job_id, JOBS.c.attempt)
    )
    return Query(statement, given.parameters(database, columns))


def _is_free(database: Database, rows: Subquery) -> ColumnElement[bool]:
    """Return whether no transaction, perhaps the handler's own, is just writing the job.

    To wait for it could take until the other leases are over.
    """
    held = JOBS.alias("held")
    return database.is_free(
        JOBS.c.job_id, select(held.c.job_id).where(_fence(database, rows, held)), held
    )


def holding(database: Database, claims: Sequence[Claim]) -> Query:
    """Read which of *claims* hold."""
    columns = given.claims(claims)
    rows = database.rows(given.NAME, given.CLAIM, given.varying(columns))
    statement = select(JOBS.c.job_id, JOBS.c.attempt).where(_fence(database, rows))
    return Query(statement, given.parameters(database, columns))


def finished_by(database: Database, claims: Sequence[Claim]) -> Query:
    """Read which of *claims* ended by a finished job that nobody has claimed since."""
    columns = given.claims(claims)
    rows = database.rows(given.NAME, given.CLAIM, given.varying(columns))
    statement = select(JOBS.c.job_id, JOBS.c.attempt).where(
        JOBS.c.job_id == rows.c.job_id,
        JOBS.c.attempt == rows.c.attempt,
        JOBS.c.worker_id == rows.c.worker_id,
        JOBS.c.finished_at.is_not(None),
    )
    return Query(statement, given.parameters(database, columns))


def rescue_expired_download_jobs(database: Database, limit: int) -> Executable:
    """Take jobs from workers whose leases are over; the attempt they had is spent."""
    held = JOBS.alias("held")
    expired = (
        select(held.c.job_id)
        .where(held.c.status == IN_PROGRESS, held.c.lease_expires_at <= NOW)
        .limit(limit)
    )
    status = _unfinished(JOBS.c.attempt < JOBS.c.max_attempts)
    return (
        update(JOBS)
        .where(database.is_free(JOBS.c.job_id, expired, held))
        .values(
            **{**_over(status), "worker_id": null()},
            progress=case((status == PENDING, 0.0), else_=JOBS.c.progress),
            error_message=_LOST_WORKER,
        )
        .returning(JOBS.c.status)
    )


def _text(column: ColumnElement[Any]) -> ColumnElement[str]:
    return cast(column, Text)


_LOST_WORKER: Final = (
    literal("worker ", Text)
    + _text(JOBS.c.worker_id)
    + " did not renew its lease in attempt "
    + _text(JOBS.c.attempt)
    + " of "
    + _text(JOBS.c.max_attempts)
)
