"""Every public name in use; read by the type checkers, never run."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from zotify_async_crud import crud, database, errors, models, schemas


def set_up() -> async_sessionmaker[AsyncSession]:
    """Engines and sessions."""
    engine = database.create_engine("sqlite:///zotify.db", echo=True)
    assert_type(engine, AsyncEngine)
    assert_type(database.create_engine("postgresql://u@h/db", pgbouncer=True), AsyncEngine)
    assert_type(database.create_engine("sqlite:///zotify.db", read_only=True), AsyncEngine)
    return database.create_session_factory(engine)


async def change_schema(engine: AsyncEngine) -> None:
    """The schema."""
    assert_type(await database.create_schema(engine), None)
    assert_type(await database.drop_schema(engine), None)


async def use_the_queue(db: AsyncSession) -> None:
    """The coroutines of the download queue."""
    job = await crud.create_download_job(db, schemas.DownloadJobCreate(track_id="t"))
    assert_type(job, models.DownloadJob)
    assert_type(job.job_id, str)
    assert_type(job.track_id, str)
    assert_type(job.status, schemas.DownloadJobStatus)
    assert_type(job.progress, float)
    assert_type(job.created_at, dt.datetime)
    assert_type(job.error_message, str | None)
    assert_type(await crud.get_download_job(db, job_id=job.job_id), models.DownloadJob | None)
    assert_type(await crud.get_all_download_jobs(db), list[models.DownloadJob])
    assert_type(await crud.get_next_pending_download_job(db), models.DownloadJob | None)
    failed = schemas.DownloadJobStatus.FAILED
    updated = await crud.update_download_job_status(db, job, failed, error="no", progress=0.5)
    assert_type(updated, models.DownloadJob)
    assert_type(await crud.retry_failed_download_jobs(db), int)
    page = await crud.list_download_jobs(db, status=failed, limit=10, after=None)
    assert_type(page, crud.Page[models.DownloadJob])
    assert_type(page.items, list[models.DownloadJob])
    assert_type(page.after, str | None)
    stream = crud.stream_download_jobs(db, status=failed)
    assert_type(stream, AsyncIterator[models.DownloadJob])
    assert_type(schemas.DownloadJob.model_validate(job).status, schemas.DownloadJobStatus)


async def use_playlists(db: AsyncSession) -> None:
    """The coroutines of tracks and playlists."""
    track = await crud.get_or_create_track(db, "t", track_name="A track")
    assert_type(track, models.Track)
    assert_type((track.name, track.artist, track.album), tuple[str | None, str | None, str | None])
    playlist = await crud.create_or_update_playlist(db, "p", "A playlist", ["t", "t"])
    assert_type(playlist, models.Playlist)
    assert_type(playlist.tracks, list[models.Track])
    assert_type(playlist.entries, list[models.PlaylistTrack])
    assert_type(await crud.get_playlist(db, "p"), models.Playlist | None)
    assert_type(await crud.clear_all_playlists_and_tracks(db), None)
    assert_type(schemas.Playlist.model_validate(playlist).tracks, list[schemas.Track])


async def use_the_token(db: AsyncSession) -> None:
    """The coroutines of the token."""
    expires_at = dt.datetime.now(dt.UTC)
    data = {"access_token": "a", "refresh_token": "r", "expires_at": expires_at}
    token = await crud.create_or_update_spotify_token(db, data)
    assert_type(token, models.SpotifyToken)
    assert_type(token.expires_at, dt.datetime)
    assert_type(await crud.get_spotify_token(db), models.SpotifyToken | None)
    assert_type(await crud.delete_spotify_token(db), None)


async def handle_errors(sessions: async_sessionmaker[AsyncSession]) -> bool:
    """What a caller decides by."""
    try:
        with database.translated_errors():
            async with sessions.begin() as db:
                await crud.retry_failed_download_jobs(db)
    except errors.InvalidValue as error:
        assert_type(error.field, str)
        assert_type(error.reason, str)
    except errors.DownloadJobNotFound as error:
        assert_type(error.job_id, str)
    except errors.DatabaseError as error:
        assert_type(error.code, str | None)
        return error.retry_safe
    except errors.ZotifyCrudError as error:
        return error.retry_safe
    return False
