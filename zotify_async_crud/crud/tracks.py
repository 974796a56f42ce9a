"""Tracks."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud._statements import playlists as sql
from zotify_async_crud.crud._session import database_of, execute
from zotify_async_crud.models import Track


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
