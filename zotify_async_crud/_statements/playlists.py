"""Statements of tracks and playlists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, func, insert, literal, select, true
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud.models import Playlist, PlaylistTrack, Track


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
        database.insert(Track)
        .from_select(["id"], select(listed.value).where(true()).order_by(listed.position))
        .on_conflict_do_nothing(index_elements=[Track.id])
    )


def create_or_rename_playlist(
    database: Database, playlist_id: str, playlist_name: str
) -> Executable:
    """Insert a playlist or rename it, and hold its row either way."""
    return (
        database.insert(Playlist)
        .values(id=playlist_id, name=playlist_name)
        .on_conflict_do_update(index_elements=[Playlist.id], set_={"name": playlist_name})
    )


def remove_entries(playlist_id: str) -> Executable:
    """Delete the entries of a playlist."""
    return (
        delete(PlaylistTrack)
        .where(PlaylistTrack.playlist_id == playlist_id)
        .execution_options(synchronize_session=False)
    )


def add_entries(database: Database, playlist_id: str, track_ids: Sequence[str]) -> Executable:
    """Insert *track_ids* as the entries of a playlist, counting positions from 0."""
    listed = database.listed(track_ids)
    return insert(PlaylistTrack).from_select(
        ["playlist_id", "position", "track_id"],
        select(literal(playlist_id), listed.position, listed.value),
    )


def get_playlist(playlist_id: str) -> Select[Any]:
    """Read one playlist with its tracks."""
    return select(Playlist).where(Playlist.id == playlist_id)


def clear_all_playlists_and_tracks() -> tuple[Executable, ...]:
    """Delete every entry, playlist and track; entries first, or each would cascade by itself."""
    return delete(PlaylistTrack), delete(Playlist), delete(Track)
