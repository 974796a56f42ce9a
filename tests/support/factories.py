"""Rows for tests, with defaults, and what is in the tables afterwards."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from sqlalchemy import event, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from zotify_async_crud import crud, models, schemas
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Settlement

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

EPOCH: Final = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=dt.UTC)
"""A moment for rows whose time must be known."""

LEASE: Final = dt.timedelta(minutes=5)
"""A lease that lasts longer than any test."""

EXPIRES_AT: Final = dt.datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=dt.UTC)
"""When the token of ``token_data`` expires."""


def short(value: object) -> str:
    """Return a name for *value* in the list of tests."""
    return ascii(value)[:24]


def new_job(track_id: str = "t", **options: Any) -> schemas.DownloadJobCreate:
    """Return a download to enqueue."""
    return schemas.DownloadJobCreate(track_id=track_id, **options)


def new_claim(**changes: Any) -> Claim:
    """Return a claim of no job that there is, with *changes*."""
    return _CLAIM._replace(**changes)


_CLAIM: Final = Claim("j", "t", 1, 5, "w", EPOCH)


def completed(claim: Claim) -> Settlement:
    """Return the settlement of an attempt that succeeded."""
    return Settlement(claim, DownloadJobStatus.COMPLETED)


def failed(
    claim: Claim, error: str = "no route", retry_in: dt.timedelta | None = None
) -> Settlement:
    """Return the settlement of an attempt that failed."""
    return Settlement(claim, DownloadJobStatus.FAILED, error, retry_in)


def released(claim: Claim) -> Settlement:
    """Return the settlement of an attempt that is given back."""
    return Settlement(claim, DownloadJobStatus.PENDING)


def token_data(**changes: object) -> dict[str, object]:
    """Return the answer of a login, with *changes*."""
    return {
        "access_token": "access-1",
        "refresh_token": "refresh-1",
        "expires_at": EXPIRES_AT,
        **changes,
    }


async def add_job(
    sessions: Sessions,
    track_id: str = "t",
    *,
    status: DownloadJobStatus = DownloadJobStatus.PENDING,
    error: str | None = None,
    progress: float | None = None,
) -> models.DownloadJob:
    """Commit one job and return it, detached."""
    async with sessions.begin() as db:
        job = await crud.create_download_job(db, new_job(track_id))
        return await crud.update_download_job_status(db, job, status, error, progress)


async def add_jobs(  # noqa: PLR0913 - options, all with a default
    sessions: Sessions,
    count: int,
    *,
    status: DownloadJobStatus = DownloadJobStatus.PENDING,
    first: dt.datetime = EPOCH,
    apart: dt.timedelta = dt.timedelta(seconds=1),
    prefix: str = "job",
) -> list[str]:
    """Commit *count* jobs created *apart* from each other; return their ids, oldest first."""
    rows = [
        {
            "job_id": f"{prefix}-{number:05}",
            "track_id": f"t{number}",
            "status": status,
            "created_at": first + number * apart,
        }
        for number in range(count)
    ]
    async with sessions.begin() as db:
        await db.execute(insert(models.DownloadJob), rows)
    return [str(row["job_id"]) for row in rows]


async def create_job(sessions: Sessions, track_id: str = "t", **options: Any) -> models.DownloadJob:
    """Commit one pending job with *options* and return it, detached."""
    async with sessions.begin() as db:
        return await crud.create_download_job(db, new_job(track_id, **options))


async def claim_jobs(
    sessions: Sessions,
    limit: int = 1_000,
    *,
    worker_id: str = "w1",
    lease: dt.timedelta | float = LEASE,
) -> list[Claim]:
    """Commit claims of due jobs and return them."""
    async with sessions.begin() as db:
        return await crud.claim_download_jobs(db, worker_id=worker_id, limit=limit, lease=lease)


async def claim_one(sessions: Sessions, *, worker_id: str = "w1") -> Claim:
    """Commit the claim of the job that is next, and return it."""
    (claim,) = await claim_jobs(sessions, 1, worker_id=worker_id)
    return claim


async def add_claimed(
    sessions: Sessions, track_id: str = "t", *, worker_id: str = "w1", **options: Any
) -> Claim:
    """Commit one job and its claim, where no other is due, and return the claim."""
    job = await create_job(sessions, track_id, **options)
    claim = await claim_one(sessions, worker_id=worker_id)
    assert claim.job_id == job.job_id
    return claim


async def set_columns(sessions: Sessions, *job_ids: str, **values: Any) -> None:
    """Write *values* by plain SQL into the jobs with these ids."""
    where = models.DownloadJob.job_id.in_(job_ids)
    async with sessions.begin() as db:
        await db.execute(update(models.DownloadJob).where(where).values(**values))


async def expire_leases(sessions: Sessions) -> None:
    """Let every lease be over, whatever the clock says."""
    held = models.DownloadJob.lease_expires_at.is_not(None)
    async with sessions.begin() as db:
        await db.execute(update(models.DownloadJob).where(held).values(lease_expires_at=EPOCH))


async def database_now(db: AsyncSession) -> dt.datetime:
    """Return what the database's own clock says."""
    if db.get_bind().dialect.name == "sqlite":
        now = (await db.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"))).scalar_one()
        return dt.datetime.fromisoformat(now).replace(tzinfo=dt.UTC)
    moment: dt.datetime = (await db.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return moment


async def stored_row(sessions: Sessions, job_id: str) -> dict[str, Any]:
    """Return every column of the job as a new session reads it."""
    table = models.Base.metadata.tables["download_jobs"]
    async with sessions() as db:
        found = await db.execute(select(table).where(table.c.job_id == job_id))
        return dict(found.mappings().one())


async def stored_job(sessions: Sessions, job_id: str) -> models.DownloadJob:
    """Return the job as a new session reads it."""
    async with sessions() as db:
        return await db.get_one(models.DownloadJob, job_id)


def playlist_data(
    playlist_id: str = "p",
    track_ids: Sequence[str] = ("a", "b"),
    name: str = "Focus",
    snapshot_id: str | None = None,
) -> schemas.PlaylistData:
    """Return a playlist to sync."""
    return schemas.PlaylistData(
        id=playlist_id, name=name, track_ids=list(track_ids), snapshot_id=snapshot_id
    )


async def add_playlist(
    sessions: Sessions,
    playlist_id: str = "p",
    name: str = "Focus",
    track_ids: Sequence[str] = ("a", "b"),
) -> models.Playlist:
    """Commit one playlist and return it, detached."""
    async with sessions.begin() as db:
        return await crud.create_or_update_playlist(db, playlist_id, name, list(track_ids))


async def stored_track_ids(sessions: Sessions, playlist_id: str = "p") -> list[str]:
    """Return the ids of the playlist's tracks as a new session reads them."""
    async with sessions() as db:
        playlist = await db.get_one(models.Playlist, playlist_id)
        return ids(playlist)


def ids(playlist: models.Playlist) -> list[str]:
    """Return the ids of the playlist's tracks, in its order."""
    return [track.id for track in playlist.tracks]


async def add_token(sessions: Sessions, **changes: object) -> models.SpotifyToken:
    """Commit the token and return it, detached."""
    async with sessions.begin() as db:
        return await crud.create_or_update_spotify_token(db, token_data(**changes))


async def add_some_of_everything(sessions: Sessions) -> None:
    """Commit rows in every table."""
    await add_job(sessions, "t1")
    await add_job(sessions, "t2", status=DownloadJobStatus.FAILED, error="no route to host")
    await add_claimed(sessions, "t3", priority=1)
    async with sessions.begin() as db:
        await crud.resume_download_queue(db)
    await add_playlist(sessions, track_ids=["a", "b", "a"])
    await add_token(sessions)


async def all_rows(sessions: Sessions) -> dict[str, list[tuple[Any, ...]]]:
    """Return the contents of every table, in the order of its primary key."""
    async with sessions() as db:
        return {
            name: [
                tuple(row) for row in await db.execute(select(table).order_by(*table.primary_key))
            ]
            for name, table in models.Base.metadata.tables.items()
        }


@contextmanager
def statements_sent(engine: AsyncEngine) -> Iterator[list[tuple[str, Any]]]:
    """Collect each statement that *engine* sends while the block runs, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def collect(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        sent.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", collect)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", collect)


GOOD: Final[dict[str, dict[str, object]]] = {
    "create_download_job": {"job": new_job()},
    "create_download_jobs": {"jobs": [new_job(), new_job("u", unique=True)]},
    "get_download_job": {"job_id": "j"},
    "get_all_download_jobs": {},
    "list_download_jobs": {"limit": 10},
    "stream_download_jobs": {},
    "get_next_pending_download_job": {},
    "update_download_job_status": {"job": models.DownloadJob(job_id="j"), "status": "failed"},
    "retry_failed_download_jobs": {},
    "cancel_download_job": {"job_id": "j"},
    "prune_download_jobs": {"older_than": 60, "limit": 10},
    "claim_download_jobs": {"worker_id": "w", "lease": 60},
    "exchange_download_jobs": {
        "settlements": [completed(_CLAIM)],
        "worker_id": "w",
        "limit": 10,
        "lease": 60,
    },
    "get_download_claims": {"worker_id": "w"},
    "renew_download_leases": {"claims": [_CLAIM], "lease": 60},
    "report_download_progress": {"progress": {_CLAIM: 0.5}},
    "complete_download_job": {"claim": _CLAIM},
    "fail_download_job": {"claim": _CLAIM, "error": "no route"},
    "release_download_jobs": {"claims": [_CLAIM]},
    "rescue_expired_download_jobs": {},
    "pause_download_queue": {},
    "resume_download_queue": {},
    "get_download_queue_stats": {},
    "get_time_until_next_download_job": {},
    "get_or_create_track": {"track_id": "t"},
    "create_or_update_playlist": {"playlist_id": "p", "playlist_name": "n", "track_ids": ["t"]},
    "upsert_tracks": {"tracks": [schemas.TrackData(id="t", name="n")]},
    "delete_orphan_tracks": {"limit": 10},
    "sync_playlists": {"playlists": [playlist_data()]},
    "get_playlist": {"playlist_id": "p"},
    "list_playlists": {"limit": 10},
    "stream_playlist_tracks": {"playlist_id": "p"},
    "delete_playlist": {"playlist_id": "p"},
    "clear_all_playlists_and_tracks": {},
    "get_spotify_token": {},
    "create_or_update_spotify_token": {"token_data": token_data()},
    "delete_spotify_token": {},
    "rotate_token_keys": {},
}
"""Every coroutine, with arguments that it takes."""
