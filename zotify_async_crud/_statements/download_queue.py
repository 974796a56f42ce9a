"""Statements about the download queue as a whole."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import func, not_, select
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud._dialects.types import UTCDateTime, UTCNow
from zotify_async_crud._statements._jobs import NOW, QUEUE, due_since, has_status, is_paused
from zotify_async_crud.models import DownloadJob, DownloadQueue
from zotify_async_crud.schemas import DownloadJobStatus

RATE_WINDOW: Final = dt.timedelta(seconds=60)


def set_paused(database: Database, *, paused: bool) -> Executable:
    """Pause the queue, or let it go on."""
    return (
        database.insert(DownloadQueue)
        .values(id=1, paused=paused)
        .on_conflict_do_update(index_elements=[DownloadQueue.id], set_={"paused": paused})
    )


def get_download_queue_stats() -> Executable:
    """Count what small indexes hold, and no finished job but those of the last minute."""
    is_due = due_since() <= NOW
    pending = (
        select(
            func.count().filter(is_due).label("pending"),
            func.count().filter(not_(is_due)).label("scheduled"),
            func.min(due_since(), type_=UTCDateTime()).label("oldest"),
        )
        .where(has_status(DownloadJobStatus.PENDING))
        .subquery()
    )
    completed = (
        select(func.count())
        .where(DownloadJob.finished_at > UTCNow(-RATE_WINDOW.total_seconds()))
        .where(DownloadJob.finished_at <= NOW)  # an open range would be taken for a third of all
        .where(DownloadJob.status == DownloadJobStatus.COMPLETED)
    )
    return select(
        pending,
        _count(DownloadJobStatus.IN_PROGRESS).label("in_progress"),
        _count(DownloadJobStatus.FAILED).label("failed"),
        completed.scalar_subquery().label("completed_last_minute"),
        is_paused().label("paused"),
        NOW.label("now"),
    )


def _count(status: DownloadJobStatus) -> Any:
    return select(func.count()).where(has_status(status)).scalar_subquery()


def next_due() -> Executable:
    """Read when the next pending job will be due, looking once for each priority."""
    priorities = QUEUE.priorities()
    earliest = (
        select(func.min(QUEUE.turn, type_=UTCDateTime()))
        .where(QUEUE.waiting, QUEUE.priority == priorities.c.priority, QUEUE.turn > NOW)
        .scalar_subquery()
    )
    return select(
        func.min(earliest, type_=UTCDateTime()).label("due"), NOW.label("now")
    ).select_from(priorities)
