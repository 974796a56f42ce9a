"""What several statements of the download queue say alike."""

from __future__ import annotations

import datetime as dt
from typing import Final

from sqlalchemy import ColumnElement, FromClause, exists, func, literal, literal_column, select

from zotify_async_crud._dialects import Queue
from zotify_async_crud._dialects.types import UTCDateTime, UTCNow
from zotify_async_crud.models import Base, DownloadJob, DownloadQueue
from zotify_async_crud.schemas import DownloadJobStatus

JOBS: Final = Base.metadata.tables[DownloadJob.__tablename__]
"""The table itself: rows that nobody needs as objects cost half.

An entity anywhere in a statement makes it one of the ORM's, which works out anew at each execution
what it knows of the statement.
"""

_SWITCH: Final = Base.metadata.tables[DownloadQueue.__tablename__]

NOW: Final = UTCNow()


def has_status(
    status: DownloadJobStatus, job: type[DownloadJob] = DownloadJob
) -> ColumnElement[bool]:
    """Compare with a literal: a bound parameter hides that a partial index fits.

    It is put in when the statement is executed, so that one statement serves every status.
    """
    return job.status == literal(status, DownloadJob.status.type, literal_execute=True)


def the(status: DownloadJobStatus) -> ColumnElement[DownloadJobStatus]:
    """Return *status* as a literal, which costs nothing when the statement is executed."""
    return literal_column(f"'{status.value}'", DownloadJob.status.type)


def due_since(jobs: FromClause = JOBS) -> ColumnElement[dt.datetime]:
    """Return since when a pending job is due, or from when on it will be."""
    return func.coalesce(jobs.c.available_at, jobs.c.created_at, type_=UTCDateTime())


def is_paused() -> ColumnElement[bool]:
    """Return whether the queue is paused."""
    return exists(select(_SWITCH.c.id).where(_SWITCH.c.paused))


_candidate: Final = JOBS.alias("candidate")
QUEUE: Final = Queue(
    table=DownloadJob,
    rows=_candidate,
    key=_candidate.c.job_id,
    priority=_candidate.c.priority,
    turn=due_since(_candidate),
    waiting=_candidate.c.status == the(DownloadJobStatus.PENDING),
    due=due_since(_candidate) <= NOW,
    opened=~is_paused(),
    harmless="error_message",
)
