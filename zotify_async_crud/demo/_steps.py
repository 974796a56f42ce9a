"""What the demo does in the database beside its workers; each coroutine is one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import case, func, select
from sqlalchemy.engine import URL

from zotify_async_crud import crud, models, schemas
from zotify_async_crud._transactions import Sessions, transaction
from zotify_async_crud.demo._reports import Downloads, Jobs
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

_NOT_FAILED: Final = (DownloadJobStatus.COMPLETED, DownloadJobStatus.IN_PROGRESS)
"""What a job is whose last attempt has not failed."""

_MOMENT: Final = dt.timedelta(milliseconds=1)
"""No time is shorter, by the coarser of the databases' clocks."""


@transaction
async def sync_playlist(sessions: Sessions, playlist: schemas.PlaylistData) -> None:
    """Make the playlist in the database what the exported one is."""
    async with sessions.begin() as db:
        await crud.sync_playlists(db, [playlist])


@transaction
async def tracks_with_a_job(sessions: Sessions) -> set[str]:
    """Return the ids of the tracks that were enqueued before, whatever became of it."""
    async with sessions.begin() as db:
        return set(await db.scalars(select(DownloadJob.track_id).distinct()))


@transaction
async def enqueue(sessions: Sessions, track_ids: Sequence[str], names: Mapping[str, str]) -> None:
    """Name the tracks whose names are known, and enqueue those that never had a job."""
    async with sessions.begin() as db:
        for track_id in sorted(track_ids):
            await crud.get_or_create_track(db, track_id, names.get(track_id))
        # Another demo may be about to enqueue them. That a job is unique does not keep a track
        # from having another once the first is completed.
        tracks = select(models.Track.id).where(models.Track.id.in_(track_ids))
        await db.execute(tracks.order_by(models.Track.id).with_for_update(key_share=True))
        jobs = select(DownloadJob.track_id).where(DownloadJob.track_id.in_(track_ids))
        known = set(await db.scalars(jobs))
        new = [track_id for track_id in track_ids if track_id not in known]
        await crud.create_download_jobs(
            db, [schemas.DownloadJobCreate(track_id=track_id, unique=True) for track_id in new]
        )


@transaction
async def retry_failed(sessions: Sessions) -> int:
    """Give the failed jobs back to the queue; return how many there were."""
    async with sessions.begin() as db:
        return await crud.retry_failed_download_jobs(db)


@transaction
async def is_paused(sessions: Sessions) -> bool:
    """Return whether the queue hands out no jobs at the moment."""
    async with sessions.begin() as db:
        return (await crud.get_download_queue_stats(db)).paused


@transaction
async def count_jobs(sessions: Sessions) -> Jobs:
    """Count the jobs, and what became of the attempts at them."""
    status, claimed = DownloadJob.status, func.count(DownloadJob.lease_expires_at)
    failed = DownloadJob.attempt - case((status.in_(_NOT_FAILED), 1), else_=0)
    counts = select(status, func.count(), claimed, func.sum(failed)).group_by(status)
    async with sessions.begin() as db:
        rows = (await db.execute(counts)).all()
    return Jobs(
        by_status=dict.fromkeys(DownloadJobStatus, 0) | {row[0]: row[1] for row in rows},
        claimed=sum(row[2] for row in rows),
        failed_attempts=sum(row[3] for row in rows),
    )


@transaction
async def count_downloads(sessions: Sessions, worker_ids: Sequence[str]) -> Downloads:
    """Count what each worker has completed, and the time that it took them together."""
    began, ended = func.min(DownloadJob.started_at), func.max(DownloadJob.finished_at)
    counts = (
        select(DownloadJob.worker_id, func.count(), began.label("began"), ended.label("ended"))
        .where(DownloadJob.worker_id.in_(worker_ids))
        .where(DownloadJob.status == DownloadJobStatus.COMPLETED)
        .group_by(DownloadJob.worker_id)
    )
    async with sessions.begin() as db:
        rows = (await db.execute(counts)).all()
    completed = {row[0]: row[1] for row in rows}
    by_worker = tuple(completed.get(worker_id, 0) for worker_id in worker_ids)
    took = max(row.ended for row in rows) - min(row.began for row in rows) if rows else _MOMENT
    return Downloads(by_worker, max(took, _MOMENT).total_seconds())


@transaction
async def count_music(sessions: Sessions) -> tuple[int, int]:
    """Count the playlists and the tracks."""
    async with sessions.begin() as db:
        playlists = await db.scalar(select(func.count()).select_from(models.Playlist))
        tracks = await db.scalar(select(func.count()).select_from(models.Track))
    return playlists or 0, tracks or 0


def location(url: URL) -> str:
    """Return where the database is, without what may be a secret."""
    shown = {key: value for key, value in url.query.items() if key in {"host", "port"}}
    return url.set(query=shown).render_as_string(hide_password=True)
