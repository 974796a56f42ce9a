"""The download queue as a whole."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import events
from zotify_async_crud._statements import download_queue as sql
from zotify_async_crud.crud._session import database_of, execute
from zotify_async_crud.schemas import DownloadQueueStats


async def pause_download_queue(db: AsyncSession) -> None:
    """Let nobody pick up or claim a job until ``resume_download_queue``; running ones go on."""
    await execute(db, sql.set_paused(database_of(db), paused=True))


async def resume_download_queue(db: AsyncSession) -> None:
    """Hand out jobs again; a queue that is not paused stays as it is."""
    await execute(db, sql.set_paused(database_of(db), paused=False))
    events.jobs_became_due(db)


async def get_download_queue_stats(db: AsyncSession) -> DownloadQueueStats:
    """Return how long the queue is and how fast it moves, all at one moment.

    Its cost does not grow with the jobs that are completed, so ask as often as you like.
    """
    row = (await execute(db, sql.get_download_queue_stats())).one()
    waited = None if row.oldest is None or row.oldest > row.now else row.now - row.oldest
    return DownloadQueueStats(
        pending=row.pending,
        scheduled=row.scheduled,
        in_progress=row.in_progress,
        failed=row.failed,
        completed_last_minute=row.completed_last_minute,
        oldest_pending_age=waited,
        paused=row.paused,
    )


async def get_time_until_next_download_job(db: AsyncSession) -> dt.timedelta | None:
    """Return how long it is until another pending job becomes due; None when none will.

    Look into the queue after you have asked, not before: what becomes due in between is neither in
    what you saw nor in the answer.
    """
    row = (await execute(db, sql.next_due())).one()
    return None if row.due is None else row.due - row.now
