"""Every public name in use; read by the type checkers, never run."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from zotify_async_crud import (
    adoption,
    crud,
    database,
    encryption,
    errors,
    events,
    migrations,
    models,
    schemas,
    token_refresh,
)


def set_up() -> async_sessionmaker[AsyncSession]:
    """Engines and sessions."""
    engine = database.create_engine("sqlite:///zotify.db", echo=True)
    assert_type(engine, AsyncEngine)
    assert_type(database.create_engine("postgresql://u@h/db", pgbouncer=True), AsyncEngine)
    assert_type(database.create_engine("postgresql://u@h/db", schema="zotify"), AsyncEngine)
    assert_type(database.create_engine("sqlite:///zotify.db", read_only=True), AsyncEngine)
    return database.create_session_factory(engine)


async def change_schema(engine: AsyncEngine) -> None:
    """The schema."""
    assert_type(await migrations.upgrade(engine), None)
    assert_type(await migrations.downgrade(engine, "base"), None)
    assert_type(await migrations.current_revision(engine), str | None)
    assert_type(await migrations.check_schema(engine), None)
    assert_type(migrations.newest_revision(), str)
    assert_type(migrations.is_not_ours("users", "table", {}), bool)
    assert_type(migrations.is_no_table_of_ours(object(), "users", "table", False, None), bool)
    report = await adoption.adopt(engine, dry_run=True)
    assert_type(report, adoption.AdoptionReport)
    assert_type(report.nothing_to_do, bool)


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
    assert_type(stream, AsyncGenerator[models.DownloadJob, None])
    assert_type(schemas.DownloadJob.model_validate(job).status, schemas.DownloadJobStatus)


async def manage_the_queue(db: AsyncSession) -> None:
    """The coroutines of the download queue beside the twelve."""
    new = schemas.DownloadJobCreate(
        track_id="t",
        priority=1,
        available_at=dt.datetime.now(dt.UTC),
        max_attempts=3,
        unique=True,
    )
    job = await crud.create_download_job(db, new, on_duplicate="error")
    assert_type((job.priority, job.attempt, job.max_attempts), tuple[int, int, int])
    assert_type((job.is_unique, job.cancel_requested), tuple[bool, bool])
    assert_type(job.available_at, dt.datetime | None)
    assert_type((job.worker_id, job.lease_expires_at), tuple[str | None, dt.datetime | None])
    assert_type((job.started_at, job.finished_at), tuple[dt.datetime | None, dt.datetime | None])
    assert_type(await crud.create_download_jobs(db, [new]), list[str])
    assert_type(await crud.create_download_jobs(db, ["t", new]), list[str])
    assert_type(await crud.create_download_jobs(db, ["t", "s"]), list[str])
    assert_type(await crud.create_download_jobs(db, (new,), on_duplicate="skip"), list[str])
    skip = schemas.OnDuplicate.SKIP
    assert_type(await crud.create_download_jobs(db, [new], on_duplicate=skip), list[str])
    assert_type(await crud.cancel_download_job(db, job.job_id), models.DownloadJob)
    age = dt.timedelta(days=30)
    finished = [schemas.DownloadJobStatus.FAILED]
    assert_type(await crud.prune_download_jobs(db, older_than=age, limit=1_000), int)
    assert_type(await crud.prune_download_jobs(db, older_than=0.5, limit=1, statuses=finished), int)
    assert_type(await crud.pause_download_queue(db), None)
    assert_type(await crud.resume_download_queue(db), None)
    stats = await crud.get_download_queue_stats(db)
    assert_type(stats, schemas.DownloadQueueStats)
    assert_type(stats.oldest_pending_age, dt.timedelta | None)
    assert_type(stats.rate, float)
    assert_type(await crud.get_time_until_next_download_job(db), dt.timedelta | None)


async def sync_playlists(db: AsyncSession) -> None:
    """The coroutines of playlists and tracks beside the twelve."""
    playlist = schemas.PlaylistData(id="p", name="n", track_ids=["t"], snapshot_id="s")
    result = await crud.sync_playlists(db, [playlist], remove_others=True)
    assert_type(result, schemas.SyncResult)
    assert_type(result + result, schemas.SyncResult)
    track = schemas.TrackData(id="t", name="n", artist=None)
    assert_type(await crud.upsert_tracks(db, (track,)), int)
    assert_type(await crud.delete_orphan_tracks(db, limit=1_000), int)
    page = await crud.list_playlists(db, limit=10, after=None)
    assert_type(page, crud.Page[models.Playlist])
    assert_type(page.items[0].snapshot_id, str | None)
    async for each in crud.stream_playlist_tracks(db, "p"):
        assert_type(each, models.Track)
    assert_type(await crud.delete_playlist(db, "p"), bool)


async def use_claims(db: AsyncSession) -> None:
    """The coroutines of a worker."""
    lease = dt.timedelta(minutes=5)
    claims = await crud.claim_download_jobs(db, worker_id="w", limit=10, lease=lease)
    assert_type(claims, list[schemas.Claim])
    assert_type(await crud.claim_download_jobs(db, worker_id="w", lease=60), list[schemas.Claim])
    assert_type(await crud.get_download_claims(db, worker_id="w"), list[schemas.Claim])
    renewal = await crud.renew_download_leases(db, claims, lease=0.5)
    assert_type(renewal, schemas.Renewal)
    assert_type(renewal.renewed, list[schemas.Claim])
    assert_type(renewal.cancel_requested, list[schemas.Claim])
    lost = await crud.report_download_progress(db, dict.fromkeys(claims, 0.5))
    assert_type(lost, list[schemas.Claim])
    for claim in claims:
        assert_type(await crud.complete_download_job(db, claim), None)
        became = await crud.fail_download_job(db, claim, "no route", retry_in=60)
        assert_type(became, schemas.DownloadJobStatus)
    assert_type(await crud.release_download_jobs(db, tuple(claims)), list[schemas.Claim])
    completed = schemas.DownloadJobStatus.COMPLETED
    settlements = [schemas.Settlement(claim, completed) for claim in claims]
    exchange = await crud.exchange_download_jobs(
        db, settlements, worker_id="w", limit=0, lease=lease
    )
    assert_type(exchange, schemas.Exchange)
    assert_type((exchange.claims, exchange.lost), tuple[list[schemas.Claim], list[schemas.Claim]])
    rescue = await crud.rescue_expired_download_jobs(db)
    assert_type(rescue, schemas.Rescue)
    assert_type((rescue.retried, rescue.failed, rescue.cancelled), tuple[int, int, int])


async def be_woken(engine: AsyncEngine) -> None:
    """Wake-ups."""
    async with events.notifying(engine):
        assert_type(await events.notify(engine), None)
    with events.watching(engine.sync_engine, lambda: None):
        assert_type(await events.watch_others(engine, lambda: None, interval=1), None)


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
    assert_type(await crud.rotate_token_keys(db), bool)


async def use_keys(engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]) -> None:
    """Encryption, and a token that is refreshed."""
    key = encryption.generate_key()
    assert_type(key, str)
    keyring = encryption.TokenKeyring(key, encryption.generate_key())
    assert_type(keyring.ids, list[str])
    database.create_engine("sqlite:///zotify.db", token_keyring=keyring)
    encryption.use_keyring(engine, keyring)
    encryption.use_keyring(engine, None)

    async def refresh(refresh_token: str) -> dict[str, object]:
        if not refresh_token:
            raise errors.InvalidGrant
        return {"access_token": "a", "expires_in": 3600}

    try:
        token = await token_refresh.get_valid_spotify_token(sessions, refresh, leeway=60)
    except errors.TokenRefreshFailed as error:
        assert_type(error.retry_in, float)
    except errors.LoginRequired as error:
        assert_type(error.reason, str)
    else:
        assert_type(token, models.SpotifyToken)
    await token_refresh.finish_refreshes()


async def handle_errors(sessions: async_sessionmaker[AsyncSession]) -> bool:
    """What a caller decides by."""
    try:
        with database.translated_errors():
            async with sessions.begin() as db:
                await crud.retry_failed_download_jobs(db)
    except errors.InvalidValue as error:
        assert_type(error.field, str)
        assert_type(error.reason, str)
    except (errors.DownloadJobNotFound, errors.DownloadJobClaimed) as error:
        assert_type(error.job_id, str)
    except errors.LeaseLost as error:
        assert_type((error.job_id, error.attempt), tuple[str, int])
    except errors.DatabaseError as error:
        assert_type(error.code, str | None)
        return error.retry_safe
    except errors.ZotifyCrudError as error:
        return error.retry_safe
    return False
