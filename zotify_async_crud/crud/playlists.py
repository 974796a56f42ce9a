"""Reading and deleting playlists."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud._statements import playlists as sql
from zotify_async_crud.crud._locks import lock_out_syncs
from zotify_async_crud.crud._pages import Page, decode_text, encode_text
from zotify_async_crud.crud._session import changed, database_of, execute, stream
from zotify_async_crud.models import Playlist, Track


async def get_playlist(db: AsyncSession, playlist_id: str) -> Playlist | None:
    """Return the playlist with its tracks in order, as it is in the database now, or None."""
    database_of(db)
    if not check.findable(playlist_id, "playlist_id"):
        return None
    found = (await execute(db, sql.get_playlist(playlist_id))).unique()
    playlist: Playlist | None = found.scalar_one_or_none()
    return playlist


async def list_playlists(
    db: AsyncSession, *, limit: int, after: str | None = None
) -> Page[Playlist]:
    """Return a page of at most *limit* playlists (1 to 1,000) by their ids, without their tracks.

    *after* is the ``after`` of the page before. ``get_playlist`` and ``stream_playlist_tracks``
    read the tracks.
    """
    database_of(db)
    size = check.validated("limit", check.LIMIT, limit)
    last = decode_text(after)
    # one more than asked for tells whether more follow
    found = list((await execute(db, sql.list_playlists(size + 1, last))).scalars())
    playlists, more = found[:size], len(found) > size
    return Page(playlists, encode_text(playlists[-1].id) if more else None)


async def stream_playlist_tracks(db: AsyncSession, playlist_id: str) -> AsyncGenerator[Track, None]:
    """Yield the tracks of a playlist in order, in memory that does not grow with their number.

    They are read by one statement, so that they are those of one version of the playlist. It is
    under way until the last track: the transaction has to stay open, and whoever stops early closes
    the iterator (``contextlib.aclosing``). An unknown playlist has no tracks.
    """
    database_of(db)
    if check.findable(playlist_id, "playlist_id"):
        async for track in stream(db, sql.playlist_tracks(playlist_id)):
            yield track


async def delete_playlist(db: AsyncSession, playlist_id: str) -> bool:
    """Delete a playlist, and tell whether there was one; its tracks stay.

    Raises:
        TransactionRequired: The session commits each statement, so that others would see the parts.
        TransactionConflict: This transaction, or another one, consists of several such calls, and
            each of the two held what the other waited for.
    """
    database = database_of(db)
    if not check.findable(playlist_id, "playlist_id"):
        return False
    await lock_out_syncs(db)
    entries, playlists = sql.remove_playlists(database, [playlist_id])
    await execute(db, entries)
    return bool(await changed(db, playlists))


async def clear_all_playlists_and_tracks(db: AsyncSession) -> None:
    """Delete every playlist and every track; jobs and the token stay.

    Raises:
        TransactionRequired: The session commits each statement, so that others would see the parts.
        TransactionConflict: This transaction, or another one, consists of several such calls, and
            each of the two held what the other waited for.
    """
    await lock_out_syncs(db)
    for statement in sql.clear_all_playlists_and_tracks():
        await execute(db, statement)
