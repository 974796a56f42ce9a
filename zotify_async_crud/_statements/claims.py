"""Statements of claims: each write is fenced by job, attempt and worker.

They are about the table and not about entities: a worker has no use for objects, which cost more
than the statement.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Double,
    FromClause,
    Integer,
    String,
    Subquery,
    Text,
    and_,
    case,
    cast,
    exists,
    literal,
    not_,
    null,
    or_,
    select,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Column, Database
from zotify_async_crud._dialects.types import UTCNow
from zotify_async_crud._statements._jobs import JOBS, NOW, QUEUE, due_since, the
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Settlement

PENDING: Final = the(DownloadJobStatus.PENDING)
IN_PROGRESS: Final = the(DownloadJobStatus.IN_PROGRESS)
COMPLETED: Final = the(DownloadJobStatus.COMPLETED)
FAILED: Final = the(DownloadJobStatus.FAILED)
CANCELLED: Final = the(DownloadJobStatus.CANCELLED)

_CLAIMED: Final = (
    JOBS.c.job_id,
    JOBS.c.track_id,
    JOBS.c.attempt,
    JOBS.c.max_attempts,
    JOBS.c.worker_id,
    JOBS.c.lease_expires_at,
    JOBS.c.priority,
    type_coerce(due_since(), DateTime(timezone=True)).label("turn"),  # to sort by alone
)


def claim_download_jobs(database: Database, worker_id: str, limit: int, lease: dt.timedelta) -> Any:
    """Give the first *limit* due jobs to a worker."""
    return (
        update(JOBS)
        .where(database.is_among_first(QUEUE, limit))
        .values(
            status=IN_PROGRESS,
            attempt=JOBS.c.attempt + 1,
            worker_id=worker_id,
            lease_expires_at=UTCNow(lease.total_seconds()),
            started_at=NOW,
            progress=0.0,
        )
        .returning(*_CLAIMED)
    )


class _Given(NamedTuple):
    """Claims as rows of a statement, and whether a row of the table is that of a claim."""

    rows: Subquery
    fence: ColumnElement[bool]


def _given(
    database: Database,
    claims: Sequence[Claim],
    others: Mapping[str, Column] = MappingProxyType({}),
    jobs: FromClause = JOBS,
) -> _Given:
    columns = {
        "job_id": Column(String(), [claim.job_id for claim in claims]),
        "attempt": Column(Integer(), [claim.attempt for claim in claims]),
        "worker_id": Column(String(), [claim.worker_id for claim in claims]),
        **others,
    }
    rows = database.rows("given", columns)
    return _Given(rows, _fence(rows, jobs))


def _fence(rows: Subquery, jobs: FromClause = JOBS) -> ColumnElement[bool]:
    return and_(
        jobs.c.job_id == rows.c.job_id,
        jobs.c.attempt == rows.c.attempt,
        jobs.c.worker_id == rows.c.worker_id,
        # By a constraint that is a job in progress. To name the status would tempt the planner to
        # read all jobs that are, once for each claim.
        jobs.c.lease_expires_at.is_not(None),
    )


def settle_download_jobs(database: Database, settlements: Sequence[Settlement]) -> Executable:
    """End the claims of *settlements*, each as it says, where they still hold."""
    statement: Executable = _settle(_settlements(database, settlements))
    return statement


def _settlements(database: Database, settlements: Sequence[Settlement]) -> _Given:
    others = {
        "outcome": Column(String(), [settlement.outcome.value for settlement in settlements]),
        "error": Column(String(), [settlement.error for settlement in settlements]),
        "retry_in": Column(Double(), [_seconds(settlement) for settlement in settlements]),
    }
    return _given(database, [settlement.claim for settlement in settlements], others)


def _seconds(settlement: Settlement) -> float | None:
    return None if settlement.retry_in is None else settlement.retry_in.total_seconds()


def _settle(given: _Given) -> Any:
    rows = given.rows.c
    is_completed = rows.outcome == DownloadJobStatus.COMPLETED.value
    is_released = rows.outcome == DownloadJobStatus.PENDING.value
    may_retry = and_(rows.retry_in.is_not(None), JOBS.c.attempt < JOBS.c.max_attempts)
    status = case((is_completed, COMPLETED), else_=_unfinished(or_(is_released, may_retry)))
    is_retried = and_(status == PENDING, not_(is_released))
    return (
        update(JOBS)
        .where(given.fence)
        .values(
            **_over(status),
            progress=case((is_completed, 1.0), (status == PENDING, 0.0), else_=JOBS.c.progress),
            error_message=case((is_released, JOBS.c.error_message), else_=rows.error),
            available_at=case((is_retried, UTCNow(rows.retry_in)), else_=JOBS.c.available_at),
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
) -> Executable:
    """Settle jobs and claim the next in one statement.

    It returns what ``claim_download_jobs`` does, and for each settlement whose claim does not hold
    any more a row that has only the job's id and the attempt.
    """
    given = _settlements(database, settlements)
    settled = _settle(given).cte("settled")
    claimed = claim_download_jobs(database, worker_id, limit, lease).cte("claimed")
    given_claim = {"job_id": given.rows.c.job_id, "attempt": given.rows.c.attempt}
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
) -> Executable:
    """Prolong the leases of *claims* where they hold, past those whose jobs are locked."""
    given = _given(database, claims)
    return (
        update(JOBS)
        .where(given.fence, _is_free(database, claims))
        .values(lease_expires_at=UTCNow(lease.total_seconds()))
        .returning(JOBS.c.job_id, JOBS.c.attempt, JOBS.c.lease_expires_at, JOBS.c.cancel_requested)
    )


def report_download_progress(database: Database, progress: Mapping[Claim, float]) -> Executable:
    """Write how far jobs are, where the claims hold, past those whose jobs are locked."""
    claims = list(progress)
    given = _given(database, claims, {"progress": Column(Double(), list(progress.values()))})
    return (
        update(JOBS)
        .where(given.fence, _is_free(database, claims))
        .values(progress=given.rows.c.progress)
        .returning(JOBS.c.job_id, JOBS.c.attempt)
    )


def _is_free(database: Database, claims: Sequence[Claim]) -> ColumnElement[bool]:
    """Return whether no transaction, perhaps the handler's own, is just writing the job.

    To wait for it could take until the other leases are over.
    """
    held = JOBS.alias("held")
    given = _given(database, claims, jobs=held)
    return database.is_free(JOBS.c.job_id, select(held.c.job_id).where(given.fence), held)


def holding(database: Database, claims: Sequence[Claim]) -> Executable:
    """Read which of *claims* hold."""
    given = _given(database, claims)
    return select(JOBS.c.job_id, JOBS.c.attempt).where(given.fence)


def settled_by(database: Database, claims: Sequence[Claim]) -> Executable:
    """Read which of *claims* ended by a finished job that nobody has claimed since."""
    rows = _given(database, claims).rows
    return select(JOBS.c.job_id, JOBS.c.attempt).where(
        JOBS.c.job_id == rows.c.job_id,
        JOBS.c.attempt == rows.c.attempt,
        JOBS.c.worker_id == rows.c.worker_id,
        JOBS.c.finished_at.is_not(None),
    )


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
