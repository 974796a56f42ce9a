"""Tracks."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud._statements import tracks as sql
from zotify_async_crud.crud._locks import lock_out_syncs
from zotify_async_crud.crud._session import changed, database_of, execute
from zotify_async_crud.models import Track
from zotify_async_crud.schemas import TrackData


async def get_or_create_track(
    db: AsyncSession, track_id: str, track_name: str | None = None
) -> Track:
    """Return the track with this id, created if it is not there yet.

    However many callers ask for one track at once, there is one row and no error. *track_name*
    names a new track, or one whose name is not known yet; a known name stays.
    """
    database = database_of(db)
    key = check.validated("track_id", check.ID, track_id)
    name = check.validated("track_name", check.OPTIONAL_NAME, track_name)
    track: Track | None = (await execute(db, sql.get_track(key))).scalar_one_or_none()
    if track is not None and (track.name is not None or name is None):
        return track
    made: Track = (await execute(db, sql.get_or_create_track(database, key, name))).scalar_one()
    return made


async def upsert_tracks(db: AsyncSession, tracks: Sequence[TrackData]) -> int:
    """Create tracks, or write what is known of them, in one statement; return how many it changed.

    What is None leaves what is stored as it is, and what is not replaces it. Of a track that is
    given several times the last value counts. ``Track`` objects that the session has loaded before
    stay as they are. Syncs that need these tracks wait for the transaction: let it not sync itself.

    Raises:
        TransactionConflict: This transaction, or another one, consists of several such calls, and
            each of the two held what the other waited for.
    """
    database = database_of(db)
    given = check.tracks(tracks)
    if not given:
        return 0
    merged: dict[str, TrackData] = {}
    for track in given:
        before = merged.get(track.id)
        news = {key: value for key, value in track if value is not None}
        merged[track.id] = before.model_copy(update=news) if before else track
    # by id, so that no two deadlock
    return await changed(db, *sql.upsert_tracks(database, sorted(merged.values(), key=_id)))


async def delete_orphan_tracks(db: AsyncSession, *, limit: int) -> int:
    """Delete at most *limit* (1 to 100,000) of the tracks in no playlist; return how many it were.

    It waits for the syncs that are under way, and others wait for its transaction: call it until it
    returns 0, each time in a short one of its own.

    Raises:
        TransactionRequired: The session commits each statement, so that nothing could wait.
        TransactionConflict: This transaction, or another one, consists of several such calls, and
            each of the two held what the other waited for.
    """
    database_of(db)
    size = check.validated("limit", check.DELETED_AT_ONCE, limit)
    await lock_out_syncs(db)
    return await changed(db, sql.delete_orphan_tracks(size))


def _id(track: TrackData) -> str:
    return track.id
