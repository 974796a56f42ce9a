"""Statements of playlists and of what stands in them.

What a sync writes are statements about the tables and not about entities, since it has no use for
objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Select, Table, delete, insert, select, true, tuple_, update
from sqlalchemy.orm import raiseload
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud._statements import _given as given
from zotify_async_crud._statements._given import Query
from zotify_async_crud.models import Base, Playlist, PlaylistTrack, Track
from zotify_async_crud.schemas import PlaylistData

PLAYLISTS: Final[Table] = Base.metadata.tables[Playlist.__tablename__]
ENTRIES: Final[Table] = Base.metadata.tables[PlaylistTrack.__tablename__]


def create_missing_playlists(database: Database, playlists: Sequence[PlaylistData]) -> Query:
    """Insert the playlists that are not there yet, in the order given; return the ids of those."""
    return given.query(_create_missing, database, _headers(playlists))


@cache
def _create_missing(database: Database, varying: frozenset[str]) -> Executable:
    rows = database.rows(given.NAME, given.PLAYLIST, varying)
    return (
        database.insert(PLAYLISTS)
        .from_select(list(given.PLAYLIST), select(rows).where(true()))
        .on_conflict_do_nothing(index_elements=[PLAYLISTS.c.id])
        .returning(PLAYLISTS.c.id)
    )


_HELD: Final = (
    select(PLAYLISTS.c.id, PLAYLISTS.c.name, PLAYLISTS.c.snapshot_id)
    .order_by(PLAYLISTS.c.id)
    .with_for_update(of=PLAYLISTS)
)


def hold_playlists(database: Database, playlist_ids: Sequence[str]) -> Executable:
    """Read playlists and hold them, all in one order."""
    listed = database.listed(playlist_ids)
    return _HELD.where(PLAYLISTS.c.id.in_(select(listed.value)))


def hold_all_playlists() -> Executable:
    """Read every playlist and hold it, all in one order."""
    return _HELD


def update_playlists(database: Database, playlists: Sequence[PlaylistData]) -> Query:
    """Write the names and snapshots of playlists."""
    return given.query(_update_headers, database, _headers(playlists))


@cache
def _update_headers(database: Database, varying: frozenset[str]) -> Executable:
    rows = database.rows(given.NAME, given.PLAYLIST, varying)
    return (
        update(PLAYLISTS)
        .where(PLAYLISTS.c.id == rows.c.id)
        .values(name=rows.c.name, snapshot_id=rows.c.snapshot_id)
    )


def remove_playlists(database: Database, playlist_ids: Sequence[str]) -> tuple[Executable, ...]:
    """Delete playlists; their entries first, since not every engine lets SQLite do that itself."""
    listed = database.listed(playlist_ids)
    return (
        delete(ENTRIES).where(ENTRIES.c.playlist_id.in_(select(listed.value))),
        delete(Playlist).where(Playlist.id.in_(select(listed.value))),
    )


def read_entries(database: Database, playlist_ids: Sequence[str]) -> Executable:
    """Read what stands in each of some playlists: a list of positions and one of tracks."""
    listed = database.listed(playlist_ids)
    return (
        select(
            ENTRIES.c.playlist_id,
            database.gathered(ENTRIES.c.position),
            database.gathered(ENTRIES.c.track_id),
        )
        .where(ENTRIES.c.playlist_id.in_(select(listed.value)))
        .group_by(ENTRIES.c.playlist_id)
    )


def remove_entries(database: Database, entries: Sequence[tuple[Any, ...]]) -> Query:
    """Delete entries by their places."""
    return given.query(_remove_entries, database, given.columns(given.PLACE, entries))


@cache
def _remove_entries(database: Database, varying: frozenset[str]) -> Executable:
    rows = database.rows(given.NAME, given.PLACE, varying)
    place = tuple_(ENTRIES.c.playlist_id, ENTRIES.c.position)
    return delete(ENTRIES).where(place.in_(select(rows.c.playlist_id, rows.c.position)))


def move_entries(database: Database, entries: Sequence[tuple[Any, ...]]) -> Query:
    """Give entries other positions, none of which another entry has."""
    return given.query(_move_entries, database, given.columns(given.MOVE, entries))


@cache
def _move_entries(database: Database, varying: frozenset[str]) -> Executable:
    rows = database.rows(given.NAME, given.MOVE, varying)
    return (
        update(ENTRIES)
        .where(ENTRIES.c.playlist_id == rows.c.playlist_id, ENTRIES.c.position == rows.c.position)
        .values(position=rows.c.new_position)
    )


def add_entries(database: Database, entries: Sequence[tuple[Any, ...]]) -> Query:
    """Insert entries."""
    return given.query(_add_entries, database, given.columns(given.ENTRY, entries))


@cache
def _add_entries(database: Database, varying: frozenset[str]) -> Executable:
    rows = database.rows(given.NAME, given.ENTRY, varying)
    return insert(ENTRIES).from_select(list(given.ENTRY), select(rows))


def get_playlist(playlist_id: str) -> Select[Any]:
    """Read one playlist with its tracks."""
    return select(Playlist).where(Playlist.id == playlist_id)


def list_playlists(limit: int, after: str | None) -> Select[Any]:
    """Read at most *limit* playlists whose ids come after the id *after*, without their tracks."""
    statement = select(Playlist).options(raiseload(Playlist.entries)).order_by(Playlist.id)
    if after is not None:
        statement = statement.where(Playlist.id > after)
    return statement.limit(limit)


def playlist_tracks(playlist_id: str) -> Select[Any]:
    """Read the tracks of a playlist in its order."""
    return (
        select(Track)
        .join(PlaylistTrack, PlaylistTrack.track_id == Track.id)
        .where(PlaylistTrack.playlist_id == playlist_id)
        .order_by(PlaylistTrack.position)
    )


def clear_all_playlists_and_tracks() -> tuple[Executable, ...]:
    """Delete every entry, playlist and track; entries first, or each would cascade by itself."""
    return delete(PlaylistTrack), delete(Playlist), delete(Track)


def _headers(playlists: Sequence[PlaylistData]) -> Mapping[str, Sequence[Any]]:
    return {
        "id": [playlist.id for playlist in playlists],
        "name": [playlist.name for playlist in playlists],
        "snapshot_id": [playlist.snapshot_id for playlist in playlists],
    }
