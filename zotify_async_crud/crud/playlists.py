"""Playlists and their sync."""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud._statements import playlists as sql
from zotify_async_crud.crud._session import begin_unit, database_of, execute, on_connection
from zotify_async_crud.models import Playlist, Track


async def create_or_update_playlist(
    db: AsyncSession, playlist_id: str, playlist_name: str, track_ids: list[str]
) -> Playlist:
    """Create a playlist, or rename it and replace its tracks whole; missing tracks are created.

    The tracks keep the order of *track_ids*, duplicates included. The number of statements does not
    depend on their number. Other transactions see the playlist before or after, never between; of
    two syncs of one playlist at the same time, the later to begin waits and wins.

    Raises:
        TransactionRequired: The session commits each statement, so that others would see the parts.
        TransactionConflict: In a transaction with several syncs, another such one was in the way.
    """
    database = database_of(db)
    key = check.validated("playlist_id", check.ID, playlist_id)
    name = check.validated("playlist_name", check.NAME, playlist_name)
    entries = check.track_ids(track_ids)
    await begin_unit(db)
    # Tracks first, ordered by id: all lock in the same order, so that none deadlock.
    await execute(db, sql.create_missing_tracks(database, sorted(set(entries))))
    await execute(db, sql.create_or_rename_playlist(database, key, name))
    await execute(db, sql.remove_entries(key))
    await on_connection(db, database.plan_afresh)
    await execute(db, sql.add_entries(database, key, entries))
    playlist: Playlist = (await execute(db, sql.get_playlist(key))).unique().scalar_one()
    return playlist


async def get_playlist(db: AsyncSession, playlist_id: str) -> Playlist | None:
    """Return the playlist with its tracks in order, as it is in the database now, or None."""
    database_of(db)
    if not check.findable(playlist_id, "playlist_id"):
        return None
    found = (await execute(db, sql.get_playlist(playlist_id))).unique()
    playlist: Playlist | None = found.scalar_one_or_none()
    return playlist


async def clear_all_playlists_and_tracks(db: AsyncSession) -> None:
    """Delete every playlist and every track; jobs and the token stay.

    Raises:
        TransactionRequired: The session commits each statement, so that others would see the parts.
    """
    database = database_of(db)

    def wait_for_syncs(connection: Connection) -> None:
        # every sync writes to tracks first, so none can slip in between the deletions
        database.lock_out_writers(connection, Track.__tablename__)
        database.plan_afresh(connection)

    await begin_unit(db)
    await on_connection(db, wait_for_syncs)
    for statement in sql.clear_all_playlists_and_tracks():
        await execute(db, statement)
