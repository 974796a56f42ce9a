"""The steps before and after the downloads; each coroutine is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.engine import URL

from zotify_async_crud import crud, models, schemas
from zotify_async_crud.demo._reports import Totals
from zotify_async_crud.demo._transactions import Sessions, transaction
from zotify_async_crud.importers import ExportedPlaylist
from zotify_async_crud.schemas import DownloadJobStatus


@transaction
async def give_back_abandoned_jobs(sessions: Sessions) -> int:
    """Give the jobs in progress back to the queue; return how many there were."""
    async with sessions.begin() as db:
        found = crud.stream_download_jobs(db, status=DownloadJobStatus.IN_PROGRESS)
        abandoned = [job async for job in found]
        for job in abandoned:
            await crud.update_download_job_status(db, job, DownloadJobStatus.PENDING, progress=0.0)
    return len(abandoned)


@transaction
async def sync_playlist(sessions: Sessions, playlist: ExportedPlaylist) -> None:
    """Make the playlist in the database what the exported one is."""
    async with sessions.begin() as db:
        await crud.create_or_update_playlist(
            db, playlist.id, playlist.name, list(playlist.track_ids)
        )


@transaction
async def tracks_with_a_job(sessions: Sessions) -> set[str]:
    """Return the ids of the tracks that were enqueued before, whatever became of it."""
    async with sessions.begin() as db:
        return {job.track_id async for job in crud.stream_download_jobs(db)}


@transaction
async def enqueue(sessions: Sessions, track_ids: Sequence[str], names: Mapping[str, str]) -> None:
    """Enqueue the tracks, and name those whose names are known."""
    async with sessions.begin() as db:
        for track_id in track_ids:
            await crud.get_or_create_track(db, track_id, names.get(track_id))
            await crud.create_download_job(db, schemas.DownloadJobCreate(track_id=track_id))


@transaction
async def count(sessions: Sessions) -> Totals:
    """Count what there is."""
    status = models.DownloadJob.status
    async with sessions.begin() as db:
        playlists = await db.scalar(select(func.count()).select_from(models.Playlist))
        tracks = await db.scalar(select(func.count()).select_from(models.Track))
        found = await db.execute(select(status, func.count()).group_by(status))
        jobs = dict.fromkeys(DownloadJobStatus, 0) | {row[0]: row[1] for row in found}
    return Totals(playlists or 0, tracks or 0, jobs)


def location(url: URL) -> str:
    """Return where the database is, without what may be a secret."""
    shown = {key: value for key, value in url.query.items() if key in {"host", "port"}}
    return url.set(query=shown).render_as_string(hide_password=True)
