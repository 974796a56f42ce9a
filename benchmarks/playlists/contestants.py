"""Ways to make a playlist what it is to be, each in a transaction that is committed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeAlias

import aiosqlite
import asyncpg
from sqlalchemy import delete, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import raiseload

from benchmarks.databases import SQLITE, Database
from benchmarks.queue.contestants import dsn
from zotify_async_crud import crud, schemas
from zotify_async_crud.models import Playlist, PlaylistTrack, Track

Sync: TypeAlias = Callable[[str, str, list[str]], Awaitable[None]]
"""Takes the playlist's id, its name, and the ids of its tracks."""

Contestant: TypeAlias = Callable[[Database], AbstractAsyncContextManager[Sync]]


@asynccontextmanager
async def ours(database: Database) -> AsyncIterator[Sync]:
    """``sync_playlists``, from the lists as they are."""

    async def sync(playlist_id: str, name: str, track_ids: list[str]) -> None:
        async with database.sessions.begin() as db:
            playlist = schemas.PlaylistData(id=playlist_id, name=name, track_ids=track_ids)
            await crud.sync_playlists(db, [playlist])

    yield sync


@asynccontextmanager
async def ours_returned(database: Database) -> AsyncIterator[Sync]:
    """``create_or_update_playlist``, which returns objects for the playlist and all its tracks."""

    async def sync(playlist_id: str, name: str, track_ids: list[str]) -> None:
        async with database.sessions.begin() as db:
            found = await crud.create_or_update_playlist(db, playlist_id, name, track_ids)
            if [track.id for track in found.tracks] != track_ids:
                raise AssertionError("the playlist that was returned is another")

    yield sync


@asynccontextmanager
async def by_hand(database: Database) -> AsyncIterator[Sync]:
    """Everything replaced, in SQL on the driver and nothing else."""
    on = _by_hand_on_sqlite if database.name == SQLITE else _by_hand_on_postgresql
    async with on(database) as sync:
        yield sync


@asynccontextmanager
async def _by_hand_on_postgresql(database: Database) -> AsyncIterator[Sync]:
    connection = await asyncpg.connect(dsn(database.url))

    async def sync(playlist_id: str, name: str, track_ids: list[str]) -> None:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO tracks (id) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING",
                track_ids,
            )
            await connection.execute(_UPSERT.format("$1", "$2"), playlist_id, name)
            await connection.execute(
                "DELETE FROM playlist_tracks WHERE playlist_id = $1", playlist_id
            )
            await connection.execute(
                "INSERT INTO playlist_tracks (playlist_id, position, track_id)"
                " SELECT $1, position, track_id"
                " FROM unnest($2::text[]) WITH ORDINALITY AS entry (track_id, position)",
                playlist_id,
                track_ids,
            )

    yield sync
    await connection.close()


_UPSERT: Final = """
    INSERT INTO playlists (id, name) VALUES ({}, {})
    ON CONFLICT (id) DO UPDATE SET name = excluded.name
"""


@asynccontextmanager
async def _by_hand_on_sqlite(database: Database) -> AsyncIterator[Sync]:
    path = make_url(database.url).database
    async with aiosqlite.connect(str(path), isolation_level=None) as connection:
        await connection.execute("PRAGMA foreign_keys = ON")
        await connection.execute("PRAGMA synchronous = FULL")

        async def sync(playlist_id: str, name: str, track_ids: list[str]) -> None:
            entries = [(playlist_id, *entry) for entry in enumerate(track_ids)]
            await connection.execute("BEGIN IMMEDIATE")
            await connection.executemany(
                "INSERT OR IGNORE INTO tracks (id) VALUES (?)", [(each,) for each in track_ids]
            )
            await connection.execute(_UPSERT.format("?", "?"), (playlist_id, name))
            await connection.execute(
                "DELETE FROM playlist_tracks WHERE playlist_id = ?", (playlist_id,)
            )
            await connection.executemany(
                "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES (?, ?, ?)",
                entries,
            )
            await connection.execute("COMMIT")

        yield sync


@asynccontextmanager
async def loop(database: Database) -> AsyncIterator[Sync]:
    """The library's predecessor, each call awaited: one track at a time, each committed."""

    async def sync(playlist_id: str, name: str, track_ids: list[str]) -> None:
        async with database.sessions(autoflush=False) as db:
            await _sync_by_loop(db, playlist_id, name, track_ids)

    yield sync


async def _sync_by_loop(
    db: AsyncSession, playlist_id: str, name: str, track_ids: list[str]
) -> None:
    playlist = await db.get(Playlist, playlist_id, options=[raiseload(Playlist.entries)])
    if playlist is None:
        playlist = Playlist(id=playlist_id)
        db.add(playlist)
    playlist.name = name
    tracks = [await _get_or_create_track(db, track_id) for track_id in track_ids]
    await db.flush()
    await db.execute(delete(PlaylistTrack).where(PlaylistTrack.playlist_id == playlist_id))
    for position, track in enumerate(tracks):
        db.add(PlaylistTrack(playlist_id=playlist_id, position=position, track_id=track.id))
    await db.commit()
    read_back = select(Playlist).where(Playlist.id == playlist_id)
    found = await db.execute(read_back, execution_options={"populate_existing": True})
    found.unique().scalar_one()


async def _get_or_create_track(db: AsyncSession, track_id: str) -> Track:
    track = await db.get(Track, track_id)
    if track is None:
        track = Track(id=track_id)
        db.add(track)
        await db.commit()
        await db.refresh(track)
    return track
