"""Statements of tracks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Select, Table, and_, delete, exists, func, not_, or_, select, true
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud._statements import _given as given
from zotify_async_crud._statements._given import Query
from zotify_async_crud.models import Base, PlaylistTrack, Track
from zotify_async_crud.schemas import TrackData

TRACKS: Final[Table] = Base.metadata.tables[Track.__tablename__]


def get_track(track_id: str) -> Select[Any]:
    """Read one track."""
    return select(Track).where(Track.id == track_id)


def get_or_create_track(database: Database, track_id: str, track_name: str | None) -> Executable:
    """Insert a track, or read the one that is there and give it a name if it has none."""
    insertion = database.insert(Track).values(id=track_id, name=track_name)
    # DO UPDATE, since DO NOTHING returns nothing for a row that exists
    known_name = func.coalesce(Track.name, insertion.excluded.name)
    return insertion.on_conflict_do_update(
        index_elements=[Track.id], set_={"name": known_name}
    ).returning(Track)


def create_missing_tracks(database: Database, track_ids: Sequence[str]) -> Executable:
    """Insert the tracks that are not there yet, in the order given."""
    listed = database.listed(track_ids)
    return (
        database.insert(TRACKS)
        .from_select(["id"], select(listed.value).where(true()).order_by(listed.position))
        .on_conflict_do_nothing(index_elements=[TRACKS.c.id])
    )


def upsert_tracks(database: Database, tracks: Sequence[TrackData]) -> Query:
    """Insert tracks in the order given, or write what is known of them where that is news."""
    columns = {key: [getattr(track, key) for track in tracks] for key in given.TRACK_DATA}
    return given.query(_upsert_tracks, database, columns)


@cache
def _upsert_tracks(database: Database, varying: frozenset[str]) -> Executable:
    rows = database.rows(given.NAME, given.TRACK_DATA, varying)
    insertion = database.insert(TRACKS).from_select(
        list(given.TRACK_DATA), select(rows).where(true())
    )
    new, details = insertion.excluded, [TRACKS.c.name, TRACKS.c.artist, TRACKS.c.album]
    return insertion.on_conflict_do_update(
        index_elements=[TRACKS.c.id],
        set_={known.key: func.coalesce(new[known.key], known) for known in details},
        where=or_(
            *(
                and_(new[known.key].is_not(None), known.is_distinct_from(new[known.key]))
                for known in details
            )
        ),
    )


def delete_orphan_tracks(limit: int) -> Executable:
    """Delete at most *limit* of the tracks that stand in no playlist."""
    listed = exists().where(PlaylistTrack.track_id == Track.id)
    orphans = select(Track.id).where(not_(listed)).limit(limit)
    return delete(TRACKS).where(TRACKS.c.id.in_(orphans))
